// Recurrent layers, whole sequences in one call. Equations (1) to (3) are those of layers/recurrent.py.
//
// The neurons' own part is that of neuron.h: each step is a sequence of one step that hands a state to the next, so all rules
// work here unchanged. The lateral input is added, at a cost in proportion to the number of spikes:
//
//     h[t+1] = (1 - 1/τs)·h[t] + Σ V[:, j]/τs over the j that spike at t          h[t] = V·a[t-1] of (1)            (a)
//     G[t]   = δ[t] + (1 - 1/τs)·G[t+1]                                          δ carried back through the synapse (b)
//     ∂L/∂V[:, j] = Σ G[t+1]/τs over the t at which j spikes                      = Σ_t δ[t] a_j[t-1]                (c)
//
// Only the error that comes back through V, Vᵀ·δ[t+1], is a dense product. (a) and (b) need one τs for all. If it varies, V is
// multiplied by a[t-1] of the neurons that have spiked, and the caller forms (c) from a. Arrays are [steps, batch, n]. Samples
// are independent, and so are the columns of (c); all sums have one order, so results do not depend on the number of threads.
#pragma once

#include "neuron.h"

#include <algorithm>
#include <functional>

namespace tsslbp {

constexpr int64_t GROUP = 8;             // samples that one thread takes through all steps together
constexpr int64_t COLUMNS = 256;         // of a tile of a dense product
constexpr int64_t L1_BYTES = 24 * 1024;  // of such a tile; the smallest first-level cache is 32 KiB
constexpr int64_t L2_BYTES = 256 * 1024; // of the part of G that (c) goes through at a time

// out[j] += Σ_k factors[k]·rows[k, j], one k after the other.
template <int K, class T>
TSSLBP_INLINE void add_scaled(T* __restrict out, const T* __restrict rows, int64_t stride, const T* __restrict factors,
                              int64_t width) {
  for (int64_t j = 0; j < width; ++j) {
    T sum = out[j];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sum += factors[k] * rows[k * stride + j];
    out[j] = sum;
  }
}

// out += factors · matrix: [samples, n] += [samples, n] · [n, n]. Each sum goes from the first row of the matrix to the last.
template <class T>
TSSLBP_INLINE void add_product(T* out, const T* factors, const T* matrix, int64_t samples, int64_t n) {
  const int64_t width = std::min(n, COLUMNS), rows = std::max<int64_t>(1, L1_BYTES / int64_t(sizeof(T)) / (8 * width + 1)) * 8;
  for (int64_t left = 0; left < n; left += width) {
    const int64_t columns = std::min(width, n - left);
    for (int64_t top = 0; top < n; top += rows) {
      const int64_t bottom = std::min(n, top + rows);
      for (int64_t b = 0; b < samples; ++b) {
        T* sum = out + b * n + left;
        const T* by = factors + b * n;
        int64_t i = top;
        for (; i + 8 <= bottom; i += 8) add_scaled<8>(sum, matrix + i * n + left, n, by + i, columns);
        for (; i < bottom; ++i) add_scaled<1>(sum, matrix + i * n + left, n, by + i, columns);
      }
    }
  }
}

// out[j] += scale·Σ_k rows[places[k], j], K rows.
template <int K, class T>
TSSLBP_INLINE void add_some(T* __restrict out, const T* __restrict rows, const int32_t* places, T scale, int64_t n) {
  const T* from[K];
  for (int k = 0; k < K; ++k) from[k] = rows + places[k] * n;
  for (int64_t j = 0; j < n; ++j) {
    T sum = from[0][j];
#pragma GCC unroll 8
    for (int k = 1; k < K; ++k) sum += from[k][j];
    out[j] += scale * sum;
  }
}

// The same for any number of rows.
template <class T>
TSSLBP_INLINE void add_listed(T* out, const T* rows, const int32_t* places, int64_t count, T scale, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) add_some<8>(out, rows, places + k, scale, n);
  if (count - k >= 4) add_some<4>(out, rows, places + k, scale, n), k += 4;
  if (count - k >= 2) add_some<2>(out, rows, places + k, scale, n), k += 2;
  if (count - k == 1) add_some<1>(out, rows, places + k, scale, n);
}

