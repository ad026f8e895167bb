// How an operation runs over all neurons: in blocks, on PyTorch's threads, with the widest vectors the processor has.
//
// An operation is a functor `op(first, width, scratch)` for the neurons first … first + width - 1 and all time steps. It
// is written once, as plain loops that the compiler vectorises for each instruction set. Neurons are independent, and fused
// multiply-adds are off, so results do not depend on threads or instruction sets.
#pragma once

#include "numbers.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#define TSSLBP_INLINE inline __attribute__((always_inline))
// A lambda that is not inlined would be compiled for the baseline instruction set.
#define TSSLBP_LAMBDA __attribute__((always_inline))
// Before a loop over neurons: iterations are independent, which a compiler cannot see for that many arrays.
#ifdef __clang__
#define TSSLBP_SIDE_BY_SIDE _Pragma("clang loop vectorize(assume_safety)")
#else
#define TSSLBP_SIDE_BY_SIDE _Pragma("GCC ivdep")
#endif

namespace tsslbp {

#if defined(__x86_64__) && defined(__GNUC__)
#define TSSLBP_X86 1
#define TSSLBP_AVX2 __attribute__((target("avx2")))
#ifdef __clang__
#define TSSLBP_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define TSSLBP_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
#endif

enum class Capability { baseline, avx2, avx512 };

// The best instruction set of this processor, or a lower one named by TSSLBP_CPU_CAPABILITY (read once).
inline Capability capability() {
  static const Capability found = [] {
    Capability best = Capability::baseline;
#ifdef TSSLBP_X86
    if (__builtin_cpu_supports("avx2")) best = Capability::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      best = Capability::avx512;
#endif
    const char* wanted = std::getenv("TSSLBP_CPU_CAPABILITY");
    if (wanted && std::string(wanted) == "baseline") best = Capability::baseline;
    if (wanted && std::string(wanted) == "avx2") best = std::min(best, Capability::avx2);
    return best;
  }();
  return found;
}

// Pooling windows over neurons that lie as [image, height, width, channels]; none if size is 0, from a group without numbers.
// Incomplete windows are left out.
struct Pool {
  int64_t size = 0, height = 0, width = 0, channels = 0;
  double factor = 1;

  Pool() = default;
  explicit Pool(Fields f) {
    size = f.whole("size", 1, EXACT), height = f.whole("height", size, EXACT), width = f.whole("width", size, EXACT);
    channels = f.whole("channels", 1, EXACT), factor = f.any("factor"), f.end();
  }

  int64_t pooled_height() const { return height / size; }
  int64_t pooled_width() const { return width / size; }
  int64_t row() const { return pooled_width() * channels; }
  int64_t line() const { return width * channels; }

  // Neurons of one row of windows, and how many such rows (a part of one at the lower edge counts) an image has.
  int64_t unit() const { return size * line(); }
  int64_t units() const { return (height + size - 1) / size; }

