// The operations as PyTorch operators, on the LibTorch stable ABI. What surrounds them (layouts, fake kernels, the
// documented functions) is in kernels/cpu.py. Sequences are [steps, n], contiguous; only a gradient may have another stride
// from one step to the next.
#include "neuron.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <optional>
#include <string>
#include <tuple>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f(T()) with the type of x.
template <class F>
void with_type(const Tensor& x, const F& f) {
  STD_TORCH_CHECK(x.is_cpu(), "tsslbp: a tensor is not on the CPU");
  if (x.scalar_type() == ScalarType::Float) return f(float());
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double, "tsslbp: a tensor is neither float32 nor float64");
  f(double());
}

template <class T>
const T* data(const std::optional<Tensor>& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

std::optional<Tensor> checked_gain(const std::optional<Tensor>& gain, const Tensor& like) {
  if (!gain) return gain;
  STD_TORCH_CHECK(gain->dim() == 1 && gain->scalar_type() == like.scalar_type(), "tsslbp: gain is not [T] of the same type");
  return torch::stable::contiguous(*gain);
}

Tensor forward(const Tensor& current, const std::optional<Tensor>& gain, double tau_m, double tau_s, double threshold,
               std::optional<Tensor>* membrane) {
  STD_TORCH_CHECK(current.dim() == 2, "tsslbp: current is not [T, N]");
  STD_TORCH_CHECK(!gain || current.size(0) == 1, "tsslbp: a constant current is not [1, N]");
  const Tensor in = torch::stable::contiguous(current);
  const auto gain_ = checked_gain(gain, in);
  const int64_t steps = gain ? gain->size(0) : in.size(0), n = in.size(1);
  Tensor psc = torch::stable::new_empty(in, {steps, n});
  if (membrane) *membrane = torch::stable::new_empty(in, {steps, n});
  with_type(in, [&](auto zero) {
    using T = decltype(zero);
    T* trace = membrane ? (*membrane)->template mutable_data_ptr<T>() : nullptr;
    const Forward<T> op{in.const_data_ptr<T>(), data<T>(gain_), trace, psc.mutable_data_ptr<T>(), steps, n,
                        Neuron<T>(tau_m, tau_s, threshold)};
    sweep<T>(op, steps, n);
  });
  return psc;
}

std::tuple<Tensor, Tensor> lif_forward(const Tensor& current, const std::optional<Tensor>& gain, double tau_m, double tau_s,
                                       double threshold) {
  std::optional<Tensor> membrane;
  Tensor psc = forward(current, gain, tau_m, tau_s, threshold, &membrane);
  return {*membrane, psc};
}

Tensor lif_psc(const Tensor& current, const std::optional<Tensor>& gain, double tau_m, double tau_s, double threshold) {
  return forward(current, gain, tau_m, tau_s, threshold, nullptr);
}

// Calls f(T(), Gradient<T>) with checked and contiguous operands; returns what f fills.
template <class F>
Tensor backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain, const F& f) {
  STD_TORCH_CHECK(membrane.dim() == 2 && psc_gradient.dim() == 2 && psc_gradient.size(0) == membrane.size(0) &&
                      psc_gradient.size(1) == membrane.size(1) && psc_gradient.scalar_type() == membrane.scalar_type(),
                  "tsslbp: psc_gradient and membrane are not [T, N] of the same shape and type");
  const int64_t steps = membrane.size(0), n = membrane.size(1);
  STD_TORCH_CHECK(!gain || gain->size(0) == steps, "tsslbp: gain is not [T]");
  const bool rows = n <= 1 || psc_gradient.stride(1) == 1;
  const Tensor e = rows ? psc_gradient : torch::stable::contiguous(psc_gradient), u = torch::stable::contiguous(membrane);
  const auto gain_ = checked_gain(gain, u);
  Tensor out = torch::stable::new_empty(u, {gain ? 1 : steps, n});
  with_type(u, [&](auto zero) {
    using T = decltype(zero);
    f(zero, Gradient<T>{e.const_data_ptr<T>(), e.stride(0), u.const_data_ptr<T>(), data<T>(gain_), out.mutable_data_ptr<T>(),
                        steps, n});
  });
  return out;
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

Tensor tssl_backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain, double tau_m,
                     double tau_s, double threshold, bool timing, bool inter, bool reset, bool leak, std::string fallback,
                     double clip, double fallback_width, double fallback_range, double rate_limit) {
  return backward(psc_gradient, membrane, gain, [&](auto zero, const auto& g) {
    using T = decltype(zero);
    const Neuron<T> c(tau_m, tau_s, threshold);
    const TsslOptions<T> o{mask<T>(timing), mask<T>(inter), mask<T>(reset), mask<T>(leak), T(clip), T(fallback_width), T(fallback_range)};
    if (fallback == "rate") fallback = firing_rate(g.membrane, g.steps * g.n, c.threshold) > T(rate_limit) ? "never" : "always";
    if (fallback == "quiet") return sweep<T>(TsslBackward<T, Fallback::quiet>{g, c, o}, g.steps, g.n);
    if (fallback == "no-spike") return sweep<T>(TsslBackward<T, Fallback::no_spike>{g, c, o}, g.steps, g.n);
    if (fallback == "never") return sweep<T>(TsslBackward<T, Fallback::never>{g, c, o}, g.steps, g.n);
    if (fallback == "always") return sweep<T>(TsslBackward<T, Fallback::always>{g, c, o}, g.steps, g.n);
    STD_TORCH_CHECK(false, "tsslbp: unknown fallback ", fallback);
  });
}

Tensor surrogate_backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain, double tau_m,
                          double tau_s, double threshold, std::string shape, double slope, double scale, bool through_reset) {
  return backward(psc_gradient, membrane, gain, [&](auto zero, const auto& g) {
    using T = decltype(zero);
    const Neuron<T> c(tau_m, tau_s, threshold);
#define TSSLBP_SHAPE(name) \
  if (shape == #name) return sweep<T>(SurrogateBackward<T, Shape::name>{g, c, T(slope), T(scale), mask<T>(through_reset)}, g.steps, g.n);
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

std::string cpu_capability() {
  const char* const names[] = {"baseline", "avx2", "avx512"};
  return names[static_cast<int>(capability())];
}

}  // namespace tsslbp

STABLE_TORCH_LIBRARY(tsslbp, m) {
  m.def("lif_forward(Tensor current, Tensor? gain, float tau_m, float tau_s, float threshold) -> (Tensor membrane, Tensor psc)");
  m.def("lif_psc(Tensor current, Tensor? gain, float tau_m, float tau_s, float threshold) -> Tensor");
  m.def(
      "tssl_backward(Tensor psc_gradient, Tensor membrane, Tensor? gain, float tau_m, float tau_s, float threshold, "
      "bool timing, bool inter, bool reset, bool leak, str fallback, float clip, float fallback_width, float fallback_range, "
      "float rate_limit) -> Tensor");
  m.def(
      "surrogate_backward(Tensor psc_gradient, Tensor membrane, Tensor? gain, float tau_m, float tau_s, float threshold, "
      "str shape, float slope, float scale, bool through_reset) -> Tensor");
  m.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("lif_forward", TORCH_BOX(&tsslbp::lif_forward));
  m.impl("lif_psc", TORCH_BOX(&tsslbp::lif_psc));
  m.impl("tssl_backward", TORCH_BOX(&tsslbp::tssl_backward));
  m.impl("surrogate_backward", TORCH_BOX(&tsslbp::surrogate_backward));
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CompositeExplicitAutograd, m) { m.impl("cpu_capability", TORCH_BOX(&tsslbp::cpu_capability)); }
