// The backward pass of learning rules. Equation numbers without a file are those of rules/tssl.py.
#pragma once

#include "neuron.h"

#include <atomic>

namespace tsslbp {

// 1 + r/i·(1 + r/(i+1)·(… (1 + r/last))), the Taylor series of e^r from i = 1.
template <int i, int last, class T>
TSSLBP_INLINE T exp_series(T r) {
  if constexpr (i > last) return 1;
  else return 1 + r * (T(1) / T(i)) * exp_series<i + 1, last>(r);
}

// e^x for x <= 0, to rounding: 2^k · e^r with |r| <= ln(2)/2 by its Taylor series. Adding `shift` rounds to an integer and
// leaves it in the low bits. NaN stays NaN; below the smallest normal number the result is that number.
template <class T>
TSSLBP_INLINE T exp_negative(T x) {
  constexpr bool f32 = std::is_same_v<T, float>;
  constexpr T lowest = f32 ? T(-87.33) : T(-708.39), shift = f32 ? T(0x1.8p23) : T(0x1.8p52);
  constexpr T ln2_high = f32 ? T(0.693359375) : T(0.693145751953125);  // few bits: k times this is exact
  constexpr T ln2_low = f32 ? T(-2.12194440054690583e-4) : T(1.42860682030941723e-6);
  x = x < lowest ? lowest : x;
  const T shifted = x * T(1.44269504088896341) + shift, k = shifted - shift, r = x - k * ln2_high - k * ln2_low;
  const Bits<T> power = (__builtin_bit_cast(Bits<T>, shifted) << (f32 ? 23 : 52)) + __builtin_bit_cast(Bits<T>, T(1));
  return exp_series<1, f32 ? 7 : 13>(r) * __builtin_bit_cast(T, power);
}

// 1 + w/12·(1 + w/30·(1 + …)): the terms 2·y^2i/(2i)! of 2·cosh(y) - 2 from i = 1, over y², with w = y².
template <int i, int last, class T>
TSSLBP_INLINE T cosh_series(T w) {
  if constexpr (i == last) return 1;
  else return 1 + w * (T(1) / T((2 * i + 1) * (2 * i + 2))) * cosh_series<i + 1, last>(w);
}

// σ'(x), the derivative of the logistic function.
template <class T>
TSSLBP_INLINE T logistic_derivative(T x) {
  const T z = exp_negative(-std::abs(x));
  return z / ((1 + z) * (1 + z));
}

static_assert(FALLBACK_RANGE <= 8);

// 1/σ'(x) for the logistic σ, from w = (x/8)², at most 1: 4 + h with h(y) = 2·cosh(y) - 2 = y² + y⁴/12 + y⁶/360 + …, which
// h(2y) = h(y)·(4 + h(y)) brings from y = x/8 to x. No cancellation, so it is exact to rounding.
template <class T>
TSSLBP_INLINE T inverse_logistic_derivative(T w) {
  T h = w * cosh_series<1, std::is_same_v<T, float> ? 5 : 9>(w);
  for (int doubling = 0; doubling < 3; ++doubling) h *= 4 + h;
  return 4 + h;
}

// `error_reset` is compiled in, as it has one more number to carry than the other terms.
template <class T, class Constants, Fallback fallback, bool error_reset>
struct TsslBackward {
  static constexpr int64_t MOST = LANES<T, Constants::VARY>;
  using Scratch = Bits<T>;
  static constexpr int64_t BITS = 8 * sizeof(T);
  Gradient<T> g;
  Constants constants;
  Bits<T> timing, inter, reset, leak;
  T clip, fallback_width;

  int64_t scratch_size() const { return fallback == Fallback::quiet ? (g.steps + BITS - 1) / BITS * MOST : 0; }

  // One bit for each step and neuron: is its synapse quiet, a[t] < 1/(4τs)?
  template <class Block>
  TSSLBP_INLINE void find_quiet(int64_t first, int64_t width, Scratch* __restrict quiet, const Block& c) const {
    T a[MOST] = {}, not_used[MOST];
    g.before.read(first, width, not_used, a);
    std::fill_n(quiet, scratch_size(), Scratch(0));
    for (int64_t t = 0; t < g.steps; ++t) {
      const T* __restrict u = g.membrane + t * g.n + first;
      Scratch* __restrict word = quiet + t / BITS * MOST;
      const int bit = t % BITS;
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j) {
        a[j] = c.synapse_decay(j) * a[j] + (u[j] > c.threshold(j) ? c.per_tau_s(j) : T(0));  // (3)
        word[j] |= Scratch(a[j] < c.quiet(j)) << bit;
      }
    }
  }

