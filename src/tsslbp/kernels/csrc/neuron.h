// The neurons: constants, the forward pass, and what all backward passes (rules.h) share. Equations are those of neuron.py.
//
// Arrays are [steps, n] with neurons adjacent in memory. In every inner loop j runs over neurons; small arrays carry state from
// step to step. Like the reference, these loops multiply by spike trains, so that a NaN spreads in the same way. Conditions on
// options do not depend on j, and the compiler moves them out of the loop.
#pragma once

#include "rows.h"

#include <cmath>
#include <type_traits>

namespace tsslbp {

// An integer as wide as T, so that vectors of the two have equally many elements.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// An option that is the same for all neurons: `on(option, x)` is x or 0, even if x is NaN, and unlike a condition it never
// prevents vectorisation of the loop around it.
template <class T>
constexpr Bits<T> mask(bool option) {
  return option ? ~Bits<T>(0) : Bits<T>(0);
}

template <class T>
TSSLBP_INLINE T on(Bits<T> option, T x) {
  return __builtin_bit_cast(T, __builtin_bit_cast(Bits<T>, x) & option);
}

// A neuron's constants for the loops.
template <class T>
struct Neuron {
  T membrane_decay, synapse_decay, per_tau_m, per_tau_s, tau_s, threshold, quiet;

  Neuron(double tau_m, double tau_s_, double theta)
      : membrane_decay(T(1 - 1 / tau_m)),
        synapse_decay(T(1 - 1 / tau_s_)),
        per_tau_m(T(1 / tau_m)),
        per_tau_s(T(1) / T(tau_s_)),
        tau_s(T(tau_s_)),
        threshold(T(theta)),
        quiet(T(1 / (4 * tau_s_))) {}
  explicit Neuron(const NeuronNumbers& c) : Neuron(c.tau_m, c.tau_s, c.threshold) {}
};

// Constants come in two kinds. The loops index `at(first, width)` by `j` for a block of neurons.
//
// The same for all neurons: numbers (numbers.h), which a compiler keeps in registers.
template <class T>
struct Alike {
  static constexpr bool VARY = false;
  Neuron<T> c;

  TSSLBP_INLINE Alike at(int64_t, int64_t) const { return *this; }
  TSSLBP_INLINE T membrane_decay(int64_t) const { return c.membrane_decay; }
  TSSLBP_INLINE T synapse_decay(int64_t) const { return c.synapse_decay; }
  TSSLBP_INLINE T per_tau_m(int64_t) const { return c.per_tau_m; }
  TSSLBP_INLINE T per_tau_s(int64_t) const { return c.per_tau_s; }
  TSSLBP_INLINE T tau_s(int64_t) const { return c.tau_s; }
  TSSLBP_INLINE T threshold(int64_t) const { return c.threshold; }
  TSSLBP_INLINE T quiet(int64_t) const { return c.quiet; }
};

// Different ones: a table that repeats, so that neuron j has entry j % period. It is a block longer than the period, so a block
// has adjacent constants wherever it begins.
template <class T>
struct Varied {
  static constexpr bool VARY = true;
  enum { MEMBRANE_DECAY, SYNAPSE_DECAY, PER_TAU_M, PER_TAU_S, TAU_S, THRESHOLD, QUIET, KINDS };
  const T* table;  // [KINDS, period + a block]
  int64_t period;

  struct Rows {
    const T* x[KINDS];
    TSSLBP_INLINE T membrane_decay(int64_t j) const { return x[MEMBRANE_DECAY][j]; }
    TSSLBP_INLINE T synapse_decay(int64_t j) const { return x[SYNAPSE_DECAY][j]; }
    TSSLBP_INLINE T per_tau_m(int64_t j) const { return x[PER_TAU_M][j]; }
    TSSLBP_INLINE T per_tau_s(int64_t j) const { return x[PER_TAU_S][j]; }
    TSSLBP_INLINE T tau_s(int64_t j) const { return x[TAU_S][j]; }
    TSSLBP_INLINE T threshold(int64_t j) const { return x[THRESHOLD][j]; }
    TSSLBP_INLINE T quiet(int64_t j) const { return x[QUIET][j]; }
  };

  static constexpr int64_t entries(int64_t period) { return period + LANES<T, true>; }

