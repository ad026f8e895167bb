/* {{ title }}. README.md says how to use it. Written by tsslbp. */
#include "network.h"

{{ '#include <float.h>
' if filters }}#include <string.h>
{% if integer %}
{%- if packed == 2 %}
/* Two weights in a byte. A row of n holds weight i and weight i + (n + 1)/2 in its byte i, in the low bits and the high ones. */
{%- elif packed == 4 %}
/* Four weights in a byte. A row of n holds weight i + (n + 3)/4·j in bits 2·j and 2·j + 1 of its byte i. */
{%- endif %}
/* A weight is stored as a number from 0 on that is OFFSET larger. Up to ENOUGH of the largest of these add up to 16 bits. */
typedef uint8_t weight;
enum { IN_A_BYTE = {{ packed or 1 }}, OFFSET = {{ code[1] }}, ENOUGH = 65535 / (OFFSET + {{ largest_weight }}) };

static uint16_t stored(weight w, int part)
{
{%- if packed %}
    return (uint16_t)((w >> ({{ 8 // packed }} * part) & {{ 2 ** (8 // packed) - 1 }}){{ ' * ' ~ code[0] if code[0] != 1 }});
{%- else %}
    (void)part;
    return w;
{%- endif %}
}

static int16_t weigh(weight w, int part)
{
    return (int16_t)(stored(w, part) - OFFSET);
}
{%- else %}
typedef float weight;
enum { IN_A_BYTE = 1 };

static float weigh(weight w, int part)
{
    (void)part;
    return w;
}
{%- endif %}

/* Rows and columns. */
typedef struct {
    int rows, columns;
} pair;

/* What is sent by a population or comes from outside, as what arrives at a population: a convolution. */
typedef struct {
    int source;         /* population that sends; -1 is the input */
    pair sent;          /* shape of what is sent */
    pair largest;       /* windows of that in which spikes count once */
    pair summed;        /* windows of those in which spikes or numbers add up */
    int entering_channels;
    pair entering;      /* shape of what is left of it */
    pair kernel, stride, padding, dilation;
    int groups;
    int channels;       /* of what is made */
    pair shape;
    int dense;          /* whether it is fully connected: [row][column][entering channel][channel] */
    int run;            /* weights in a row: of a whole row of the kernel, or of one place in it */
    int filled;         /* weights in a row with zeros behind it, which make adding it up faster */
    int rows;           /* such rows of each entering channel */
    const weight *weights;         /* [entering channel][kernel row][kernel column, from the last][channel of its group] */
    const network_value *rest;     /* what arrives if all that is stored is 0, by channel; or 0 */
    size_t to;                     /* where it arrives among all */
} map;

/* Neurons, and what arrives at them. */
typedef struct {
    int channels;
    size_t period;                 /* numbers in each of the tables of channels below, which repeat them */
    const map *map, *shortcut;     /* the latter may be 0 */
    const weight *lateral;         /* a row from each neuron, or 0 */
    const network_value *bias;     /* of each channel; 0 if all are */
    const network_value *threshold;
{%- if rises %}
    const network_value *rise;     /* of each channel's threshold by a spike; 0 if it is fixed */
    size_t raised;                 /* its place among all */
{%- endif %}
{%- if integer %}
    int shift;                     /* bits behind the point that current and membrane have and sums have not */
{%- if shortcuts %}
    const int32_t *m;              /* m/2^k brings what comes through the shortcut to the unit of the current */
    int k;
{%- endif %}
{%- endif %}
    size_t first, neurons;         /* its neurons among all */
} population;
{% for m in maps %}
static const weight weights_{{ loop.index0 }}[] = {
{{ m.weights }}
};
{%- if m.rest %}
static const network_value rest_{{ loop.index0 }}[] = {
{{ m.rest }}
};
{%- endif %}
{% endfor %}
{%- for p in populations %}
{%- set k = loop.index0 %}
{%- for name, type, numbers in p.tables %}
static const {{ type }} {{ name }}_{{ k }}[] = {
{{ numbers }}
};
{%- endfor %}
{% endfor %}
static const map maps[] = {
{%- for m in maps %}
    {{ '{' }}{{ m.source }}, {{ m.sent }}, {{ m.largest }}, {{ m.summed }}, {{ m.entering_channels }}, {{ m.entering }},
     {{ m.kernel }}, {{ m.stride }}, {{ m.padding }}, {{ m.dilation }}, {{ m.groups }}, {{ m.channels }}, {{ m.shape }}, {{ m.dense }}, {{ m.run }}, {{ m.filled }}, {{ m.rows }},
     weights_{{ loop.index0 }}, {{ 'rest_' ~ loop.index0 if m.rest else '0' }}, {{ m.to }}{{ '}' }}{{ ',' if not loop.last }}
{%- endfor %}
};

static const population populations[NETWORK_POPULATIONS] = {
{%- for p in populations %}
{%- set k = loop.index0 %}
    {{ '{' }}{{ p.channels }}, {{ p.period }}, maps + {{ p.map }}, {{ '0' if p.shortcut is none else 'maps + ' ~ p.shortcut }}, {{ 'lateral_' ~ k if 'lateral' in p.named else '0' }}, {{ 'bias_' ~ k if 'bias' in p.named else '0' }}, threshold_{{ k }},
     {% if rises %}{{ 'rise_' ~ k if 'rise' in p.named else '0' }}, {{ p.raised }}, {% endif %}{% if integer %}{{ p.shift }}, {% if shortcuts %}{{ 'm_' ~ k if 'm' in p.named else '0' }}, {{ p.k }}, {% endif %}{% endif %}{{ p.first }}, {{ p.neurons }}{{ '}' }}{{ ',' if not loop.last }}
{%- endfor %}
};
{% if table %}
/* What a stored number means, by channel. */
static const {{ types.entering }} table[][256] = {
{{ table }}
};
{% endif %}
const char *const network_class_names[NETWORK_CLASSES] = {
{{ class_names }}
};
{% if integer %}
/* x/2^k, half upwards. C leaves open what >> makes of negative numbers. Compilers fill in ones; for one that does not, the last
   line shifts no negative number. */
static int32_t rounded(int32_t x, int k)
{
    if (k == 0)
        return x;
    if ((-2 >> 1) == -1)
        return (x + (1 << (k - 1))) >> k;
    return (int32_t)(((uint32_t)x + 0x80000000u + (1u << (k - 1))) >> k) - (int32_t)(0x80000000u >> k);
}

/* What is left of a synaptic or an output current after a step, and of a membrane potential. */
static int32_t synapse(int32_t x)
{
    return x - rounded(x * {{ synapse.j }}, {{ synapse.k }});
}

static int32_t membrane(int32_t x)
{
    return x - rounded(x * {{ membrane.j }}, {{ membrane.k }});
}

/* x·2^shift. What leaves int32_t here wraps around, in every compiler, to the negative number that is meant. */
static int32_t scaled(int32_t x, int shift)
{
    return {{ 'shift < 0 ? rounded(x, -shift) : ' if shrinks }}(int32_t)((uint32_t)x << shift);
}
{% else %}
/* x, but 0 if it is smaller than 5e-38. Silence leads to numbers so small that processors take many times as long for them. */
static float faded(float x)
{
    return x + 1e-30f - 1e-30f;
}

/* What is left of a synaptic or an output current after a step, and of a membrane potential. */
static float synapse(float x)
{
    return faded(x * {{ synapse }});
}

static float membrane(float x)
{
    return faded(x * {{ membrane }});
}
{% endif %}
{%- if rises %}
/* What is left of the rise of a threshold after a step. */
static network_value relaxed(network_value x)
{
    return {{ 'x - rounded(x * ' ~ relaxing.j ~ ', ' ~ relaxing.k ~ ')' if integer else 'faded(x * ' ~ relaxing ~ ')' }};
}
{% endif %}
/* Bytes, or numbers, of a row of n weights. */
static size_t stride_of(int n)
{
    return (size_t)((n + IN_A_BYTE - 1) / IN_A_BYTE);
}

{#- For each of the weights in a byte a loop of its own, whose shift the compiler knows. -#}
{% macro parts(n, indent='    ') %}
{%- if packed %}
{{ indent }}const int bytes = (int)stride_of({{ n }});
{%- endif %}
{%- for part in range(packed or 1) %}
{{ indent }}for (int i = 0{% if packed %}, some = {{ n }}{{ ' - ' ~ part ~ ' * bytes' if part }} < bytes ? {{ n }}{{ ' - ' ~ part ~ ' * bytes' if part }} : bytes{% endif %}; i < {{ 'some' if packed else n }}; ++i)
{{ indent }}    to[i{{ ' + ' ~ part ~ ' * bytes' if part }}] += {{ caller(part) }};
{%- endfor %}
{%- endmacro -%}
{% macro adds(name, about, to, rows, made, x=0) %}
{%- if about %}
/* {{ about }} */
{%- endif %}
static void {{ name }}({{ to }} *restrict to, const weight *const from[{{ rows }}], int n{{ ', const ' ~ types.entering ~ ' x[' ~ rows ~ ']' if x }})
{
    const weight *restrict a = from[0]{% for row in 'bcd'[:rows - 1] %}, *restrict {{ row }} = from[{{ loop.index }}]{% endfor %};
{%- if x %}
    const {{ types.entering }} e = x[0]{% for times in 'fgh'[:rows - 1] %}, {{ times }} = x[{{ loop.index }}]{% endfor %};
{%- endif %}
{%- call(part) parts('n') %}{{ made | replace('PART', part) }}{% endcall %}
}
{%- endmacro -%}
{% macro sum(open, rows, close='') %}{{ open }}{% for row in 'abcd'[:rows] %}{{ ' + ' if not loop.first }}{{ 'stored' if integer else 'weigh' }}({{ row }}[i], PART){% endfor %}{{ close }}{% endmacro %}
{% macro family(name, to, about) %}
{%- for rows in range(1, 5) %}
{{ adds(name ~ '_' ~ rows, '', to, rows, sum('(int16_t)(', rows, ' - ' ~ rows ~ ' * OFFSET)') if integer else sum('', rows)) }}
{% endfor %}
/* {{ about }} */
static void {{ name }}({{ to }} *to, const weight *const from[4], int rows, int n)
{
    if (rows == 4)
        {{ name }}_4(to, from, n);
    else if (rows == 3)
        {{ name }}_3(to, from, n);
    else if (rows == 2)
        {{ name }}_2(to, from, n);
    else if (rows == 1)
        {{ name }}_1(to, from, n);
}
{% endmacro %}
{{- family('add', 'network_value', 'Add up to four rows of n weights together, which is faster.') }}
{%- if narrow %}
{{- family('add_narrow', 'int16_t', 'The same to sums of 16 bits, which is faster still.') }}
{%- endif %}
/* Add x times a row of n weights. */
static void add_times(network_value *restrict to, const weight *restrict from, int n, {{ types.entering }} x)
{
{%- if integer and largest_weight > 1 %}
    enum { SMALL = 32767 / {{ largest_weight }} }; /* for which products have 16 bits, which is faster */
    if (-SMALL <= x && x <= SMALL) {
{%- call(part) parts('n', '        ') %}(int16_t)(weigh(from[i], {{ part }}) * x){% endcall %}
        return;
    }
{%- endif %}
{%- call(part) parts('n') %}{{ ('(network_value)' if largest_weight > 1 else '(int16_t)') if integer }}weigh(from[i], {{ part }}) * x{% endcall %}
}
{% set products = 'weigh(a[i], PART) * e + weigh(b[i], PART) * f + (weigh(c[i], PART) * g + weigh(d[i], PART) * h)' -%}
{{ adds('add_four_times', 'Four rows, each some times.', 'network_value', 4, products, 1) }}
{%- if integer %}
{% set a, b, c, d = 'stored(a[i], PART) * e', 'stored(b[i], PART) * f', 'stored(c[i], PART) * g', 'stored(d[i], PART) * h' -%}
{{ adds('sum_four', 'Four rows as they are stored, to sums of 16 bits.', 'uint16_t', 4, sum('(uint16_t)(', 4, ')')) }}
{{ adds('sum_four_times', 'The same, each some times.', 'uint16_t', 4, '(uint16_t)(' ~ a ~ ' + ' ~ b ~ ' + ' ~ c ~ ' + ' ~ d ~ ')', 1) }}
{{ adds('sum_pairs', 'The same, where only two have 16 bits together.', 'network_value', 4, '(uint16_t)(' ~ a ~ ' + ' ~ b ~ ') + (uint16_t)(' ~ c ~ ' + ' ~ d ~ ')', 1) }}
{{ adds('sum_each', 'The same, where only one of them has.', 'network_value', 4, '(uint16_t)(' ~ a ~ ') + (uint16_t)(' ~ b ~ ') + (uint16_t)(' ~ c ~ ') + (uint16_t)(' ~ d ~ ')', 1) }}
{%- endif %}

/* The kernel's first place where place `at` of what enters is seen from, and its last. */
static int first_of(int at, int padding, int kernel, int stride, int dilation)
{
    const int least = at + padding - (kernel - 1) * dilation;
    return least <= 0 ? 0 : stride == 1 ? least : (least + stride - 1) / stride;
}

static int last_of(int at, int padding, int stride, int size)
{
    const int most = stride == 1 ? at + padding : (at + padding) / stride;
    return most < size ? most : size - 1;
}
/* Rows of weights that wait to be added up four at a time, which is faster. */
typedef struct {
    network_state *state;
    const map *map;
    network_value *sums;
    const weight *from[4];
    {{ types.entering }} x[4];
    int waiting, plain;    /* how many, and whether all of them count once */
    int row, column;       /* where those of a convolution come from */
    int group;             /* and of which group they are; of a fully connected map they come from anywhere */
    int n;                 /* weights in such a row */
{%- if integer %}
    uint16_t *small;       /* sums of its stored weights, which are still to be added */
    int in_small, in_all;  /* how many stored weights they have, and how many the sums are to lose OFFSET for */
{%- endif %}
} rows;

static rows no_rows(network_state *n, const map *m)
{
    const rows none = {n, m, n->sums + m->to, {0}, {0}, 0, 1, 0, 0, 0, m->channels{{ ', n->small, 0, 0' if integer }}};
    return none;
}
{% if integer %}
/* Bring the sums up to date. */
static void settle(rows *w)
{
    network_value *restrict sums = w->sums;
    uint16_t *restrict small = w->small;
    const int32_t less = OFFSET * w->in_all;
    const int n = w->n;
    for (int i = 0; i < n; ++i) {
        sums[i] += small[i] - less;
        small[i] = 0;
    }
    w->in_small = w->in_all = 0;
}

/* Add up four rows in the fastest way. */
static void add_up(rows *w)
{
    enum { MANY = 1 << 20 }; /* what sums can lose OFFSET for without leaving 32 bits */
    const int16_t *x = w->x;
    const int largest = x[0] | x[1] | x[2] | x[3]; /* or a little more; negative if one of them is */
    if (largest < 0 || largest > ENOUGH) {
        add_four_times(w->sums, w->from, w->n, x);
        return;
    }
    const int all = x[0] + x[1] + x[2] + x[3];
    if (w->in_all > MANY || (w->in_small + all > ENOUGH && 4 * all <= ENOUGH))
        settle(w);
    w->in_all += all;
    if (w->in_small + all <= ENOUGH) {
        w->in_small += all;
        if (w->plain)
            sum_four(w->small, w->from, w->n);
        else
            sum_four_times(w->small, w->from, w->n, x);
        return;
    }
    for (int i = 1; i < 4; ++i) {
        const int j = i % 3 + 1, k = j % 3 + 1;
        if (x[0] + x[i] <= ENOUGH && x[j] + x[k] <= ENOUGH) {
            const weight *const paired[4] = {w->from[0], w->from[i], w->from[j], w->from[k]};
            const int16_t times[4] = {x[0], x[i], x[j], x[k]};
            sum_pairs(w->sums, paired, w->n, times);
            return;
        }
    }
    sum_each(w->sums, w->from, w->n, x);
}
{% else %}
static void add_up(rows *w)
{
    if (w->plain)
        add_4(w->sums, w->from, w->n);
    else
        add_four_times(w->sums, w->from, w->n, w->x);
}
{% endif %}
/* Let a row of a fully connected map wait, which counts x times. */
static void put(rows *w, const weight *from, {{ types.entering }} x)
{
    w->from[w->waiting] = from;
    w->x[w->waiting++] = x;
    w->plain = w->plain && x == 1;
    if (w->waiting == 4) {
        add_up(w);
        w->waiting = 0;
        w->plain = 1;
    }
}

{% if packed %}
/* Add x times n weights of a row of them all, from weight number `skip` on. */
static void add_some(network_value *restrict to, const weight *restrict from, int all, int skip, int n, {{ types.entering }} x)
{
    const int bytes = (int)stride_of(all), end = skip + n;
{%- for part in range(packed) %}
    for (int i = skip > {{ part }} * bytes ? skip : {{ part }} * bytes; i < end && i < {{ part + 1 }} * bytes; ++i)
        to[i - skip] += (network_value)weigh(from[i - {{ part }} * bytes], {{ part }}) * x;
{%- endfor %}
}
{% endif %}
/* Add n weights of each row that waits, from number `skip` on, to the sums from number `at` on. The rows lie `offset` behind where
   they point to{{ ', and have `all` weights' if packed }}. */
static void add_waiting(const rows *w, size_t at, size_t offset, int skip, int n{{ ', int all' if packed }})
{
{%- if packed %}
    if (n < all) {
        for (int i = 0; i < w->waiting; ++i)
            add_some(w->sums + at, w->from[i] + offset, all, skip, n, w->x[i]);
        return;
    }
{%- else %}
    offset += (size_t)skip;
{%- endif %}
    const weight *from[4] = {0};
    for (int i = 0; i < w->waiting; ++i)
        from[i] = w->from[i] + offset;
    if (!w->plain)
        for (int i = 0; i < w->waiting; ++i)
            add_times(w->sums + at, from[i], n, w->x[i]);
    else
        {{ 'add_narrow(w->state->narrow + w->map->to' if narrow else 'add(w->sums' }} + at, from, w->waiting, n);
}

{% if narrow %}
enum { MOST = 32767 / {{ largest_weight }} }; /* weights that add up to 16 bits */

/* Add the sums of 16 bits to the others. */
static void widen(network_state *n, const map *m)
{
    network_value *restrict sums = n->sums + m->to;
    int16_t *restrict narrow = n->narrow + m->to;
    const int all = m->shape.rows * m->shape.columns * m->channels;
    for (int i = 0; i < all; ++i) {
        sums[i] += narrow[i];
        narrow[i] = 0;
    }
    n->added[m - maps] = 0;
    n->wide[m - maps] = 1;
}
{% endif %}
/* Add up what arrives from one place through a convolution. */
static void arrive(rows *w)
{
    const map *m = w->map;
{%- if narrow %}
    network_state *n = w->state;
    if (!w->plain)
        n->wide[m - maps] = 1;
    else {
        if (n->added[m - maps] + w->waiting > MOST)
            widen(n, m);
        n->added[m - maps] = (uint16_t)(n->added[m - maps] + w->waiting);
    }
{%- endif %}
    const int last_row = last_of(w->row, m->padding.rows, m->stride.rows, m->shape.rows);
    const int last_column = last_of(w->column, m->padding.columns, m->stride.columns, m->shape.columns);
    const int start = first_of(w->column, m->padding.columns, m->kernel.columns, m->stride.columns, m->dilation.columns);
    const int width = m->groups == 1 ? m->channels : m->channels / m->groups;
    const size_t row_bytes = stride_of(m->filled);
    for (int r = first_of(w->row, m->padding.rows, m->kernel.rows, m->stride.rows, m->dilation.rows); r <= last_row; ++r) {
        int down = w->row + m->padding.rows - r * m->stride.rows;
        if (m->dilation.rows > 1 && down % m->dilation.rows != 0)
            continue;
        down = m->dilation.rows > 1 ? down / m->dilation.rows : down;
        const size_t to = (size_t)(r * m->shape.columns * m->channels + w->group * width);
        if (m->run > width) { /* what is seen from neighbours lies side by side, as their neurons do */
            const int skip = m->kernel.columns - 1 - (w->column + m->padding.columns - start), seen = last_column - start + 1;
            const int some = seen == m->kernel.columns ? m->filled : seen * width;
            if (seen > 0)
                add_waiting(w, to + (size_t)(start * width), (size_t)down * row_bytes, skip * width, some{{ ', m->filled' if packed }});
            continue;
        }
        for (int c = start; c <= last_column; ++c) {
            const int right = w->column + m->padding.columns - c * m->stride.columns;
            if (m->dilation.columns > 1 && right % m->dilation.columns != 0)
                continue;
            const int from_last = m->kernel.columns - 1 - (m->dilation.columns > 1 ? right / m->dilation.columns : right);
            add_waiting(w, to + (size_t)(c * m->channels), (size_t)(down * m->kernel.columns + from_last) * row_bytes, 0, m->filled{{ ', m->filled' if packed }});
        }
    }
    w->waiting = 0;
    w->plain = 1;
}

/* Let no row wait any longer. */
static void flush(rows *w)
{
    if (w->waiting > 0 && !w->map->dense)
        arrive(w);
    else if (w->plain)
        add(w->sums, w->from, w->waiting, w->n);
    else
        for (int i = 0; i < w->waiting; ++i)
            add_times(w->sums, w->from[i], w->n, w->x[i]);
{%- if integer %}
    if (w->in_all != 0)
        settle(w);
{%- endif %}
}

/* What comes from input number `at` of a fully connected map. */
static const weight *row_of(const map *m, size_t at)
{
    return m->weights + at * stride_of(m->channels);
}

/* x/size, which is mostly 2: that needs no division. */
static int divided(int x, int size)
{
    return size == 2 ? x / 2 : x / size;
}

static int is_one(pair size)
{
    return size.rows * size.columns == 1;
}

/* Add what arrives from one place behind max pooling, or let it wait. */
static void take(rows *w, int row, int column, int channel, {{ types.entering }} x)
{
    const map *m = w->map;
    if (!is_one(m->summed)) {
        row = divided(row, m->summed.rows);
        column = divided(column, m->summed.columns);
        if (row >= m->entering.rows || column >= m->entering.columns)
            return;
    }
    if (m->dense) {
        put(w, row_of(m, (size_t)((row * m->entering.columns + column) * m->entering_channels + channel)), x);
        return;
    }
    const int group = m->groups == 1 ? 0 : channel / (m->entering_channels / m->groups);
    if (w->waiting == 4 || (w->waiting > 0 && (row != w->row || column != w->column || group != w->group)))
        arrive(w);
    w->row = row;
    w->column = column;
    w->group = group;
    w->from[w->waiting] = m->weights + (size_t)(channel * m->rows) * stride_of(m->filled);
    w->x[w->waiting++] = x;
    w->plain = w->plain && x == 1;
}
{%- if windows %}

/* Whether a spike is the first of its step in a window of max pooling; row and column become the window's. */
static int is_first(network_state *n, const map *m, int *row, int *column, int channel)
{
    const pair windows = {m->sent.rows / m->largest.rows, m->sent.columns / m->largest.columns};
    *row = divided(*row, m->largest.rows);
    *column = divided(*column, m->largest.columns);
    if (*row >= windows.rows || *column >= windows.columns)
        return 0;
    uint8_t *seen = n->seen + (size_t)(*row * windows.columns + *column) * (size_t)m->entering_channels + (size_t)channel;
    const int first = !*seen;
    *seen = 1;
    return first;
}
{%- endif %}

/* Send the spikes of a population through a map. */
static void send(network_state *n, const map *m)
{
    const population *from = &populations[m->source];
    const network_index *spiked = n->spiked + from->first;
    rows waiting = no_rows(n, m);
    if (m->dense && m->sent.rows * m->sent.columns == m->entering.rows * m->entering.columns) {
        for (size_t i = 0; i < n->count[m->source]; ++i)
            put(&waiting, row_of(m, spiked[i]), 1);
        flush(&waiting);
        return;
    }
{%- if windows %}
    if (!is_one(m->largest))
        memset(n->seen, 0, sizeof n->seen);
{%- endif %}
    int row = 0, column = 0; /* spikes come in rising order, so their place is found without a division */
    size_t first = 0;
    for (size_t i = 0; i < n->count[m->source]; ++i) {
        while (spiked[i] - first >= (size_t)from->channels) {
            first += (size_t)from->channels;
            if (++column == m->sent.columns) {
                column = 0;
                ++row;
            }
        }
        const int channel = (int)(spiked[i] - first);
{%- if windows %}
        int r = row, c = column;
        if (is_one(m->largest) || is_first(n, m, &r, &c, channel))
            take(&waiting, r, c, channel, 1);
{%- else %}
        take(&waiting, row, column, channel, 1);
{%- endif %}
    }
    flush(&waiting);
}

/* Neurons that go through a step together: a number that the compiler knows makes it faster. Populations are filled up to it. */
enum { AT_ONCE = {{ at_once }} };

{% macro integrate(kind, from) -%}
/* Whether nothing has arrived at some neurons. */
static int is_silent{{ kind }}(const {{ from }} *sums)
{
    {{ from if integer else 'int' }} any = 0;
    for (int i = 0; i < AT_ONCE; ++i)
        any |= sums[i]{{ ' != 0' if not integer }};
    return any == 0;
}

/* Current and membrane potential of some neurons. */
static void integrate{{ kind }}(network_value *restrict current, network_value *restrict potential, const {{ from }} *restrict sums{{ ', int shift' if integer }})
{
    for (int i = 0; i < AT_ONCE; ++i) {
        current[i] = synapse(current[i]) + {{ 'scaled(sums[i], shift)' if integer else 'sums[i]' }};
        potential[i] = membrane(potential[i]) + current[i];
    }
}
{% endmacro -%}
{{ integrate('', 'network_value') }}
{%- if narrow %}
{{ integrate('_narrow', 'int16_t') }}
{%- endif %}
{% if shortcuts %}
/* What comes to both of them through a shortcut. */
static void add_beside(network_value *restrict current, network_value *restrict potential, const network_value *restrict beside{{ ', const int32_t *restrict m, int k' if integer }})
{
    for (int i = 0; i < AT_ONCE; ++i) {
        const network_value more = {{ 'rounded(beside[i] * m[i], k)' if integer else 'beside[i]' }};
        current[i] += more;
        potential[i] += more;
    }
}
{% endif %}
static void add_all(network_value *restrict to, const network_value *restrict from, int n)
{
    for (int i = 0; i < n; ++i)
        to[i] += from[i];
}

/* Note which of some neurons spike, from number `at` on. Returns how many. */
static size_t note(const network_value *restrict potential, const network_value *restrict threshold, size_t at, network_index *restrict spiked)
{
    uint8_t fires[AT_ONCE];
    for (int i = 0; i < AT_ONCE; ++i)
        fires[i] = potential[i] > threshold[i];
    size_t count = 0;
    for (size_t i = 0; i < AT_ONCE; i += 8) {
        uint64_t any;
        memcpy(&any, fires + i, sizeof any);
        if (any == 0)
            continue;
        for (size_t k = i; k < i + 8; ++k) { /* written in any case: a branch that cannot be foreseen takes longer */
            spiked[count] = (network_index)(at + k);
            count += fires[k];
        }
    }
    return count;
}

/* Forget what has arrived through a map. */
static void forget(network_state *n, const map *m)
{
    const size_t all = (size_t)(m->shape.rows * m->shape.columns * m->channels);
{%- if narrow %}
    uint16_t *added = n->added + (m - maps);
    uint8_t *wide = n->wide + (m - maps);
    if (*added > 0)
        memset(n->narrow + m->to, 0, all * sizeof *n->narrow);
    *added = 0;
    if (!*wide && !m->dense)
        return;
    *wide = 0;
{%- endif %}
    memset(n->sums + m->to, 0, all * sizeof *n->sums);
}

/* Current, membrane potential and spikes of population k, from its sums. */
static void fire(network_state *n, size_t k)
{
    const population *p = &populations[k];
    network_value *current = n->current + p->first, *potential = n->membrane + p->first;
    const network_value *sums = n->sums + p->map->to;
    const network_value *threshold = p->threshold;
    network_index *spiked = n->spiked + p->first;
{%- if narrow %}
    const size_t by = (size_t)(p->map - maps);
    if (n->added[by] > 0 && n->wide[by])
        widen(n, p->map);
    const int is_narrow = n->added[by] > 0;
    const int16_t *narrow = n->narrow + p->map->to;
{%- if shortcuts %}
    if (p->shortcut != 0 && n->added[p->shortcut - maps] > 0)
        widen(n, p->shortcut);
{%- endif %}
{%- endif %}
    size_t count = 0;
    const int rests = p->bias == 0{{ ' && p->shortcut == 0' if shortcuts }}; /* unless something arrives */
    uint8_t *awake = n->awake + p->first / AT_ONCE;
{%- if rises %}
    if (p->rise != 0) {
        network_value *raised = n->raised + p->raised, *level = n->level + p->raised;
        for (size_t i = 0; i < p->neurons; ++i)
            raised[i] = relaxed(raised[i]);
        for (size_t i = 0; i < n->count[k]; ++i)
            raised[spiked[i]] += p->rise[spiked[i]];
        for (size_t i = 0; i < p->neurons; ++i)
            level[i] = p->threshold[i] + raised[i];
        threshold = level;
    }
{%- endif %}
    for (size_t i = 0, c = 0; i < p->neurons; i += AT_ONCE, c += AT_ONCE) {
        if (c == p->period)
            c = 0;
        if (!awake[i / AT_ONCE]) {
            if (rests && {{ '(is_narrow ? is_silent_narrow(narrow + i) : is_silent(sums + i))' if narrow else 'is_silent(sums + i)' }})
                continue;
            awake[i / AT_ONCE] = 1;
        }
{%- if narrow %}
        if (is_narrow)
            integrate_narrow(current + i, potential + i, narrow + i, p->shift);
        else
            integrate(current + i, potential + i, sums + i, p->shift);
{%- else %}
        integrate(current + i, potential + i, sums + i{{ ', p->shift' if integer }});
{%- endif %}
{%- if shortcuts %}
        if (p->shortcut != 0)
            add_beside(current + i, potential + i, n->sums + p->shortcut->to + i{{ ', p->m + c, p->k' if integer }});
{%- endif %}
        if (p->bias != 0)
            add_all(potential + i, p->bias + c, AT_ONCE);
        count += note(potential + i, threshold + c, i, spiked + count);
    }
    for (size_t i = 0; i < count; ++i)
        potential[spiked[i]] = 0;
    while (count > 0 && spiked[count - 1] >= p->neurons) /* what it was filled up with, and resets too */
        --count;
    n->count[k] = (network_index)count;
{%- if static %}
    if (p->map->source < 0) { /* what is shown stays */
{%- if shown %}
        memcpy(n->sums + p->map->to, n->shown, sizeof n->shown); /* without what its neurons heard of each other */
{%- endif %}
    } else
{%- endif %}
        forget(n, p->map);
{%- if shortcuts %}
    if (p->shortcut != 0{{ ' && p->shortcut->source >= 0' if static }})
        forget(n, p->shortcut);
{%- endif %}
}

void network_reset(network_state *n)
{
    memset(n, 0, sizeof *n);
}

{% if integer and not table and not spikes -%}
/* An input within the range for which nothing overflows. */
static int16_t cut(int16_t x)
{
    return (int16_t)(x > {{ largest }} ? {{ largest }} : x < -{{ largest }} ? -{{ largest }} : x);
}

{% endif -%}
/* What comes from outside through a map. */
static void enter(network_state *n, const map *m, const network_input *x)
{
    enum { PART = 64 }; /* numbers looked at together: those that are not 0 are listed without a branch for each */
    const int places = m->sent.rows * m->sent.columns, made = m->shape.rows * m->shape.columns;
    rows waiting = no_rows(n, m);
{%- if static %}
    forget(n, m);
{%- endif %}
    if (m->rest != 0) {
{%- if narrow %}
        n->wide[m - maps] = 1;
{%- endif %}
        for (int i = 0; i < made; ++i)
            add_all(n->sums + m->to + i * m->channels, m->rest, m->channels);
    }
    for (int channel = 0; channel < m->entering_channels; ++channel, x += places)
        for (int first = 0, row = 0, begin = 0; first < places; first += PART) {
            const int end = first + PART < places ? first + PART : places;
{%- if silent %}
            int any = 0;
            for (int i = first; i < end; ++i)
                any |= x[i];
            if (any == 0)
                continue;
{%- endif %}
            int at[PART], count = 0;
            {{ types.entering }} values[PART];
{%- if table %}
            const {{ types.entering }} rest = m->rest != 0 ? table[{{ channel }}][0] : 0;
{%- endif %}
            for (int i = first; i < end; ++i) {
                const {{ types.entering }} value = {{ types.cast ~ '(table[' ~ channel ~ '][x[i]] - rest)' if table else 'x[i]' if not integer else '(int16_t)(x[i] != 0 ? ' ~ one ~ ' : 0)' if spikes else 'cut(x[i])' }};
                at[count] = i;
                values[count] = value;
                count += value != 0;
            }
            if (m->dense && is_one(m->summed)) { /* as below, but faster */
                for (int i = 0; i < count; ++i)
                    put(&waiting, row_of(m, (size_t)(at[i] * m->entering_channels + channel)), values[i]);
                continue;
            }
            for (int i = 0; i < count; ++i) {
                while (at[i] - begin >= m->sent.columns) {
                    begin += m->sent.columns;
                    ++row;
                }
                take(&waiting, row, at[i] - begin, channel, values[i]);
            }
        }
    flush(&waiting);
}

void network_show(network_state *n, const network_input *x)
{
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; ++i)
        if (maps[i].source < 0)
            enter(n, &maps[i], x);
{%- if shown %}
    memcpy(n->shown, n->sums + populations[0].map->to, sizeof n->shown);
{%- endif %}
}
{% if not static %}
void network_event(network_state *n, size_t input)
{
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; ++i) {
        const map *m = &maps[i];
        if (m->source >= 0)
            continue;
        const int place = m->sent.rows * m->sent.columns, at = (int)(input % (size_t)place);
        rows waiting = no_rows(n, m);
        take(&waiting, at / m->sent.columns, at % m->sent.columns, (int)(input / (size_t)place), {{ one }});
        flush(&waiting);
    }
}
{% endif %}
{%- if prepares and integer %}
static network_input entering(float x)
{
    const volatile float y = x * {{ unit }} + 0.5f;
    if (y >= {{ largest }}.0f)
        return {{ largest }};
    if (!(y > -{{ largest }}.0f)) /* NaN too */
        return -{{ largest }};
    const int16_t whole = (int16_t)y;
    return (int16_t)(whole - ((float)whole > y));
}
{% endif %}
{%- if prepares %}
{{ given }} network_prepare(float raw, size_t channel)
{
    static const float gain[] = {{ '{' }}{{ gain }}{{ '}' }}, offset[] = {{ '{' }}{{ offset }}{{ '}' }};
{%- set at = 0 if constant_gain else 'channel' %}
    const volatile float scaled = raw * gain[{{ at }}]; /* rounded here as in tsslbp, not fused with the addition */
{%- if constant_gain %}
    (void)channel;
{%- endif %}
{%- if filters %}
    const volatile float x = scaled + offset[{{ at }}];
    if (x >= {{ filters.whole }} || x <= -{{ filters.whole }}) /* whole units already */
        return x;
    const volatile double up = (double)x + {{ filters.rounding }}; /* next to which double has whole units only */
    return (float)(up - {{ filters.rounding }});
{%- else %}
    return {{ 'entering(scaled + offset[' ~ at ~ '])' if integer else 'scaled + offset[' ~ at ~ ']' }};
{%- endif %}
}
{% endif %}
{%- if filters %}
{% include 'filters.c' %}
{% endif %}
void network_step(network_state *n)
{
    const population *last = &populations[NETWORK_POPULATIONS - 1];
    for (size_t k = 0; k < NETWORK_POPULATIONS; ++k) {
        const population *p = &populations[k];
        if (p->map->source >= 0)
            send(n, p->map);
{%- if shortcuts %}
        if (p->shortcut != 0 && p->shortcut->source >= 0)
            send(n, p->shortcut);
{%- endif %}
{%- if recurrent %}
        if (p->lateral != 0) {
            rows waiting = no_rows(n, p->map);
            for (size_t i = 0; i < n->count[k]; ++i)
                put(&waiting, p->lateral + n->spiked[p->first + i] * stride_of(p->channels), {{ 'p->map->source < 0 ? ' ~ one ~ ' : 1' if one > 1 else '1' }});
            flush(&waiting);
        }
{%- endif %}
        fire(n, k);
    }
    for (size_t i = 0; i < last->neurons; ++i)
        n->output[i] = synapse(n->output[i]);
    for (size_t i = 0; i < n->count[NETWORK_POPULATIONS - 1]; ++i)
        n->output[n->spiked[last->first + i]] += {{ spike }};
    for (size_t i = 0; i < last->neurons; ++i)
        n->total[i] += (network_sum)n->output[i];
}

int network_run(network_state *n, const network_input *x, size_t steps)
{
    network_reset(n);
{%- if static %}
    network_show(n, x);
{%- endif %}
    for (size_t t = 0; t < steps; ++t) {
{%- if not static %}
        network_show(n, x + t * NETWORK_INPUTS);
{%- endif %}
        network_step(n);
    }
    return network_answer(n);
}

network_sum network_evidence(const network_state *n, size_t class_number)
{
    network_sum sum = 0;
    for (size_t i = 0; i < {{ voters }}; ++i)
        sum += n->total[class_number * {{ voters }} + i];
    return sum;
}

int network_answer(const network_state *n)
{
    network_sum most = 0;
    for (size_t i = 0; i < NETWORK_CLASSES; ++i)
        if (network_evidence(n, i) > most)
            most = network_evidence(n, i);
    for (size_t i = 0; i < NETWORK_CLASSES && most > 0; ++i)
        if (network_evidence(n, i) >= {{ nearly }})
            return (int)i;
    return -1;
}

size_t network_neurons(size_t k)
{
    return populations[k].neurons;
}

size_t network_spikes(const network_state *n, size_t k, const network_index **spiked)
{
    *spiked = n->spiked + populations[k].first;
    return n->count[k];
}
