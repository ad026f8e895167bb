// The operations as PyTorch operators, on the LibTorch stable ABI. Layouts, fake kernels and the engine are in kernels/cpp.py.
// Sequences are [steps, n], contiguous; only a gradient may have another stride from one step to the next. Numbers come in
// groups (numbers.h), and names are numbers too: PyTorch 2.13 leaks every string, but no list, that an operator of its stable
// ABI takes or returns (pytorch issue 191340). These 48 bytes fragmented the heap until it had outgrown the machine. Only
// `names` returns a string, and is called once.
#include "recurrent.h"
#include "rules.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Every operator checks all tensors and numbers before it computes, since a caller may use `torch.ops.tsslbp` without
// kernels/cpp.py.

bool is_half(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

bool is_full(const Tensor& x) { return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double; }

void check_sequence(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cpu(), "tsslbp: ", name, " is not on the CPU");
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1, "tsslbp: ", name, " is not [T, N] with T at least 1");
}

std::optional<Tensor> checked_response(const std::optional<Tensor>& response, ScalarType type) {
  if (!response) return response;
  STD_TORCH_CHECK(response->is_cpu() && response->dim() == 1 && response->size(0) >= 1 && response->scalar_type() == type,
                  "tsslbp: response is not [T] of the membrane's type on the CPU with T at least 1");
  return torch::stable::contiguous(*response);
}

// Contiguous, if it is [2, n] of a type.
std::optional<Tensor> checked_handed(const std::optional<Tensor>& x, int64_t n, ScalarType type) {
  if (!x) return x;
  STD_TORCH_CHECK(x->is_cpu() && x->dim() == 2 && x->size(0) == 2 && x->size(1) == n && x->scalar_type() == type,
                  "tsslbp: what one part of a sequence hands to the next is not [2, N] of the membrane's type on the CPU");
  return torch::stable::contiguous(*x);
}

// Pooling of n neurons, if they are whole images.
Pool checked_pool(const std::vector<double>& numbers, int64_t n) {
  if (numbers.empty()) return {};
  const Pool pool(Fields("pool", numbers));
  int64_t image = 0;
  STD_TORCH_CHECK(!__builtin_mul_overflow(pool.height, pool.width, &image) &&
                      !__builtin_mul_overflow(image, pool.channels, &image) && n % image == 0,
                  "tsslbp: neurons are not whole images of pool.height × pool.width × pool.channels");
  return pool;
}

// Calls f(T()) with the type that x is computed in.
template <class F>
void with_type(const Tensor& x, const F& f) {
  STD_TORCH_CHECK(is_half(x) || is_full(x), "tsslbp: a sequence is not float32, float64 or, where it may be, bfloat16");
  if (x.scalar_type() == ScalarType::Double) return f(double());
  f(float());
}

