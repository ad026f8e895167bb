// Linear maps of currents that change rarely, such as those of spiking neurons.
//
// A current a comes from a synapse, so its input x[t] = τs·a[t] - (τs - 1)·a[t-1] is known: for neurons it is the spike train.
// The map commutes with the synapse, and what does not change from one step to the next need not be multiplied again:
//
//     forward   S[t] = S[t-1] + W·(x[t] - x[t-1]),   I[t] = (1 - 1/τs)·I[t-1] + S[t]/τs                  (1)
//     weights   ∂L/∂W = Σ_t F[t]·(x[t] - x[t-1])ᵀ,   F[t] = F[t+1] + E[t],  E of δ = ∂L/∂I by (4) of neuron.py   (2)
//
// Changes below the rounding of a are none. So this holds for any current; how many changes there are decides whether it pays.
//
// A sequence lies as [T, N, H, W, C]; a fully connected layer has one pixel. Rows of outputs are padded to whole vectors.
#pragma once

#include "sweep.h"

#include <cmath>
#include <cstring>
#include <memory>
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace tsslbp {

// A vector register, of 16, 32 or 64 bytes.
template <class T, int BYTES>
struct Vector {
  typedef T type __attribute__((vector_size(BYTES)));
  static constexpr int64_t N = BYTES / sizeof(T);
  typedef T loose __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));  // for any address
};

// The widest vector there is, in numbers: what rows are padded to.
template <class T>
constexpr int64_t WIDEST = 64 / sizeof(T);

template <class T>
constexpr int64_t padded(int64_t n) {
  return (n + WIDEST<T> - 1) / WIDEST<T> * WIDEST<T>;
}

// out += Σ_i value[i]·row(i), `vectors` vectors wide, in registers.
template <int vectors, class T, int BYTES, class Row>
TSSLBP_INLINE void gather_vectors(T* out, int64_t from, int64_t count, const T* value, const Row& row) {
  using V = Vector<T, BYTES>;
  typename V::type sum[vectors];
  auto* made = reinterpret_cast<typename V::loose*>(out + from);
  for (int v = 0; v < vectors; ++v) sum[v] = made[v];
  for (int64_t i = 0; i < count; ++i) {
    const auto* x = reinterpret_cast<const typename V::loose*>(row(i) + from);
    for (int v = 0; v < vectors; ++v) sum[v] += value[i] * x[v];
  }
  for (int v = 0; v < vectors; ++v) made[v] = sum[v];
}

// The same for rows of any number of whole vectors, in chunks of equal size.
template <class T, int BYTES, class Row>
TSSLBP_INLINE void gather(T* out, int64_t length, int64_t count, const T* value, const Row& row) {
  if (!count) return;
  constexpr int64_t N = Vector<T, BYTES>::N;
  const int64_t vectors = length / N, chunks = (vectors + 7) / 8;
  for (int64_t chunk = 0, from = 0; chunk < chunks; ++chunk) {
    const int64_t wide = (chunk + 1) * vectors / chunks - chunk * vectors / chunks;
    switch (wide) {
#define TSSLBP_WIDE(n) \
  case n: gather_vectors<n, T, BYTES>(out, from, count, value, row); break;
      TSSLBP_WIDE(1) TSSLBP_WIDE(2) TSSLBP_WIDE(3) TSSLBP_WIDE(4) TSSLBP_WIDE(5) TSSLBP_WIDE(6) TSSLBP_WIDE(7) TSSLBP_WIDE(8)
#undef TSSLBP_WIDE
    }
    from += wide * N;
  }
}

// out += value·x, rows of whole vectors.
template <class T, int BYTES>
TSSLBP_INLINE void add_row(T* __restrict out, const T* __restrict x, T value, int64_t length) {
  using V = Vector<T, BYTES>;
  auto* made = reinterpret_cast<typename V::loose*>(out);
  const auto* more = reinterpret_cast<const typename V::loose*>(x);
  for (int64_t v = 0; v < length / V::N; ++v) made[v] += value * more[v];
}