// out[j] += Σ_k factors[places[k]]·rows[places[k], j], K rows.
template <int K, class T>
TSSLBP_INLINE void add_weighed(T* __restrict out, const T* __restrict rows, const int32_t* places, const T* __restrict factors,
                               int64_t n) {
  const T* from[K];
  T by[K];
  for (int k = 0; k < K; ++k) from[k] = rows + places[k] * n, by[k] = factors[places[k]];
  for (int64_t j = 0; j < n; ++j) {
    T sum = out[j];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sum += by[k] * from[k][j];
    out[j] = sum;
  }
}

// The indices among n numbers of those that `is` marks, in order; returns how many. `marks` holds n + 8 bytes.
template <class Is>
TSSLBP_INLINE int64_t find(int64_t n, const Is& is, uint8_t* __restrict marks, int32_t* __restrict places) {
  for (int64_t j = 0; j < n; ++j) marks[j] = is(j);
  std::fill_n(marks + n, 8, uint8_t(0));
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += 8) {
    uint64_t eight;
    std::memcpy(&eight, marks + j, 8);
    if (!eight) continue;  // most are silent
    for (int64_t k = 0; k < 8; ++k) places[count] = int32_t(j + k), count += marks[j + k];
  }
  return count;
}

// Spikes and NaN among n membrane potentials.
template <class T, class Constants>
TSSLBP_INLINE int64_t find_fired(const T* __restrict u, int64_t n, const Constants& c, uint8_t* marks, int32_t* places) {
  return find(n, [&](int64_t j) TSSLBP_LAMBDA { return !(u[j] <= c.threshold(j)); }, marks, places);
}

// Spike, (2) of neuron.py; NaN stays NaN.
template <class T>
TSSLBP_INLINE T spike(T u, T threshold) {
  return u > threshold ? T(1) : u != u ? u : T(0);
}

// A layer and a state [rows, batch, n], null at rest: membrane potential and a of the neurons, a for V; and for adaptive
// thresholds b and the last spikes.
template <class T, class Constants>
struct RecurrentLayer {
  int64_t steps, batch, n;
  Constants constants;  // of n neurons
  bool one_tau_s, adapts;  // whether all have the same τs
  T adaptation_decay, beta;  // 1 - 1/τa and β
  const T* state;

  int64_t size() const { return batch * n; }
  int64_t rows() const { return adapts ? 5 : 3; }

  // A row of the state, for m neurons from `first`.
  TSSLBP_INLINE void read(int64_t row, int64_t first, int64_t m, T* __restrict out) const {
    if (state) std::copy_n(state + row * size() + first, m, out);
    else std::fill_n(out, m, T(0));
  }

  // Calls walk(first, last) for samples from begin to end in groups of about equal size.
  template <class F>
  TSSLBP_INLINE void groups(int64_t begin, int64_t end, const F& walk) const {
    const int64_t samples = end - begin, count = (samples + GROUP - 1) / GROUP;
    for (int64_t g = 0; g < count; ++g) walk(begin + samples * g / count, begin + samples * (g + 1) / count);
  }

  // Calls f(i, j, c) for each of some samples' neurons: i counts all, j is the neuron, whose constants are c's.
  template <class F>
  TSSLBP_INLINE void each(int64_t samples, const F& f) const {
    const auto c = constants.at(0, n);
    for (int64_t b = 0; b < samples; ++b) {
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < n; ++j) f(b * n + j, j, c);
    }
  }
};

// An operation of neuron.h on n neurons, on this thread.
template <class T, class Op>
void run_here(const Op& op, int64_t n) {
  const int64_t blocks = (n + Op::MOST - 1) / Op::MOST, lanes = std::min(Op::MOST, (n / std::max<int64_t>(1, blocks) + 64) / 64 * 64);
  vectorised(Blocks<Op>{op, {n, lanes, lanes, (n + lanes - 1) / lanes, n}}, 0, (n + lanes - 1) / lanes);
}

