// Sums of rows that are chosen one by one, in vector registers.
#pragma once

#include "sweep.h"

#include <memory>
#include <new>

namespace tsslbp {

// A vector register, of 16, 32 or 64 bytes.
template <class T, int BYTES>
struct Vector {
  typedef T type __attribute__((vector_size(BYTES)));
  static constexpr int64_t N = BYTES / sizeof(T);
  typedef T loose __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));  // for any address
};

// The widest vector, in numbers, to which rows are padded.
template <class T>
constexpr int64_t WIDEST = 64 / sizeof(T);

template <class T>
constexpr int64_t padded(int64_t n) {
  return (n + WIDEST<T> - 1) / WIDEST<T> * WIDEST<T>;
}

// Uninitialised numbers, aligned to vectors: one across two cache lines takes twice as long.
struct FreeLines {
  void operator()(void* lines) const { ::operator delete(lines, std::align_val_t(64)); }
};

template <class T>
using Lines = std::unique_ptr<T[], FreeLines>;

template <class T>
Lines<T> lines(int64_t size) {
  return Lines<T>(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t(64))));
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

// The same for rows of any number of whole vectors, in chunks of equal size that leave a register or two.
template <class T, int BYTES, class Row>
TSSLBP_INLINE void gather(T* out, int64_t length, int64_t count, const T* value, const Row& row) {
  if (!count) return;
  constexpr int64_t N = Vector<T, BYTES>::N, MOST = BYTES == 64 ? 16 : 8;
  const int64_t vectors = length / N, chunks = (vectors + MOST - 1) / MOST;
  for (int64_t chunk = 0, from = 0; chunk < chunks; ++chunk) {
    const int64_t wide = (chunk + 1) * vectors / chunks - chunk * vectors / chunks;
    switch (wide) {
#define TSSLBP_WIDE(n) \
  case n: \
    if constexpr (n <= MOST) gather_vectors<n, T, BYTES>(out, from, count, value, row); \
    break;
      TSSLBP_WIDE(1) TSSLBP_WIDE(2) TSSLBP_WIDE(3) TSSLBP_WIDE(4) TSSLBP_WIDE(5) TSSLBP_WIDE(6) TSSLBP_WIDE(7) TSSLBP_WIDE(8)
      TSSLBP_WIDE(9) TSSLBP_WIDE(10) TSSLBP_WIDE(11) TSSLBP_WIDE(12) TSSLBP_WIDE(13) TSSLBP_WIDE(14) TSSLBP_WIDE(15) TSSLBP_WIDE(16)
#undef TSSLBP_WIDE
    }
    from += wide * N;
  }
}

// made[j·wide + i] = x[i·stride + j], in squares that stay in the cache.
template <class T>
TSSLBP_INLINE void transpose(const T* x, int64_t rows, int64_t stride, int64_t columns, T* made, int64_t wide) {
  constexpr int64_t SIDE = 16;
  for (int64_t row = 0; row < rows; row += SIDE)
    for (int64_t column = 0; column < columns; column += SIDE)
      for (int64_t j = column; j < std::min(column + SIDE, columns); ++j)
        for (int64_t i = row; i < std::min(row + SIDE, rows); ++i) made[j * wide + i] = x[i * stride + j];
}

}  // namespace tsslbp