// A map: a convolution without dilation and groups, or a matrix product as one of a single pixel.
struct MapSizes {
  int64_t T, N, H, W, C;          // of the current
  int64_t out, high, wide;        // channels and kernel
  int64_t stride_y, stride_x, pad_y, pad_x;

  int64_t pixels() const { return H * W; }
  bool flat() const { return pixels() == 1 && high == 1 && wide == 1 && pad_y == 0 && pad_x == 0; }
  int64_t out_high() const { return (H + 2 * pad_y - high) / stride_y + 1; }
  int64_t out_wide() const { return (W + 2 * pad_x - wide) / stride_x + 1; }

  // What a pixel of column x reaches in a row of outputs: the kernel's columns x + pad_x - stride_x·x' from the last to the
  // first, which are those equal to x + pad_x up to a multiple of the stride, and the first x' among them. It may lie outside:
  // rows of outputs have a margin in front and as much behind as the last pixel reaches.
  int64_t phase(int64_t x) const { return (x + pad_x) % stride_x; }
  int64_t columns(int64_t phase) const { return (wide - phase + stride_x - 1) / stride_x; }
  int64_t first(int64_t x) const { return (x + pad_x) / stride_x - columns(phase(x)) + 1; }
  int64_t margin() const { return (wide - 1) / stride_x; }
  int64_t row_wide() const { return margin() + std::max(out_wide(), (W - 1 + pad_x) / stride_x + 1); }
  // Before the kernel columns of a phase in a kernel row.
  int64_t columns_before(int64_t phase) const {
    int64_t before = 0;
    for (int64_t earlier = 0; earlier < phase; ++earlier) before += columns(earlier);
    return before;
  }
  // f(y', ky) for each row of outputs that a pixel of row y reaches.
  template <class F>
  TSSLBP_INLINE void rows(int64_t y, const F& f) const {
    const int64_t from = y + pad_y, last = out_high() - 1;
    for (int64_t ky = from % stride_y; ky < high && ky <= from; ky += stride_y) {
      const int64_t to = (from - ky) / stride_y;
      if (to <= last) f(to, ky);
    }
  }
};

// Where in an image a pixel is, and what it reaches: looked up instead of divided for.
struct Reach {
  int32_t y, first, columns, before;
};

inline std::vector<Reach> reaches(const MapSizes& s) {
  std::vector<Reach> found;
  found.reserve(s.pixels());
  for (int64_t y = 0; y < s.H; ++y)
    for (int64_t x = 0; x < s.W; ++x) {
      const int64_t phase = s.phase(x);
      found.push_back({int32_t(y), int32_t(s.first(x) + s.margin()), int32_t(s.columns(phase)), int32_t(s.columns_before(phase))});
    }
  return found;
}

// A weight by its inputs, [C, kernel row, kernel column, out], columns in the order of `MapSizes::phase`, outputs padded.
template <class T>
struct ByInput {
  int64_t out, row, channel, size;  // strides, and all numbers
  std::unique_ptr<T[]> data;        // what pads a row is never looked at, and may be anything

  explicit ByInput(const MapSizes& s)
      : out(padded<T>(s.out)), row(s.wide * out), channel(s.high * row), size(s.C * channel), data(new T[size]) {}

  void clear() { std::fill_n(data.get(), size, T(0)); }
  T* at(int64_t c, int64_t ky) { return data.get() + c * channel + ky * row; }
  const T* at(int64_t c, int64_t ky) const { return data.get() + c * channel + ky * row; }