// drive -> post-synaptic current.
template <class T, class Constants>
struct RecurrentForward {
  RecurrentLayer<T, Constants> layer;
  Source<T> drive;
  const T* lateral;  // Vᵀ: row j is from neuron j to all others
  const T* unheard;  // 0·V: 0, or NaN where a weight is not finite, as in a product with a = 0
  T* membrane;       // null if it is not to be kept
  Target<T> psc;
  T* after;

  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t m = std::min(GROUP, end - begin) * layer.n;
    std::vector<T> scratch(9 * m);
    std::vector<int32_t> places(layer.n + 8);
    std::vector<uint8_t> marks(layer.n + 8);
    layer.groups(begin, end, [&](int64_t first, int64_t last) __attribute__((always_inline)) {
      walk(first, last, scratch.data(), places.data(), marks.data());
    });
  }

  TSSLBP_INLINE void walk(int64_t first_sample, int64_t last_sample, T* scratch, int32_t* places, uint8_t* marks) const {
    const int64_t n = layer.n, samples = last_sample - first_sample, m = samples * n, first = first_sample * n, size = layer.size();
    const auto c = layer.constants.at(0, n);
    T *u = scratch, *before = u + 2 * m;  // followed by a; two of them, as neurons with NaN need the state again
    T *__restrict heard = scratch + 4 * m, *__restrict current = heard + m, *__restrict read = current + m;
    T *__restrict b = read + m, *__restrict s = b + m;
    layer.read(0, first, m, u), layer.read(1, first, m, u + m);
    if (layer.adapts) layer.read(3, first, m, b), layer.read(4, first, m, s);
    for (int64_t i = 0; i < samples; ++i) std::copy_n(unheard, n, heard + i * n);
    if (layer.state) layer.read(2, first, m, current), add_product(heard, current, lateral, samples, n);
    for (int64_t t = 0; t < layer.steps; ++t) {
      const T* __restrict in = drive.row(t, first, m, read);
      for (int64_t j = 0; j < m; ++j) current[j] = in[j] + heard[j];                              // (1)
      if (layer.adapts)
        layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA {
          const T risen = s[i] + layer.adaptation_decay * b[i];                                   // (2)
          current[i] -= layer.beta * (risen - c.membrane_decay(j) * (b[i] * (1 - s[i])));         // (3)
          b[i] = risen;
        });
      T* kept = membrane ? membrane + t * size + first : nullptr;
      void* made = static_cast<char*>(psc.data) + (t * size + first) * int64_t(psc.bf16 ? sizeof(Bf16) : sizeof(T));
      std::swap(u, before);
      run_here<T>(Forward<T, Constants>{{current, m, false, {}}, nullptr, kept, {made, m, psc.bf16, {}}, {before, m}, {u, m}, 1, m, layer.constants}, m);
      if (layer.adapts)
        layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA { s[i] = spike(u[i], c.threshold(j)); });
      if (t + 1 == layer.steps) break;
      if (layer.one_tau_s)
        for (int64_t j = 0; j < m; ++j) heard[j] *= c.synapse_decay(0);                           // (a)
      for (int64_t i = 0; i < samples; ++i) {
        if (!layer.one_tau_s) {
          const T* a = u + m + i * n;
          const int64_t audible = find(n, [&](int64_t j) TSSLBP_LAMBDA { return a[j] != 0; }, marks, places);
          std::copy_n(unheard, n, heard + i * n);
          int64_t k = 0;
          for (; k + 8 <= audible; k += 8) add_weighed<8>(heard + i * n, lateral, places + k, a, n);
          for (; k < audible; ++k) add_weighed<1>(heard + i * n, lateral, places + k, a, n);
          continue;
        }
        const int64_t fired = find_fired(u + i * n, n, c, marks, places);
        add_listed(heard + i * n, lateral, places, fired, c.per_tau_s(0), n);
        for (int64_t k = 0; k < fired; ++k)
          if (const T v = u[i * n + places[k]]; v != v) std::fill_n(heard + i * n, n, v);         // NaN times anything
      }
    }
    const T* rows[] = {u, u + m, u + m, b, s};
    for (int64_t row = 0; row < layer.rows(); ++row) std::copy_n(rows[row], m, after + row * size + first);
  }
};

// Gradient of the post-synaptic current -> gradient of the drive and of the state, and G.
template <class T, class Constants>
struct RecurrentBackward {
  RecurrentLayer<T, Constants> layer;
  const std::function<void(const Gradient<T>&)>& neurons;  // the rule, on one step
  bool through_lateral, through_reset, needs_psc;  // the rule, or gradients of constants, may need a
  Source<T> psc_gradient;
  const T *after, *membrane, *lateral;  // gradient of the state after the last step, null if there is none; V as it is
  Target<T> out;
  T* filtered;  // G; may be null
  T* back;      // gradient of the state before the first step; null if there was none
  T* by_constant;  // [3, batch, n], zeros: gradients of τm, τs and θ in each sample; null if they are all alike
  T* heard;        // [steps, batch, n]: a[t-1]; may be null

