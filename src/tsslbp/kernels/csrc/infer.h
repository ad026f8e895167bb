// Inference from events, third part: samples go through a network. See events.h.
#pragma once

#include "fire.h"

#include <array>
#include <atomic>
#include <memory>

namespace tsslbp::events {

// Result of a call: done; the input was not finite or a potential became NaN; or the first samples of a large batch had so many
// events that dense products are faster.
enum class Done { all, no_number, busy };
constexpr int64_t TRIED = 2;       // samples that show how busy a batch is
constexpr double WORK = 1e8;       // dense products of a batch above which the choice matters
constexpr double PRICE = 2.5;      // dense products in the time of one product of an event (docs/speed.md),
constexpr double FAR_PRICE = 10;   // and with weights of
constexpr int64_t VERY_FAR = 1 << 22;  // so many bytes, which come from memory or the last cache

// The arguments of a call. A static input is a constant current, response[t] times itself.
template <class T>
struct Job {
  const Network& net;
  const T *x, *response, *weights, *before;  // [steps, batch, inputs] or, with response, [batch, inputs]; `before` may be null
  T *out, *after;                            // [steps, batch, outputs]; [batch, state_size], may be null
  int64_t steps, batch;

  int64_t chunk() const { return std::min(steps, STEPS); }
  // Products of a dense computation of a sample; padding of images counts too.
  double dense() const {
    double products = 0;
    for (const Stage& s : net.stages)
      for (const Map& m : s.maps)
        if (m.view >= 0) products += double(net.views[m.view].size()) * double(constant(m) ? 1 : steps) * m.reached;
    return products;
  }
  bool constant(const Map& m) const { return response && net.views[m.view].source < 0; }
  bool remembers(const Stage& s) const { return after || steps > STEPS || s.lateral >= 0; }
};

// One thread's work on a job, in vectors of so many bytes.
template <class T, int bytes>
class Worker {
 public:
  Worker(const Job<T>& job, char* memory) : job_(job), net_(job.net), memory_(memory) {
    int64_t sums[2] = {}, scratch = 0, lateral = 0, together = 1;
    for (const Stage& s : net_.stages) {
      if (far(s)) together = std::min(job.batch, TOGETHER);
      if (s.lateral >= 0) lateral = std::max(lateral, padded(s.size(), UNIT<T>));
    }
    for (const Stage& s : net_.stages)
      for (int k = 0; k < 2; ++k)
        if (s.maps[k].view >= 0) sums[k] = std::max(sums[k], s.maps[k].step * job.chunk() * (far(s) ? together : 1));
    for (int64_t j = 0; j < together; ++j) {
      Sample& sample = samples_.emplace_back();
      for (const Stage& s : net_.stages) {
        sample.trains.push_back(memory_.template take<uint8_t>(s.size() + 8));
        const bool constant = s.maps[0].view >= 0 && job.constant(s.maps[0]);
        sample.constant.push_back(constant ? memory_.template take<T>(s.maps[0].step) : nullptr);
        T* row = nullptr;
        if (s.pooled < 0 && job.remembers(s) && !job.after) row = memory_.template take<T>(4 * s.size());
        sample.rows.push_back(row ? Rows<T>{row, row + s.size(), row + 2 * s.size(), row + 3 * s.size()} : Rows<T>{});
      }
      for (size_t i = 0; i < net_.views.size(); ++i) {
        const View& v = net_.views[i];
        if (j && v.pixels() > 1) {  // used up before the next sample
          sample.events.push_back(samples_[0].events[i]);
          continue;
        }
        const int64_t steps = v.source < 0 && job.response ? 1 : job.chunk();
        auto& e = events_.emplace_back(new Events<T>{});
        e->start = memory_.template take<uint32_t>(steps * (v.pixels() + 1));
        e->busy = memory_.template take<uint32_t>(v.pixels());
        e->size = v.size() * v.most();
        e->channel = memory_.template take<uint32_t>(steps * e->size);
        e->amount = memory_.template take<T>(steps * e->size);
        sample.events.push_back(e.get());
        if (v.pooled()) scratch = std::max(scratch, v.size() / net_.stages[v.source].c * padded(net_.stages[v.source].c, 8) / 8 * steps);
      }
    }
    for (int k = 0; k < 2; ++k) sums_[k] = memory_.template take<T>(sums[k]);
    scratch_ = memory_.template take<uint64_t>(scratch);
    lateral_ = memory_.template take<T>(lateral), ones_ = memory_.template take<T>(lateral);
    speakers_ = memory_.template take<uint32_t>(lateral);
    background_ = memory_.template take<T>(net_.c), image_ = memory_.template take<T>(net_.inputs());
    if (memory) std::fill_n(ones_, lateral, T(1));
  }

