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
#include <cmath>
#include <optional>
#include <tuple>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whatever an operator is called with, it computes or raises. So each checks all it is given, tensors and numbers, before
// it computes: a caller may have come past kernels/cpu.py, through `torch.ops.tsslbp`.

bool is_half(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

bool is_full(const Tensor& x) { return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double; }

bool is_positive(double x) { return x > 0 && std::isfinite(x); }

void check_sequence(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cpu(), "tsslbp: ", name, " is not on the CPU");
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1, "tsslbp: ", name, " is not [T, N] with T at least 1");
}

std::optional<Tensor> checked_gain(const std::optional<Tensor>& gain, ScalarType type) {
  if (!gain) return gain;
  STD_TORCH_CHECK(gain->is_cpu() && gain->dim() == 1 && gain->size(0) >= 1 && gain->scalar_type() == type,
                  "tsslbp: gain is not [T] of the membrane's type on the CPU with T at least 1");
  return torch::stable::contiguous(*gain);
}

// Contiguous, if it is [2, n] of a type.
std::optional<Tensor> checked_handed(const std::optional<Tensor>& x, int64_t n, ScalarType type) {
  if (!x) return x;
  STD_TORCH_CHECK(x->is_cpu() && x->dim() == 2 && x->size(0) == 2 && x->size(1) == n && x->scalar_type() == type,
                  "tsslbp: what one part of a sequence hands to the next is not [2, N] of the membrane's type on the CPU");
  return torch::stable::contiguous(*x);
}

template <class T>
Neuron<T> checked_neuron(double tau_m, double tau_s, double threshold) {
  STD_TORCH_CHECK(tau_m >= 1 && tau_s >= 1 && std::isfinite(tau_s), "tsslbp: a time constant is below 1, or tau_s infinite");
  STD_TORCH_CHECK(is_positive(threshold), "tsslbp: threshold is not positive and finite");
  return {tau_m, tau_s, threshold};
}