  TSSLBP_INLINE bool needs_b() const { return layer.adapts && (through_reset || by_constant); }

  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t m = std::min(GROUP, end - begin) * layer.n, traces = needs_psc + needs_b();
    std::vector<T> scratch((15 + traces * layer.steps) * m);
    layer.groups(begin, end, [&](int64_t first, int64_t last) __attribute__((always_inline)) {
      walk(first, last, scratch.data());
    });
  }

  TSSLBP_INLINE void walk(int64_t first_sample, int64_t last_sample, T* scratch) const {
    const int64_t n = layer.n, samples = last_sample - first_sample, m = samples * n, first = first_sample * n, size = layer.size();
    const int64_t last = layer.steps - 1;
    const auto c = layer.constants.at(0, n);
    T *__restrict carry = scratch, *__restrict before = carry + 2 * m, *__restrict error = before + 2 * m;
    T *__restrict delta = error + m, *__restrict sum = delta + m, *__restrict read = sum + m, *__restrict spikes = read + m;
    T *__restrict to_b = spikes + m, *__restrict to_s = to_b + m, *__restrict to_s_after = to_s + m;
    T *__restrict learned = to_s_after + m, *traces = learned + 3 * m;
    T* psc_trace = needs_psc ? traces : nullptr;
    T* b_trace = needs_b() ? traces + needs_psc * layer.steps * m : nullptr;
    if (psc_trace) trace_psc(psc_trace, first, samples);
    if (b_trace) trace_b(b_trace, spikes, first, samples);
    if (heard)
      for (int64_t t = 0; t <= last; ++t) std::copy_n(psc_trace + t * m, m, heard + t * size + first);

    std::fill_n(scratch, 12 * m, T(0));
    if (after)
      for (int64_t j = 0; j < m; ++j) {
        const T* row = after + first + j;
        carry[j] = row[0], carry[m + j] = row[size];
        error[j] = row[2 * size];
        if (layer.adapts) to_b[j] = row[3 * size], to_s[j] = row[4 * size];
      }
    for (int64_t t = last;; --t) {
      // `error` holds what comes back through V, from the step after or the state after the last
      if (layer.adapts)
        layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA { error[i] -= (c.tau_s(j) - 1) * to_s_after[i]; });
      if (t < 0) break;
      const T* __restrict e = psc_gradient.row(t, first, m, read);
      for (int64_t j = 0; j < m; ++j) error[j] += e[j];
      if (layer.adapts)
        layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA { error[i] += c.tau_s(j) * to_s[i]; });
      if (t > 0) std::copy_n(membrane + (t - 1) * size + first, m, before);
      else layer.read(0, first, m, before);
      if (psc_trace) std::copy_n(psc_trace + t * m, m, before + m);
      neurons({{error, m, false, {}}, membrane + t * size + first, nullptr, {delta, m, false, {}}, {before, m}, {carry, m}, {carry, m}, 1, m, by_constant ? learned : nullptr});
      if (out.bf16) out.put(t, first, m, delta);
      else std::copy_n(delta, m, static_cast<T*>(out.data) + t * out.stride + first);
      if (filtered) {
        T* __restrict row = filtered + t * size + first;
        for (int64_t j = 0; j < m; ++j) sum[j] = row[j] = delta[j] + c.synapse_decay(0) * sum[j]; // (b)
      }
      if (layer.adapts) {
        if (t == 0) layer.read(4, first, m, spikes);
        else
          layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA { spikes[i] = spike(before[i], c.threshold(j)); });
        if (by_constant) add_adaptation(learned, delta, spikes, b_trace + t * m, membrane + t * size + first, psc_trace + t * m, to_s, samples);
        layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA {  // (3) and (2)
          const T step = layer.beta * delta[i], kept = c.membrane_decay(j) * step, whole = to_b[i] - step;
          to_s_after[i] = to_s[i];
          to_s[i] = through_reset ? whole - kept * b_trace[t * m + i] : whole;
          to_b[i] = layer.adaptation_decay * whole + kept * (1 - spikes[i]);
        });
      }
      if (by_constant)
        for (int64_t kind = 0; kind < 3; ++kind) {
          T* __restrict total = by_constant + kind * size + first;
          for (int64_t j = 0; j < m; ++j) total[j] += learned[kind * m + j];
        }
      std::fill_n(error, m, T(0));
      if (through_lateral && (t > 0 || back)) add_product(error, delta, lateral, samples, n);     // Vᵀ·δ
    }
    if (!back) return;
    const T* rows[] = {carry, carry + m, error, to_b, to_s};
    for (int64_t row = 0; row < layer.rows(); ++row) std::copy_n(rows[row], m, back + row * size + first);
  }

  // Adds the gradient of τm through (3), and subtracts that of τs through the error of spikes, which do not depend on it.
  TSSLBP_INLINE void add_adaptation(T* __restrict learned, const T* __restrict delta, const T* __restrict spikes,
                                    const T* __restrict b, const T* __restrict u, const T* __restrict a, const T* __restrict to_s,
                                    int64_t samples) const {
    const int64_t m = samples * layer.n;
    layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA {
      learned[i] += layer.beta * delta[i] * b[i] * (1 - spikes[i]) * c.per_tau_m(j) * c.per_tau_m(j);
      learned[m + i] += to_s[i] * (spike(u[i], c.threshold(j)) - a[i]) * c.per_tau_s(j);
    });
  }

  // a[t-1] for every t, which shows where a synapse is quiet.
  TSSLBP_INLINE void trace_psc(T* __restrict trace, int64_t first, int64_t samples) const {
    const int64_t m = samples * layer.n;
    layer.read(1, first, m, trace);
    for (int64_t t = 1; t < layer.steps; ++t) {
      const T* __restrict u = membrane + (t - 1) * layer.size() + first;
      const T* __restrict a = trace + (t - 1) * m;
      T* __restrict next = trace + t * m;
      layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA {
        next[i] = c.synapse_decay(j) * a[i] + (u[i] > c.threshold(j) ? c.per_tau_s(j) : T(0));
      });
    }
  }

  // b[t-1] for every t, (2).
  TSSLBP_INLINE void trace_b(T* __restrict trace, T* __restrict spikes, int64_t first, int64_t samples) const {
    const int64_t m = samples * layer.n;
    layer.read(3, first, m, trace), layer.read(4, first, m, spikes);
    for (int64_t t = 1; t < layer.steps; ++t) {
      const T* __restrict u = membrane + (t - 1) * layer.size() + first;
      const T* __restrict b = trace + (t - 1) * m;
      T* __restrict next = trace + t * m;
      layer.each(samples, [&](int64_t i, int64_t j, const auto& c) TSSLBP_LAMBDA {
        next[i] = spikes[i] + layer.adaptation_decay * b[i], spikes[i] = spike(u[i], c.threshold(j));
      });
    }
  }
};

