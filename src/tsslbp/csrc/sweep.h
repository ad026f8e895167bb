// How an operation runs over all neurons: in blocks, on PyTorch's threads, with the widest vectors the processor has.
//
// An operation is a functor `op(first, width, scratch)` for the neurons first … first + width - 1 and all time steps. It
// is written once, as plain loops the compiler vectorises; here it is compiled for each instruction set. Neurons do not
// depend on each other, and fused multiply-adds are off, so neither threads nor instruction sets change a single bit.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#define TSSLBP_INLINE inline __attribute__((always_inline))

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

constexpr int64_t ROW_BYTES = 4096;   // of one step of a block: a page, yet a step's rows and carried state fit 32-48 KiB
constexpr int64_t GRAIN = 32 * 1024;  // neurons times steps worth another thread

// The most neurons in a block: the length of an operation's arrays of carried state.
template <class T>
constexpr int64_t LANES = ROW_BYTES / sizeof(T);

template <class Op>
TSSLBP_INLINE void blocks(const Op& shared, int64_t begin, int64_t end, int64_t n, int64_t lanes) {
  const Op op = shared;  // a copy nothing else points to: its members need not be read again after each store
  std::vector<typename Op::Scratch> scratch(op.scratch_size());
  for (int64_t block = begin; block < end; ++block)
    op(block * lanes, std::min(lanes, n - block * lanes), scratch.data());
}

template <class Op>
void blocks_baseline(const Op& op, int64_t begin, int64_t end, int64_t n, int64_t lanes) {
  blocks(op, begin, end, n, lanes);
}

#ifdef TSSLBP_X86
template <class Op>
TSSLBP_AVX2 void blocks_avx2(const Op& op, int64_t begin, int64_t end, int64_t n, int64_t lanes) {
  blocks(op, begin, end, n, lanes);
}

template <class Op>
TSSLBP_AVX512 void blocks_avx512(const Op& op, int64_t begin, int64_t end, int64_t n, int64_t lanes) {
  blocks(op, begin, end, n, lanes);
}
#endif

template <class T, class Op>
void sweep(const Op& op, int64_t steps, int64_t n) {
  auto* run = &blocks_baseline<Op>;
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2) run = &blocks_avx2<Op>;
  if (capability() == Capability::avx512) run = &blocks_avx512<Op>;
#endif
  const int64_t share = n / torch::stable::get_num_threads() / 64 * 64;
  const int64_t lanes = std::clamp<int64_t>(share, 64, LANES<T>);
  torch::stable::parallel_for(0, (n + lanes - 1) / lanes, std::max<int64_t>(1, GRAIN / (lanes * steps)),
                              [&](int64_t begin, int64_t end) { run(op, begin, end, n, lanes); });
}

}  // namespace tsslbp