  // f(kx, place) for every kernel column and where it lies in a row.
  template <class F>
  static void places(const MapSizes& s, const F& f) {
    int64_t place = 0;
    for (int64_t phase = 0; phase < s.stride_x; ++phase) {
      const int64_t columns = s.columns(phase);
      for (int64_t i = columns - 1; i >= 0; --i) f(phase + i * s.stride_x, place++);
    }
  }
  // f(number here, number there) for all numbers, there in the order [out, kernel row, kernel column, C]; in squares that stay in
  // the cache.
  template <class There, class F>
  void each_number(const MapSizes& s, There* there, const F& f) const {
    constexpr int64_t SIDE = 16;
    const int64_t taps = s.high * s.wide;
    torch::stable::parallel_for(0, (s.out + SIDE - 1) / SIDE, 1, [&](int64_t begin, int64_t end) {
      for (int64_t ky = 0; ky < s.high; ++ky)
        places(s, [&](int64_t kx, int64_t place) {
          T* here = data.get() + ky * row + place * out;
          for (int64_t o = begin * SIDE; o < std::min(end * SIDE, s.out); o += SIDE)
            for (int64_t c = 0; c < s.C; c += SIDE)
              for (int64_t i = o; i < std::min(o + SIDE, s.out); ++i)
                for (int64_t j = c; j < std::min(c + SIDE, s.C); ++j)
                  f(here[j * channel + i], there[(i * taps + ky * s.wide + kx) * s.C + j]);
        });
    });
  }
  void read(const MapSizes& s, const T* weight) {
    each_number(s, weight, [](T& here, const T& there) { here = there; });
  }
  void write(const MapSizes& s, T* weight) const {
    each_number(s, weight, [](const T& here, T& there) { there = here; });
  }
};

// The changes of a sequence, step by step of each sample: where[i] = pixel·2^16 + channel, and by how much.
// Those of sample n at step t are from[n·T + t] to from[n·T + t + 1].
template <class T>
struct Changes {
  const int32_t* where;
  const T* value;
  const int64_t* from;
};

constexpr int64_t PLACES = 1 << 16;  // as many pixels and channels at most

// The changes of one sample while they are being found, and how many there are up to each step.
template <class T>
struct Found {
  std::vector<int32_t> where;
  std::vector<T> value;
  std::vector<int64_t> until;
};

// What a number of the current has to do with the change of its input: x[t] = τs·(a[t] - (1 - 1/τs)·a[t-1]).
template <class T>
struct Difference {
  T decay, tau, noise;  // what rounding may have made is no change
};

// Writes the numbers of a row that change, and by how much, and returns how many there are; there must be room for BLOCK more.
// `known` is x as it was last written. NaN and infinity are changes.
constexpr int64_t BLOCK = 64;

template <class T>
constexpr T LARGEST = std::numeric_limits<T>::max();

template <class T>
TSSLBP_INLINE int64_t changes_in(const Difference<T>& d, const T* now, const T* before, T* known, int64_t size, int32_t* where, T* value) {
  int64_t count = 0;
  T change[BLOCK];
  uint8_t changed[BLOCK];
  for (int64_t j = 0; j < size; j += BLOCK) {
    const int64_t width = std::min(BLOCK, size - j);
    const T *__restrict in = now + j, *__restrict old = before + j;
    T* __restrict last = known + j;
    for (int64_t i = 0; i < width; ++i) {
      const T x = d.tau * (in[i] - d.decay * old[i]), step = x - last[i];
      const T rounding = d.noise * (std::abs(in[i]) + std::abs(old[i]));
      const bool same = std::abs(step) <= (rounding < LARGEST<T> ? rounding : LARGEST<T>);  // infinity is a change
      changed[i] = !same;
      change[i] = step;
      last[i] = same ? last[i] : x;
    }
    std::fill(changed + width, changed + BLOCK, uint8_t(0));
    for (int64_t byte = 0; byte < BLOCK; byte += 8) {
      uint64_t any;
      std::memcpy(&any, changed + byte, 8);
      if (!any) continue;  // eight silent neurons
      for (int64_t k = byte; k < byte + 8; ++k) {  // what is no change is written over: no branch to be mispredicted
        where[count] = int32_t(j + k), value[count] = change[k];
        count += changed[k];
      }
    }
  }
  return count;
}

