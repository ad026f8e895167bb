// The masks of dropout as a PyTorch operator; tsslbp/draws.py says what they follow from.
#include "sweep.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr uint64_t STEP = 0x9E3779B97F4A7C15, FIRST = 0xBF58476D1CE4E5B9, SECOND = 0x94D049BB133111EB;

// The same bits as draws.py makes of int64: shifts fill up with the sign.
inline uint64_t scrambled(uint64_t x) {
  x = (x ^ uint64_t(int64_t(x) >> 30)) * FIRST;
  return (x ^ uint64_t(int64_t(x) >> 27)) * SECOND;
}

// For each key, mixed with some numbers: `value` where what is drawn is at least `bound`, else 0; [B, count].
Tensor mask(const Tensor& keys, std::vector<int64_t> numbers, int64_t count, int64_t bound, double value, bool full) {
  STD_TORCH_CHECK(keys.is_cpu() && keys.dim() == 1 && keys.scalar_type() == ScalarType::Long && count >= 0,
                  "tsslbp: keys are not [B] of int64 on the CPU");
  const Tensor key = torch::stable::contiguous(keys);
  const Tensor made = torch::stable::new_empty(keys, {keys.size(0), count}, full ? ScalarType::Double : ScalarType::Float);
  const auto draw = [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    torch::stable::parallel_for(0, keys.size(0), 1 + 20000 / (1 + count), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        uint64_t mixed = scrambled(STEP + uint64_t(key.const_data_ptr<int64_t>()[b]));
        for (const int64_t number : numbers) mixed = scrambled(mixed + STEP + uint64_t(number));
        T* row = out + b * count;
        for (int64_t i = 0; i < count; i += 2) {  // both halves of 64 bits
          const uint64_t drawn = scrambled(mixed + uint64_t(i / 2) * STEP);
          row[i] = int32_t(uint32_t(drawn)) >= bound ? T(value) : T(0);
          if (i + 1 < count) row[i + 1] = int32_t(drawn >> 32) >= bound ? T(value) : T(0);
        }
      }
    });
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