  int64_t memory() const { return memory_.used(); }
  double price() const { return price_; }  // of all events so far, in dense products

  // Returns whether everything was a number, finite in the input.
  TSSLBP_INLINE bool samples(int64_t begin, int64_t end) {
    bool fine = true;
    for (int64_t b = begin, n; b < end; b += n) {
      n = std::min(end - b, int64_t(samples_.size()));
      for (int64_t j = 0; j < n; ++j) begin_state(b + j, samples_[j]);
      for (int64_t first = 0; first < job_.steps; first += STEPS) {
        const int64_t steps = std::min(STEPS, job_.steps - first);
        listed_.assign(net_.views.size(), false);
        for (size_t i = 0; i < net_.stages.size(); ++i) fine &= stage(i, b, n, first, steps);
        for (int64_t j = 0; j < n && job_.after && !job_.response; ++j) input_current(b + j, first, steps);
      }
      for (int64_t j = 0; j < n && job_.after; ++j) end_state(samples_[j]);
    }
    return fine;
  }

 private:
  struct Sample {
    std::vector<uint8_t*> trains;    // of each stage
    std::vector<T*> constant;        // sums of a constant current, of each stage
    std::vector<Rows<T>> rows;       // of each stage
    std::vector<Events<T>*> events;  // of each view
  };

  const Job<T>& job_;
  const Network& net_;
  const AllAdders<T> add_ = adders<T>();
  Memory memory_;
  std::vector<Sample> samples_;
  std::vector<std::unique_ptr<Events<T>>> events_;
  std::vector<char> listed_;  // of each view
  T *sums_[2], *lateral_, *ones_, *background_, *image_;
  uint64_t* scratch_;
  uint32_t* speakers_;
  double price_ = 0;

  bool far(const Map& m, int64_t bytes_ = FAR) const { return m.flat && net_.views[m.view].c * m.row * int64_t(sizeof(T)) >= bytes_; }
  double price(const Map& m, const Events<T>& e) const { return double(e.count()) * m.reached * (far(m, VERY_FAR) ? FAR_PRICE : PRICE); }
  // Whether a stage's input is another one's through one map whose weights are far.
  bool far(const Stage& s) const { return s.pooled < 0 && s.maps[1].view < 0 && far(s.maps[0]) && net_.views[s.maps[0].view].source >= 0; }

  TSSLBP_INLINE void begin_state(int64_t b, Sample& sample) {
    if (T* at = job_.after ? job_.after + b * net_.state_size() : nullptr) {
      if (job_.before) std::copy_n(job_.before + b * net_.state_size(), net_.state_size(), at);
      else std::fill_n(at, net_.state_size(), T(0));
      at += net_.inputs();
      for (size_t i = 0; i < net_.stages.size(); ++i) {
        const Stage& s = net_.stages[i];
        if (s.rows()) sample.rows[i] = {at, at + s.size(), at + (s.rows() - 1) * s.size(), s.adaptive ? at + 3 * s.size() : nullptr};
        at += s.rows() * s.size();
      }
    } else
      for (size_t i = 0; i < net_.stages.size(); ++i)
        if (sample.rows[i].u) std::fill_n(sample.rows[i].u, 4 * net_.stages[i].size(), T(0));
  }

