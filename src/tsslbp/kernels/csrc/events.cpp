// Inference from events as a PyTorch operator, on the LibTorch stable ABI. network/event_plan.py makes its plan and its weights.
#include "infer.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace tsslbp::events {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// It checks every number of the plan and every size, and computes or raises.
//
// x: [batch, ...] for a constant current with a `response` [steps], else [steps, batch, ...].
// weights, plan: [n] each. before: [batch, state], null for rest. Returns the output current [steps, batch, outputs] and, with
// `keep`, the state after; nothing where the input is not finite, a membrane potential became NaN, or dense products are faster.
std::vector<Tensor> infer(const Tensor& x, const Tensor& weights, const Tensor& plan, const std::optional<Tensor>& response,
                          const std::optional<Tensor>& before, bool keep) {
  const auto type = weights.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "tsslbp: weights are neither float32 nor float64");
  for (const Tensor* given : {&x, &weights, response ? &*response : &x, before ? &*before : &x})
    STD_TORCH_CHECK(given->is_cpu() && given->scalar_type() == type, "tsslbp: what inference takes is not on the CPU, or of two types");
  STD_TORCH_CHECK(weights.dim() == 1 && weights.is_contiguous(), "tsslbp: weights are not [N], contiguous");
  STD_TORCH_CHECK(plan.is_cpu() && plan.dim() == 1 && plan.is_contiguous() && plan.scalar_type() == ScalarType::Double,
                  "tsslbp: plan is not [N] of float64 on the CPU, contiguous");
  const double* numbers = plan.const_data_ptr<double>();
  const int64_t vector = type == ScalarType::Float ? UNIT<float> : UNIT<double>;
  const Network net(std::vector<double>(numbers, numbers + plan.numel()), vector, weights.numel());

  STD_TORCH_CHECK(x.dim() >= (response ? 1 : 2) && (!response || (response->dim() == 1 && response->is_contiguous())),
                  "tsslbp: x is not [T, B, ...], or response is not [T], contiguous");
  const int64_t steps = response ? response->size(0) : x.size(0), batch = x.size(response ? 0 : 1);
  STD_TORCH_CHECK(steps >= 1 && double(x.numel()) == double(response ? 1 : steps) * double(batch) * double(net.inputs()),
                  "tsslbp: x is not of the plan's input, or has no step");
  STD_TORCH_CHECK(!before || (before->dim() == 2 && before->size(0) == batch && before->size(1) == net.state_size() && keep),
                  "tsslbp: before is not [B, state] of the plan");
  for (const Stage& s : net.stages) {
    STD_TORCH_CHECK(!keep || s.pooled < 0, "tsslbp: max pooling has no state here");
    STD_TORCH_CHECK(!response || s.maps[1].view < 0 || net.views[s.maps[1].view].source >= 0,
                    "tsslbp: a constant current takes no shortcut here");
  }
  const Tensor in = torch::stable::contiguous(x);
  const std::optional<Tensor> start = before ? std::optional(torch::stable::contiguous(*before)) : std::nullopt;
  std::vector<Tensor> made{torch::stable::new_empty(in, {steps, batch, net.output().size()})};
  if (keep) made.push_back(torch::stable::new_empty(in, {batch, net.state_size()}));
  const auto compute = [&](auto zero) {
    using T = decltype(zero);
    return run(Job<T>{net, in.const_data_ptr<T>(), response ? response->const_data_ptr<T>() : nullptr, weights.const_data_ptr<T>(),
                      start ? start->const_data_ptr<T>() : nullptr, made[0].mutable_data_ptr<T>(),
                      keep ? made[1].mutable_data_ptr<T>() : nullptr, steps, batch});
  };
  const Done done = type == ScalarType::Double ? compute(double()) : compute(float());
  if (done != Done::all) made.clear();
  return made;
}

constexpr int64_t PLACES = 8, SIDE_BY_SIDE = 8;  // elements of a tensor: in few pages of memory, as each costs much

// A number from some elements of every tensor, to notice when most of one was overwritten.
int64_t glance(const std::vector<Tensor>& tensors) {
  uint64_t seen = 0;
  for (const Tensor& x : tensors) {
    STD_TORCH_CHECK(x.is_cpu() && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double),
                    "tsslbp: what is looked at is not float32 or float64 on the CPU");
    const int64_t n = x.numel(), looks = std::min(n, PLACES * SIDE_BY_SIDE), size = int64_t(x.element_size());
    const bool contiguous = x.is_contiguous();
    const char* data = static_cast<const char*>(x.data_ptr());
    for (int64_t i = 0; i < looks; ++i) {
      int64_t place = looks < n ? n / PLACES * (i / SIDE_BY_SIDE) + i % SIDE_BY_SIDE : i, rest = place;
      for (int64_t axis = contiguous ? 0 : x.dim(); axis-- > 0; rest /= x.size(axis))
        place = (axis + 1 == x.dim() ? 0 : place) + rest % x.size(axis) * x.stride(axis);
      uint64_t bits = 0;
      std::memcpy(&bits, data + place * size, size_t(size));
      seen = (seen ^ bits) * 0x100000001b3;
      seen ^= seen >> 29;
    }
  }
  return int64_t(seen);
}

}  // namespace tsslbp::events

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("infer(Tensor x, Tensor weights, Tensor plan, Tensor? response, Tensor? before, bool keep) -> Tensor[]");
  m.def("glance(Tensor[] tensors) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("infer", TORCH_BOX(&tsslbp::events::infer));
  m.impl("glance", TORCH_BOX(&tsslbp::events::glance));
}