  static std::vector<T> make_table(const double* tau_m, const double* tau_s, const double* theta, int64_t period) {
    std::vector<T> table(KINDS * entries(period));
    for (int64_t i = 0; i < entries(period); ++i) {
      T* out = &table[i];
      if (i >= period)
        for (int64_t kind = 0; kind < KINDS; ++kind) out[kind * entries(period)] = out[kind * entries(period) - period];
      else {
        const Neuron<T> c(tau_m[i], tau_s[i], theta[i]);
        const T kinds[] = {c.membrane_decay, c.synapse_decay, c.per_tau_m, c.per_tau_s, c.tau_s, c.threshold, c.quiet};
        for (int64_t kind = 0; kind < KINDS; ++kind) out[kind * entries(period)] = kinds[kind];
      }
    }
    return table;
  }

  TSSLBP_INLINE Rows at(int64_t first, int64_t) const {
    Rows rows;
    for (int64_t kind = 0; kind < KINDS; ++kind) rows.x[kind] = table + kind * entries(period) + first % period;
    return rows;
  }
};

// State between calls: two numbers for each neuron, one row [n] after the other. Forward these are the membrane potential and
// the post-synaptic current of the last step, backward R and E of the first (`rules/tssl.py`). Null is none.
template <class T>
struct Handed {
  T* data;
  int64_t n;
  using Number = std::remove_const_t<T>;

  TSSLBP_INLINE void read(int64_t first, int64_t width, Number* __restrict a, Number* __restrict b) const {
    if (!data) return;
    for (int64_t j = 0; j < width; ++j) a[j] = data[first + j], b[j] = data[n + first + j];
  }
  TSSLBP_INLINE void write(int64_t first, int64_t width, const T* __restrict a, const T* __restrict b) const {
    if (!data) return;
    for (int64_t j = 0; j < width; ++j) data[first + j] = a[j], data[n + first + j] = b[j];
  }
};

// Current -> membrane and post-synaptic current, (1) to (3). Without `membrane` it is not kept.
// With `response` the current is response[t] · current[0], a constant current.
template <class T, class Constants>
struct Forward {
  static constexpr int64_t MOST = LANES<T, Constants::VARY>;
  using Scratch = T;  // with pooling: sums of one row of windows, [steps + 1, room], the last to make it in
  Source<T> current;
  const T* response;
  T* membrane;
  Target<T> psc;
  Handed<const T> before;
  Handed<T> after;
  int64_t steps, n;
  Constants constants;

  int64_t scratch_size() const { return psc.pool.size ? (steps + 1) * psc.room() : 0; }

  TSSLBP_INLINE void operator()(int64_t first, int64_t width, Scratch* sums) const {
    const bool traced = membrane || after.data;
    const auto c = constants.at(first, width);
    const bool nan = traced ? walk<true, false>(first, width, sums, c) : walk<false, false>(first, width, sums, c);
    if (nan) walk_again(first, width, sums);
  }

  __attribute__((noinline, cold)) void walk_again(int64_t first, int64_t width, Scratch* sums) const {
    walk<true, true>(first, width, sums, constants.at(first, width));
  }

  // Whether a potential was NaN. It then is NaN to the end, so it is enough to check after the last step; a check in every step
  // would cost a tenth of the time. Only a block with NaN is computed `again`, which makes its currents NaN from there on.
  // Unless `traced`, the potential is not kept.
  template <bool traced, bool again, class Block>
  TSSLBP_INLINE bool walk(int64_t first, int64_t width, Scratch* sums, const Block& c) const {
    T carried[MOST] = {}, a[MOST] = {}, last[MOST] = {}, read[MOST], made[MOST];
    before.read(first, width, last, a);
    if (before.data)
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j)
        carried[j] = c.membrane_decay(j) * last[j] * (last[j] > c.threshold(j) ? T(0) : T(1));
    T* const kept = membrane && !psc.large ? membrane + first : nullptr;
    for (int64_t t = 0; t < steps; ++t) {
      const T* __restrict in = current.row(t, first, width, read);
      T* __restrict u = kept ? kept + t * n : last;
      T* __restrict out = psc.row(t, first, made);
      const T response_t = response ? response[t] : 1;
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j) {
        const T v = in[j] * response_t + carried[j];                           // (1)
        const bool s = v > c.threshold(j);                                 // (2)
        carried[j] = v * (s ? T(0) : c.membrane_decay(j));                 // (1)
        const T spike = s ? c.per_tau_s(j) : again && v != v ? v : T(0);   // (2)
        a[j] = c.synapse_decay(j) * a[j] + spike;                          // (3)
        if (traced) u[j] = v;
        out[j] = a[j];
      }
      if (membrane && !kept) copy_past_caches(last, width, membrane + t * n + first);
      if (again && psc.pool.size)  // the sums exist and only need the NaN
        for (int64_t j = 0; j < width; ++j) made[j] = made[j] == made[j] ? T(0) : made[j];
      if (psc.pool.size) psc.add(first, width, made, sums + t * psc.room());
      else psc.put(t, first, width, made);
    }
    after.write(first, width, kept ? kept + (steps - 1) * n : last, a);
    Bits<T> nan = 0;
    for (int64_t j = 0; j < width; ++j) nan |= carried[j] != carried[j];
    return nan;
  }

  TSSLBP_INLINE void finish(int64_t unit, Scratch* sums) const {
    const Pool& pool = psc.pool;
    if (!pool.size) return;
    const int64_t image = unit / pool.units(), y = unit % pool.units();
    for (int64_t t = 0; t < steps && y < pool.pooled_height(); ++t)
      psc.put_sums(t, image * pool.pooled_height() + y, sums + t * psc.room(), sums + steps * psc.room());
    std::fill_n(sums, scratch_size(), T(0));
  }
};

