// Neurons and recurrent layers as PyTorch operators. Layouts, fake kernels and the engine are in kernels/cpp.py.
#include "operands.h"

namespace tsslbp {

// Post-synaptic current; the membrane potential, if it is to be kept; and, given a state, the state after.
std::vector<Tensor> lif(const Tensor& current, const std::optional<Tensor>& response, const std::optional<Tensor>& state,
                        const std::optional<Tensor>& table, const std::vector<double>& neuron, const std::vector<double>& pooling, bool bf16, bool keep) {
  check_sequence(current, "current");
  STD_TORCH_CHECK(!response || current.size(0) == 1, "tsslbp: a constant current is not [1, N]");
  const auto full = current.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!bf16 || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
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
      void* psc = add(steps, outputs, bf16 ? ScalarType::BFloat16 : full);
      T* membrane = keep ? static_cast<T*>(add(steps, n, full)) : nullptr;
      T* after = before ? static_cast<T*>(add(2, n, full)) : nullptr;
      const Forward<T, std::decay_t<decltype(constants)>> op{
          Source<T>{in.data_ptr(), response ? 0 : n, is_bf16(in), {}}, data<T>(response_), membrane,
          Target<T>{psc, outputs, bf16, pool, is_large<T>(steps, n)}, {data<T>(before), n}, {after, n}, steps, n, constants};
      sweep<T>(op, steps, n, pool);
    });
  });
  return made;
}

// Post-synaptic current, state after the last step and, if it is to be kept, the membrane potential.
std::vector<Tensor> recurrent(const Tensor& drive, const Tensor& lateral, const std::optional<Tensor>& state,
                              const std::optional<Tensor>& table, const std::vector<double>& neuron,
                              const std::vector<double>& adaptation, bool bf16, bool keep) {
  const auto full = drive.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!bf16 || full == ScalarType::Float, "tsslbp: bfloat16 currents are computed in float32");
  const RecurrentOperands with(drive, full, lateral, state, table, adaptation);
  const int64_t steps = with.steps, batch = with.batch, n = with.n, size = batch * n;
  std::vector<Tensor> made;
  with_type(drive, [&](auto zero) {
    using T = decltype(zero);
    const Tensor in = torch::stable::contiguous(drive);
    const Tensor heard = torch::stable::contiguous(torch::stable::transpose(with.lateral, 0, 1));
    made.push_back(torch::stable::new_empty(in, {steps, batch, n}, bf16 ? ScalarType::BFloat16 : full));
    made.push_back(torch::stable::new_empty(in, {with.rows(), batch, n}, full));
    if (keep) made.push_back(torch::stable::new_empty(in, {steps, batch, n}, full));
    std::vector<T> unheard(n);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < n; ++i) unheard[i] += 0 * heard.const_data_ptr<T>()[j * n + i];
    with_constants<T>(table, neuron, n, [&](const auto& constants) {
      in_parallel(RecurrentForward<T, std::decay_t<decltype(constants)>>{
                      with.layer<T>(constants), Source<T>{in.data_ptr(), size, is_bf16(in), {}}, heard.const_data_ptr<T>(),
                      unheard.data(), keep ? made[2].mutable_data_ptr<T>() : nullptr,
                      Target<T>{made[0].mutable_data_ptr(), size, bf16, {}}, made[1].mutable_data_ptr<T>()},
                  batch, with.grain());
    });
  });
  return made;
}

// The instruction set in use; of which source this is (setup.py); then the fallbacks and the shapes, in the order of their numbers.
std::string names() {
  const char* in_use[] = {"baseline", "avx2", "avx512"};
  return std::string(in_use[static_cast<int>(capability())]) + "|" TSSLBP_SOURCE "|" + FALLBACKS + "|" + SHAPES;
}

}  // namespace tsslbp

STABLE_TORCH_LIBRARY(tsslbp, m) {
  m.def("lif(Tensor current, Tensor? response, Tensor? state, Tensor? constants, float[] neuron, float[] pool, bool bf16, bool keep) -> Tensor[]");
  m.def("recurrent(Tensor drive, Tensor lateral, Tensor? state, Tensor? constants, float[] neuron, float[] adaptation, bool bf16, bool keep) -> Tensor[]");
  m.def("names() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("lif", TORCH_BOX(&tsslbp::lif));
  m.impl("recurrent", TORCH_BOX(&tsslbp::recurrent));
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CompositeExplicitAutograd, m) { m.impl("names", TORCH_BOX(&tsslbp::names)); }
