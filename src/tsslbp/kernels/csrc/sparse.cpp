// Linear maps by changes (sparse.h) as PyTorch operators; tsslbp/layers/sparse.py calls them.
#include "sparse.h"

#include <numeric>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

namespace tsslbp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Kernel, strides and padding, and τs.
struct MapNumbers {
  Fields f;
  int64_t high = f.whole("high", 1, PLACES), wide = f.whole("wide", 1, PLACES);
  int64_t stride_y = f.whole("stride_y", 1, PLACES), stride_x = f.whole("stride_x", 1, PLACES);
  int64_t pad_y = f.whole("pad_y", 0, PLACES), pad_x = f.whole("pad_x", 0, PLACES);
  double tau_s = f.from("tau_s", 1, FINITE);
  bool complete = f.end();
};

// Of a current alone.
MapSizes sizes(const Tensor& current) {
  STD_TORCH_CHECK(current.is_cpu() && current.dim() == 5 && current.size(0) >= 1, "tsslbp: current is not [T, N, H, W, C] on the CPU");
  const MapSizes s{current.size(0), current.size(1), current.size(2), current.size(3), current.size(4), 1, 1, 1, 1, 1, 0, 0};
  STD_TORCH_CHECK(s.H >= 1 && s.W >= 1 && s.C >= 1, "tsslbp: current has no numbers");
  STD_TORCH_CHECK(s.C <= PLACES && s.H < PLACES && s.W < PLACES && s.pixels() < PLACES / 2,
                  "tsslbp: changes are found among 65536 channels and 32767 pixels at most");
  return s;
}

MapSizes sizes(const Tensor& current, int64_t out, const MapNumbers& m) {
  MapSizes s = sizes(current);
  s.out = out, s.high = m.high, s.wide = m.wide;
  s.stride_y = m.stride_y, s.stride_x = m.stride_x, s.pad_y = m.pad_y, s.pad_x = m.pad_x;
  STD_TORCH_CHECK(out >= 1 && s.H + 2 * s.pad_y >= s.high && s.W + 2 * s.pad_x >= s.wide, "tsslbp: a kernel does not fit the current");
  return s;
}

template <class F>
void with_full_type(const Tensor& x, const F& f) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "tsslbp: a map by changes takes float32 and float64");
  if (x.scalar_type() == ScalarType::Double) f(double());
  else f(float());
}

// Of the changes of a [T, N, H, W, C]: where, value, from; nothing if a larger share than `most` of a few samples' numbers change.
std::vector<Tensor> changes(const Tensor& current, double tau_s, double most) {
  STD_TORCH_CHECK(tau_s >= 1 && tau_s <= FINITE && most >= 0 && most <= 1, "tsslbp: tau_s must be from 1, most from 0 to 1");
  const MapSizes s = sizes(current);
  std::vector<Tensor> made;
  made.reserve(3);
  with_full_type(current, [&](auto zero) {
    using T = decltype(zero);
    const Tensor a = torch::stable::contiguous(current);
    const Difference<T> difference{T(1 - 1 / tau_s), T(tau_s), T(4 * tau_s) * std::numeric_limits<T>::epsilon()};
    std::vector<Found<T>> found;
    const auto share = [&](int64_t every, bool alone) {  // share of changes in every so many samples
      found.assign((s.N + every - 1) / every, {});
      const int64_t samples = found.size();
      in_parallel(Find<T>{a.const_data_ptr<T>(), s, difference, every, found}, samples, alone ? samples : 1);
      int64_t total = 0;
      for (const Found<T>& sample : found) total += sample.until.back();
      return double(total) / std::max(1.0, double(samples * s.T * s.pixels() * s.C));
    };
    // A few samples decide, on this thread: going through all, and waking another thread, may cost more than it gains.
    const int64_t few = std::max<int64_t>(1, (s.N + 2) / 3);
    if (share(few, true) > most) return;
    if (few > 1) share(1, false);
    const Tensor from = torch::stable::new_empty(a, {s.N * s.T + 1}, ScalarType::Long);
    int64_t *starts = from.mutable_data_ptr<int64_t>(), total = 0;
    for (int64_t n = 0; n < s.N; total += found[n++].until.back())
      for (int64_t t = 0; t < s.T; ++t) starts[n * s.T + t] = total + (t ? found[n].until[t - 1] : 0);
    starts[s.N * s.T] = total;
    const Tensor where = torch::stable::new_empty(a, {total}, ScalarType::Int), value = torch::stable::new_empty(a, {total}, a.scalar_type());
    for (int64_t n = 0; n < s.N; ++n) {
      std::copy_n(found[n].where.data(), found[n].until.back(), where.mutable_data_ptr<int32_t>() + starts[n * s.T]);
      std::copy_n(found[n].value.data(), found[n].until.back(), value.mutable_data_ptr<T>() + starts[n * s.T]);
    }
    made = {where, value, from};
  });
  return made;
}

