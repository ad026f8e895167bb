// Where the rows of an operation come from and go to. A row is one step of a block of neurons.
//
// Operations compute on contiguous rows of T. In memory a sequence may be T or, for T = float, bfloat16; and the post-synaptic
// current may be pooled: summed over windows of size × size pixels, times a factor, with neurons as [image, row, column,
// channel]. Other rows are assembled in a buffer that stays in the cache.
#pragma once

#include "sweep.h"

#include <cstring>

namespace tsslbp {

using Half = uint16_t;  // the bits of a bfloat16: the upper half of a float

TSSLBP_INLINE float widen(Half x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }

// To the nearest, ties to even; NaN stays NaN.
TSSLBP_INLINE Half narrow(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return Half((x == x ? rounded : 0x7fc00000u) >> 16);
}

// Rows to read.
template <class T>
struct Source {
  const void* data;
  int64_t stride;  // from one step to the next; 0 if it is the same in every step
  bool half;
  Pool pool;

  TSSLBP_INLINE const T* row(int64_t t, int64_t first, int64_t width, T* __restrict buffer) const {
    const T* __restrict full = static_cast<const T*>(data) + (half ? 0 : t * stride);
    const Half* __restrict halves = static_cast<const Half*>(data) + (half ? t * stride : 0);
    const T factor = T(pool.factor);
    if (pool.size) {
      pool.runs(first, width, [&](int64_t j, int64_t k, int64_t length) {
        if (k < 0)
          for (int64_t i = 0; i < length; ++i) buffer[j + i] = 0;
        else if (half)
          for (int64_t i = 0; i < length; ++i) buffer[j + i] = factor * T(widen(halves[k + i]));
        else
          for (int64_t i = 0; i < length; ++i) buffer[j + i] = factor * full[k + i];
      });
      return buffer;
    }
    if (!half) return full + first;
    for (int64_t j = 0; j < width; ++j) buffer[j] = T(widen(halves[first + j]));
    return buffer;
  }
};

// Rows to write: fill what `row` returns, then `put` it.
template <class T>
struct Target {
  void* data;
  int64_t stride;
  bool half;
  Pool pool;

  TSSLBP_INLINE T* row(int64_t t, int64_t first, T* buffer) const {
    return half || pool.size ? buffer : static_cast<T*>(data) + t * stride + first;
  }

  // Without pooling. Pooled rows are summed in `sums`, one row of windows in T for each step, by `add`.
  TSSLBP_INLINE void put(int64_t t, int64_t first, int64_t width, const T* __restrict buffer) const {
    if (!half) return;
    Half* __restrict out = static_cast<Half*>(data) + t * stride + first;
    for (int64_t j = 0; j < width; ++j) out[j] = narrow(float(buffer[j]));
  }

  TSSLBP_INLINE void add(int64_t first, int64_t width, const T* __restrict buffer, T* __restrict sums) const {
    const int64_t row = pool.row();
    pool.runs(first, width, [&](int64_t j, int64_t k, int64_t length) {
      if (k < 0) return;
      T* __restrict sum = sums + k % row;
      for (int64_t i = 0; i < length; ++i) sum[i] += buffer[j + i];
    });
  }

  // The finished sums of one row of windows.
  TSSLBP_INLINE void put_sums(int64_t t, int64_t windows, const T* __restrict sums) const {
    const int64_t row = pool.row();
    const T factor = T(pool.factor);
    T* __restrict full = static_cast<T*>(data) + (half ? 0 : t * stride + windows * row);
    Half* __restrict halves = static_cast<Half*>(data) + (half ? t * stride + windows * row : 0);
    for (int64_t i = 0; i < row; ++i) {
      if (half) halves[i] = narrow(float(factor * sums[i]));
      else full[i] = factor * sums[i];
    }
  }
};

}  // namespace tsslbp
