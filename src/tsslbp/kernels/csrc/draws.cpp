// The masks of dropout as a PyTorch operator; see tsslbp/utils/prng.py.
#include "gather.h"

#include <cstring>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr uint64_t STEP = 0x9E3779B97F4A7C15, FIRST = 0xBF58476D1CE4E5B9, SECOND = 0x94D049BB133111EB;

// The same bits as in draws.py: right shifts of int64 fill with the sign.
TSSLBP_INLINE uint64_t scrambled(uint64_t x) {
  x = (x ^ uint64_t(int64_t(x) >> 30)) * FIRST;
  return (x ^ uint64_t(int64_t(x) >> 27)) * SECOND;
}

// For each key, mixed with some numbers: `value` where the draw is at least `bound`, else 0; [B, count].
template <class T>
struct Mask {
  const int64_t* keys;
  const std::vector<int64_t>& numbers;
  int64_t count, bound;
  T value;
  T* made;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    uint64_t drawn[BLOCK];
    int32_t half[2 * BLOCK];
    for (int64_t b = begin; b < end; ++b) {
      uint64_t mixed = scrambled(STEP + uint64_t(keys[b]));
      for (const int64_t number : numbers) mixed = scrambled(mixed + STEP + uint64_t(number));
      for (int64_t first = 0; first < count; first += 2 * BLOCK) {  // both halves of 64 bits
        for (int64_t i = 0; i < BLOCK; ++i) drawn[i] = scrambled(mixed + uint64_t(first / 2 + i) * STEP);
        std::memcpy(half, drawn, sizeof(drawn));
        T* __restrict row = made + b * count + first;
        const int64_t width = std::min(2 * BLOCK, count - first);
        const int32_t least = int32_t(bound);
        const T kept = value;
        for (int64_t i = 0; i < width; ++i) row[i] = half[i] >= least ? kept : T(0);
      }
    }
  }
  static constexpr int64_t BLOCK = 32;
};

Tensor mask(const Tensor& keys, std::vector<int64_t> numbers, int64_t count, int64_t bound, double value, bool full) {
  STD_TORCH_CHECK(keys.is_cpu() && keys.dim() == 1 && keys.scalar_type() == ScalarType::Long,
                  "tsslbp: keys are not [B] of int64 on the CPU");
  STD_TORCH_CHECK(count >= 0 && bound >= INT32_MIN && bound <= INT32_MAX, "tsslbp: count is from 0, bound is an int32");
  const Tensor key = torch::stable::contiguous(keys);
  const Tensor made = torch::stable::new_empty(keys, {keys.size(0), count}, full ? ScalarType::Double : ScalarType::Float);
  const auto draw = [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    in_parallel(Mask<T>{key.const_data_ptr<int64_t>(), numbers, count, bound, T(value), out}, keys.size(0), 1 + int64_t((1 << 14) / (1.0 + count)));
  };
  if (full) draw(made.mutable_data_ptr<double>());
  else draw(made.mutable_data_ptr<float>());
  return made;
}

}  // namespace tsslbp

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("mask(Tensor keys, int[] numbers, int count, int bound, float value, bool double) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) { m.impl("mask", TORCH_BOX(&tsslbp::mask)); }