  TSSLBP_INLINE void operator()(int64_t first, int64_t width, Scratch* quiet) const {
    T error[MOST] = {}, reach[MOST] = {}, made[MOST], read[MOST + WIDEST<T>];
    T u_before[MOST] = {}, a_before[MOST] = {}, spike_error[error_reset ? MOST : 1];
    const auto c = constants.at(first, width);
    ByConstant<T, Constants::VARY> by;
    g.before.read(first, width, u_before, a_before);
    g.carry.read(first, width, reach, error);
    if constexpr (error_reset) std::copy_n(reach, width, spike_error);
    // R is of the spike-time gradient alone; between parts Q takes its place
    if constexpr (fallback == Fallback::always || error_reset) std::fill_n(reach, width, T(0));
    const T per_width = 1 / fallback_width, per_eight_widths = per_width / 8, limit = T(FALLBACK_RANGE * FALLBACK_RANGE / 64);
    if constexpr (fallback == Fallback::quiet) find_quiet(first, width, quiet, c);
    for (int64_t t = g.steps - 1; t >= 0; --t) {
      const T* __restrict e = g.psc_gradient.row(t, first, width, read);
      const T* __restrict u = g.membrane + t * g.n + first;
      const T* __restrict before = t ? u - g.n : u_before;
      const Scratch* __restrict word = quiet + t / BITS * MOST;
      const Scratch bit = Scratch(1) << (t % BITS);
      const T inside = t == g.steps - 1 ? T(0) : T(1);
      T* __restrict delta = g.row(t, first, made);
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j) {
        const bool spike = u[j] > c.threshold(j);                                      // (2)
        const T s = spike ? T(1) : T(0), tail = c.synapse_decay(j) * error[j];
        by.carry(j, c, error[j], inside);
        T e_j = e[j];
        if constexpr (error_reset) {
          e_j += s * u[j] * c.per_tau_m(j) * spike_error[j];                           // (11)
          spike_error[j] = spike ? e[j] : spike_error[j] * c.membrane_decay(j);        // (12)
        }
        error[j] = e_j * c.per_tau_s(j) + tail;                                        // (4)
        const T left = before[j] > c.threshold(j) ? T(0) : before[j], du = u[j] - left;
        T y = (u[j] - c.threshold(j)) * per_eight_widths;
        y *= y;
        y = y > limit ? limit : y;
        // One division for both: only spikes have (5), and a step with a spike never takes the fallback.
        // (Written as a sum, since compilers would divide twice.)
        const Bits<T> by_du = mask<T>(fallback == Fallback::never || (fallback != Fallback::always && spike));
        const T quotient = 1 / (on<T>(by_du, du) + on<T>(~by_du, inverse_logistic_derivative(y)));
        T d = 0, by_spike = 0;
        if constexpr (fallback != Fallback::always) {
          const T clipped = quotient < clip ? quotient : clip;
          const T p = s * (du > 0 ? clipped : T(0));                                   // (5)
          const T moved = on<T>(timing, (e_j - tail) * c.per_tau_s(j)) + on<T>(~timing, error[j]);
          const T kept = reach[j] * c.membrane_decay(j);
          d = on<T>(inter, p * moved);                                                 // (6)
          d += on<T>(reset, reach[j] * u[j] * c.per_tau_m(j) * p);                     // (7)
          by_spike = d;
          d += on<T>(leak, kept * (1 - s));                                            // (8)
          reach[j] = spike ? d : kept;                                                 // (9)
        }
        if constexpr (fallback != Fallback::never) {
          const T surrogate = error[j] * quotient * per_width;                         // (10)
          if constexpr (fallback == Fallback::quiet) {
            d = word[j] & bit ? surrogate : d;
            by_spike = word[j] & bit ? surrogate : by_spike;
          }
          if constexpr (fallback == Fallback::no_spike) d += surrogate * (1 - s), by_spike += surrogate * (1 - s);
          if constexpr (fallback == Fallback::always) d = by_spike = surrogate;
        }
        by.add(j, d, left, s, error[j], by_spike);
        delta[j] = d;
      }
      g.put(t, first, width, delta);
    }
    by.write(g, first, width, c, error, a_before);
    if constexpr (error_reset) g.back.write(first, width, spike_error, error);
    else g.back.write(first, width, reach, error);
  }

  TSSLBP_INLINE void finish(int64_t, Scratch*) const {}
};