template <class T>
const T* data(const std::optional<Tensor>& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

// Calls f(constants) with those of the neurons: numbers if they are alike, or a table [3, period] of τm, τs and θ.
template <class T, class F>
void with_constants(const std::optional<Tensor>& table, const std::vector<double>& neuron, int64_t n, const F& f) {
  if (!table) {
    const NeuronNumbers c{Fields("neuron", neuron)};
    return f(Alike<T>{Neuron<T>(c)});
  }
  Fields("neuron beside constants", neuron).end();
  constexpr auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(table->is_cpu() && table->dim() == 2 && table->size(0) == 3 && table->size(1) >= 1 &&
                      table->scalar_type() == type,
                  "tsslbp: constants are not [3, P] of the membrane's type on the CPU with P at least 1");
  const int64_t period = table->size(1);
  STD_TORCH_CHECK(n % period == 0, "tsslbp: neurons are not a multiple of constants");
  const Tensor rows = torch::stable::contiguous(*table);
  const T* x = rows.const_data_ptr<T>();
  const std::vector<T> made = Varied<T>::make_table(x, x + period, x + 2 * period, period);
  f(Varied<T>{made.data(), period});
}

// Post-synaptic current; the membrane potential, if it is to be kept; and, given a state, the state after.
std::vector<Tensor> lif(const Tensor& current, const std::optional<Tensor>& response, const std::optional<Tensor>& state,
                        const std::optional<Tensor>& table, const std::vector<double>& neuron, const std::vector<double>& pooling, bool half, bool keep) {
  check_sequence(current, "current");
  STD_TORCH_CHECK(!response || current.size(0) == 1, "tsslbp: a constant current is not [1, N]");
  const auto full = current.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!half || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
  const int64_t n = current.size(1);
  const auto response_ = checked_response(response, full), before = checked_handed(state, n, full);
  const Pool pool = checked_pool(pooling, n);
  const int64_t steps = response ? response->size(0) : current.size(0), outputs = pool.outputs(n);
  std::vector<Tensor> made;
  made.reserve(3);
  with_type(current, [&](auto zero) {
    using T = decltype(zero);
    const Tensor in = torch::stable::contiguous(current);
    const auto add = [&](int64_t rows, int64_t columns, ScalarType type) {
      made.push_back(torch::stable::new_empty(in, {rows, columns}, type));
      return made.back().mutable_data_ptr();
    };
    with_constants<T>(table, neuron, n, [&](const auto& constants) {
      void* psc = add(steps, outputs, half ? ScalarType::BFloat16 : full);
      T* membrane = keep ? static_cast<T*>(add(steps, n, full)) : nullptr;
      T* after = before ? static_cast<T*>(add(2, n, full)) : nullptr;
      const Forward<T, std::decay_t<decltype(constants)>> op{
          Source<T>{in.data_ptr(), response ? 0 : n, is_half(in), {}}, data<T>(response_), membrane,
          Target<T>{psc, outputs, half, pool}, {data<T>(before), n}, {after, n}, steps, n, constants};
      sweep<T>(op, steps, n, pool);
    });
  });
  return made;
}

// δ by the rule of these numbers; given a state, the carry for the step before; and, given a table, gradients of each neuron's
// constants, [3, n].
template <class Numbers>
std::vector<Tensor> backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& response,
                             const std::optional<Tensor>& state, const std::optional<Tensor>& carry,
                             const std::optional<Tensor>& table, const std::vector<double>& neuron, const std::vector<double>& rule,
                             const std::vector<double>& pooling, bool half) {
  check_sequence(membrane, "membrane");
  check_sequence(psc_gradient, "psc_gradient");
  const auto type = membrane.scalar_type();
  const int64_t steps = membrane.size(0), n = membrane.size(1);
  STD_TORCH_CHECK(is_full(membrane), "tsslbp: membrane is neither float32 nor float64");
  STD_TORCH_CHECK(!half || type == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const Numbers numbers{Fields(Numbers::GROUP, rule)};
  const Pool pool = checked_pool(pooling, n);
  STD_TORCH_CHECK(psc_gradient.size(0) == steps && psc_gradient.size(1) == pool.outputs(n),
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_half(psc_gradient) || psc_gradient.scalar_type() == type,
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
      made.push_back(torch::stable::new_empty(u, {response ? 1 : steps, n}, half && !response ? ScalarType::BFloat16 : type));
      if (before) made.push_back(torch::stable::new_empty(u, {2, n}, type));
      if (table) made.push_back(torch::stable::new_empty(u, {3, n}, type));
      const Gradient<T> gradient{Source<T>{e.data_ptr(), e.stride(0), is_half(e), pool, pool.outputs(n)}, u.const_data_ptr<T>(),
                                 data<T>(response_), Target<T>{made[0].mutable_data_ptr(), n, half && !response, {}},
                                 {data<T>(before), n}, {data<T>(next), n}, {before ? made[1].mutable_data_ptr<T>() : nullptr, n},
                                 steps, n, table ? made.back().mutable_data_ptr<T>() : nullptr};
      with_rule(gradient, constants, numbers, [&](const auto& op) { sweep<T>(op, steps, n, pool); });
    });
  });
  return made;
}

namespace {

// Common arguments of both operators of a recurrent layer, checked.
struct RecurrentOperands {
  int64_t steps, batch, n;
  std::optional<AdaptationNumbers> adaptation;
  Tensor lateral;  // [n, n], contiguous
  std::optional<Tensor> state;

  RecurrentOperands(const Tensor& sequence, ScalarType full, const Tensor& lateral_, const std::optional<Tensor>& state_,
                    const std::optional<Tensor>& table, const std::vector<double>& adaptation_)
      : steps((check(sequence), sequence.size(0))), batch(sequence.size(1)), n(sequence.size(2)) {
    STD_TORCH_CHECK(!table || n == 0 || (table->dim() == 2 && table->size(1) == n), "tsslbp: constants are not [3, N]");
    if (!adaptation_.empty()) adaptation.emplace(AdaptationNumbers{Fields("adaptation", adaptation_)});
    STD_TORCH_CHECK(lateral_.is_cpu() && lateral_.dim() == 2 && lateral_.size(0) == n && lateral_.size(1) == n &&
                        lateral_.scalar_type() == full,
                    "tsslbp: lateral is not [N, N] of the membrane's type on the CPU");
    STD_TORCH_CHECK(n < (int64_t(1) << 31), "tsslbp: that many neurons cannot hear each other");
    lateral = torch::stable::contiguous(lateral_);
    state = handed(state_, full);
  }

