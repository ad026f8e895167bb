// Where the rows of an operation come from and go to. A row is one step of a block of neurons.
//
// Operations compute on contiguous rows of T. In memory a sequence may be T or, for T = float, bfloat16; and the post-synaptic
// current may be pooled: summed over windows of size × size pixels, times a factor, with neurons as [image, row, column,
// channel]. Other rows are assembled in a buffer that stays in the cache.
#pragma once

#include "gather.h"

#include <cstring>
#ifdef TSSLBP_X86
#include <emmintrin.h>
#endif

namespace tsslbp {

#ifdef TSSLBP_X86
constexpr int64_t LARGE = int64_t(4) << 20;  // bytes, more than the caches of one core hold
#else
constexpr int64_t LARGE = EXACT;
#endif

// Whether a sequence is written past the caches. The processor then need not read what it overwrites, and what is needed sooner
// stays in the caches. A shorter sequence may be read again while it is still there.
template <class T>
constexpr bool is_large(int64_t steps, int64_t n) {
  return steps * n >= LARGE / int64_t(sizeof(T));
}

template <class T>
TSSLBP_INLINE void copy_past_caches(const T* __restrict from, int64_t width, T* __restrict to) {
  int64_t j = 0;
#ifdef TSSLBP_X86
  constexpr int64_t N = 16 / sizeof(T);
  for (; j < width && reinterpret_cast<uintptr_t>(to + j) % 16; ++j) to[j] = from[j];
  for (; j + N <= width; j += N)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + j), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)));
#endif
  for (; j < width; ++j) to[j] = from[j];
}

using Bf16 = uint16_t;  // the bits of a bfloat16: the upper half of a float

TSSLBP_INLINE float widen(Bf16 x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }

// To the nearest, ties to even; NaN stays NaN.
TSSLBP_INLINE Bf16 narrow(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return Bf16((x == x ? rounded : 0x7fc00000u) >> 16);
}

// Rows to read. With pooling, `buffer` has room for WIDEST more numbers: the channels of a pixel are copied as whole vectors, and
// the pixel after it overwrites what is too much.
template <class T>
struct Source {
  const void* data;
  int64_t stride;  // from one step to the next; 0 if it is the same in every step
  bool bf16;
  Pool pool;
  int64_t count = 0;  // with pooling: numbers of a step

  TSSLBP_INLINE const T* row(int64_t t, int64_t first, int64_t width, T* __restrict buffer) const {
    const T* __restrict full = static_cast<const T*>(data) + (bf16 ? 0 : t * stride);
    const Bf16* __restrict bits = static_cast<const Bf16*>(data) + (bf16 ? t * stride : 0);
    if (pool.size) return bf16 ? spread(bits, first, width, buffer) : spread(full, first, width, buffer);
    if (!bf16) return full + first;
    for (int64_t j = 0; j < width; ++j) buffer[j] = T(widen(bits[first + j]));
    return buffer;
  }

  // Gives every neuron the number of its window, row of pixels by row of pixels; 0 if it has none.
  template <class Number>
  TSSLBP_INLINE const T* spread(const Number* __restrict windows, int64_t first, int64_t width, T* __restrict buffer) const {
    const T factor = T(pool.factor);
    const int64_t line = pool.line(), channels = pool.channels, with_window = pool.pooled_width() * pool.size * channels;
    int64_t at = first % line, y = first / line % pool.height, image = first / line / pool.height;
    for (int64_t j = 0, length; j < width; j += length, at = 0) {
      length = std::min(line - at, width - j);
      T* __restrict to = buffer + j;
      if (y % pool.size && j >= line) {
        std::memcpy(to, to - line, length * sizeof(T));  // the row above is of the same windows
      } else {
        const int64_t above = y / pool.size, end = above < pool.pooled_height() ? std::clamp<int64_t>(with_window - at, 0, length) : 0;
        const Number* __restrict from = windows + (image * pool.pooled_height() + above) * pool.row();
        int64_t channel = at % channels, inside = at / channels % pool.size, window = at / channels / pool.size * channels;
        for (int64_t i = 0, run; i < end; i += run) {
          run = std::min(channels - channel, end - i);
          copy(from + window + channel, windows + count, run, factor, to + i);
          channel = 0;
          if (++inside == pool.size) inside = 0, window += channels;
        }
        std::fill_n(to + end, length - end, T(0));
      }
      if (++y == pool.height) y = 0, ++image;
    }
    return buffer;
  }

