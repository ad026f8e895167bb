/* {{ title }}. README.md says how to use it. Written by tsslbp. */
#include "network.h"

#include <string.h>

typedef {{ types.weight }} weight;

/* Rows and columns. */
typedef struct {
    int rows, columns;
} pair;

/* Neurons, and the map in front of them: a convolution, whose kernel is as large as what enters if it is fully connected. */
typedef struct {
    int channels;
    pair shape;
    pair sent;          /* shape of the population before it */
    pair largest;       /* windows of that in which spikes count once */
    pair summed;        /* windows of those in which spikes add up */
    int entering_channels;
    pair entering;      /* shape of what is left of it */
    pair kernel, stride, padding, dilation;
    int groups;
    const weight *weights;         /* [kernel row][kernel column][entering channel][channel of its group] */
    const weight *lateral;         /* [from][to], or 0 */
    const network_value *bias;     /* of each channel */
    const network_value *threshold;
{%- if integer %}
    int shift;                     /* bits behind the point that current and membrane have and sums have not */
{%- endif %}
    size_t first, neurons;         /* its neurons among all */
} population;
{% for p in populations %}
static const weight weights_{{ loop.index0 }}[] = {
{{ p.weights }}
};
{%- if p.lateral %}
static const weight lateral_{{ loop.index0 }}[] = {
{{ p.lateral }}
};
{%- endif %}
static const network_value bias_{{ loop.index0 }}[] = {
{{ p.bias }}
};
static const network_value threshold_{{ loop.index0 }}[] = {
{{ p.threshold }}
};
{% endfor %}
static const population populations[NETWORK_POPULATIONS] = {
{%- for p in populations %}
    {{ '{' }}{{ p.channels }}, {{ p.shape }}, {{ p.sent }}, {{ p.largest }}, {{ p.summed }}, {{ p.entering_channels }}, {{ p.entering }},
     {{ p.kernel }}, {{ p.stride }}, {{ p.padding }}, {{ p.dilation }}, {{ p.groups }},
     weights_{{ loop.index0 }}, {{ 'lateral_' ~ loop.index0 if p.lateral else '0' }}, bias_{{ loop.index0 }}, threshold_{{ loop.index0 }}, {% if integer %}{{ p.shift }}, {% endif %}{{ p.first }}, {{ p.neurons }}{{ '}' }}{{ ',' if not loop.last }}
{%- endfor %}
};
{% if table %}
/* What a stored number means, by channel. */
static const {{ types.entering }} table[][256] = {
{{ table }}
};
{% endif %}
{%- if rest %}
/* What arrives if every stored number is 0. */
static const network_value rest[] = {
{{ rest }}
};
{% endif %}
const char *const network_class_names[NETWORK_CLASSES] = {
{{ class_names }}
};
{% if integer %}
/* x/2^k, half upwards. C leaves open what >> makes of negative numbers, so none are shifted. */
static int32_t rounded(int32_t x, int k)
{
    return k == 0 ? x : (int32_t)(((uint32_t)x + 0x80000000u + (1u << (k - 1))) >> k) - (int32_t)(0x80000000u >> k);
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

static int32_t scaled(int32_t x, int shift)
{
    return shift < 0 ? rounded(x, -shift) : x * (int32_t)(1u << shift);
}
{% else %}
/* What is left of a synaptic or an output current after a step, and of a membrane potential. */
static float synapse(float x)
{
    return x * {{ synapse }};
}

static float membrane(float x)
{
    return x * {{ membrane }};
}
{% endif %}
static void add(network_value *restrict to, const weight *restrict from, int n)
{
    for (int i = 0; i < n; ++i)
        to[i] += from[i];
}

static void add_times(network_value *restrict to, const weight *restrict from, int n, {{ types.entering }} x)
{
    for (int i = 0; i < n; ++i)
        to[i] += {{ '(int32_t)' if integer }}from[i] * x;
}

/* As add and add_times, of four at once. */
static void add_four(network_value *restrict to, const weight *const from[4], int n)
{
    const weight *restrict a = from[0], *restrict b = from[1], *restrict c = from[2], *restrict d = from[3];
    for (int i = 0; i < n; ++i)
        to[i] += {{ '(int16_t)(a[i] + b[i] + c[i] + d[i])' if integer else 'a[i] + b[i] + (c[i] + d[i])' }};
}

static void add_four_times(network_value *restrict to, const weight *const from[4], int n, const {{ types.entering }} x[4])
{
    const weight *restrict a = from[0], *restrict b = from[1], *restrict c = from[2], *restrict d = from[3];
    const {{ types.entering }} e = x[0], f = x[1], g = x[2], h = x[3];
    for (int i = 0; i < n; ++i)
        to[i] += a[i] * e + b[i] * f + (c[i] * g + d[i] * h);
}

/* The kernel's first place where place `at` of what enters is seen from, and its last. */
static int first_of(int at, int padding, int kernel, int stride, int dilation)
{
    const int least = at + padding - (kernel - 1) * dilation;
    return least <= 0 ? 0 : (least + stride - 1) / stride;
}

static int last_of(int at, int padding, int stride, int size)
{
    const int most = (at + padding) / stride;
    return most < size ? most : size - 1;
}

/* Add what arrives at one place to the sums of a population; spikes are 1. */
static void arrive(const population *p, network_value *sums, int row, int column, int channel, {{ types.entering }} x)
{
    const int width = p->channels / p->groups, group = channel / (p->entering_channels / p->groups);
    const int last_row = last_of(row, p->padding.rows, p->stride.rows, p->shape.rows);
    const int last_column = last_of(column, p->padding.columns, p->stride.columns, p->shape.columns);
    const int start = first_of(column, p->padding.columns, p->kernel.columns, p->stride.columns, p->dilation.columns);
    for (int r = first_of(row, p->padding.rows, p->kernel.rows, p->stride.rows, p->dilation.rows); r <= last_row; ++r) {
        const int down = row + p->padding.rows - r * p->stride.rows;
        if (down % p->dilation.rows != 0)
            continue;
        for (int c = start; c <= last_column; ++c) {
            const int right = column + p->padding.columns - c * p->stride.columns;
            if (right % p->dilation.columns != 0)
                continue;
            const int place = down / p->dilation.rows * p->kernel.columns + right / p->dilation.columns;
            const weight *from = p->weights + ((size_t)place * p->entering_channels + channel) * width;
            network_value *to = sums + (size_t)(r * p->shape.columns + c) * p->channels + group * width;
            if (x == 1)
                add(to, from, width);
            else
                add_times(to, from, width, x);
        }
    }
}

/* Rows of a fully connected map that wait to be added up four at a time, which is faster. */
typedef struct {
    const weight *from[4];
    {{ types.entering }} x[4];
    int waiting, plain;  /* how many, and whether all of them count once */
} rows;

static void flush(const population *p, network_value *sums, rows *w)
{
    if (w->waiting == 4 && w->plain)
        add_four(sums, w->from, p->channels);
    else if (w->waiting == 4)
        add_four_times(sums, w->from, p->channels, w->x);
    else
        for (int i = 0; i < w->waiting; ++i)
            add_times(sums, w->from[i], p->channels, w->x[i]);
    w->waiting = 0;
    w->plain = 1;
}

/* Let what comes from input number `at` of a fully connected map wait. */
static void put(const population *p, network_value *sums, rows *w, size_t at, {{ types.entering }} x)
{
    w->from[w->waiting] = p->weights + at * (size_t)p->channels;
    w->x[w->waiting++] = x;
    w->plain = w->plain && x == 1;
    if (w->waiting == 4)
        flush(p, sums, w);
}

static int is_dense(const population *p)
{
    return p->shape.rows * p->shape.columns * p->groups == 1;
}

static int is_one(pair size)
{
    return size.rows * size.columns == 1;
}

/* Add what arrives at one place, or let it wait. */
static void take(const population *p, network_value *sums, rows *w, int row, int column, int channel, {{ types.entering }} x)
{
    if (is_dense(p))
        put(p, sums, w, (size_t)((row * p->entering.columns + column) * p->entering_channels + channel), x);
    else
        arrive(p, sums, row, column, channel, x);
}

/* Send the spikes of the population before to population k. */
static void send(network_state *n, size_t k)
{
    const population *p = &populations[k], *before = p - 1;
    const network_index *spiked = n->spiked + before->first;
    rows waiting = {{ '{{0}, {0}, 0, 1}' }};
{%- if windows %}
    if (!is_one(p->largest))
        memset(n->seen, 0, sizeof n->seen);
{%- endif %}
    const int direct = is_dense(p) && is_one(p->largest) && is_one(p->summed);
    for (size_t i = 0; i < n->count[k - 1]; ++i) {
        if (direct) {
            put(p, n->sums + p->first, &waiting, spiked[i], 1);
            continue;
        }
        const int channel = (int)spiked[i] % before->channels, at = (int)spiked[i] / before->channels;
        int row = at / p->sent.columns, column = at % p->sent.columns;
{%- if windows %}
        if (!is_one(p->largest)) {
            const int rows = p->sent.rows / p->largest.rows, columns = p->sent.columns / p->largest.columns;
            row /= p->largest.rows;
            column /= p->largest.columns;
            if (row >= rows || column >= columns)
                continue;
            uint8_t *seen = n->seen + (size_t)(row * columns + column) * before->channels + channel;
            if (*seen)
                continue;
            *seen = 1;
        }
{%- endif %}
        row /= p->summed.rows;
        column /= p->summed.columns;
        if (row < p->entering.rows && column < p->entering.columns)
            take(p, n->sums + p->first, &waiting, row, column, channel, 1);
    }
    flush(p, n->sums + p->first, &waiting);
}

/* Current and membrane potential of the neurons at one place. */
static void integrate(network_value *restrict current, network_value *restrict potential, const network_value *restrict sums,
                      const network_value *restrict bias, int n{{ ', int shift' if integer }})
{
    for (int i = 0; i < n; ++i) {
        current[i] = synapse(current[i]) + {{ 'scaled(sums[i], shift)' if integer else 'sums[i]' }};
        potential[i] = membrane(potential[i]) + current[i] + bias[i];
    }
}

/* Current, membrane potential and spikes of population k, from its sums. */
static void fire(network_state *n, size_t k)
{
    const population *p = &populations[k];
    const size_t channels = (size_t)p->channels;
    network_value *sums = n->sums + p->first, *potential = n->membrane + p->first;
    network_index *spiked = n->spiked + p->first, count = 0;
    for (size_t i = 0; i < p->neurons; i += channels) {
        integrate(n->current + p->first + i, potential + i, sums + i, p->bias, p->channels{{ ', p->shift' if integer }});
        for (size_t c = 0; c < channels; ++c) {
            if (potential[i + c] > p->threshold[c]) {
                potential[i + c] = 0;
                spiked[count++] = (network_index)(i + c);
            }
        }
    }
    n->count[k] = count;
{%- if static %}
    if (k > 0) /* what is shown to the first stays */
{%- endif %}
        memset(sums, 0, p->neurons * sizeof *sums);
}

void network_reset(network_state *n)
{
    memset(n, 0, sizeof *n);
}

void network_show(network_state *n, const network_input *x)
{
    const population *p = &populations[0];
    rows waiting = {{ '{{0}, {0}, 0, 1}' }};
{%- if static %}
    memset(n->sums, 0, p->neurons * sizeof *n->sums);
{%- endif %}
{%- if rest %}
    for (size_t i = 0; i < p->neurons; ++i)
        n->sums[i] += rest[i % (size_t)p->channels];
{%- endif %}
    for (int channel = 0; channel < p->entering_channels; ++channel)
        for (int row = 0; row < p->entering.rows; ++row)
            for (int column = 0; column < p->entering.columns; ++column) {
{%- if table %}
                const {{ types.entering }} value = {{ types.cast }}(table[{{ channel }}][*x++]{{ ' - table[' ~ channel ~ '][0]' if rest }});
{%- else %}
                const {{ types.entering }} value = *x++;
{%- endif %}
                if (value != 0)
                    take(p, n->sums, &waiting, row, column, channel, value);
            }
    flush(p, n->sums, &waiting);
}
{% if not static %}
void network_event(network_state *n, size_t input)
{
    const population *p = &populations[0];
    const int place = p->entering.rows * p->entering.columns, at = (int)(input % (size_t)place);
    arrive(p, n->sums, at / p->entering.columns, at % p->entering.columns, (int)(input / (size_t)place), {{ event }});
}
{% endif %}
{%- if prepares %}
network_input network_prepare(float raw, size_t channel)
{
    static const float gain[] = {{ '{' }}{{ gain }}{{ '}' }}, offset[] = {{ '{' }}{{ offset }}{{ '}' }};
{%- if constant_gain %}
    const float x = raw * gain[0] + offset[0];
    (void)channel;
{%- else %}
    const float x = raw * gain[channel] + offset[channel];
{%- endif %}
{%- if integer %}
    const float y = x * {{ unit }} + 0.5f;
    if (y >= {{ largest }}.0f)
        return {{ largest }};
    if (y <= -{{ largest }}.0f)
        return -{{ largest }};
    const int16_t whole = (int16_t)y;
    return (int16_t)(whole - ((float)whole > y));
{%- else %}
    return x;
{%- endif %}
}
{% endif %}
void network_step(network_state *n)
{
    const population *last = &populations[NETWORK_POPULATIONS - 1];
    for (size_t k = 0; k < NETWORK_POPULATIONS; ++k) {
        const population *p = &populations[k];
        if (k > 0)
            send(n, k);
{%- if recurrent %}
        if (p->lateral != 0)
            for (size_t i = 0; i < n->count[k]; ++i)
                add{{ '_times' if integer }}(n->sums + p->first, p->lateral + (size_t)n->spiked[p->first + i] * p->channels, p->channels{{ ', k == 0 ? ' ~ unit ~ ' : 1' if integer }});
{%- endif %}
        fire(n, k);
        (void)p;
    }
    for (size_t i = 0; i < last->neurons; ++i)
        n->output[i] = synapse(n->output[i]);
    for (size_t i = 0; i < n->count[NETWORK_POPULATIONS - 1]; ++i)
        n->output[n->spiked[last->first + i]] += {{ spike }};
    for (size_t i = 0; i < last->neurons; ++i)
        n->total[i] += n->output[i];
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

network_value network_evidence(const network_state *n, size_t class_number)
{
    network_value sum = 0;
    for (size_t i = 0; i < {{ voters }}; ++i)
        sum += n->total[class_number * {{ voters }} + i];
    return sum;
}

int network_answer(const network_state *n)
{
    int best = -1;
    network_value most = 0;
    for (int i = 0; i < NETWORK_CLASSES; ++i) {
        const network_value evidence = network_evidence(n, (size_t)i);
        if (evidence > most) {
            most = evidence;
            best = i;
        }
    }
    return best;
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