  static void check(const Tensor& x) {
    STD_TORCH_CHECK(x.is_cpu() && x.dim() == 3 && x.size(0) >= 1,
                    "tsslbp: the sequence of a recurrent layer is not [T, B, N] on the CPU with T at least 1");
  }
  int64_t rows() const { return adaptation ? 5 : 3; }

  // Contiguous, if it is a state of the layer or the gradient of one.
  std::optional<Tensor> handed(const std::optional<Tensor>& x, ScalarType full) const {
    if (!x) return x;
    STD_TORCH_CHECK(x->is_cpu() && x->dim() == 3 && x->size(0) == rows() && x->size(1) == batch && x->size(2) == n &&
                        x->scalar_type() == full,
                    "tsslbp: a recurrent layer's state is not [", rows(), ", B, N] of the membrane's type on the CPU");
    return torch::stable::contiguous(*x);
  }

  template <class T, class Constants>
  RecurrentLayer<T, Constants> layer(const Constants& constants) const {
    const double decay = adaptation ? 1 - 1 / adaptation->tau_a : 0, beta = adaptation ? adaptation->beta : 0;
    bool one_tau_s = true;
    const auto c = constants.at(0, n);
    for (int64_t j = 1; j < n; ++j) one_tau_s &= c.tau_s(j) == c.tau_s(0);
    return {steps, batch, n, constants, one_tau_s, adaptation.has_value(), T(decay), T(beta), data<T>(state)};
  }

  int64_t grain() const { return GRAIN / std::max<int64_t>(1, steps * n); }  // samples worth another thread
};

}  // namespace

// Post-synaptic current, state after the last step and, if it is to be kept, the membrane potential.
std::vector<Tensor> recurrent(const Tensor& drive, const Tensor& lateral, const std::optional<Tensor>& state,
                              const std::optional<Tensor>& table, const std::vector<double>& neuron,
                              const std::vector<double>& adaptation, bool half, bool keep) {
  const auto full = drive.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!half || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
  const RecurrentOperands with(drive, full, lateral, state, table, adaptation);
  const int64_t steps = with.steps, batch = with.batch, n = with.n, size = batch * n;
  std::vector<Tensor> made;
  with_type(drive, [&](auto zero) {
    using T = decltype(zero);
    const Tensor in = torch::stable::contiguous(drive);
    const Tensor heard = torch::stable::contiguous(torch::stable::transpose(with.lateral, 0, 1));
    made.push_back(torch::stable::new_empty(in, {steps, batch, n}, half ? ScalarType::BFloat16 : full));
    made.push_back(torch::stable::new_empty(in, {with.rows(), batch, n}, full));
    if (keep) made.push_back(torch::stable::new_empty(in, {steps, batch, n}, full));
    std::vector<T> unheard(n);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < n; ++i) unheard[i] += 0 * heard.const_data_ptr<T>()[j * n + i];
    with_constants<T>(table, neuron, n, [&](const auto& constants) {
      in_parallel(RecurrentForward<T, std::decay_t<decltype(constants)>>{
                      with.layer<T>(constants), Source<T>{in.data_ptr(), size, is_half(in), {}}, heard.const_data_ptr<T>(),
                      unheard.data(), keep ? made[2].mutable_data_ptr<T>() : nullptr,
                      Target<T>{made[0].mutable_data_ptr(), size, half, {}}, made[1].mutable_data_ptr<T>()},
                  batch, with.grain());
    });
  });
  return made;
}

// Whether the rule asks for the post-synaptic current. Raises if it must know the whole sequence at once.
bool needs_psc(const TsslNumbers& rule) {
  STD_TORCH_CHECK(rule.fallback != Fallback::rate && !(rule.error_reset && (rule.reset || rule.leak)),
                  "tsslbp: this rule takes no parts, which are a recurrent layer's steps");
  return rule.fallback == Fallback::quiet;
}
bool needs_psc(const SurrogateNumbers&) { return false; }