// Base of operations of sweep.h that need no scratch memory and no final step.
struct Plain {
  using Scratch = char;
  int64_t scratch_size() const { return 0; }
  TSSLBP_INLINE void finish(int64_t, Scratch*) const {}
};

template <Shape shape, class T>
TSSLBP_INLINE T stand_in(T x) {
  const T distance = std::abs(x), y = 1 + distance, z = T(1.57079632679489662) * x, w = 1 - distance;
#define TSSLBP_FORMULA(name, formula) \
  if constexpr (shape == Shape::name) return formula;
  TSSLBP_SHAPES(TSSLBP_FORMULA)
#undef TSSLBP_FORMULA
}

template <class T, class Constants, Shape shape>
struct SurrogateBackward : Plain {
  static constexpr int64_t MOST = LANES<T, Constants::VARY>;
  Gradient<T> g;
  Constants constants;
  T slope, scale;
  Bits<T> through_reset;

  TSSLBP_INLINE void operator()(int64_t first, int64_t width, Scratch*) const {
    T error[MOST] = {}, carried[MOST] = {}, made[MOST], read[MOST + WIDEST<T>];
    T u_before[Constants::VARY ? MOST : 1] = {}, a_before[Constants::VARY ? MOST : 1] = {};
    const auto c = constants.at(first, width);
    ByConstant<T, Constants::VARY> by;
    if constexpr (Constants::VARY) g.before.read(first, width, u_before, a_before);
    g.carry.read(first, width, carried, error);
    for (int64_t t = g.steps - 1; t >= 0; --t) {
      const T* __restrict e = g.psc_gradient.row(t, first, width, read);
      const T* __restrict u = g.membrane + t * g.n + first;
      const T* __restrict before = t ? u - g.n : u_before;  // not read where constants are alike
      const T inside = t == g.steps - 1 ? T(0) : T(1);
      T* __restrict delta = g.row(t, first, made);
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j) {
        const T psi = scale * stand_in<shape>(slope * (u[j] - c.threshold(j)));
        const T past = c.membrane_decay(j) * (u[j] > c.threshold(j) ? T(0) : T(1));
        by.carry(j, c, error[j], inside);
        error[j] = e[j] * c.per_tau_s(j) + c.synapse_decay(j) * error[j];              // (4)
        const T after = carried[j];
        carried[j] = psi * error[j] + (past - on<T>(through_reset, c.membrane_decay(j) * u[j] * psi)) * after;
        if constexpr (Constants::VARY) {
          const T left = before[j] > c.threshold(j) ? T(0) : before[j];
          by.add(j, carried[j], left, u[j] > c.threshold(j) ? T(1) : T(0), error[j], carried[j] - past * after);
        }
        delta[j] = carried[j];
      }
      g.put(t, first, width, delta);
    }
    by.write(g, first, width, c, error, a_before);
    g.back.write(first, width, carried, error);
  }
};

// The rule of rules/eventprop.py, with its equation numbers. It takes no parts: (2) needs the error of the step before.
template <class T, class Constants>
struct EventPropBackward : Plain {
  static constexpr int64_t MOST = LANES<T, Constants::VARY>;
  Gradient<T> g;
  Constants constants;
  T clip, wake;