// What `changes` returned, of a current of these sizes.
void check_changes(const MapSizes& s, const Tensor& where, const Tensor& value, const Tensor& from, ScalarType type) {
  const auto row = [](const Tensor& x, ScalarType wanted) {
    return x.is_cpu() && x.dim() == 1 && x.scalar_type() == wanted && (x.size(0) <= 1 || x.stride(0) == 1);
  };
  bool right = row(where, ScalarType::Int) && row(value, type) && row(from, ScalarType::Long) && where.size(0) == value.size(0) &&
               from.size(0) == s.N * s.T + 1;
  if (right) {
    const int64_t total = where.size(0), *starts = from.const_data_ptr<int64_t>();
    const int32_t* places = where.const_data_ptr<int32_t>();
    right = starts[0] == 0 && starts[s.N * s.T] == total;
    for (int64_t i = 0; i < s.N * s.T; ++i) right &= starts[i] <= starts[i + 1];
    for (int64_t i = 0; i < total; ++i) right &= places[i] >= 0 && places[i] >> 16 < s.pixels() && (places[i] & (PLACES - 1)) < s.C;
    for (int64_t i = 0; right && i < s.N * s.T; ++i)
      for (int64_t k = starts[i] + 1; k < starts[i + 1]; ++k) right &= places[k - 1] < places[k];
  }
  STD_TORCH_CHECK(right, "tsslbp: these are not the changes of the current");
}

// Outputs of a matrix product that are computed at a time: whole vectors, in parts of about the same size, with some for every
// thread.
template <class T>
int64_t at_once(const MapSizes& s) {
  const int64_t vectors = padded<T>(s.out) / WIDEST<T>, most = std::clamp<int64_t>(vectors / 4, 1, s.C <= 1024 ? 8 : 4);
  const int64_t parts = (vectors + most - 1) / most;
  return (vectors + parts - 1) / parts * WIDEST<T>;
}

// I = W·a from the changes of a.
Tensor map_changes(const Tensor& current, const Tensor& weight, const Tensor& where, const Tensor& value, const Tensor& from,
                   const std::vector<double>& numbers) {
  const MapNumbers m{Fields("map", numbers)};
  STD_TORCH_CHECK(weight.is_cpu() && weight.dim() == 4 && weight.size(1) == m.high && weight.size(2) == m.wide,
                  "tsslbp: weight is not [out, high, wide, C] on the CPU");
  const MapSizes s = sizes(current, weight.size(0), m);
  STD_TORCH_CHECK(weight.size(3) == s.C, "tsslbp: weight and current have different channels");
  check_changes(s, where, value, from, weight.scalar_type());
  const Tensor made = torch::stable::new_empty(weight, {s.T, s.N, s.out_high(), s.out_wide(), s.out}, weight.scalar_type());
  with_full_type(weight, [&](auto zero) {
    using T = decltype(zero);
    const Tensor w = torch::stable::contiguous(weight);
    const T decay = T(1 - 1 / m.tau_s), per_tau = T(1) / T(m.tau_s), *weights = w.const_data_ptr<T>();
    const Changes<T> changes{where.const_data_ptr<int32_t>(), value.const_data_ptr<T>(), from.const_data_ptr<int64_t>()};
    T* current = made.mutable_data_ptr<T>();
    if (s.flat()) {
      const int64_t chunk = at_once<T>(s);
      in_parallel(FlatForward<T>{changes, weights, s, decay, per_tau, chunk, current}, (s.out + chunk - 1) / chunk);
      return;
    }
    const int64_t inputs = s.high * s.wide * s.C, wide = padded<T>(s.out);
    const Lines<T> by_input = lines<T>(inputs * wide);
    transpose(weights, s.out, inputs, inputs, by_input.get(), wide);
    in_parallel(SparseForward<T>{changes, by_input.get(), s, decay, per_tau, current}, s.N);
  });
  return made;
}

