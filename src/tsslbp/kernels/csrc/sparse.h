// Linear maps of currents that change rarely, such as those of spiking neurons.
//
// A current a comes from a synapse, so its input x[t] = τs·a[t] - (τs - 1)·a[t-1] is known: for neurons it is the spike train.
// The map commutes with the synapse, and only changes from one step to the next need to be multiplied:
//
//     forward   S[t] = S[t-1] + W·(x[t] - x[t-1]),   I[t] = (1 - 1/τs)·I[t-1] + S[t]/τs                  (1)
//     weights   ∂L/∂W = Σ_t F[t]·(x[t] - x[t-1])ᵀ,   F[t] = F[t+1] + E[t],  E of δ = ∂L/∂I by (4) of neuron.py   (2)
//
// Changes below the rounding of a do not count. This holds for any current; the number of changes decides whether it pays.
// Every renewed() steps x counts as changed from 0, and S (forward) and F (backward) begin at 0 again, as in sequences of their own.
//
// A sequence is [T, N, H, W, C]; a fully connected layer has one pixel. Rows of outputs are padded to whole vectors.
#pragma once

#include "changes.h"
#include "gather.h"

namespace tsslbp {

// A part of a convolution's gradient, [kernel row, C, kernel column, out], columns in the order of `MapSizes::phase`.
template <class T>
struct Part {
  int64_t out, channel, row, size;  // strides, and all numbers
  Lines<T> data;                    // padding of rows is never read, and may be anything

  explicit Part(const MapSizes& s)
      : out(padded<T>(s.out)), channel(s.wide * out), row(s.C * channel), size(s.high * row), data(lines<T>(size)) {
    std::fill_n(data.get(), size, T(0));
  }

  T* at(int64_t c, int64_t ky) const { return data.get() + c * channel + ky * row; }

  // As a weight's gradient, [out, kernel row, kernel column, C].
  void write(const MapSizes& s, T* weight) const {
    for (int64_t ky = 0; ky < s.high; ++ky)
      for (int64_t phase = 0, place = 0; phase < s.stride_x; ++phase)
        for (int64_t i = s.columns(phase) - 1; i >= 0; --i, ++place) {
          T* there = weight + (ky * s.wide + phase + i * s.stride_x) * s.C;
          transpose(data.get() + ky * row + place * out, s.C, channel, s.out, there, s.high * s.wide * s.C);
        }
  }
};

// The current of (1) for one step, from that of the step before it and from S.
template <class T>
TSSLBP_INLINE void through_synapse(T* __restrict now, T* __restrict before, const T* __restrict sum, int64_t size, T decay, T per_tau) {
  for (int64_t o = 0; o < size; ++o) now[o] = before[o] = decay * before[o] + per_tau * sum[o];
}

// Equation (1): the current of one sample after the other, [T, N, H', W', out].
//
// The changes that an output sees in one row of the kernel are adjacent, and the kernel row's weights may stay in the nearest
// cache. So some steps are computed together, one kernel row after the other.
template <class T>
struct SparseForward {
  Changes<T> changes;
  const T* weight;  // [kernel row, kernel column, C, out padded]
  MapSizes s;
  T decay, per_tau;
  T* current;
  static constexpr int64_t BYTES_AT_ONCE = 1 << 18;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t out = padded<T>(s.out), pixels = s.pixels(), columns = s.out_wide(), step = s.out_high() * columns, renew = renewed(decay);
    const int64_t together = std::clamp<int64_t>(BYTES_AT_ONCE / int64_t(step * out * sizeof(T)), 1, s.T);
    const Lines<T> sums = lines<T>(together * step * out), known = lines<T>(step * out), made = lines<T>(step * out);
    std::vector<int64_t> from(together * pixels + 1);  // where a pixel's changes begin
    std::vector<int32_t> column;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) column.push_back(int32_t(pixel % s.W * s.C));
    std::vector<int64_t> place;  // of a change in a kernel row's weights, if the kernel begins at the left edge
    for (int64_t n = begin; n < end; ++n) {
      std::fill_n(made.get(), step * out, T(0));
      for (int64_t t = 0; t < s.T; t += together) {
        const int64_t steps = std::min(together, s.T - t), first = changes.from[n * s.T + t];
        place.resize(changes.from[n * s.T + t + steps] - first);
        std::fill(from.begin(), from.end(), 0);
        for (int64_t i = 0, later = 0; i < int64_t(place.size()); ++i) {
          while (first + i >= changes.from[n * s.T + t + later + 1]) ++later;
          const int32_t where = changes.where[first + i], pixel = where >> 16;
          ++from[later * pixels + pixel + 1];
          place[i] = (column[pixel] + (where & int32_t(PLACES - 1))) * out;
        }
        for (int64_t i = 0; i < steps * pixels; ++i) from[i + 1] += from[i];
        std::fill_n(sums.get(), steps * step * out, T(0));
        for (int64_t ky = 0; ky < s.high; ++ky)
          for (int64_t later = 0; later < steps; ++later)
            for (int64_t y = 0; y < s.out_high(); ++y) {
              const int64_t row = y * s.stride_y + ky - s.pad_y;
              if (row < 0 || row >= s.H) continue;
              const int64_t* starts = from.data() + later * pixels + row * s.W;
              T* sum = sums.get() + (later * step + y * columns) * out;
              for (int64_t x = 0, left = -s.pad_x; x < columns; ++x, left += s.stride_x) {
                const int64_t i = starts[std::clamp<int64_t>(left, 0, s.W)], last = starts[std::clamp<int64_t>(left + s.wide, 0, s.W)];
                const int64_t origin = (ky * s.wide - left) * s.C * out;
                gather<T, BYTES>(sum + x * out, out, last - i, changes.value + first + i,
                                 [&](int64_t j) TSSLBP_LAMBDA { return weight + (origin + place[i + j]); });
              }
            }
        for (int64_t later = 0; later < steps; ++later) {
          if ((t + later) % renew == 0) std::fill_n(known.get(), step * out, T(0));
          T* now = current + ((t + later) * s.N + n) * step * s.out;
          for (int64_t pixel = 0; pixel < step; ++pixel, now += s.out) {
            T *__restrict total = known.get() + pixel * out, *__restrict more = sums.get() + (later * step + pixel) * out;
            for (int64_t o = 0; o < s.out; ++o) total[o] += more[o];
            through_synapse(now, made.get() + pixel * out, total, s.out, decay, per_tau);
          }
        }
      }
    }
  }
};

