// Inference from events, second part: neurons, and the walk of a sample through a network. See events.h.
#pragma once

#include "events.h"

#include <atomic>
#include <memory>

namespace tsslbp::events {

// Sums of a map as neurons read them.
template <class T>
struct Heard {
  const T* sums = nullptr;  // none if null
  int64_t step = 0, line = 0;
  bool differences = false;
};

// State of a stage's neurons, a row each; null where nobody reads or writes it.
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
  Heard<T> constant, heard[2];  // the current is response[t]·constant + bias and what the synapse makes of `heard`
  Rows<T> before, after;
  uint8_t* trains;
  T* output;  // of output neurons, [steps, ...] with `output_step` numbers from one step to the next; may be null
  int64_t output_step;

  // Returns whether a potential is NaN.
  TSSLBP_INLINE bool operator()(int64_t begin, int64_t end) const {
    using N = Numbers<T, bytes>;
    using W = Words<T, bytes>;
    constexpr int64_t lanes = LANES_OF<T, bytes>;
    const T membrane_decay = T(1 - 1 / s.tau_m), synapse_decay = T(1 - 1 / s.tau_s), per_tau_s = T(1) / T(s.tau_s);
    const T heard_decay = T(1 - 1 / s.heard_tau_s), per_heard_tau_s = T(1) / T(s.heard_tau_s);
    const T adaptation_decay = T(1 - 1 / s.tau_a), beta = T(s.beta);
    const N zero = {}, threshold = zero + T(s.threshold), leak = zero + membrane_decay, step_up = zero + per_tau_s, one = zero + T(1);
    const bool hears = heard[0].sums || heard[1].sums, currents = output || after.a;
    bool odd = false;
    const int64_t length = s.w * s.c;
    for (int64_t y = 0; y < s.h; ++y)
      for (int64_t j = 0; j < length; j += lanes) {
        const int64_t n = y * length + j, count = std::min(lanes, length - j);
        const N last = before.u ? load<bytes>(before.u + n, count) : zero, value = constant.sums ? load<bytes>(constant.sums + y * constant.line + j) : zero;
        const N shift = bias ? load<bytes>(bias + j, count) : zero;
        N carried = leak * last * (last > threshold ? zero : one), u = last, sum[2] = {};
        N synapse = before.synapse ? load<bytes>(before.synapse + n, count) : zero, a = before.a ? load<bytes>(before.a + n, count) : zero;
        N b = before.b ? load<bytes>(before.b + n, count) : zero, spike = last > threshold ? one : zero;
        W train = {};
        for (int64_t t = begin; t < end; ++t) {
          N current = zero;
          if (constant.sums) current = value * response[t];
          if (hears) {
            N all = zero;
            for (int k = 0; k < 2; ++k) {
              if (!heard[k].sums) continue;
              const N made = load<bytes>(heard[k].sums + t * heard[k].step + y * heard[k].line + j);
              sum[k] = heard[k].differences ? sum[k] + made : made;
              all += sum[k];
            }
            synapse = heard_decay * synapse + all * per_heard_tau_s;
            current += synapse;
          }
          if (bias) current += shift;
          if (s.adaptive) {  // (2) and (3) of layers/recurrent.py
            const N next = spike + adaptation_decay * b;
            current -= beta * (next - membrane_decay * (b * (one - spike)));
            b = next;
          }
          u = current + carried;                                 // (1)
          const auto fires = u > threshold;                      // (2)
          carried = u * (fires ? zero : leak);
          spike = fires ? one : zero;
          train |= fires & (W{} + (1 << t));
          if (currents) a = synapse_decay * a + (fires ? step_up : zero);  // (3)
          if (output) store<bytes>(output + t * output_step + n, a, count);
        }
        for (int64_t i = 0; i < count; ++i) odd |= carried[i] != carried[i];
        auto spikes = __builtin_convertvector(train, typename Vectors<T, bytes>::Trains);
        for (int64_t i = 0; begin && i < count; ++i) spikes[i] |= trains[n + i];
        std::memcpy(trains + n, &spikes, std::min(count, lanes));
        if (after.u) store<bytes>(after.u + n, u, count);
        if (after.a) store<bytes>(after.a + n, a, count);
        if (after.synapse) store<bytes>(after.synapse + n, synapse, count);
        if (after.b) store<bytes>(after.b + n, b, count);
      }
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

// What a call is about. A static input is a constant current, response[t] times itself.
template <class T>
struct Job {
  const Network& net;
  const T *x, *response, *weights, *before;  // [steps, batch, inputs] or, with response, [batch, inputs]; `before` may be null
  T *out, *after;                            // [steps, batch, outputs]; [batch, state_size], null if nobody wants it
  int64_t steps, batch;

  int64_t chunk() const { return std::min(steps, STEPS); }
  bool remembers(const Stage& s) const { return after || steps > STEPS || s.lateral >= 0; }
};

// One thread's work on a job, in vectors of so many bytes.
template <class T, int bytes>
class Worker {
 public:
  Worker(const Job<T>& job, char* memory) : job_(job), net_(job.net), memory_(memory) {
    int64_t sums[2] = {}, levels = 0, lateral = 0;
    for (const Stage& s : net_.stages) {
      trains_.push_back(memory_.template take<uint8_t>(s.size() + 8));
      for (int k = 0; k < 2; ++k)
        if (s.maps[k].view >= 0) sums[k] = std::max(sums[k], s.maps[k].step * job.chunk());
      if (s.lateral >= 0) lateral = std::max(lateral, padded(s.size(), UNIT<T>));
      const bool constant = job.response && s.maps[0].view >= 0 && net_.views[s.maps[0].view].source < 0;
      constant_.push_back(constant ? memory_.template take<T>(s.maps[0].step) : nullptr);
      T* row = nullptr;
      if (s.pooled < 0 && job.remembers(s) && !job.after) row = memory_.template take<T>(4 * s.size());
      rows_.push_back(row ? Rows<T>{row, row + s.size(), row + 2 * s.size(), row + 3 * s.size()} : Rows<T>{});
    }
    for (const View& v : net_.views) {
      const int64_t steps = v.source < 0 && job.response ? 1 : job.chunk();
      uint32_t* start = memory_.template take<uint32_t>(steps * (v.pixels() + 1));
      uint32_t* channel = memory_.template take<uint32_t>(steps * v.size());
      events_.push_back({start, channel, memory_.template take<T>(steps * v.size()), v.size(), v.pixels()});
      if (v.pooled()) levels = std::max(levels, v.size());
    }
    for (int k = 0; k < 2; ++k) sums_[k] = memory_.template take<T>(sums[k]);
    levels_ = memory_.template take<uint64_t>(levels);
    lateral_ = memory_.template take<T>(lateral), ones_ = memory_.template take<T>(lateral);
    speakers_ = memory_.template take<uint32_t>(lateral);
    background_ = memory_.template take<T>(net_.c), image_ = memory_.template take<T>(net_.inputs());
    if (memory) std::fill_n(ones_, lateral, T(1));
  }

  int64_t memory() const { return memory_.used(); }

  // Returns whether everything was a number, finite in the input.
  TSSLBP_INLINE bool sample(int64_t b) {
    begin_state(b);
    bool fine = true;
    for (int64_t first = 0; first < job_.steps; first += STEPS) {
      const int64_t steps = std::min(STEPS, job_.steps - first);
      listed_.assign(net_.views.size(), false);
      for (size_t i = 0; i < net_.stages.size(); ++i) {
        const Stage& s = net_.stages[i];
        if (s.pooled >= 0) pool_trains(s, net_.stages[s.pooled], trains_[s.pooled], trains_[i]);
        else fine &= layer(b, i, first, steps);
      }
      if (job_.after && !job_.response) input_current(b, first, steps);
    }
    if (job_.after) end_state();
    return fine;
  }

 private:
  const Job<T>& job_;
  const Network& net_;
  const Adders<T> add_ = adders<T>();
  Memory memory_;
  std::vector<uint8_t*> trains_;
  std::vector<T*> constant_;
  std::vector<Rows<T>> rows_;
  std::vector<Events<T>> events_;
  std::vector<char> listed_;
  T *sums_[2], *lateral_, *ones_, *background_, *image_;
  uint64_t* levels_;
  uint32_t* speakers_;

  TSSLBP_INLINE void begin_state(int64_t b) {
    if (T* at = job_.after ? job_.after + b * net_.state_size() : nullptr) {
      if (job_.before) std::copy_n(job_.before + b * net_.state_size(), net_.state_size(), at);
      else std::fill_n(at, net_.state_size(), T(0));
      at += net_.inputs();
      for (size_t i = 0; i < net_.stages.size(); ++i) {
        const Stage& s = net_.stages[i];
        if (s.rows()) rows_[i] = {at, at + s.size(), at + (s.rows() - 1) * s.size(), s.adaptive ? at + 3 * s.size() : nullptr};
        at += s.rows() * s.size();
      }
    } else
      for (size_t i = 0; i < net_.stages.size(); ++i)
        if (rows_[i].u) std::fill_n(rows_[i].u, 4 * net_.stages[i].size(), T(0));
  }

  // Rows of state that follow from others.
  TSSLBP_INLINE void end_state() {
    for (size_t i = 0; i < net_.stages.size(); ++i) {
      const Stage& s = net_.stages[i];
      T* u = rows_[i].u;
      if (s.lateral >= 0) std::copy_n(rows_[i].a, s.size(), u + 2 * s.size());
      if (s.adaptive)
        for (int64_t j = 0; j < s.size(); ++j) u[4 * s.size() + j] = u[j] > T(s.threshold) ? T(1) : T(0);
    }
  }

  // Equation (3) for the input itself.
  TSSLBP_INLINE void input_current(int64_t b, int64_t first, int64_t steps) {
    T* __restrict a = job_.after + b * net_.state_size();
    const T tau_s = T(net_.tau_s), decay = T(1 - 1 / net_.tau_s);
    for (int64_t t = 0; t < steps; ++t) {
      const T* __restrict x = job_.x + ((first + t) * job_.batch + b) * net_.inputs();
      for (int64_t j = 0; j < net_.inputs(); ++j) a[j] = x[j] / tau_s + decay * a[j];
    }
  }

  TSSLBP_INLINE bool layer(int64_t b, size_t i, int64_t first, int64_t steps) {
    const Stage& s = net_.stages[i];
    bool fine = true;
    const int64_t outputs = net_.output().size();
    T* out = i + 1 == net_.stages.size() ? job_.out + (first * job_.batch + b) * outputs : nullptr;
    const T *response = job_.response ? job_.response + first : nullptr, *bias = s.bias < 0 ? nullptr : job_.weights + s.bias;
    Neurons<T, bytes> neurons{s, response, bias, {}, {}, rows_[i], rows_[i], trains_[i], out, job_.batch * outputs};
    for (int k = 0; k < 2; ++k) {
      const Map& m = s.maps[k];
      if (m.view < 0) continue;
      const bool once = k == 0 && constant_[i];
      T* sums = once ? constant_[i] : sums_[k];
      if (!once || first == 0) {
        std::memset(sums, 0, (once ? 1 : steps) * m.step * sizeof(T));
        fine &= once && m.background >= 0 ? list_image(m, b, sums) : list(m.view, b, first, once ? 1 : steps);
        add_up(s, m, net_.views[m.view], events_[m.view], job_.weights, add_, sums);
      }
      (once ? neurons.constant : neurons.heard[k]) = Heard<T>{sums, m.step, m.line, events_[m.view].differences};
    }
    const bool nan = s.lateral < 0 ? neurons(0, steps) : recurrent(s, rows_[i], neurons, steps);
    return fine && !nan;
  }

  TSSLBP_INLINE bool list(int64_t view, int64_t b, int64_t first, int64_t steps) {
    if (listed_[view]) return true;
    listed_[view] = true;
    const View& v = net_.views[view];
    Events<T>& e = events_[view];
    if (v.source < 0) return list_input(v, job_.x + (first * job_.batch + b) * net_.inputs(), job_.batch * net_.inputs(), steps, e);
    if (v.pooled()) list_pooled(v, net_.stages[v.source], trains_[v.source], steps, levels_, e);
    else list_trains(v, trains_[v.source], steps, e);
    return true;
  }

  // Lists a static input without its background, whose sums it sets.
  TSSLBP_INLINE bool list_image(const Map& m, int64_t b, T* sums) {
    take_background(job_.x + b * net_.inputs(), net_.c, net_.h * net_.w, background_, image_);
    for (int64_t c = 0; c < net_.c; ++c) {
      const T* __restrict ones = job_.weights + m.background + c * m.step;
      T* __restrict to = sums;
      const T value = background_[c];
      for (int64_t i = 0; i < m.step && value != 0; ++i) to[i] += value * ones[i];
    }
    return list_input(net_.views[m.view], image_, 0, 1, events_[m.view]);
  }

  // Step by step: in each, neurons hear what they spiked in the step before.
  TSSLBP_INLINE bool recurrent(const Stage& s, const Rows<T>& rows, Neurons<T, bytes>& neurons, int64_t steps) {
    Heard<T>& heard = neurons.heard[0];
    for (int64_t t = 1; t < steps && heard.differences; ++t)
      for (int64_t j = 0; j < s.size(); ++j) sums_[0][t * heard.step + j] += sums_[0][(t - 1) * heard.step + j];
    heard.differences = false;
    neurons.heard[1] = {lateral_, 0, 0, false};
    const int64_t row = padded(s.size(), UNIT<T>);
    bool nan = false;
    for (int64_t t = 0; t < steps; ++t) {
      int64_t count = 0;
      for (int64_t j = 0; j < s.size(); ++j) {
        speakers_[count] = uint32_t(j);
        count += t ? neurons.trains[j] >> (t - 1) & 1 : rows.u[j] > T(s.threshold);
      }
      std::fill_n(lateral_, row, T(0));
      if (count) add_(lateral_, job_.weights + s.lateral, row, row / UNIT<T>, speakers_, ones_, count);
      nan = neurons(t, t + 1);
    }
    return nan;
  }
};

template <class T, int bytes>
TSSLBP_INLINE bool samples(Worker<T, bytes>& worker, int64_t begin, int64_t end) {
  bool fine = true;
  for (int64_t b = begin; b < end; ++b) fine &= worker.sample(b);
  return fine;
}

template <class T>
bool samples_baseline(Worker<T, 16>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}

#ifdef TSSLBP_X86
template <class T>
TSSLBP_AVX2 bool samples_avx2(Worker<T, 32>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}

template <class T>
TSSLBP_AVX512 bool samples_avx512(Worker<T, 64>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}
#endif

template <class T, int bytes>
bool run(const Job<T>& job, bool (*go)(Worker<T, bytes>&, int64_t, int64_t)) {
  const int64_t memory = Worker<T, bytes>(job, nullptr).memory();
  std::atomic<bool> fine{true};
  torch::stable::parallel_for(0, job.batch, 1, [&](int64_t begin, int64_t end) {
    const FlushTinyNumbers flush;
    const std::unique_ptr<char[]> at(new char[memory + 64]);  // not initialised
    Worker<T, bytes> worker(job, at.get() + (64 - reinterpret_cast<uintptr_t>(at.get()) % 64));
    if (!go(worker, begin, end)) fine = false;
  });
  return fine;
}

// Returns whether everything was a number, finite in the input; if not, what was made is not what the equations say.
template <class T>
bool run(const Job<T>& job) {
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2) return run<T, 32>(job, &samples_avx2<T>);
  if (capability() == Capability::avx512) return run<T, 64>(job, &samples_avx512<T>);
#endif
  return run<T, 16>(job, &samples_baseline<T>);
}

}  // namespace tsslbp::events
