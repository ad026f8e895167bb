// What the operators of neurons take, on the LibTorch stable ABI: checks of tensors, and dispatch on types and constants.
// Sequences are [steps, n], contiguous; only a gradient may have another stride from one step to the next. Numbers come in
// groups (numbers.h), and names are numbers too: PyTorch 2.13 leaks every string, but no list, that an operator of its stable
// ABI takes or returns (pytorch issue 191340). These 48 bytes fragmented the heap until it had outgrown the machine. Only
// `names` returns a string, and is called once.
#pragma once

#include "recurrent.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Every operator checks all tensors and numbers before it computes, since a caller may use `torch.ops.tsslbp` without
// kernels/cpp.py.

inline bool is_bf16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

inline bool is_full(const Tensor& x) { return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double; }

inline void check_sequence(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cpu(), "tsslbp: ", name, " is not on the CPU");
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1, "tsslbp: ", name, " is not [T, N] with T at least 1");
}

inline std::optional<Tensor> checked_response(const std::optional<Tensor>& response, ScalarType type) {
  if (!response) return response;
  STD_TORCH_CHECK(response->is_cpu() && response->dim() == 1 && response->size(0) >= 1 && response->scalar_type() == type,
                  "tsslbp: response is not [T] of the membrane's type on the CPU with T at least 1");
  return torch::stable::contiguous(*response);
}

// Contiguous, if it is [2, n] of a type.
inline std::optional<Tensor> checked_handed(const std::optional<Tensor>& x, int64_t n, ScalarType type) {
  if (!x) return x;
  STD_TORCH_CHECK(x->is_cpu() && x->dim() == 2 && x->size(0) == 2 && x->size(1) == n && x->scalar_type() == type,
                  "tsslbp: what one part of a sequence hands to the next is not [2, N] of the membrane's type on the CPU");
  return torch::stable::contiguous(*x);
}

// Pooling of n neurons, if they are whole images.
inline Pool checked_pool(const std::vector<double>& numbers, int64_t n) {
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
  STD_TORCH_CHECK(is_bf16(x) || is_full(x), "tsslbp: a sequence is not float32, float64 or, where it may be, bfloat16");
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
  STD_TORCH_CHECK(table->is_cpu() && table->dim() == 2 && table->size(0) == 3 && table->size(1) >= 1 &&
                      table->scalar_type() == ScalarType::Double,
                  "tsslbp: constants are not [3, P] of float64 on the CPU with P at least 1");
  const int64_t period = table->size(1);
  STD_TORCH_CHECK(n % period == 0, "tsslbp: neurons are not a multiple of constants");
  const Tensor rows = torch::stable::contiguous(*table);
  const double* x = rows.const_data_ptr<double>();
  const std::vector<T> made = Varied<T>::make_table(x, x + period, x + 2 * period, period);
  f(Varied<T>{made.data(), period});
}

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

}  // namespace tsslbp