// Equation (1) for a matrix product: for some of the outputs at a time, whose weights stay in the cache, all samples.
template <class T>
struct FlatForward {
  Changes<T> changes;
  const T* weight;  // [out, C]
  MapSizes s;
  T decay, per_tau;
  int64_t chunk;  // outputs at a time, whole vectors
  T* current;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t renew = renewed(decay);
    const Lines<T> by_input = lines<T>(s.C * chunk), sum = lines<T>(chunk), made = lines<T>(chunk);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * chunk, width = std::min(chunk, s.out - first);
      transpose(weight + first * s.C, width, s.C, s.C, by_input.get(), chunk);
      for (int64_t n = 0; n < s.N; ++n) {
        std::fill_n(made.get(), chunk, T(0));
        for (int64_t t = 0; t < s.T; ++t) {
          if (t % renew == 0) std::fill_n(sum.get(), chunk, T(0));
          const int64_t from = changes.from[n * s.T + t];
          gather<T, BYTES>(sum.get(), chunk, changes.from[n * s.T + t + 1] - from, changes.value + from,
                           [&](int64_t i) TSSLBP_LAMBDA { return by_input.get() + changes.where[from + i] * chunk; });
          through_synapse(current + (t * s.N + n) * s.out + first, made.get(), sum.get(), width, decay, per_tau);
        }
      }
    }
  }
};

// E and F of (2) for one step, from those of the step after it; f_after and f may be the same.
template <class T>
TSSLBP_INLINE void filter_back(const T* __restrict delta, T* __restrict e, const T* f_after, T* f, int64_t size, T decay, T per_tau) {
  TSSLBP_SIDE_BY_SIDE
  for (int64_t o = 0; o < size; ++o) {
    e[o] = per_tau * delta[o] + decay * e[o];
    f[o] = f_after[o] + e[o];
  }
}