  // factor · from, in whole vectors unless the last one would reach beyond `end`.
  template <class Number>
  static TSSLBP_INLINE void copy(const Number* __restrict from, const Number* end, int64_t length, T factor, T* __restrict to) {
    constexpr int64_t N = WIDEST<T>;
    if (padded<T>(length) > end - from)
      for (int64_t i = 0; i < length; ++i) to[i] = factor * widened(from[i]);
    else
      for (int64_t i = 0; i < length; i += N)
        for (int64_t v = 0; v < N; ++v) to[i + v] = factor * widened(from[i + v]);
  }

  static TSSLBP_INLINE T widened(Bf16 x) { return T(widen(x)); }
  static TSSLBP_INLINE T widened(T x) { return x; }
};

// Rows to write: fill what `row` returns, then `put` it.
template <class T>
struct Target {
  void* data;
  int64_t stride;
  bool bf16;
  Pool pool;
  bool large = false;  // written past the caches, in blocks of at most LANES numbers

  TSSLBP_INLINE T* row(int64_t t, int64_t first, T* buffer) const {
    return bf16 || large || pool.size ? buffer : static_cast<T*>(data) + t * stride + first;
  }

  // Without pooling. Otherwise `add` sums the rows of pixels of a row of windows, and `put_sums` then adds neighbouring pixels. Each
  // step has `room()` numbers for its sums.
  TSSLBP_INLINE void put(int64_t t, int64_t first, int64_t width, const T* __restrict buffer) const {
    if (!bf16) {
      if (large) copy_past_caches(buffer, width, static_cast<T*>(data) + t * stride + first);
      return;
    }
    Bf16 made[LANES<T>], *__restrict to = static_cast<Bf16*>(data) + t * stride + first, *__restrict out = large ? made : to;
    for (int64_t j = 0; j < width; ++j) out[j] = narrow(float(buffer[j]));
    if (large) copy_past_caches(made, width, to);
  }

  int64_t room() const { return pool.line() + WIDEST<T>; }

  TSSLBP_INLINE void add(int64_t first, int64_t width, const T* __restrict buffer, T* __restrict sums) const {
    int64_t at = first % pool.line();
    for (int64_t j = 0, length; j < width; j += length, at = 0) {
      length = std::min(pool.line() - at, width - j);
      for (int64_t i = 0; i < length; ++i) sums[at + i] += buffer[j + i];
    }
  }

  // Windows are made from left to right in whole vectors: each overwrites what was too much before it. `made` has `room()` too.
  TSSLBP_INLINE void put_sums(int64_t t, int64_t windows, const T* __restrict sums, T* __restrict made) const {
    using V = Vector<T, 64>;
    const int64_t row = pool.row();
    for (int64_t x = 0; x < pool.pooled_width(); ++x)
      for (int64_t i = 0; i < pool.channels; i += V::N) {
        const T* pixel = sums + x * pool.size * pool.channels + i;
        typename V::type sum = *reinterpret_cast<const typename V::loose*>(pixel);
        for (int64_t k = 1; k < pool.size; ++k)
          sum += *reinterpret_cast<const typename V::loose*>(pixel + k * pool.channels);
        *reinterpret_cast<typename V::loose*>(made + x * pool.channels + i) = sum;
      }
    const T factor = T(pool.factor);
    T* __restrict full = static_cast<T*>(data) + (bf16 ? 0 : t * stride + windows * row);
    Bf16* __restrict bits = static_cast<Bf16*>(data) + (bf16 ? t * stride + windows * row : 0);
    for (int64_t i = 0; i < row; ++i) {
      if (bf16) bits[i] = narrow(float(factor * made[i]));
      else full[i] = factor * made[i];
    }
  }
};

}  // namespace tsslbp
