// The operations as PyTorch operators, on the LibTorch stable ABI. What surrounds them (layouts, fake kernels, the
// documented functions) is in kernels/cpu.py. Sequences are [steps, n], contiguous; only a gradient may have another stride
// from one step to the next. Choices are passed as numbers of enumerators, since PyTorch 2.13 leaks every string that an
// operator of its stable ABI takes or returns (pytorch issue 191340): 48 bytes, but strewn over the heap they broke up the
// large blocks until it had outgrown the machine.
#include "neuron.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <optional>
#include <tuple>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f(T()) with the type that x is computed in.
template <class F>
void with_type(const Tensor& x, const F& f) {
  STD_TORCH_CHECK(x.is_cpu(), "tsslbp: a tensor is not on the CPU");
  if (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16) return f(float());
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double, "tsslbp: a tensor is neither float32 nor float64");
  f(double());
}

template <class T>
const T* data(const std::optional<Tensor>& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

std::optional<Tensor> checked_gain(const std::optional<Tensor>& gain, ScalarType type) {
  if (!gain) return gain;
  STD_TORCH_CHECK(gain->dim() == 1 && gain->scalar_type() == type, "tsslbp: gain is not [T] of the membrane's type");
  return torch::stable::contiguous(*gain);
}

// Contiguous, if it is [2, n] of a type.
std::optional<Tensor> checked_handed(const std::optional<Tensor>& x, int64_t n, ScalarType type) {
  if (!x) return x;
  STD_TORCH_CHECK(x->dim() == 2 && x->size(0) == 2 && x->size(1) == n && x->scalar_type() == type,
                  "tsslbp: what one part of a sequence hands to the next is not [2, N] of the membrane's type");
  return torch::stable::contiguous(*x);
}

// New and of the same shape; empty if there was none.
Tensor handed_on(const std::optional<Tensor>& x, const Tensor& like, ScalarType type) {
  return x ? torch::stable::new_empty(like, {2, x->size(1)}, type) : torch::stable::new_empty(like, {0}, type);
}

template <class T>
Handed<T> handed(const std::optional<Tensor>& x, int64_t n) {
  return {x ? const_cast<T*>(x->const_data_ptr<T>()) : nullptr, n};
}

bool is_half(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

// Neurons as [image, pool_height, pool_width, pool_channels]; no pooling if pool_size is 0.
Pool checked_pool(int64_t n, int64_t size, int64_t height, int64_t width, int64_t channels, double gain) {
  if (!size) return {};
  const Pool pool{size, height, width, channels, gain};
  STD_TORCH_CHECK(size > 0 && size <= height && size <= width && channels > 0, "tsslbp: pooling windows do not fit");
  STD_TORCH_CHECK(n % (height * width * channels) == 0, "tsslbp: neurons are not whole images");
  return pool;
}

// Post-synaptic currents of `n` neurons in a step.
int64_t outputs(int64_t n, const Pool& pool) {
  return pool.size ? n / (pool.height * pool.width * pool.channels) * pool.pooled_height() * pool.row() : n;
}

// Post-synaptic current and, given a state, the state after.
std::tuple<Tensor, Tensor> forward(const Tensor& current, const std::optional<Tensor>& gain, const std::optional<Tensor>& state,
                                   double tau_m, double tau_s, double threshold, bool half, int64_t pool_size,
                                   int64_t pool_height, int64_t pool_width, int64_t pool_channels, double pool_gain,
                                   std::optional<Tensor>* membrane) {
  STD_TORCH_CHECK(current.dim() == 2, "tsslbp: current is not [T, N]");
  STD_TORCH_CHECK(!gain || current.size(0) == 1, "tsslbp: a constant current is not [1, N]");
  const Tensor in = torch::stable::contiguous(current);
  const int64_t steps = gain ? gain->size(0) : in.size(0), n = in.size(1);
  const Pool pool = checked_pool(n, pool_size, pool_height, pool_width, pool_channels, pool_gain);
  const int64_t made = outputs(n, pool);
  const auto full = in.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!half || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
  Tensor psc = torch::stable::new_empty(in, {steps, made}, half ? ScalarType::BFloat16 : full);
  if (membrane) *membrane = torch::stable::new_empty(in, {steps, n}, full);
  const auto gain_ = checked_gain(gain, full), before = checked_handed(state, n, full);
  const Tensor after = handed_on(before, in, full);
  with_type(in, [&](auto zero) {
    using T = decltype(zero);
    T* trace = membrane ? (*membrane)->template mutable_data_ptr<T>() : nullptr;
    const Forward<T> op{Source<T>{in.data_ptr(), gain ? 0 : n, is_half(in), {}},
                        data<T>(gain_),
                        trace,
                        Target<T>{psc.data_ptr(), made, half, pool},
                        handed<T>(before, n),
                        handed<T>(before ? std::optional<Tensor>(after) : std::nullopt, n),
                        steps,
                        n,
                        Neuron<T>(tau_m, tau_s, threshold)};
    sweep<T>(op, steps, n, pool);
  });
  return {psc, after};
}

std::tuple<Tensor, Tensor, Tensor> lif_forward(const Tensor& current, const std::optional<Tensor>& gain,
                                               const std::optional<Tensor>& state, double tau_m, double tau_s,
                                               double threshold, bool half, int64_t pool_size, int64_t pool_height,
                                               int64_t pool_width, int64_t pool_channels, double pool_gain) {
  std::optional<Tensor> membrane;
  const auto [psc, after] = forward(current, gain, state, tau_m, tau_s, threshold, half, pool_size, pool_height, pool_width,
                                    pool_channels, pool_gain, &membrane);
  return {*membrane, psc, after};
}

std::tuple<Tensor, Tensor> lif_psc(const Tensor& current, const std::optional<Tensor>& gain, const std::optional<Tensor>& state,
                                   double tau_m, double tau_s, double threshold, bool half, int64_t pool_size,
                                   int64_t pool_height, int64_t pool_width, int64_t pool_channels, double pool_gain) {
  return forward(current, gain, state, tau_m, tau_s, threshold, half, pool_size, pool_height, pool_width, pool_channels,
                 pool_gain, nullptr);
}

// Calls f(T(), Gradient<T>) with checked and contiguous operands; returns what f fills: δ and, given a state, what is
// handed to the step before.
template <class F>
std::tuple<Tensor, Tensor> backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain,
                                    const std::optional<Tensor>& state, const std::optional<Tensor>& carry, bool half,
                                    const Pool& pool, const F& f) {
  STD_TORCH_CHECK(membrane.dim() == 2 && psc_gradient.dim() == 2 && psc_gradient.size(0) == membrane.size(0) &&
                      psc_gradient.size(1) == outputs(membrane.size(1), pool),
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_half(psc_gradient) || psc_gradient.scalar_type() == membrane.scalar_type(),
                  "tsslbp: psc_gradient is neither bfloat16 nor of the membrane's type");
  const int64_t steps = membrane.size(0), n = membrane.size(1);
  STD_TORCH_CHECK(!gain || gain->size(0) == steps, "tsslbp: gain is not [T]");
  STD_TORCH_CHECK(!half || membrane.scalar_type() == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const bool rows = psc_gradient.size(1) <= 1 || psc_gradient.stride(1) == 1;
  const Tensor e = rows ? psc_gradient : torch::stable::contiguous(psc_gradient), u = torch::stable::contiguous(membrane);
  const auto gain_ = checked_gain(gain, u.scalar_type());
  const auto before = checked_handed(state, n, u.scalar_type()), next = checked_handed(carry, n, u.scalar_type());
  const Tensor back = handed_on(before, u, u.scalar_type());
  Tensor out = torch::stable::new_empty(u, {gain ? 1 : steps, n}, half && !gain ? ScalarType::BFloat16 : u.scalar_type());
  with_type(u, [&](auto zero) {
    using T = decltype(zero);
    f(zero, Gradient<T>{Source<T>{e.data_ptr(), e.stride(0), is_half(e), pool}, u.const_data_ptr<T>(), data<T>(gain_),
                        Target<T>{out.data_ptr(), n, half && !gain, {}}, handed<T>(before, n), handed<T>(next, n),
                        handed<T>(before ? std::optional<Tensor>(back) : std::nullopt, n), steps, n});
  });
  return {out, back};
}

// The share of steps with a spike over all neurons.
template <class T>
T firing_rate(const T* membrane, int64_t size, T threshold) {
  std::atomic<int64_t> total{0};
  torch::stable::parallel_for(0, size, GRAIN, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += membrane[i] > threshold;
    total += count;
  });
  return T(total) / T(size);
}

std::tuple<Tensor, Tensor> tssl_backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain,
                                         const std::optional<Tensor>& state, const std::optional<Tensor>& carry, double tau_m,
                                         double tau_s, double threshold, bool timing, bool inter, bool reset, bool leak,
                                         int64_t fallback, double clip, double fallback_width, double fallback_range,
                                         double rate_limit, bool half, int64_t pool_size, int64_t pool_height,
                                         int64_t pool_width, int64_t pool_channels, double pool_gain) {
  const Pool pool = checked_pool(membrane.size(1), pool_size, pool_height, pool_width, pool_channels, pool_gain);
  STD_TORCH_CHECK(fallback_range <= 8, "tsslbp: the fallback's logistic is computed for arguments up to 8");
  return backward(psc_gradient, membrane, gain, state, carry, half, pool, [&](auto zero, const auto& g) {
    using T = decltype(zero);
    const Neuron<T> c(tau_m, tau_s, threshold);
    const TsslOptions<T> o{mask<T>(timing), mask<T>(inter), mask<T>(reset), mask<T>(leak), T(clip), T(fallback_width), T(fallback_range)};
    auto where = static_cast<Fallback>(fallback);
    if (where == Fallback::rate) where = firing_rate(g.membrane, g.steps * g.n, c.threshold) > T(rate_limit) ? Fallback::never : Fallback::always;
    if (where == Fallback::quiet) return sweep<T>(TsslBackward<T, Fallback::quiet>{g, c, o}, g.steps, g.n, pool);
    if (where == Fallback::no_spike) return sweep<T>(TsslBackward<T, Fallback::no_spike>{g, c, o}, g.steps, g.n, pool);
    if (where == Fallback::never) return sweep<T>(TsslBackward<T, Fallback::never>{g, c, o}, g.steps, g.n, pool);
    if (where == Fallback::always) return sweep<T>(TsslBackward<T, Fallback::always>{g, c, o}, g.steps, g.n, pool);
    STD_TORCH_CHECK(false, "tsslbp: unknown fallback ", fallback);
  });
}