// Gradient of the drive; given a state, of the state; given a table, of constants in each sample, [3, batch, n]; and, by
// `learns`, nothing more (0), the gradient of the lateral weights, transposed (1), or a[t-1], from which it can be formed (2).
template <class Numbers>
std::vector<Tensor> recurrent_backward(const Tensor& psc_gradient, const std::optional<Tensor>& after, const Tensor& membrane,
                                       const Tensor& lateral, const std::optional<Tensor>& state,
                                       const std::optional<Tensor>& table, const std::vector<double>& neuron,
                                       const std::vector<double>& adaptation, const std::vector<double>& rule,
                                       bool through_lateral, bool half, int64_t learns) {
  const auto type = membrane.scalar_type();
  STD_TORCH_CHECK(is_full(membrane), "tsslbp: membrane is neither float32 nor float64");
  STD_TORCH_CHECK(!half || type == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const Numbers numbers{Fields(Numbers::GROUP, rule)};
  const bool asks_psc = needs_psc(numbers) || table || learns == 2;
  STD_TORCH_CHECK(learns >= 0 && learns <= 2, "tsslbp: learns is ", learns, "; it must be from 0 to 2");
  const RecurrentOperands with(membrane, type, lateral, state, table, adaptation);
  const int64_t steps = with.steps, batch = with.batch, n = with.n, size = batch * n;
  STD_TORCH_CHECK(psc_gradient.is_cpu() && psc_gradient.dim() == 3 && psc_gradient.size(0) == steps &&
                      psc_gradient.size(1) == batch && psc_gradient.size(2) == n,
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_half(psc_gradient) || psc_gradient.scalar_type() == type,
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
      void* delta = add({steps, batch, n}, half ? ScalarType::BFloat16 : type);
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
                        Source<T>{e.data_ptr(), e.stride(0), is_half(e), {}}, data<T>(last), u.const_data_ptr<T>(),
                        with.lateral.const_data_ptr<T>(), Target<T>{delta, size, half, {}},
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

// The instruction set in use; then the fallbacks and the shapes, in the order of their numbers.
std::string names() {
  const char* in_use[] = {"baseline", "avx2", "avx512"};
  return std::string(in_use[static_cast<int>(capability())]) + "|" + FALLBACKS + "|" + SHAPES;
}

}  // namespace tsslbp

STABLE_TORCH_LIBRARY(tsslbp, m) {
  m.def("lif(Tensor current, Tensor? response, Tensor? state, Tensor? constants, float[] neuron, float[] pool, bool half, bool keep) -> Tensor[]");
#define TSSLBP_BACKWARD                                                               \
  "_backward(Tensor psc_gradient, Tensor membrane, Tensor? response, Tensor? state, "      \
  "Tensor? carry, Tensor? constants, float[] neuron, float[] rule, float[] pool, bool half) -> Tensor[]"
  m.def("tssl" TSSLBP_BACKWARD);
  m.def("surrogate" TSSLBP_BACKWARD);
  m.def("eventprop" TSSLBP_BACKWARD);
  m.def("recurrent(Tensor drive, Tensor lateral, Tensor? state, Tensor? constants, float[] neuron, float[] adaptation, bool half, bool keep) -> Tensor[]");
#define TSSLBP_RECURRENT_BACKWARD                                                                              \
  "_recurrent_backward(Tensor psc_gradient, Tensor? after, Tensor membrane, Tensor lateral, Tensor? state, "   \
  "Tensor? constants, float[] neuron, float[] adaptation, float[] rule, bool through_lateral, bool half, int learns) -> Tensor[]"
  m.def("tssl" TSSLBP_RECURRENT_BACKWARD);
  m.def("surrogate" TSSLBP_RECURRENT_BACKWARD);
  m.def("names() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("lif", TORCH_BOX(&tsslbp::lif));
  m.impl("tssl_backward", TORCH_BOX(&tsslbp::backward<tsslbp::TsslNumbers>));
  m.impl("surrogate_backward", TORCH_BOX(&tsslbp::backward<tsslbp::SurrogateNumbers>));
  m.impl("eventprop_backward", TORCH_BOX(&tsslbp::backward<tsslbp::EventPropNumbers>));
  m.impl("recurrent", TORCH_BOX(&tsslbp::recurrent));
  m.impl("tssl_recurrent_backward", TORCH_BOX(&tsslbp::recurrent_backward<tsslbp::TsslNumbers>));
  m.impl("surrogate_recurrent_backward", TORCH_BOX(&tsslbp::recurrent_backward<tsslbp::SurrogateNumbers>));
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CompositeExplicitAutograd, m) { m.impl("names", TORCH_BOX(&tsslbp::names)); }
