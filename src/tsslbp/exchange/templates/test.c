/* Test of network.c. Written by tsslbp.

   ./test                 compares with what tsslbp computed; prints what differs, and returns 1 if too much does
   ./test --time SECONDS  times the samples below
   ./test FILE            reads {{ 'for each sample its steps (int32_t) and ' if varies }}{{ size }} {{ given ~ ' from network_prepare' if filters else given }}, and writes for each its answer
                          (int32_t), the evidence of every class (network_sum) and, for all NETWORK_STEPS steps, a byte for
                          every neuron, 1 if it spiked */
#include "network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLES {{ samples | length }}
#define SIZE ({{ size }})

static const {{ given }} samples[SAMPLES][SIZE] = {
{{ samples | map(attribute='x') | join(',\n') }}
};
static const int answers[SAMPLES] = {{ '{' }}{{ samples | map(attribute='answer') | join(', ') }}{{ '}' }};
static const network_sum evidence[SAMPLES][NETWORK_CLASSES] = {
{{ samples | map(attribute='evidence') | join(',\n') }}
};
/* Spikes of each population in each step. */
static const long spikes[SAMPLES][NETWORK_STEPS][NETWORK_POPULATIONS] = {
{{ samples | map(attribute='spikes') | join(',\n') }}
};

{%- if filters %}
static const size_t lengths[SAMPLES] = {{ '{' }}{{ samples | map(attribute='length') | join(', ') }}{{ '}' }};
{%- endif %}

static network_state state;
{% if filters %}
static const network_input *filtered(const float *series, size_t length)
{
    static network_input x[NETWORK_INPUTS];
    static double room[NETWORK_ROOM];
    network_filter(x, series, length, room);
    return x;
}
{% endif %}
static void show(const network_input *x, size_t t)
{
{%- if static %}
    if (t == 0)
        network_show(&state, x);
{%- else %}
    network_show(&state, x + t * NETWORK_INPUTS);
{%- endif %}
}

static int compare(void)
{
    long differences = 0, all = 0, wrong = 0;
    for (size_t i = 0; i < SAMPLES; ++i) {
        const network_input *x = {{ 'filtered(samples[i], lengths[i])' if filters else 'samples[i]' }};
        network_reset(&state);
        for (size_t t = 0; t < NETWORK_STEPS; ++t) {
            show(x, t);
            network_step(&state);
            for (size_t k = 0; k < NETWORK_POPULATIONS; ++k) {
                const network_index *spiked;
                const long wanted = spikes[i][t][k], found = (long)network_spikes(&state, k, &spiked);
                differences += labs(found - wanted);
                all += wanted;
            }
        }
        const int answer = network_answer(&state);
{%- if integer %}
        int equal = answer == answers[i];
        for (size_t c = 0; c < NETWORK_CLASSES; ++c)
            equal = equal && network_evidence(&state, c) == evidence[i][c];
        wrong += !equal;
{%- else %}
        wrong += answer != answers[i];
        (void)evidence;
{%- endif %}
        wrong += network_run(&state, x, NETWORK_STEPS) != answer;
    }
    printf("%ld of %d samples differ, and %ld of %ld spikes\n", wrong, SAMPLES, differences, all);
{%- if integer %}
    return wrong != 0 || differences != 0;
{%- else %}
    return wrong != 0 || differences * 1000 > all; /* sums in another order may round a potential to the other side of a threshold */
{%- endif %}
}

static int measure(double seconds)
{
    const clock_t begin = clock();
    long runs = 0, right = 0;
    double passed = 0;
    while (passed < seconds) {
        for (size_t i = 0; i < SAMPLES; ++i)
            right += network_run(&state, {{ 'filtered(samples[i], lengths[i])' if filters else 'samples[i]' }}, NETWORK_STEPS) == answers[i];
        runs += SAMPLES;
        passed = (double)(clock() - begin) / CLOCKS_PER_SEC;
    }
    printf("%.2f microseconds a sample, over %ld samples; %ld answers as expected\n", 1e6 * passed / (double)runs, runs, right);
    return 0;
}

static int answer_all(const char *path)
{
    static {{ given }} {{ 'series' if filters else 'x' }}[SIZE];
    static unsigned char marks[NETWORK_NEURONS];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        return 2;
    }
    int32_t steps = NETWORK_STEPS;
{%- if filters %}
    int32_t length;
    while (fread(&length, sizeof length, 1, file) == 1 && length > 0 && length <= NETWORK_SERIES_STEPS && fread(series, sizeof series[0], SIZE, file) == SIZE) {
        const network_input *x = filtered(series, (size_t)length);
{%- else %}
    while ({% if not static %}fread(&steps, sizeof steps, 1, file) == 1 && steps > 0 && steps <= NETWORK_STEPS && {% endif %}fread(x, sizeof x[0], SIZE, file) == SIZE) {
{%- endif %}
        const int32_t answer = network_run(&state, x, (size_t)steps);
        fwrite(&answer, sizeof answer, 1, stdout);
        for (size_t c = 0; c < NETWORK_CLASSES; ++c) {
            const network_sum found = network_evidence(&state, c);
            fwrite(&found, sizeof found, 1, stdout);
        }
        network_reset(&state);
        for (size_t t = 0; t < NETWORK_STEPS; ++t) {
            memset(marks, 0, sizeof marks);
            if (t < (size_t)steps) {
                show(x, t);
                network_step(&state);
            }
            for (size_t k = 0, first = 0; t < (size_t)steps && k < NETWORK_POPULATIONS; first += network_neurons(k++)) {
                const network_index *spiked;
                const size_t count = network_spikes(&state, k, &spiked);
                for (size_t j = 0; j < count; ++j)
                    marks[first + spiked[j]] = 1;
            }
            fwrite(marks, 1, sizeof marks, stdout);
        }
    }
    fclose(file);
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "--time") == 0)
        return measure(strtod(arguments[2], NULL));
    return count == 2 ? answer_all(arguments[1]) : compare();
}