// Neurons as [image, pool_height, pool_width, pool_channels]; no pooling if pool_size is 0.
Pool checked_pool(int64_t n, int64_t size, int64_t height, int64_t width, int64_t channels, double gain) {
  if (!size) return {};
  int64_t image = 0;
  STD_TORCH_CHECK(size > 0 && size <= height && size <= width && channels > 0, "tsslbp: pooling windows do not fit");
  STD_TORCH_CHECK(!__builtin_mul_overflow(height, width, &image) && !__builtin_mul_overflow(image, channels, &image) &&
                      n % image == 0,
                  "tsslbp: neurons are not whole images");
  return {size, height, width, channels, gain};
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

// New and of the same shape; empty if there was none.
Tensor handed_on(const std::optional<Tensor>& x, const Tensor& like, ScalarType type) {
  return x ? torch::stable::new_empty(like, {2, x->size(1)}, type) : torch::stable::new_empty(like, {0}, type);
}

template <class T>
Handed<T> handed(const std::optional<Tensor>& x, int64_t n) {
  return {x ? const_cast<T*>(x->const_data_ptr<T>()) : nullptr, n};
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
  check_sequence(current, "current");
  STD_TORCH_CHECK(!gain || current.size(0) == 1, "tsslbp: a constant current is not [1, N]");
  const auto full = current.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!half || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
  const int64_t n = current.size(1);
  const auto gain_ = checked_gain(gain, full), before = checked_handed(state, n, full);
  const Pool pool = checked_pool(n, pool_size, pool_height, pool_width, pool_channels, pool_gain);
  const int64_t steps = gain ? gain->size(0) : current.size(0), made = outputs(n, pool);
  Tensor psc, after;
  with_type(current, [&](auto zero) {
    using T = decltype(zero);
    const auto c = checked_neuron<T>(tau_m, tau_s, threshold);
    const Tensor in = torch::stable::contiguous(current);
    psc = torch::stable::new_empty(in, {steps, made}, half ? ScalarType::BFloat16 : full);
    after = handed_on(before, in, full);
    if (membrane) *membrane = torch::stable::new_empty(in, {steps, n}, full);
    T* trace = membrane ? (*membrane)->template mutable_data_ptr<T>() : nullptr;
    const Forward<T> op{Source<T>{in.data_ptr(), gain ? 0 : n, is_half(in), {}},
                        data<T>(gain_),
                        trace,
                        Target<T>{psc.data_ptr(), made, half, pool},
                        handed<T>(before, n),
                        handed<T>(before ? std::optional<Tensor>(after) : std::nullopt, n),
                        steps,
                        n,
                        c};
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

// Calls f(Gradient<T>, Neuron<T>) with checked and contiguous operands; returns what f fills: δ and, given a state, what is
// handed to the step before.
template <class F>
std::tuple<Tensor, Tensor> backward(const Tensor& psc_gradient, const Tensor& membrane, const std::optional<Tensor>& gain,
                                    const std::optional<Tensor>& state, const std::optional<Tensor>& carry, double tau_m,
                                    double tau_s, double threshold, bool half, int64_t pool_size, int64_t pool_height,
                                    int64_t pool_width, int64_t pool_channels, double pool_gain, const F& f) {
  check_sequence(membrane, "membrane");
  check_sequence(psc_gradient, "psc_gradient");
  const auto type = membrane.scalar_type();
  const int64_t steps = membrane.size(0), n = membrane.size(1);
  STD_TORCH_CHECK(is_full(membrane), "tsslbp: membrane is neither float32 nor float64");
  STD_TORCH_CHECK(!half || type == ScalarType::Float, "tsslbp: bfloat16 is computed in float32");
  const Pool pool = checked_pool(n, pool_size, pool_height, pool_width, pool_channels, pool_gain);
  STD_TORCH_CHECK(psc_gradient.size(0) == steps && psc_gradient.size(1) == outputs(n, pool),
                  "tsslbp: psc_gradient is not the gradient of what the membrane made");
  STD_TORCH_CHECK(is_half(psc_gradient) || psc_gradient.scalar_type() == type,
                  "tsslbp: psc_gradient is neither bfloat16 nor of the membrane's type");
  const auto gain_ = checked_gain(gain, type), before = checked_handed(state, n, type), next = checked_handed(carry, n, type);
  STD_TORCH_CHECK(!gain || gain->size(0) == steps, "tsslbp: gain is not [T]");
  STD_TORCH_CHECK(state || !carry, "tsslbp: a carry comes only with a state");
  Tensor out, back;
  with_type(membrane, [&](auto zero) {
    using T = decltype(zero);
    const auto c = checked_neuron<T>(tau_m, tau_s, threshold);
    const bool rows = psc_gradient.size(1) <= 1 || psc_gradient.stride(1) == 1;
    const Tensor e = rows ? psc_gradient : torch::stable::contiguous(psc_gradient), u = torch::stable::contiguous(membrane);
    out = torch::stable::new_empty(u, {gain ? 1 : steps, n}, half && !gain ? ScalarType::BFloat16 : type);
    back = handed_on(before, u, type);
    f(Gradient<T>{Source<T>{e.data_ptr(), e.stride(0), is_half(e), pool}, u.const_data_ptr<T>(), data<T>(gain_),
                  Target<T>{out.data_ptr(), n, half && !gain, {}}, handed<T>(before, n), handed<T>(next, n),
                  handed<T>(before ? std::optional<Tensor>(back) : std::nullopt, n), steps, n},
      c);
  });
  return {out, back};
}

// Over all neurons of its gradient.
template <class T, class Op>
void run(const Op& op) {
  sweep<T>(op, op.g.steps, op.g.n, op.g.psc_gradient.pool);
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
                                         double rate_limit, bool error_reset, bool half, int64_t pool_size,
                                         int64_t pool_height, int64_t pool_width, int64_t pool_channels, double pool_gain) {
  STD_TORCH_CHECK(fallback >= 0 && fallback <= static_cast<int64_t>(Fallback::rate), "tsslbp: unknown fallback ", fallback);
  STD_TORCH_CHECK(clip > 0 && is_positive(fallback_width),
                  "tsslbp: clip is not positive, or fallback_width not positive and finite");
  STD_TORCH_CHECK(fallback_range > 0 && fallback_range <= 8, "tsslbp: the fallback's logistic is for arguments up to 8");
  STD_TORCH_CHECK(rate_limit >= 0 && rate_limit <= 1, "tsslbp: rate_limit is not in [0, 1]");
  return backward(psc_gradient, membrane, gain, state, carry, tau_m, tau_s, threshold, half, pool_size, pool_height, pool_width,
                  pool_channels, pool_gain, [&](const auto& g, const auto& c) {
    using T = decltype(c.threshold);
    const TsslOptions<T> o{mask<T>(timing), mask<T>(inter), mask<T>(reset),          mask<T>(leak),
                           T(clip),         T(fallback_width), T(fallback_range)};
    auto where = static_cast<Fallback>(fallback);
    if (where == Fallback::rate) {
      const bool fires = firing_rate(g.membrane, g.steps * g.n, c.threshold) > T(rate_limit);
      where = fires ? Fallback::never : Fallback::always;
    }
#define TSSLBP_FALLBACK(name)                                                                     \
  if (where == Fallback::name)                                                                    \
    return error_reset ? run<T>(TsslBackward<T, Fallback::name, true>{g, c, o})                   \
                       : run<T>(TsslBackward<T, Fallback::name, false>{g, c, o});
    TSSLBP_FALLBACK(quiet)
    TSSLBP_FALLBACK(no_spike)
    TSSLBP_FALLBACK(never)
    TSSLBP_FALLBACK(always)
#undef TSSLBP_FALLBACK
  });
}

std::tuple<Tensor, Tensor> surrogate_backward(const Tensor& psc_gradient, const Tensor& membrane,
                                              const std::optional<Tensor>& gain, const std::optional<Tensor>& state,
                                              const std::optional<Tensor>& carry, double tau_m, double tau_s, double threshold,
                                              int64_t shape, double slope, double scale, bool through_reset, bool half,
                                              int64_t pool_size, int64_t pool_height, int64_t pool_width,
                                              int64_t pool_channels, double pool_gain) {
  STD_TORCH_CHECK(shape >= 0 && shape <= static_cast<int64_t>(Shape::exponential), "tsslbp: unknown shape ", shape);
  STD_TORCH_CHECK(is_positive(slope) && is_positive(scale), "tsslbp: slope or scale is not positive and finite");
  return backward(psc_gradient, membrane, gain, state, carry, tau_m, tau_s, threshold, half, pool_size, pool_height, pool_width,
                  pool_channels, pool_gain, [&](const auto& g, const auto& c) {
    using T = decltype(c.threshold);
#define TSSLBP_SHAPE(name) \
  if (static_cast<Shape>(shape) == Shape::name)  \
    return run<T>(SurrogateBackward<T, Shape::name>{g, c, T(slope), T(scale), mask<T>(through_reset)});
    TSSLBP_SHAPE(fast_sigmoid)
    TSSLBP_SHAPE(sigmoid)
    TSSLBP_SHAPE(atan)
    TSSLBP_SHAPE(triangular)
    TSSLBP_SHAPE(rectangular)
    TSSLBP_SHAPE(gaussian)
    TSSLBP_SHAPE(exponential)
#undef TSSLBP_SHAPE
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
      "float rate_limit, bool error_reset, " TSSLBP_FORM ") -> (Tensor delta, Tensor back)");
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
