// Inference from events, second part: neurons turn sums into spike trains. See events.h.
#pragma once

#include "events.h"

namespace tsslbp::events {

// Sums of a map as neurons read them.
template <class T>
struct Heard {
  const T* sums = nullptr;  // none if null
  int64_t step = 0, line = 0;
  bool differences = false;
};

// State of a stage's neurons, a row each; null if it is not read or written.
template <class T>
struct Rows {
  T *u = nullptr, *a = nullptr, *synapse = nullptr, *b = nullptr;
};

// The first `count` numbers of a vector, or all of them.
template <int bytes, class T>
TSSLBP_INLINE Numbers<T, bytes> load(const T* p, int64_t count) {
  if (count >= LANES_OF<T, bytes>) return load<bytes>(p);
  Numbers<T, bytes> x = {};
  std::memcpy(&x, p, count * sizeof(T));
  return x;
}
template <int bytes, class T>
TSSLBP_INLINE void store(T* p, Numbers<T, bytes> x, int64_t count) {
  if (count >= LANES_OF<T, bytes>) store<bytes>(p, x);
  else std::memcpy(p, &x, count * sizeof(T));
}

// Neurons, in the steps from `begin` to `end` of a chunk.
template <class T, int bytes>
struct Neurons {
  const Stage& s;
  const T *response, *bias;  // may be null
  Heard<T> constant, heard[2];  // the current is response[t]·constant + bias + the synapse of `heard`
  Rows<T> before, after;
  uint8_t* trains;
  T* output;  // of output neurons, [steps, ...] with `output_step` numbers from one step to the next; may be null
  int64_t output_step;

  // Returns whether a potential is NaN.
  TSSLBP_INLINE bool operator()(int64_t begin, int64_t end) const {
    const bool plain = !begin && !s.adaptive && !bias && !output && !before.u && !after.u;
    if (plain && !heard[0].sums && !heard[1].sums) return go<Current::constant>(begin, end);
    if (plain && !constant.sums && !heard[1].sums && heard[0].differences) return go<Current::heard>(begin, end);
    return go<Current::any>(begin, end);
  }

 private:
  // Kinds of current. If there is only one, there is no state, no bias and no output.
  enum class Current { any, constant, heard };

  template <Current kind>
  TSSLBP_INLINE bool go(int64_t begin, int64_t end) const {
    using N = Numbers<T, bytes>;
    using W = Words<T, bytes>;
    using Trains = typename Vectors<T, bytes>::Trains;
    constexpr int64_t lanes = LANES_OF<T, bytes>;
    constexpr bool any = kind == Current::any;
    const T membrane_decay = T(1 - 1 / s.tau_m), synapse_decay = T(1 - 1 / s.tau_s), per_tau_s = T(1) / T(s.tau_s);
    const T heard_decay = T(1 - 1 / s.heard_tau_s), per_heard_tau_s = T(1) / T(s.heard_tau_s);
    const T adaptation_decay = T(1 - 1 / s.tau_a), beta = T(s.beta);
    const N zero = {}, threshold = zero + T(s.threshold), leak = zero + membrane_decay, step_up = zero + per_tau_s, one = zero + T(1);
    const bool hears = any ? heard[0].sums || heard[1].sums : kind == Current::heard, currents = any && (output || after.a);
    const bool constant_current = any ? constant.sums != nullptr : kind == Current::constant, biased = any && bias, adapts = any && s.adaptive;
    N wrong = zero;  // becomes NaN where a potential is: comparing vectors with themselves would be slow
    bool odd = false;
    const int64_t length = s.w * s.c;
    for (int64_t y = 0; y < s.h; ++y)
      for (int64_t j = 0; j < length; j += lanes) {
        const int64_t n = y * length + j, count = std::min(lanes, length - j);
        N u = zero, carried = zero, spike = zero, sum[2] = {};
        if (any && before.u) {
          u = load<bytes>(before.u + n, count);
          const auto fired = u > threshold;
          carried = u * (fired ? zero : leak), spike = fired ? one : zero;
        }
        const N value = constant_current ? load<bytes>(constant.sums + y * constant.line + j) : zero;
        const N shift = biased ? load<bytes>(bias + j, count) : zero;
        N synapse = any && before.synapse ? load<bytes>(before.synapse + n, count) : zero;
        N a = any && before.a ? load<bytes>(before.a + n, count) : zero;
        N b = any && before.b ? load<bytes>(before.b + n, count) : zero;
        W train = {};
        for (int64_t t = begin; t < end; ++t) {
          N current = zero;
          if (constant_current) current = value * response[t];
          if (hears) {
            N all = zero;
            for (int k = 0; k < (any ? 2 : 1); ++k) {
              if (any && !heard[k].sums) continue;
              const N made = load<bytes>(heard[k].sums + t * heard[k].step + y * heard[k].line + j);
              sum[k] = !any || heard[k].differences ? sum[k] + made : made;
              all += sum[k];
            }
            synapse = heard_decay * synapse + all * per_heard_tau_s;
            current += synapse;
          }
          if (biased) current += shift;
          if (adapts) {  // (2) and (3) of layers/recurrent.py
            const N next = spike + adaptation_decay * b;
            current -= beta * (next - membrane_decay * (b * (one - spike)));
            b = next;
          }
          u = current + carried;             // (1)
          const auto fires = u > threshold;  // (2)
          carried = u * (fires ? zero : leak);
          spike = fires ? one : zero;
          train |= fires & (W{} + (1 << t));
          if (currents) a = synapse_decay * a + (fires ? step_up : zero);  // (3)
          if (any && output) store<bytes>(output + t * output_step + n, a, count);
        }
        Trains spikes = __builtin_convertvector(train, Trains);
        if (count == lanes && !begin) {
          wrong += zero * carried;
          std::memcpy(trains + n, &spikes, lanes);
        } else
          for (int64_t i = 0; i < count; ++i) {
            odd |= carried[i] != carried[i];
            trains[n + i] = uint8_t(spikes[i] | (begin ? trains[n + i] : 0));
          }
        if (!any) continue;
        if (after.u) store<bytes>(after.u + n, u, count);
        if (after.a) store<bytes>(after.a + n, a, count);
        if (after.synapse) store<bytes>(after.synapse + n, synapse, count);
        if (after.b) store<bytes>(after.b + n, b, count);
      }
    for (int64_t i = 0; i < lanes; ++i) odd |= wrong[i] != wrong[i];
    return odd;
  }
};

// Max pooling of spikes: a window spikes when one of its neurons does.
TSSLBP_INLINE void pool_trains(const Stage& s, const Stage& from, const uint8_t* trains, uint8_t* pooled) {
  std::memset(pooled, 0, s.size());
  for (int64_t y = 0; y < s.h * s.pool_h; ++y)
    for (int64_t x = 0; x < s.w * s.pool_w; ++x) {
      const uint8_t* in = trains + (y * from.w + x) * s.c;
      uint8_t* out = pooled + (y / s.pool_h * s.w + x / s.pool_w) * s.c;
      for (int64_t c = 0; c < s.c; ++c) out[c] |= in[c];
    }
}

}  // namespace tsslbp::events
