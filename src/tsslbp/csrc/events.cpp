// Inference from events as a PyTorch operator, on the LibTorch stable ABI. events.py makes its plan and its weights.
#include "infer.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace tsslbp::events {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whatever it is called with, it computes or raises: every number of the plan is checked, and every size.
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

}  // namespace tsslbp::events

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("infer(Tensor x, Tensor weights, Tensor plan, Tensor? response, Tensor? before, bool keep) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) { m.impl("infer", TORCH_BOX(&tsslbp::events::infer)); }