  // Post-synaptic currents of `n` neurons in a step.
  int64_t outputs(int64_t n) const { return size ? n / (height * width * channels) * pooled_height() * row() : n; }
};

constexpr int64_t ROW_BYTES = 4096;   // of one step of a block: a page, yet a step's rows and carried state fit 32-48 KiB
constexpr int64_t GRAIN = 32 * 1024;  // neurons times steps worth another thread

// While it lives, this thread treats subnormal numbers as 0. A current that decays for hundreds of steps gets there, and
// processors take a hundred times longer for such numbers, here and in the matrix products that follow.
struct FlushTinyNumbers {
#ifdef TSSLBP_X86
  const unsigned before = __builtin_ia32_stmxcsr();
  FlushTinyNumbers() { __builtin_ia32_ldmxcsr(before | 0x8040); }  // results (bit 15) and operands (bit 6)
  ~FlushTinyNumbers() { __builtin_ia32_ldmxcsr(before); }
#endif
};

// The most neurons in a block: the length of an operation's arrays of carried state. Varying constants take as much again.
template <class T, bool vary = false>
constexpr int64_t LANES = ROW_BYTES / sizeof(T) / (vary ? 2 : 1);

// Threads get neurons in units of neighbours. A unit is one block or, if an operation pools, a row of windows (`units` of them
// in an image), block by block.
struct Plan {
  int64_t n, lanes, unit, units, image;
};

template <class Op>
TSSLBP_INLINE void blocks(const Op& shared, int64_t begin, int64_t end, const Plan& plan) {
  const Op op = shared;  // a private copy, whose members need not be read again after each store
  std::vector<typename Op::Scratch> scratch(op.scratch_size());
  for (int64_t u = begin; u < end; ++u) {
    const int64_t image = u / plan.units * plan.image, first = image + u % plan.units * plan.unit;
    const int64_t last = std::min({first + plan.unit, image + plan.image, plan.n});
    for (int64_t block = first; block < last; block += plan.lanes)
      op(block, std::min(plan.lanes, last - block), scratch.data());
    op.finish(u, scratch.data());
  }
}

template <class Op>
struct Blocks {
  Op op;
  Plan plan;

  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const { blocks(op, begin, end, plan); }
};

// f(begin, end), or f<BYTES>(begin, end) of a functor that is written for vectors of so many bytes.
template <int BYTES, class F>
TSSLBP_INLINE void call(const F& f, int64_t begin, int64_t end) {
  if constexpr (std::is_invocable_v<const F&, int64_t, int64_t>)
    f(begin, end);
  else
    f.template operator()<BYTES>(begin, end);
}

// The same, compiled for an instruction set.
template <class F>
void in_baseline(const F& f, int64_t begin, int64_t end) {
  call<16>(f, begin, end);
}

#ifdef TSSLBP_X86
template <class F>
TSSLBP_AVX2 void in_avx2(const F& f, int64_t begin, int64_t end) {
  call<32>(f, begin, end);
}

template <class F>
TSSLBP_AVX512 void in_avx512(const F& f, int64_t begin, int64_t end) {
  call<64>(f, begin, end);
}
#endif

// The same with the widest vectors, on this thread.
template <class F>
void vectorised(const F& f, int64_t begin, int64_t end) {
#ifdef TSSLBP_X86
  if (capability() == Capability::avx512) return in_avx512(f, begin, end);
  if (capability() == Capability::avx2) return in_avx2(f, begin, end);
#endif
  in_baseline(f, begin, end);
}

// f(begin, end) over parts of [first, last) on PyTorch's threads, whose errors lose their text on the way out.
template <class F>
void on_threads(const F& f, int64_t first, int64_t last, int64_t grain = 1) {
  std::atomic<bool> enough{true};
  torch::stable::parallel_for(first, last, grain, [&](int64_t begin, int64_t end) {
    try {
      f(begin, end);
    } catch (const std::bad_alloc&) {
      enough = false;
    }
  });
  STD_TORCH_CHECK(enough, "tsslbp: not enough memory for the work of a thread");
}

// f over [0, count) on PyTorch's threads, each of which gets `grain` or more.
template <class F>
void in_parallel(const F& f, int64_t count, int64_t grain = 1) {
  const auto part = [&](int64_t begin, int64_t end) {
    const FlushTinyNumbers flush;
    vectorised(f, begin, end);
#ifdef TSSLBP_X86
    __builtin_ia32_sfence();  // what was written past the caches
#endif
  };
  on_threads(part, 0, count, std::max<int64_t>(1, grain));
}

template <class T, class Op>
void sweep(const Op& op, int64_t steps, int64_t n, const Pool& pool) {
  if (steps < 1 || n < 1) return;
  const int64_t share = n / torch::stable::get_num_threads() / 64 * 64;
  const int64_t lanes = std::clamp<int64_t>(share, 64, Op::MOST);
  Plan plan{n, lanes, lanes, std::max<int64_t>(1, (n + lanes - 1) / lanes), n};
  int64_t units = plan.units;
  if (pool.size) {
    plan = {n, std::min(Op::MOST, pool.unit()), pool.unit(), pool.units(), pool.height * pool.width * pool.channels};
    units = n / plan.image * plan.units;
  }
  in_parallel(Blocks<Op>{op, plan}, units, GRAIN / plan.unit / steps);
}

}  // namespace tsslbp