#ifdef TSSLBP_X86
// The same, bit for bit.
TSSLBP_AVX512 inline int64_t changes_in_avx512(const Difference<float>& d, const float* now, const float* before, float* known,
                                               int64_t size, int32_t* where, float* value) {
  int64_t count = 0;
  const __m512 decay = _mm512_set1_ps(d.decay), tau = _mm512_set1_ps(d.tau), noise = _mm512_set1_ps(d.noise);
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t j = 0; j < size; j += 16) {
    const __mmask16 lanes = size - j >= 16 ? 0xffff : __mmask16((1u << (size - j)) - 1);
    const __m512 in = _mm512_maskz_loadu_ps(lanes, now + j), old = _mm512_maskz_loadu_ps(lanes, before + j);
    const __m512 last = _mm512_maskz_loadu_ps(lanes, known + j);
    const __m512 x = _mm512_mul_ps(tau, _mm512_sub_ps(in, _mm512_mul_ps(decay, old))), step = _mm512_sub_ps(x, last);
    const __m512 rounding = _mm512_mul_ps(noise, _mm512_add_ps(_mm512_abs_ps(in), _mm512_abs_ps(old)));
    const __m512 most = _mm512_min_ps(rounding, _mm512_set1_ps(LARGEST<float>));
    const __mmask16 changed = _mm512_mask_cmp_ps_mask(lanes, _mm512_abs_ps(step), most, _CMP_NLE_UQ);
    _mm512_mask_storeu_ps(known + j, changed, x);
    _mm512_storeu_si512(where + count, _mm512_maskz_compress_epi32(changed, index));
    _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(changed, step));
    count += __builtin_popcount(changed);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  return count;
}
#endif

// Finds the changes of every `every`-th sample.
template <class T>
struct Find {
  const T* current;
  MapSizes s;
  Difference<T> difference;
  int64_t every;
  std::vector<Found<T>>& found;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t size = s.pixels() * s.C;
    const double per_channel = 1.0 / double(s.C);
    std::vector<T> known(size), nothing(size);
    for (int64_t i = begin; i < end; ++i) {
      Found<T>& mine = found[i];
      int64_t count = 0;
      std::fill(known.begin(), known.end(), T(0));
      for (int64_t t = 0; t < s.T; ++t) {
        const T* now = current + (t * s.N + i * every) * size;
        const T* before = t ? now - s.N * size : nothing.data();
        if (int64_t(mine.where.size()) < count + size + BLOCK)
          mine.where.resize(2 * (count + size) + BLOCK), mine.value.resize(2 * (count + size) + BLOCK);
        int32_t* where = mine.where.data() + count;
        T* value = mine.value.data() + count;
        int64_t more;
#ifdef TSSLBP_X86
        if constexpr (BYTES == 64 && sizeof(T) == 4) more = changes_in_avx512(difference, now, before, known.data(), size, where, value);
        else
#endif
          more = changes_in<T>(difference, now, before, known.data(), size, where, value);
        for (int64_t k = 0; k < more; ++k) {
          const int32_t pixel = int32_t((where[k] + 0.5) * per_channel);
          where[k] += pixel * (int32_t(PLACES) - int32_t(s.C));
        }
        mine.until.push_back(count += more);
      }
    }
  }
};