// Common part of both backward operations: source and target of the gradient.
template <class T>
struct Gradient {
  Source<T> psc_gradient;
  const T *membrane, *response;
  Target<T> out;  // [steps, n], or [n] of T with response: Σ_t response[t]·δ[t]
  Handed<const T> before, carry;
  Handed<T> back;
  int64_t steps, n;
  T* by_constant = nullptr;  // [3, n]: gradients of τm, τs and θ of every neuron; null if they are all alike

  TSSLBP_INLINE T* row(int64_t t, int64_t first, T* buffer) const { return response ? buffer : out.row(t, first, buffer); }

  TSSLBP_INLINE void put(int64_t t, int64_t first, int64_t width, const T* __restrict delta) const {
    if (!response) return out.put(t, first, width, delta);
    T* __restrict sum = static_cast<T*>(out.data) + first;
    for (int64_t j = 0; j < width; ++j) sum[j] = response[t] * delta[j] + (t == steps - 1 ? T(0) : sum[j]);
  }
};

// Gradients of a block's constants, (13) to (15) of neuron.py, from the last step to the first. The sum over a[t-1] of (14) is
// rearranged: with F[t] = E[t+1]/τs + (1 - 1/τs)·F[t+1], a spike at t adds F[t] - E[t], so no post-synaptic current is needed.
// Empty if constants are alike.
template <class T, bool vary>
struct ByConstant {
  T tau_m[LANES<T, true>] = {}, tau_s[LANES<T, true>] = {}, threshold[LANES<T, true>] = {}, later[LANES<T, true>] = {};

  // Before E of the step takes the place of E of the step after; `inside` is 0 if that one is beyond the end, else 1.
  template <class Block>
  TSSLBP_INLINE void carry(int64_t j, const Block& c, T error_after, T inside) {
    later[j] = inside * error_after * c.per_tau_s(j) + c.synapse_decay(j) * later[j];
  }
  TSSLBP_INLINE void add(int64_t j, T delta, T left, T s, T error, T by_spike) {
    tau_m[j] += delta * left;
    tau_s[j] += s * (later[j] - error);
    threshold[j] -= by_spike;
  }
  // `a_before` is the post-synaptic current of the step before the first, whose E is `error`.
  template <class Block>
  TSSLBP_INLINE void write(const Gradient<T>& g, int64_t first, int64_t width, const Block& c, const T* error, const T* a_before) {
    T* __restrict out = g.by_constant + first;
    TSSLBP_SIDE_BY_SIDE
    for (int64_t j = 0; j < width; ++j) {
      carry(j, c, error[j], 1);
      out[j] = tau_m[j] * c.per_tau_m(j) * c.per_tau_m(j);                  // (13)
      out[g.n + j] = tau_s[j] * c.per_tau_s(j) + a_before[j] * later[j];  // (14)
      out[2 * g.n + j] = threshold[j];                                    // (15)
    }
  }
};

template <class T>
struct ByConstant<T, false> {
  template <class... Any>
  TSSLBP_INLINE void carry(Any...) {}
  template <class... Any>
  TSSLBP_INLINE void add(Any...) {}
  template <class... Any>
  TSSLBP_INLINE void write(const Any&...) {}
};

}  // namespace tsslbp