std::tuple<Tensor, Tensor> surrogate_backward(const Tensor& psc_gradient, const Tensor& membrane,
                                              const std::optional<Tensor>& gain, const std::optional<Tensor>& state,
                                              const std::optional<Tensor>& carry, double tau_m, double tau_s, double threshold,
                                              int64_t shape, double slope, double scale, bool through_reset, bool half,
                                              int64_t pool_size, int64_t pool_height, int64_t pool_width,
                                              int64_t pool_channels, double pool_gain) {
  const Pool pool = checked_pool(membrane.size(1), pool_size, pool_height, pool_width, pool_channels, pool_gain);
  return backward(psc_gradient, membrane, gain, state, carry, half, pool, [&](auto zero, const auto& g) {
    using T = decltype(zero);
    const Neuron<T> c(tau_m, tau_s, threshold);
#define TSSLBP_SHAPE(name) \
  if (static_cast<Shape>(shape) == Shape::name) return sweep<T>(SurrogateBackward<T, Shape::name>{g, c, T(slope), T(scale), mask<T>(through_reset)}, g.steps, g.n, pool);
    TSSLBP_SHAPE(fast_sigmoid)
    TSSLBP_SHAPE(sigmoid)
    TSSLBP_SHAPE(atan)
    TSSLBP_SHAPE(triangular)
    TSSLBP_SHAPE(rectangular)
    TSSLBP_SHAPE(gaussian)
    TSSLBP_SHAPE(exponential)
#undef TSSLBP_SHAPE
    STD_TORCH_CHECK(false, "tsslbp: unknown surrogate shape ", shape);
  });
}