// Equation (1): the current of one sample after the other, [T, N, H', W', out].
template <class T>
struct SparseForward {
  Changes<T> changes;
  const ByInput<T>& weight;
  std::vector<Reach> reach;
  MapSizes s;
  T decay, per_tau;
  T* current;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t out = weight.out, line = s.row_wide() * out, rows = s.out_high(), columns = s.out_wide();
    std::vector<T> sum(rows * line);
    for (int64_t n = begin; n < end; ++n) {
      std::fill(sum.begin(), sum.end(), T(0));
      for (int64_t t = 0; t < s.T; ++t) {
        const int64_t first = changes.from[n * s.T + t], last = changes.from[n * s.T + t + 1];
        const int32_t* where = changes.where + first;
        for (int64_t i = 0, next; i < last - first; i = next) {  // all channels of a pixel that change
          const int32_t pixel = where[i] >> 16;
          for (next = i + 1; next < last - first && where[next] >> 16 == pixel;) ++next;
          const Reach& r = reach[pixel];
          s.rows(r.y, [&](int64_t y, int64_t ky) TSSLBP_LAMBDA {
            gather<T, BYTES>(sum.data() + y * line + r.first * out, r.columns * out, next - i, changes.value + first + i,
                             [&](int64_t j) TSSLBP_LAMBDA { return weight.at(where[i + j] & (PLACES - 1), ky) + r.before * out; });
          });
        }
        T* now = current + (t * s.N + n) * rows * columns * s.out;
        const T* before = t ? now - s.N * rows * columns * s.out : nullptr;
        for (int64_t y = 0; y < rows; ++y)
          for (int64_t x = 0; x < columns; ++x) {
            const T* __restrict total = sum.data() + y * line + (x + s.margin()) * out;
            const int64_t place = (y * columns + x) * s.out;
            if (before)
              for (int64_t o = 0; o < s.out; ++o) now[place + o] = decay * before[place + o] + per_tau * total[o];
            else
              for (int64_t o = 0; o < s.out; ++o) now[place + o] = per_tau * total[o];
          }
      }
    }
  }
};

// F of (2) for one sample, with a margin of 0 at the sides of each row: [T, H', W' + margins, out].
template <class T>
TSSLBP_INLINE void filtered_back(const T* delta, T* filtered, T* error, const MapSizes& s, int64_t n, int64_t out, T decay, T per_tau) {
  const int64_t rows = s.out_high(), columns = s.out_wide(), line = s.row_wide() * out, step = rows * line;
  std::fill_n(error, rows * columns * s.out, T(0));
  for (int64_t t = s.T - 1; t >= 0; --t)
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        const int64_t place = (y * columns + x) * s.out;
        const T* __restrict d = delta + (t * s.N + n) * rows * columns * s.out + place;
        T* __restrict e = error + place;
        T* __restrict f = filtered + t * step + y * line + (x + s.margin()) * out;
        if (t == s.T - 1)
          for (int64_t o = 0; o < s.out; ++o) f[o] = e[o] = per_tau * d[o];
        else
          for (int64_t o = 0; o < s.out; ++o) {
            e[o] = per_tau * d[o] + decay * e[o];
            f[o] = f[step + o] + e[o];
          }
      }
}

