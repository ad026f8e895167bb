// Where a sequence of post-synaptic currents changes; see sparse.h.
#pragma once

#include "sweep.h"

#include <cmath>
#include <cstring>
#ifdef TSSLBP_X86
#include <immintrin.h>
#endif

namespace tsslbp {

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
  // first, which are those equal to x + pad_x up to a multiple of the stride, and the first x' among them. It may be outside,
  // so rows of outputs have a margin on both sides.
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
};

// The changes of a sequence, step by step for each sample: where[i] = pixel·2^16 + channel, and by how much.
// Those of sample n at step t are from[n·T + t] to from[n·T + t + 1].
template <class T>
struct Changes {
  const int32_t* where;
  const T* value;
  const int64_t* from;
};

constexpr int64_t PLACES = 1 << 16;  // as many pixels and channels at most

// Steps after which changes begin from 0 again, and sums of them too, so that rounding stays behind. Without a synapse (τs = 1)
// every step stands alone: what is left of a sum would else be the whole current of a silent step.
template <class T>
int64_t renewed(T decay) {
  return decay == T(0) ? 1 : 256;
}

// The changes of one sample while they are being found, and how many there are up to each step.
template <class T>
struct Found {
  std::vector<int32_t> where;
  std::vector<T> value;
  std::vector<int64_t> until;
};

// The input of a current: x[t] = τs·(a[t] - (1 - 1/τs)·a[t-1]).
template <class T>
struct Difference {
  T decay, tau, noise;  // changes within rounding do not count
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
      const T rounding = d.noise * std::abs(in[i]) + d.noise * std::abs(old[i]);
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
      for (int64_t k = byte; k < byte + 8; ++k) {  // non-changes are overwritten, without a branch
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
    const __m512 rounding = _mm512_add_ps(_mm512_mul_ps(noise, _mm512_abs_ps(in)), _mm512_mul_ps(noise, _mm512_abs_ps(old)));
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
    const int64_t size = s.pixels() * s.C, renew = renewed(difference.decay);
    const double per_channel = 1.0 / double(s.C);
    std::vector<T> known(size), nothing(size), value(size + BLOCK);
    std::vector<int32_t> where(size + BLOCK);
    for (int64_t i = begin; i < end; ++i) {
      Found<T>& mine = found[i];
      mine.until.reserve(s.T);
      for (int64_t t = 0; t < s.T; ++t) {
        if (t % renew == 0) std::fill(known.begin(), known.end(), T(0));
        const T* now = current + (t * s.N + i * every) * size;
        const T* before = t ? now - s.N * size : nothing.data();
        int64_t more;
#ifdef TSSLBP_X86
        if constexpr (BYTES == 64 && sizeof(T) == 4) more = changes_in_avx512(difference, now, before, known.data(), size, where.data(), value.data());
        else
#endif
          more = changes_in<T>(difference, now, before, known.data(), size, where.data(), value.data());
        for (int64_t k = 0; k < more; ++k) {
          const int32_t pixel = int32_t((where[k] + 0.5) * per_channel);
          where[k] += pixel * (int32_t(PLACES) - int32_t(s.C));
        }
        mine.where.insert(mine.where.end(), where.data(), where.data() + more);
        mine.value.insert(mine.value.end(), value.data(), value.data() + more);
        mine.until.push_back(int64_t(mine.where.size()));
      }
    }
  }
};

// Changes sorted by bins, stably.
template <class T>
struct Sorted {
  std::vector<int64_t> from, place;  // those of a bin are from[bin] to from[bin + 1]
  std::vector<T> value;

  // The changes first to last - 1; bin(i) and number(i) are those of change i.
  template <class Bin, class Number>
  TSSLBP_INLINE void sort(const Changes<T>& changes, int64_t bins, int64_t first, int64_t last, const Bin& bin, const Number& number) {
    from.assign(bins + 2, 0), place.resize(last - first), value.resize(last - first);
    for (int64_t i = first; i < last; ++i) ++from[bin(i) + 2];
    for (int64_t b = 1; b < bins; ++b) from[b + 1] += from[b];
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = from[bin(i) + 1]++;  // in the end, where the bin after it begins
      place[at] = number(i), value[at] = changes.value[i];
    }
  }
};

}  // namespace tsslbp
