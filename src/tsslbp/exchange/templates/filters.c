{%- set one = filters.summed is none -%}
/* Filters of series. Sums of whole units are exact in double, so rates are those of tsslbp with every compiler. */
enum { VIEWS = {{ filters.views }}, TAPS = {{ filters.taps }}, LARGEST = {{ filters.largest }}, EACH = {{ filters.each }}, POINTS = {{ filters.points }} };

#if DBL_MANT_DIG < 53
#error "the filters need a double of 64 bits"
#endif

/* Sums above which a filter spikes: EACH for every one. */
static const double thresholds[] = {
{{ filters.thresholds }}
};
/* Of each rate, and then of each value. */
static const float mean_of[NETWORK_INPUTS] = {
{{ filters.mean }}
};
static const float deviation_of[NETWORK_INPUTS] = {
{{ filters.std }}
};
{%- if not one %}
/* For every filter how many channels it sums, and then their numbers. */
static const uint32_t summed[] = {
{{ filters.summed }}
};
{%- endif %}

/* A series, or its changes from step to step, {{ 'as double' if one else 'summed over some channels' }}, between as many zeros as filters of dilation d reach beyond
   it; and for each step the sum of all that a filter sees there. */
static void fill(double *room, double *all, const float *series, size_t steps, int view, size_t d{{ ', const uint32_t *some' if not one }})
{
    const size_t reach = TAPS / 2 * d;
    for (size_t t = 0; t < reach; ++t)
        room[t] = room[reach + steps + t] = 0;
    for (size_t t = 0; t < steps; ++t) {
{%- if one %}
        const double now = (double)series[t], before = (double)series[t > 0 ? t - 1 : 0];
        room[reach + t] = view == 0 ? now : now - before;
{%- else %}
        const float *now = series + t * NETWORK_SERIES_CHANNELS, *before = t > 0 ? now - NETWORK_SERIES_CHANNELS : now;
        double sum = 0;
        for (size_t i = 1; i <= some[0]; ++i)
            sum += (double)now[some[i]] - (view == 0 ? 0 : (double)before[some[i]]);
        room[reach + t] = sum;
{%- endif %}
    }
    for (size_t t = 0; t < steps; ++t) {
        all[t] = 0;
        for (size_t tap = 0; tap < TAPS; ++tap)
            all[t] += room[t + tap * d];
    }
}

/* Step t of a series that is stretched to all steps, linearly between its own. */
static float stretched(const float *series, size_t steps, size_t t, size_t channel)
{
    enum { WHOLE = NETWORK_SERIES_STEPS > 1 ? NETWORK_SERIES_STEPS - 1 : 1 };
    const uint64_t last = steps - 1, place = last * t, before = place / WHOLE, after = before < last ? before + 1 : last;
    const double low = (double)series[before * NETWORK_SERIES_CHANNELS + channel];
    const double high = (double)series[after * NETWORK_SERIES_CHANNELS + channel];
    const float part = (float)(place % WHOLE) / (float)WHOLE;
    const volatile double rise = (double)part * (high - low); /* not fused with the addition */
    const volatile double there = low + rise;
    return (float)there;
}

static network_input standardised(double x, size_t at)
{
    const volatile float whole = (float)x, centred = whole - mean_of[at], scaled = centred / deviation_of[at];
    return {{ 'entering(scaled)' if integer else 'scaled' }};
}

void network_filter(network_input *made, const float *series, size_t steps, double *room)
{
    size_t at = 0;
    const double *threshold = thresholds;
    double *all = room + NETWORK_ROOM - NETWORK_SERIES_STEPS;
{%- if not one %}
    const uint32_t *some = summed;
{%- endif %}
    for (int view = 0; view < VIEWS; ++view)
        for (size_t d = 1; d <= LARGEST; d *= 2) {
{%- if one %}
            fill(room, all, series, steps, view, d);
{%- endif %}
            for (size_t i = 0; i < TAPS; ++i) /* weights are 2 for taps i, j and k, and -1 for the others */
                for (size_t j = i + 1; j < TAPS; ++j)
                    for (size_t k = j + 1; k < TAPS; ++k) {
                        size_t spikes[EACH] = {0};
{%- if not one %}
                        fill(room, all, series, steps, view, d, some);
                        some += 1 + some[0];
{%- endif %}
                        for (size_t t = 0; t < steps; ++t) {
                            const double *x = room + t;
                            const double sum = 3 * (x[i * d] + x[j * d] + x[k * d]) - all[t];
                            for (int q = 0; q < EACH; ++q)
                                spikes[q] += sum > threshold[q];
                        }
                        for (int q = 0; q < EACH; ++q, ++at) {
                            const volatile float rate = (float)spikes[q] / (float)steps;
                            made[at] = standardised((double)rate, at);
                        }
                        threshold += EACH;
                    }
        }
    for (size_t channel = 0; channel < NETWORK_SERIES_CHANNELS; ++channel)
        for (uint64_t point = 0; point < POINTS; ++point, ++at) {
            const size_t first = (size_t)(point * NETWORK_SERIES_STEPS / POINTS);
            const size_t end = (size_t)(((point + 1) * NETWORK_SERIES_STEPS + POINTS - 1) / POINTS);
            double sum = 0;
            for (size_t t = first; t < end; ++t)
                sum += (double)stretched(series, steps, t, channel);
            const volatile double mean = sum / (double)(end - first);
            made[at] = standardised(mean, at);
        }
}