// Equation (2) for a convolution: the part of a group of samples, in an order that no number of threads changes.
template <class T>
struct SparseGradient {
  Changes<T> changes;
  const T* delta;
  const std::vector<Reach>& reach;
  MapSizes s;
  T decay, per_tau;
  int64_t groups;
  std::vector<ByInput<T>>& parts;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t out = padded<T>(s.out), line = s.row_wide() * out, step = s.out_high() * line;
    std::vector<T> filtered(s.T * step), error(s.out_high() * s.out_wide() * s.out), value;
    std::vector<int64_t> from(s.C + 1), at;
    std::vector<const T*> row;
    std::vector<T> chosen;
    std::vector<int32_t> pixel, when;
    for (int64_t group = begin; group < end; ++group) {
      ByInput<T>& made = parts[group];
      made.clear();
      for (int64_t n = group * s.N / groups; n < (group + 1) * s.N / groups; ++n) {
        filtered_back(delta, filtered.data(), error.data(), s, n, out, decay, per_tau);
        by_channel(n, from, pixel, when, value);
        for (int64_t c = 0; c < s.C; ++c)
          for (int64_t phase = 0; phase < s.stride_x; ++phase)
            for (int64_t ky = 0; ky < s.high; ++ky) {
              row.clear(), chosen.clear();
              int64_t columns = 0, before = 0;
              for (int64_t i = from[c]; i < from[c + 1]; ++i) {
                const Reach& r = reach[pixel[i]];
                const int64_t place = r.y + s.pad_y - ky, y = place / s.stride_y;
                if (place < 0 || place % s.stride_y || y >= s.out_high() || r.before != s.columns_before(phase)) continue;
                columns = r.columns, before = r.before;
                row.push_back(filtered.data() + when[i] * step + y * line + r.first * out);
                chosen.push_back(value[i]);
              }
              gather<T, BYTES>(made.at(c, ky) + before * out, columns * out, int64_t(row.size()), chosen.data(),
                               [&](int64_t i) TSSLBP_LAMBDA { return row[i]; });
            }
      }
    }
  }

  // The changes of a sample in the order of their channels.
  void by_channel(int64_t n, std::vector<int64_t>& from, std::vector<int32_t>& pixel, std::vector<int32_t>& when,
                  std::vector<T>& value) const {
    const int64_t first = changes.from[n * s.T], count = changes.from[(n + 1) * s.T] - first;
    pixel.resize(count), when.resize(count), value.resize(count);
    std::fill(from.begin(), from.end(), 0);
    for (int64_t i = 0; i < count; ++i) ++from[(changes.where[first + i] & (PLACES - 1)) + 1];
    for (int64_t c = 0; c < s.C; ++c) from[c + 1] += from[c];
    std::vector<int64_t> next(from.begin(), from.end() - 1);
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t i = changes.from[n * s.T + t]; i < changes.from[n * s.T + t + 1]; ++i) {
        const int64_t place = next[changes.where[i] & (PLACES - 1)]++;
        pixel[place] = changes.where[i] >> 16, when[place] = int32_t(t), value[place] = changes.value[i];
      }
  }
};

// Equation (2) for a matrix product: F of all samples first, then for some of the outputs at a time all changes in their order.
template <class T>
struct FilterBack {
  const T* delta;
  MapSizes s;
  T decay, per_tau;
  int64_t out;
  T* filtered;  // [N, T, out]

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    std::vector<T> error(s.out);
    for (int64_t n = begin; n < end; ++n)
      filtered_back(delta, filtered + n * s.T * out, error.data(), s, n, out, decay, per_tau);
  }
};

template <class T>
struct FlatGradient {
  Changes<T> changes;
  const T* filtered;  // [N·T, out]
  MapSizes s;
  int64_t chunk;  // outputs at a time
  ByInput<T>& made;

  template <int BYTES>
  TSSLBP_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * chunk, length = std::min(chunk, made.out - first);
      for (int64_t row = 0; row < s.N * s.T; ++row) {
        const T* f = filtered + row * made.out + first;
        for (int64_t i = changes.from[row]; i < changes.from[row + 1]; ++i)
          add_row<T, BYTES>(made.at(changes.where[i] & (PLACES - 1), 0) + first, f, changes.value[i], length);
      }
    }
  }
};

template <class Op>
void items_baseline(const Op& op, int64_t begin, int64_t end) {
  op.template operator()<16>(begin, end);
}

#ifdef TSSLBP_X86
template <class Op>
TSSLBP_AVX2 void items_avx2(const Op& op, int64_t begin, int64_t end) {
  op.template operator()<32>(begin, end);
}

template <class Op>
TSSLBP_AVX512 void items_avx512(const Op& op, int64_t begin, int64_t end) {
  op.template operator()<64>(begin, end);
}
#endif

// Runs an operation over items that do not depend on each other, such as the samples of a batch; a thread gets `grain` or more.
template <class Op>
void each(const Op& op, int64_t count, int64_t grain = 1) {
  auto* run = &items_baseline<Op>;
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2) run = &items_avx2<Op>;
  if (capability() == Capability::avx512) run = &items_avx512<Op>;
#endif
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const FlushTinyNumbers flush;
    run(op, begin, end);
  });
}

}  // namespace tsslbp