// Gradient of V, (c), for the sending neurons from `begin` to `end`.
template <class T, class Constants>
struct LateralGradient {
  RecurrentLayer<T, Constants> layer;
  const T *membrane, *filtered;
  T* out;  // [n, n], transposed as in the forward pass

  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t n = layer.n, speakers = end - begin, rows = (layer.steps - 1) * layer.batch;
    const int64_t tile = std::clamp<int64_t>(L2_BYTES / int64_t(sizeof(T)) / n, 16, 4096);
    std::vector<int32_t> fired(speakers + 8), places(speakers * tile), counts(speakers);
    std::vector<uint8_t> marks(speakers + 8), nan(speakers);
    const auto c = layer.constants.at(begin, speakers);
    std::fill_n(out + begin * n, speakers * n, T(0));
    if (layer.state)  // the state was also an input
      for (int64_t sample = 0; sample < layer.batch; ++sample)
        for (int64_t j = begin; j < end; ++j)
          add_scaled<1>(out + j * n, filtered + sample * n, n, layer.state + 2 * layer.size() + sample * n + j, n);
    for (int64_t top = 0; top < rows; top += tile) {
      std::fill(counts.begin(), counts.end(), 0);
      for (int64_t row = top; row < std::min(rows, top + tile); ++row) {
        const T* u = membrane + row * n + begin;
        const int64_t count = find_fired(u, speakers, c, marks.data(), fired.data());
        for (int64_t k = 0; k < count; ++k) {
          const int32_t j = fired[k];
          if (u[j] != u[j]) nan[j] = 1;
          places[j * tile + counts[j]++] = int32_t(row - top);
        }
      }
      const T* heard = filtered + (top + layer.batch) * n;  // one step later
      for (int64_t j = 0; j < speakers; ++j)
        add_listed(out + (begin + j) * n, heard, places.data() + j * tile, counts[j], c.per_tau_s(j), n);
    }
    for (int64_t j = 0; j < speakers; ++j)
      if (nan[j]) std::fill_n(out + (begin + j) * n, n, std::numeric_limits<T>::quiet_NaN());
  }
};

}  // namespace tsslbp