int64_t cpu_capability() { return static_cast<int64_t>(capability()); }

}  // namespace tsslbp

#define TSSLBP_FORM \
  "bool half, int pool_size, int pool_height, int pool_width, int pool_channels, float pool_gain"

STABLE_TORCH_LIBRARY(tsslbp, m) {
  m.def("lif_forward(Tensor current, Tensor? gain, Tensor? state, float tau_m, float tau_s, float threshold, " TSSLBP_FORM
        ") -> (Tensor membrane, Tensor psc, Tensor after)");
  m.def("lif_psc(Tensor current, Tensor? gain, Tensor? state, float tau_m, float tau_s, float threshold, " TSSLBP_FORM
        ") -> (Tensor psc, Tensor after)");
  m.def(
      "tssl_backward(Tensor psc_gradient, Tensor membrane, Tensor? gain, Tensor? state, Tensor? carry, "
      "float tau_m, float tau_s, float threshold, "
      "bool timing, bool inter, bool reset, bool leak, int fallback, float clip, float fallback_width, float fallback_range, "
      "float rate_limit, " TSSLBP_FORM ") -> (Tensor delta, Tensor back)");
  m.def(
      "surrogate_backward(Tensor psc_gradient, Tensor membrane, Tensor? gain, Tensor? state, Tensor? carry, "
      "float tau_m, float tau_s, float threshold, "
      "int shape, float slope, float scale, bool through_reset, " TSSLBP_FORM ") -> (Tensor delta, Tensor back)");
  m.def("cpu_capability() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("lif_forward", TORCH_BOX(&tsslbp::lif_forward));
  m.impl("lif_psc", TORCH_BOX(&tsslbp::lif_psc));
  m.impl("tssl_backward", TORCH_BOX(&tsslbp::tssl_backward));
  m.impl("surrogate_backward", TORCH_BOX(&tsslbp::surrogate_backward));
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CompositeExplicitAutograd, m) { m.impl("cpu_capability", TORCH_BOX(&tsslbp::cpu_capability)); }