  // Rows of state that follow from others.
  TSSLBP_INLINE void end_state(const Sample& sample) {
    for (size_t i = 0; i < net_.stages.size(); ++i) {
      const Stage& s = net_.stages[i];
      T* u = sample.rows[i].u;
      if (s.lateral >= 0) std::copy_n(sample.rows[i].a, s.size(), u + 2 * s.size());
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

  // A stage of `n` samples, from the first: one by one, but all together through far weights.
  TSSLBP_INLINE bool stage(size_t i, int64_t b, int64_t n, int64_t first, int64_t steps) {
    const Stage& s = net_.stages[i];
    bool fine = true;
    if (s.pooled >= 0) {
      for (int64_t j = 0; j < n; ++j) pool_trains(s, net_.stages[s.pooled], samples_[j].trains[s.pooled], samples_[j].trains[i]);
    } else if (far(s)) {
      const Map& m = s.maps[0];
      const Events<T>* heard[TOGETHER];
      std::memset(sums_[0], 0, n * steps * m.step * sizeof(T));
      for (int64_t j = 0; j < n; ++j) {
        list(m.view, b + j, samples_[j], first, steps);
        heard[j] = samples_[j].events[m.view];
        price_ += price(m, *heard[j]);
      }
      add_up_flat(m, net_.views[m.view].c, heard, n, job_.weights, add_.powers, sums_[0]);
      for (int64_t j = 0; j < n; ++j) {
        const Heard<T> sums{sums_[0] + j * steps * m.step, m.step, m.line, heard[j]->differences};
        fine &= fire(i, b + j, samples_[j], first, steps, {}, {sums, {}});
      }
    } else
      for (int64_t j = 0; j < n; ++j) fine &= layer(i, b + j, samples_[j], first, steps);
    return fine;
  }

  TSSLBP_INLINE bool layer(size_t i, int64_t b, const Sample& sample, int64_t first, int64_t steps) {
    const Stage& s = net_.stages[i];
    bool fine = true;
    Heard<T> constant, heard[2];
    for (int k = 0; k < 2; ++k) {
      const Map& m = s.maps[k];
      if (m.view < 0) continue;
      const Events<T>& e = *sample.events[m.view];
      const bool once = k == 0 && sample.constant[i];
      T* sums = once ? sample.constant[i] : sums_[k];
      if (!once || first == 0) {
        std::memset(sums, 0, (once ? 1 : steps) * m.step * sizeof(T));
        fine &= once && m.background >= 0 ? list_image(m, b, sample, sums) : list(m.view, b, sample, first, once ? 1 : steps);
        const View& v = net_.views[m.view];
        const Adders<T>& add = e.powers ? add_.powers : add_.any;
        const Events<T>* one = &e;
        price_ += price(m, e);
        if (m.flat) add_up_flat(m, v.c, &one, 1, job_.weights, add, sums);
        else add_up(s, m, v, e, job_.weights, add, sums);
      }
      (once ? constant : heard[k]) = Heard<T>{sums, m.step, m.line, e.differences};
    }
    return fire(i, b, sample, first, steps, constant, {heard[0], heard[1]}) && fine;
  }

  // Neurons of a stage, from the sums of its maps. Returns whether no potential is NaN.
  TSSLBP_INLINE bool fire(size_t i, int64_t b, const Sample& sample, int64_t first, int64_t steps, Heard<T> constant,
                          const std::array<Heard<T>, 2>& heard) {
    const Stage& s = net_.stages[i];
    const int64_t outputs = net_.output().size();
    T* out = i + 1 == net_.stages.size() ? job_.out + (first * job_.batch + b) * outputs : nullptr;
    const T *response = job_.response ? job_.response + first : nullptr, *bias = s.bias < 0 ? nullptr : job_.weights + s.bias;
    const Rows<T>& rows = sample.rows[i];
    Neurons<T, bytes> neurons{s, response, bias, constant, {heard[0], heard[1]}, rows, rows, sample.trains[i], out, job_.batch * outputs};
    return !(s.lateral < 0 ? neurons(0, steps) : recurrent(s, rows, neurons, steps));
  }

  TSSLBP_INLINE bool list(int64_t view, int64_t b, const Sample& sample, int64_t first, int64_t steps) {
    if (listed_[view]) return true;
    listed_[view] = samples_.size() == 1;
    const View& v = net_.views[view];
    Events<T>& e = *sample.events[view];
    if (v.source < 0) return list_input(v, job_.x + (first * job_.batch + b) * net_.inputs(), job_.batch * net_.inputs(), steps, e);
    if (v.pooled()) list_pooled(v, net_.stages[v.source], sample.trains[v.source], steps, scratch_, e);
    else list_trains(v, sample.trains[v.source], steps, e);
    return true;
  }

  // Lists a static input without its background, whose sums it sets.
  TSSLBP_INLINE bool list_image(const Map& m, int64_t b, const Sample& sample, T* sums) {
    take_background(job_.x + b * net_.inputs(), net_.c, net_.h * net_.w, background_, image_);
    for (int64_t c = 0; c < net_.c; ++c) {
      const T* __restrict ones = job_.weights + m.background + c * m.step;
      T* __restrict to = sums;
      const T value = background_[c];
      for (int64_t i = 0; i < m.step && value != 0; ++i) to[i] += value * ones[i];
    }
    return list_input(net_.views[m.view], image_, 0, 1, *sample.events[m.view]);
  }

  // Step by step, as neurons get their spikes of the step before.
  TSSLBP_INLINE bool recurrent(const Stage& s, const Rows<T>& rows, Neurons<T, bytes>& neurons, int64_t steps) {
    Heard<T>& heard = neurons.heard[0];
    T* sums = const_cast<T*>(heard.sums);  // a part of sums_[0], in which other samples may follow
    for (int64_t t = 1; t < steps && heard.differences; ++t)
      for (int64_t j = 0; j < s.size(); ++j) sums[t * heard.step + j] += sums[(t - 1) * heard.step + j];
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
      if (count) add_.powers(lateral_, job_.weights + s.lateral, row, row / UNIT<T>, speakers_, ones_, count);
      nan = neurons(t, t + 1);
    }
    return nan;
  }
};

template <class T>
bool samples_baseline(Worker<T, 16>& worker, int64_t begin, int64_t end) {
  return worker.samples(begin, end);
}

#ifdef TSSLBP_X86
template <class T>
TSSLBP_AVX2 bool samples_avx2(Worker<T, 32>& worker, int64_t begin, int64_t end) {
  return worker.samples(begin, end);
}

template <class T>
TSSLBP_AVX512 bool samples_avx512(Worker<T, 64>& worker, int64_t begin, int64_t end) {
  return worker.samples(begin, end);
}
#endif

template <class T, int bytes>
Done run(const Job<T>& job, bool (*go)(Worker<T, bytes>&, int64_t, int64_t)) {
  const int64_t memory = Worker<T, bytes>(job, nullptr).memory();
  std::atomic<bool> fine{true};
  const double dense = job.dense();
  std::atomic<double> price{0};
  const auto part = [&](int64_t begin, int64_t end) {
    const FlushTinyNumbers flush;
    const std::unique_ptr<char[]> at(new char[memory + 64]);  // not initialised
    Worker<T, bytes> worker(job, at.get() + (64 - reinterpret_cast<uintptr_t>(at.get()) % 64));
    if (!go(worker, begin, end)) fine = false;
    price = worker.price() / double(end - begin);
  };
  const int64_t first = !job.after && job.batch > 4 * TRIED && dense * double(job.batch) >= WORK ? TRIED : 0;
  if (first) part(0, first);
  if (!fine || (first && price > dense)) return fine ? Done::busy : Done::no_number;
  on_threads(part, first, job.batch);
  return fine ? Done::all : Done::no_number;
}

// If not all is done, the output is not valid.
template <class T>
Done run(const Job<T>& job) {
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2) return run<T, 32>(job, &samples_avx2<T>);
  if (capability() == Capability::avx512) return run<T, 64>(job, &samples_avx512<T>);
#endif
  return run<T, 16>(job, &samples_baseline<T>);
}

}  // namespace tsslbp::events