  TSSLBP_INLINE void operator()(int64_t first, int64_t width, Scratch*) const {
    T error[MOST] = {}, carried[MOST] = {}, push[MOST] = {}, after[MOST] = {}, made[MOST], read[2][MOST + WIDEST<T>], none[MOST] = {};
    const auto c = constants.at(first, width);
    ByConstant<T, Constants::VARY> by;
    if (wake > 0) {  // the push on neurons that are silent
      std::fill_n(push, width, wake);
      for (int64_t t = 0; t < g.steps; ++t) {
        const T* __restrict u = g.membrane + t * g.n + first;
        TSSLBP_SIDE_BY_SIDE
        for (int64_t j = 0; j < width; ++j) push[j] = u[j] > c.threshold(j) ? T(0) : push[j];
      }
    }
    const T* e = g.psc_gradient.row(g.steps - 1, first, width, read[0]);
    for (int64_t t = g.steps - 1; t >= 0; --t) {
      const T* e_before = t ? g.psc_gradient.row(t - 1, first, width, read[(g.steps - t) % 2]) : none;
      const T* __restrict u = g.membrane + t * g.n + first;
      const T* __restrict before = t ? u - g.n : none;
      T* __restrict delta = g.row(t, first, made);
      TSSLBP_SIDE_BY_SIDE
      for (int64_t j = 0; j < width; ++j) {
        const bool spike = u[j] > c.threshold(j);
        const T s = spike ? T(1) : T(0), error_after = error[j];
        by.carry(j, c, error_after, T(1));
        error[j] = e[j] * c.per_tau_s(j) + c.synapse_decay(j) * error_after;                             // (1)
        const T moved = T(0.5) * (e_before[j] + e[j] - error[j] - error_after) * c.per_tau_s(j);         // (2)
        const T left = before[j] > c.threshold(j) ? T(0) : before[j], du = u[j] - left;
        const T quotient = 1 / du, p = du > 0 ? (quotient < clip ? quotient : clip) : T(0);              // (3)
        const T fired = p * (moved + (u[j] - c.membrane_decay(j) * left) * carried[j]);
        const T d = spike ? fired : carried[j];                                                          // (5)
        carried[j] = c.membrane_decay(j) * d;                                                            // (4)
        delta[j] = d - push[j];
        if constexpr (Constants::VARY) {
          by.add(j, delta[j], left, s, error[j], delta[j] - c.membrane_decay(j) * (1 - s) * after[j]);
          after[j] = delta[j];
        }
      }
      g.put(t, first, width, delta);
      e = e_before;
    }
    by.write(g, first, width, c, error, none);
  }
};

// The share of steps with a spike over all neurons.
template <class T, class Constants>
T firing_rate(const Gradient<T>& g, const Constants& constants) {
  std::atomic<int64_t> total{0};
  const auto count = [&](int64_t begin, int64_t end) TSSLBP_LAMBDA {
    for (int64_t first = begin; first < end; first += LANES<T, true>) {
      const int64_t width = std::min(LANES<T, true>, end - first);
      const auto c = constants.at(first, width);
      for (int64_t t = 0; t < g.steps; ++t) {
        int32_t fired = 0;
        for (int64_t j = 0; j < width; ++j) fired += g.membrane[t * g.n + first + j] > c.threshold(j);
        total += fired;
      }
    }
  };
  in_parallel(count, g.n, GRAIN / g.steps);
  return T(total) / T(g.steps * g.n);
}

// Calls f with the operation of the rule whose numbers these are.
template <class T, class Constants, class F>
void with_rule(const Gradient<T>& g, const Constants& c, const TsslNumbers& r, const F& f) {
  Fallback where = r.fallback;
  if (where == Fallback::rate) {
    const bool fires = firing_rate(g, c) > T(RATE_LIMIT);
    where = fires ? Fallback::never : Fallback::always;
  }
  const auto timing = mask<T>(r.timing), inter = mask<T>(r.inter), reset = mask<T>(r.reset), leak = mask<T>(r.leak);
#define TSSLBP_OPERATION(name, error_reset) \
  f(TsslBackward<T, Constants, Fallback::name, error_reset>{g, c, timing, inter, reset, leak, T(r.clip), T(r.width)})
#define TSSLBP_FALLBACK(name) \
  if (where == Fallback::name) return r.error_reset ? TSSLBP_OPERATION(name, true) : TSSLBP_OPERATION(name, false);
  TSSLBP_FALLBACK(quiet)
  TSSLBP_FALLBACK(no_spike)
  TSSLBP_FALLBACK(never)
  TSSLBP_FALLBACK(always)
#undef TSSLBP_FALLBACK
#undef TSSLBP_OPERATION
}

template <class T, class Constants, class F>
void with_rule(const Gradient<T>& g, const Constants& c, const SurrogateNumbers& r, const F& f) {
#define TSSLBP_SHAPE(name, formula) \
  if (r.shape == Shape::name)       \
    return f(SurrogateBackward<T, Constants, Shape::name>{{}, g, c, T(r.slope), T(r.scale), mask<T>(r.through_reset)});
  TSSLBP_SHAPES(TSSLBP_SHAPE)
#undef TSSLBP_SHAPE
}

template <class T, class Constants, class F>
void with_rule(const Gradient<T>& g, const Constants& c, const EventPropNumbers& r, const F& f) {
  f(EventPropBackward<T, Constants>{{}, g, c, T(r.clip), T(r.wake)});
}

}  // namespace tsslbp
