// Operators that go backward through neurons and recurrent layers by a rule. Each rule is compiled on its own, in a file of its name.
#pragma once

#include "operands.h"
#include "rules.h"

namespace tsslbp {

// δ by the rule of these numbers; given a state, the carry for the step before; and, given a table, gradients of each neuron's
// constants, [3, n].
template <class Numbers>
std::vector<Tensor> backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& response,
                             const std::optional<Tensor>& state, const std::optional<Tensor>& carry,
                             const std::optional<Tensor>& table, const std::vector<double>& neuron, const std::vector<double>& rule,
                             const std::vector<double>& pooling, bool bf16) {
  check_sequence(membrane, "membrane");
  check_sequence(psc_gradient, "psc_gradient");
  const auto type = membrane.scalar_type();
  const int64_t steps = membrane.size(0), n = membrane.size(1);
  STD_TORCH_CHECK(is_full(membrane), "tsslbp: membrane is neither float32 nor float64");
  STD_TORCH_CHECK(!bf16 || type == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const Numbers numbers{Fields(Numbers::GROUP, rule)};
  const Pool pool = checked_pool(pooling, n);
  STD_TORCH_CHECK(psc_gradient.size(0) == steps && psc_gradient.size(1) == pool.outputs(n),
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_bf16(psc_gradient) || psc_gradient.scalar_type() == type,
                  "tsslbp: psc_gradient is neither bfloat16 nor of the membrane's type");
  const auto response_ = checked_response(response, type), before = checked_handed(state, n, type), next = checked_handed(carry, n, type);
  STD_TORCH_CHECK(!response || response->size(0) == steps, "tsslbp: response is not [T]");
  STD_TORCH_CHECK(state || !carry, "tsslbp: a carry comes only with a state");
  STD_TORCH_CHECK(Numbers::PARTS || !state, "tsslbp: ", Numbers::GROUP, " takes no state, but whole sequences only");
  std::vector<Tensor> made;
  with_type(membrane, [&](auto zero) {
    using T = decltype(zero);
    const bool rows = psc_gradient.size(1) <= 1 || psc_gradient.stride(1) == 1;
    const Tensor e = rows ? psc_gradient : torch::stable::contiguous(psc_gradient), u = torch::stable::contiguous(membrane);
    with_constants<T>(table, neuron, n, [&](const auto& constants) {
      made.push_back(torch::stable::new_empty(u, {response ? 1 : steps, n}, bf16 && !response ? ScalarType::BFloat16 : type));
      if (before) made.push_back(torch::stable::new_empty(u, {2, n}, type));
      if (table) made.push_back(torch::stable::new_empty(u, {3, n}, type));
      const Gradient<T> gradient{Source<T>{e.data_ptr(), e.stride(0), is_bf16(e), pool, pool.outputs(n)}, u.const_data_ptr<T>(),
                                 data<T>(response_),
                                 Target<T>{made[0].mutable_data_ptr(), n, bf16 && !response, {}, is_large<T>(steps, n)},
                                 {data<T>(before), n}, {data<T>(next), n}, {before ? made[1].mutable_data_ptr<T>() : nullptr, n},
                                 steps, n, table ? made.back().mutable_data_ptr<T>() : nullptr};
      with_rule(gradient, constants, numbers, [&](const auto& op) { sweep<T>(op, steps, n, pool); });
    });
  });
  return made;
}

// Whether the rule asks for the post-synaptic current. Raises if it must know the whole sequence at once.
inline bool needs_psc(const TsslNumbers& rule) {
  STD_TORCH_CHECK(rule.fallback != Fallback::rate && !(rule.error_reset && (rule.reset || rule.leak)),
                  "tsslbp: this rule takes no parts, which are a recurrent layer's steps");
  return rule.fallback == Fallback::quiet;
}
inline bool needs_psc(const SurrogateNumbers&) { return false; }

// Gradient of the drive; given a state, of the state; given a table, of constants in each sample, [3, batch, n]; and, by
// `learns`, nothing more (0), the gradient of the lateral weights, transposed (1), or a[t-1], from which it can be formed (2).
template <class Numbers>
std::vector<Tensor> recurrent_backward(const Tensor& psc_gradient, const std::optional<Tensor>& after, const Tensor& membrane,
                                       const Tensor& lateral, const std::optional<Tensor>& state,
                                       const std::optional<Tensor>& table, const std::vector<double>& neuron,
                                       const std::vector<double>& adaptation, const std::vector<double>& rule,
                                       bool through_lateral, bool bf16, int64_t learns) {
  const auto type = membrane.scalar_type();
  STD_TORCH_CHECK(is_full(membrane), "tsslbp: membrane is neither float32 nor float64");
  STD_TORCH_CHECK(!bf16 || type == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const Numbers numbers{Fields(Numbers::GROUP, rule)};
  const bool asks_psc = needs_psc(numbers) || table || learns == 2;
  STD_TORCH_CHECK(learns >= 0 && learns <= 2, "tsslbp: learns is ", learns, "; it must be from 0 to 2");
  const RecurrentOperands with(membrane, type, lateral, state, table, adaptation);
  const int64_t steps = with.steps, batch = with.batch, n = with.n, size = batch * n;
  STD_TORCH_CHECK(psc_gradient.is_cpu() && psc_gradient.dim() == 3 && psc_gradient.size(0) == steps &&
                      psc_gradient.size(1) == batch && psc_gradient.size(2) == n,
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_bf16(psc_gradient) || psc_gradient.scalar_type() == type,
                  "tsslbp: psc_gradient is neither bfloat16 nor of the membrane's type");
  const auto last = with.handed(after, type);
  std::vector<Tensor> made;
  with_type(membrane, [&](auto zero) {
    using T = decltype(zero);
    const bool rows = psc_gradient.stride(2) == 1 && psc_gradient.stride(1) == n;  // steps may repeat
    const Tensor e = rows ? psc_gradient : torch::stable::contiguous(psc_gradient), u = torch::stable::contiguous(membrane);
    const auto add = [&](std::vector<int64_t> shape, ScalarType as) {
      made.push_back(torch::stable::new_empty(u, shape, as));
      return made.back().mutable_data_ptr();
    };
    with_constants<T>(table, neuron, n, [&](const auto& constants) {
      using Constants = std::decay_t<decltype(constants)>;
      const RecurrentLayer<T, Constants> layer = with.layer<T>(constants);
      void* delta = add({steps, batch, n}, bf16 ? ScalarType::BFloat16 : type);
      T* back = state ? static_cast<T*>(add({with.rows(), batch, n}, type)) : nullptr;
      T* by_constant = table ? static_cast<T*>(add({3, batch, n}, type)) : nullptr;
      if (table) std::fill_n(by_constant, 3 * size, T(0));
      STD_TORCH_CHECK(learns != 1 || layer.one_tau_s, "tsslbp: tau_s differs from neuron to neuron, so learns must be 2");
      T* heard = learns == 2 ? static_cast<T*>(add({steps, batch, n}, type)) : nullptr;
      T* lateral_gradient = learns == 1 ? static_cast<T*>(add({n, n}, type)) : nullptr;
      std::optional<Tensor> filtered;
      if (learns == 1) filtered = torch::stable::new_empty(u, {steps, batch, n}, type);
      with_rule(Gradient<T>{}, constants, numbers, [&](const auto& rule_) {
        const std::function<void(const Gradient<T>&)> neurons = [&](const Gradient<T>& gradient) {
          auto op = rule_;
          op.g = gradient;
          run_here<T>(op, gradient.n);
        };
        in_parallel(RecurrentBackward<T, Constants>{
                        layer, neurons, through_lateral, numbers.through_reset, asks_psc,
                        Source<T>{e.data_ptr(), e.stride(0), is_bf16(e), {}}, data<T>(last), u.const_data_ptr<T>(),
                        with.lateral.const_data_ptr<T>(), Target<T>{delta, size, bf16, {}},
                        filtered ? filtered->mutable_data_ptr<T>() : nullptr, back, by_constant, heard},
                    batch, with.grain());
      });
      if (filtered)
        in_parallel(LateralGradient<T, Constants>{layer, u.const_data_ptr<T>(), data<T>(filtered), lateral_gradient}, n,
                    GRAIN / std::max<int64_t>(1, steps * batch));
    });
  });
  return made;
}

}  // namespace tsslbp

#define TSSLBP_BACKWARD                                                               \
  "_backward(Tensor psc_gradient, Tensor membrane, Tensor? response, Tensor? state, "      \
  "Tensor? carry, Tensor? constants, float[] neuron, float[] rule, float[] pool, bool bf16) -> Tensor[]"
#define TSSLBP_RECURRENT_BACKWARD                                                                              \
  "_recurrent_backward(Tensor psc_gradient, Tensor? after, Tensor membrane, Tensor lateral, Tensor? state, "   \
  "Tensor? constants, float[] neuron, float[] adaptation, float[] rule, bool through_lateral, bool bf16, int learns) -> Tensor[]"
