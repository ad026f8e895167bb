/* {{ title }}. README.md says how to use it. Written by tsslbp. */
#ifndef NETWORK_H
#define NETWORK_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#if INT_MAX < 2147483647
#error "network.c needs an int of 32 bits"
#endif
#ifdef __cplusplus
extern "C" {
#endif

#define NETWORK_INPUTS {{ inputs }}      /* numbers of a sample, or of a step of a sequence */
#define NETWORK_CLASSES {{ classes | length }}{{ '      /* here output neurons: the answer is their spike trains, from network_spikes */' if trains }}
#define NETWORK_STEPS {{ steps }}       /* {{ 'steps that the network takes of each series' if filters else 'steps of a sample in training' }} */
#define NETWORK_POPULATIONS {{ populations | length }} /* of neurons, the last is the output */
#define NETWORK_NEURONS {{ neurons }}     /* of all populations */
{%- if filters %}
#define NETWORK_SERIES_STEPS {{ filters.steps }}    /* of a series, at most */
#define NETWORK_SERIES_CHANNELS {{ filters.channels }}
#define NETWORK_ROOM {{ filters.room }}     /* numbers that network_filter works in */
{%- endif %}

typedef {{ types.input }} network_input;    /* {{ 'what network_filter makes' if filters else input_means }} */
typedef {{ types.value }} network_value;
typedef {{ types.index }} network_index;
typedef {{ types.sum }} network_sum;          /* what adds up from step to step, for as long as a stream runs */

/* Where a network stands. Any number of them can be used side by side. */
typedef struct {
    network_value sums[{{ sums }}];     /* what has arrived in this step, by map */
    network_value current[{{ slots }}];  /* synaptic current */
    network_value membrane[{{ slots }}]; /* membrane potential after the reset */
    network_value output[{{ populations[-1].neurons }}];       /* current of the output neurons */
    network_sum total[{{ populations[-1].neurons }}];          /* its sum over the steps */
    network_index spiked[{{ slots }}];   /* neurons of each population that spiked in the last step */
    network_index count[NETWORK_POPULATIONS];
    uint8_t awake[{{ slots // at_once }}];        /* whether anything has arrived at neurons that are taken together */
{%- if integer %}
    uint16_t small[{{ small }}];           /* sums of 16 bits that are still to be added */
{%- endif %}
{%- if narrow %}
    int16_t narrow[{{ sums }}];           /* what spikes add up to through convolutions, in 16 bits, which is faster */
    uint16_t added[{{ maps | length }}];       /* how many spikes these have, by map */
    uint8_t wide[{{ maps | length }}];         /* whether something has arrived in sums as well */
{%- endif %}
{%- if shown %}
    network_value shown[{{ shown }}];         /* what has arrived from outside alone */
{%- endif %}
{%- if rises %}
    network_value raised[{{ rises }}];        /* rise of adaptive thresholds */
    network_value level[{{ rises }}];         /* these thresholds */
{%- endif %}
{%- if windows %}
    uint8_t seen[{{ windows }}];               /* windows of max pooling with a spike in this step */
{%- endif %}
} network_state;

extern const char *const network_class_names[NETWORK_CLASSES];

/* Begin a new sample, from rest. */
void network_reset(network_state *n);
{% if static %}
/* Show a sample, [channel][row][column], until the next reset. */
void network_show(network_state *n, const network_input *x);
{% else %}
/* Hand over what enters in the next step, [channel][row][column]. Zeros take no time. */
void network_show(network_state *n, const network_input *x);

/* Or add 1 to one input, given its number{{ ': ' ~ event_when if events }}.
{%- if integer %} More than {{ most_events }} in a step may leave 32 bits.{% endif %} */
void network_event(network_state *n, size_t input);
{% endif %}
{%- if prepares %}
/* {{ 'A number of a series' if filters else 'What enters' }}, from a number as it was measured: normalised{{ ', in whole numbers of 1/' ~ unit if integer and not filters }}. */
{{ given }} network_prepare(float raw, size_t channel);
{% endif %}
{%- if filters %}
/* What enters the network, NETWORK_INPUTS numbers in `made`, from a series of 1 to NETWORK_SERIES_STEPS steps, [step][channel] of
   numbers from network_prepare. `room` has NETWORK_ROOM numbers, whatever they are. */
void network_filter(network_input *made, const float *series, size_t steps, double *room);
{% endif %}
/* One step of time. */
void network_step(network_state *n);

/* Reset, show {{ 'a sample' if static else 'each step of a sequence, [step][channel][row][column]' }} and go through its steps. Returns the answer. */
int network_run(network_state *n, const network_input *x, size_t steps);

/* Evidence for a class so far: the summed output current{{ ' of its ' ~ voters ~ ' neurons' if voters > 1 }}. */
network_sum network_evidence(const network_state *n, size_t class_number);

/* The class with most evidence so far, the first of several; -1 if no output neuron has spiked. */
int network_answer(const network_state *n);

/* Neurons of a population, and those of them that spiked in the last step: returns how many, and points *spiked to their
   numbers, (row * columns + column) * channels + channel, in rising order. */
size_t network_neurons(size_t population);
size_t network_spikes(const network_state *n, size_t population, const network_index **spiked);

#ifdef __cplusplus
}
#endif

#endif