// Equation (2) for a convolution: the part of a group of samples, in an order that does not depend on the number of threads.
//
// The steps go backwards, with F of one at a time. The changes of a channel that meet a kernel row are adjacent, if those of
// each phase (see `MapSizes`) are sorted into a separate bin.
template <class T>
struct SparseGradient {
  Changes<T> changes;
  const T* delta;
  MapSizes s;
  T decay, per_tau;
  int64_t groups;
  std::vector<Part<T>>& parts;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t out = padded<T>(s.out), rows = s.out_high(), columns = s.out_wide(), line = s.row_wide() * out;
    const int64_t phases = s.stride_y * s.stride_x, renew = renewed(decay);
    const Lines<T> filtered = lines<T>(rows * line), error = lines<T>(rows * columns * s.out);
    std::vector<int64_t> first, phase, row;  // by pixel: where in F what it reaches begins, if ky is 0; its phase; that row of F
    for (int64_t y = s.pad_y; y < s.H + s.pad_y; ++y)
      for (int64_t x = 0; x < s.W; ++x) {
        first.push_back(y / s.stride_y * line + (s.first(x) + s.margin()) * out);
        phase.push_back(y % s.stride_y * s.stride_x + s.phase(x)), row.push_back(y / s.stride_y);
      }
    Sorted<T> sorted;
    for (int64_t group = begin; group < end; ++group) {
      Part<T>& made = parts[group];
      for (int64_t n = group * s.N / groups; n < (group + 1) * s.N / groups; ++n) {
        std::fill_n(filtered.get(), rows * line, T(0)), std::fill_n(error.get(), rows * columns * s.out, T(0));
        for (int64_t t = s.T - 1; t >= 0; --t) {
          if ((t + 1) % renew == 0) std::fill_n(filtered.get(), rows * line, T(0));
          for (int64_t pixel = 0; pixel < rows * columns; ++pixel) {
            T* f = filtered.get() + pixel / columns * line + (pixel % columns + s.margin()) * out;
            const T* d = delta + ((t * s.N + n) * rows * columns + pixel) * s.out;
            filter_back<T>(d, error.get() + pixel * s.out, f, f, s.out, decay, per_tau);
          }
          const int32_t* where = changes.where;
          const auto bin = [&](int64_t i) TSSLBP_LAMBDA { return (where[i] & (PLACES - 1)) * phases + phase[where[i] >> 16]; };
          const int64_t step = n * s.T + t;
          sorted.sort(changes, s.C * phases, changes.from[step], changes.from[step + 1], bin,
                      [&](int64_t i) TSSLBP_LAMBDA { return int64_t(where[i] >> 16); });
          for (int64_t b = 0; b < s.C * phases; ++b) add_bin<BYTES>(made, b / phases, b % phases, sorted, b, filtered.get(), line, first, row);
        }
      }
    }
  }

  // Adds the changes in a bin, of one channel and phase.
  template <int BYTES>
  TSSLBP_INLINE void add_bin(Part<T>& made, int64_t c, int64_t phase, const Sorted<T>& sorted, int64_t bin, const T* filtered,
                             int64_t line, const std::vector<int64_t>& first, const std::vector<int64_t>& row) const {
    int64_t from = sorted.from[bin], upper = from;
    const int64_t last = sorted.from[bin + 1], rows = s.out_high(), phase_x = phase % s.stride_x;
    for (int64_t ky = phase / s.stride_x, up = 0; ky < s.high && from < last; ky += s.stride_y, ++up) {
      while (from < last && row[sorted.place[from]] < up) ++from;
      while (upper < last && row[sorted.place[upper]] - up < rows) ++upper;
      gather<T, BYTES>(made.at(c, ky) + s.columns_before(phase_x) * made.out, s.columns(phase_x) * made.out, upper - from,
                       sorted.value.data() + from,
                       [&](int64_t i) TSSLBP_LAMBDA { return filtered + first[sorted.place[from + i]] - up * line; });
    }
  }
};

// Equation (2) for a matrix product: for some of the outputs at a time, F of all samples first, then one channel after the other.
template <class T>
struct FlatGradient {
  const T* delta;
  const Sorted<T>& changes;  // by channel, with their place n·T + t
  MapSizes s;
  T decay, per_tau;
  int64_t chunk;  // outputs at a time, whole vectors
  T* gradient;    // [out, C]

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    constexpr int64_t SIDE = 16;
    const int64_t renew = renewed(decay);
    const Lines<T> filtered = lines<T>(s.N * s.T * chunk), error = lines<T>(chunk), sums = lines<T>(SIDE * chunk);
    const std::vector<T> nothing(chunk);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * chunk, width = std::min(chunk, s.out - first);
      for (int64_t n = 0; n < s.N; ++n) {
        std::fill_n(error.get(), chunk, T(0));
        for (int64_t t = s.T - 1; t >= 0; --t) {
          T* f = filtered.get() + (n * s.T + t) * chunk;
          const T* after = t + 1 < s.T && (t + 1) % renew ? f + chunk : nothing.data();
          filter_back<T>(delta + (t * s.N + n) * s.out + first, error.get(), after, f, width, decay, per_tau);
        }
      }
      for (int64_t c = 0; c < s.C; c += SIDE) {
        const int64_t side = std::min(SIDE, s.C - c);
        std::fill_n(sums.get(), side * chunk, T(0));
        for (int64_t j = 0; j < side; ++j) {
          const int64_t from = changes.from[c + j];
          gather<T, BYTES>(sums.get() + j * chunk, chunk, changes.from[c + j + 1] - from, changes.value.data() + from,
                           [&](int64_t i) TSSLBP_LAMBDA { return filtered.get() + changes.place[from + i] * chunk; });
        }
        transpose(sums.get(), side, chunk, width, gradient + first * s.C + c, s.C);
      }
    }
  }
};

}  // namespace tsslbp