constexpr int64_t GROUPS = 8;                  // of samples, whose parts of a gradient are summed one after the other
constexpr int64_t PARTS_BYTES = 32 << 20;      // what these parts may take together

// ∂L/∂W from δ = ∂L/∂I [T, N, H', W', out] and the changes of a.
Tensor map_changes_backward(const Tensor& current, const Tensor& delta, const Tensor& where, const Tensor& value, const Tensor& from,
                       const std::vector<double>& numbers) {
  const MapNumbers m{Fields("map", numbers)};
  STD_TORCH_CHECK(delta.is_cpu() && delta.dim() == 5, "tsslbp: delta is not [T, N, H, W, out] on the CPU");
  const MapSizes s = sizes(current, delta.size(4), m);
  STD_TORCH_CHECK(delta.size(0) == s.T && delta.size(1) == s.N && delta.size(2) == s.out_high() && delta.size(3) == s.out_wide(),
                  "tsslbp: delta is not the gradient of what the map made");
  check_changes(s, where, value, from, delta.scalar_type());
  const Tensor made = torch::stable::new_empty(delta, {s.out, s.high, s.wide, s.C}, delta.scalar_type());
  with_full_type(delta, [&](auto zero) {
    using T = decltype(zero);
    const Tensor d = torch::stable::contiguous(delta);
    const T decay = T(1 - 1 / m.tau_s), per_tau = T(1) / T(m.tau_s);
    const Changes<T> changes{where.const_data_ptr<int32_t>(), value.const_data_ptr<T>(), from.const_data_ptr<int64_t>()};
    if (s.flat()) {
      const int64_t chunk = at_once<T>(s);
      Sorted<T> sorted;
      int64_t row = 0;
      const auto channel = [&](int64_t i) { return int64_t(changes.where[i]); };
      sorted.sort(changes, s.C, 0, from.const_data_ptr<int64_t>()[s.N * s.T], channel, [&](int64_t i) {
        while (i >= changes.from[row + 1]) ++row;
        return row;
      });
      const FlatGradient<T> gradient{d.const_data_ptr<T>(), sorted, s, decay, per_tau, chunk, made.mutable_data_ptr<T>()};
      in_parallel(gradient, (s.out + chunk - 1) / chunk);
      return;
    }
    const int64_t bytes = s.C * s.high * s.wide * padded<T>(s.out) * int64_t(sizeof(T));
    const int64_t groups = std::clamp<int64_t>(PARTS_BYTES / bytes, 1, std::clamp<int64_t>(s.N, 1, GROUPS));
    std::vector<Part<T>> parts;
    for (int64_t group = 0; group < groups; ++group) parts.emplace_back(s);
    in_parallel(SparseGradient<T>{changes, d.const_data_ptr<T>(), s, decay, per_tau, groups, parts}, groups);
    for (int64_t group = 1; group < groups; ++group)
      for (int64_t i = 0; i < parts[0].size; ++i) parts[0].data[i] += parts[group].data[i];
    parts[0].write(s, made.mutable_data_ptr<T>());
  });
  return made;
}

}  // namespace tsslbp

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("changes(Tensor current, float tau_s, float most) -> Tensor[]");
  m.def("map_changes(Tensor current, Tensor weight, Tensor where, Tensor value, Tensor start, float[] map) -> Tensor");
  m.def("map_changes_backward(Tensor current, Tensor delta, Tensor where, Tensor value, Tensor start, float[] map) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("changes", TORCH_BOX(&tsslbp::changes));
  m.impl("map_changes", TORCH_BOX(&tsslbp::map_changes));
  m.impl("map_changes_backward", TORCH_BOX(&tsslbp::map_changes_backward));
}
