// Inference from events: a network takes samples one by one, and silence costs nothing. As the synapse is linear, a layer's
// current follows from the spikes s of the layer before, (1) to (3) as in neuron.py:
//
//     I[t] = (1 - 1/τs)·I[t-1] + S[t]/τs,      S[t] = W·s[t]        the synapse comes after the weights
//     S[t] = S[t-1] + W·(s[t] - s[t-1])                             what does not change costs nothing
//
// Time is cut into chunks of at most STEPS steps. A neuron's spike train in a chunk is one byte, bit t for step t, and eight
// silent neurons are skipped by one comparison. Neurons lie as [row, column, channel]; a fully connected layer is one pixel.
// A chunk goes through the layers one after the other: a layer's input is listed as events, pixel by pixel and step by step;
// an event adds a row of weights to the sums of the neurons that it reaches; neurons turn sums into trains.
//
// The order in which a neuron adds its inputs depends only on its sample, not on the batch, threads or instruction set.
#pragma once

#include "plan.h"

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wpsabi"  // all functions that take vectors are inlined
#endif

namespace tsslbp::events {

constexpr int64_t STEPS = 8;                   // of a chunk
constexpr int64_t FAR = 1 << 18;               // bytes of weights too large for a near cache
constexpr int64_t TOGETHER = 16;               // samples that go through far weights together
constexpr uint64_t ONES = 0x0101010101010101;  // a byte of 1 for each of eight steps or neurons

// Numbers in a unit of layout: lines of sums and rows of weights are padded to whole ones.
template <class T>
constexpr int64_t UNIT = 64 / sizeof(T);

// Vectors of so many bytes, which an instruction set has.
template <class T, int bytes>
struct Vectors {
  typedef T Numbers __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Words __attribute__((vector_size(bytes)));
  typedef uint8_t Trains __attribute__((vector_size(bytes / sizeof(T))));
};
template <class T, int bytes>
using Numbers = typename Vectors<T, bytes>::Numbers;
template <class T, int bytes>
using Words = typename Vectors<T, bytes>::Words;
template <class T, int bytes>
constexpr int64_t LANES_OF = bytes / sizeof(T);

// Events of a view in a chunk: in step t those of pixel p begin at t·size + start[p·steps + t], and end where those of p + 1
// begin. Each is a channel, and the neuron's spike (or the sum of a window) or, as `differences`, its change since the step
// before. As `powers` the amounts are powers of two or their negatives: a sum may differ by several.
template <class T>
struct Events {
  uint32_t *start, *busy, *channel;  // busy are the pixels that have events
  T* amount;
  int64_t size, busy_pixels = 0, steps = 0;
  bool differences = false, powers = true;
  uint32_t counts[STEPS] = {};  // so far, while they are listed

  int64_t count() const {
    int64_t n = 0;
    for (int64_t t = 0; t < steps; ++t) n += counts[t];
    return n;
  }
  TSSLBP_INLINE void begin(int64_t steps_, bool differences_) {
    steps = steps_, differences = differences_;
    std::fill_n(counts, STEPS, 0);
  }
  TSSLBP_INLINE void begin_pixel(int64_t p) {
    for (int64_t t = 0; t < steps; ++t) start[p * steps + t] = counts[t];
  }
  TSSLBP_INLINE void end(int64_t pixels) {
    begin_pixel(pixels);
    busy_pixels = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      uint32_t any = 0;
      for (int64_t t = p * steps; t < (p + 1) * steps; ++t) any |= start[t] ^ start[t + steps];
      busy[busy_pixels] = uint32_t(p), busy_pixels += any != 0;
    }
  }
  TSSLBP_INLINE void add(int64_t t, int64_t c, T x) {
    const int64_t at = t * size + counts[t]++;
    channel[at] = uint32_t(c), amount[at] = x;
  }
};

// Memory of one thread, allocated piece by piece: the first of two passes measures it.
class Memory {
 public:
  explicit Memory(char* begin) : begin_(reinterpret_cast<uintptr_t>(begin)) {}

  template <class U>
  U* take(int64_t n) {
    U* piece = reinterpret_cast<U*>(begin_ + used_);
    used_ += padded(n * int64_t(sizeof(U)));
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  uintptr_t begin_;
  int64_t used_ = 0;
};

template <int bytes, class T>
TSSLBP_INLINE Numbers<T, bytes> load(const T* p) {
  return *reinterpret_cast<const Numbers<T, bytes>*>(p);
}
template <int bytes, class T>
TSSLBP_INLINE void store(T* p, Numbers<T, bytes> x) {
  *reinterpret_cast<Numbers<T, bytes>*>(p) = x;
}

TSSLBP_INLINE uint64_t eight(const uint8_t* p) {
  uint64_t x;
  std::memcpy(&x, p, 8);
  return x;
}

// The highest bit of every byte that is not 0.
TSSLBP_INLINE uint64_t bytes_set(uint64_t x) { return (((x & 0x7f * ONES) + 0x7f * ONES) | x) & 0x80 * ONES; }

// Events of trains without pooling. The array of trains has eight bytes more.
template <class T>
TSSLBP_INLINE void list_trains(const View& v, const uint8_t* trains, int64_t steps, Events<T>& e) {
  const uint64_t within = ((1u << steps) - 1) * ONES, later = within & (0xfe * ONES);
  int64_t spikes = 0, changes = 0;
  for (int64_t i = 0; i < v.size(); i += 8) {
    uint64_t x = eight(trains + i);
    if (v.size() - i < 8) x &= ~uint64_t(0) >> 8 * (8 - (v.size() - i));
    if (!x) continue;
    spikes += __builtin_popcountll(x), changes += __builtin_popcountll(x ^ ((x << 1) & later));
  }
  e.begin(steps, changes < spikes);
  for (int64_t p = 0; p < v.pixels(); ++p) {
    e.begin_pixel(p);
    const uint8_t* pixel = trains + p * v.c;
    for (int64_t c = 0; c < v.c; c += 8) {
      uint64_t x = eight(pixel + c);
      if (v.c - c < 8) x &= ~uint64_t(0) >> 8 * (8 - (v.c - c));
      for (uint64_t left = e.differences ? x ^ ((x << 1) & later) : x; left; left &= left - 1) {
        const int bit = __builtin_ctzll(left);
        e.add(bit % 8, c + bit / 8, x >> bit & 1 ? T(1) : T(-1));
      }
    }
  }
  e.end(v.pixels());
}

// Events of pooled trains. `sums` is scratch, [pixels, groups of eight channels, steps]: a byte for each channel.
template <class T>
TSSLBP_INLINE void list_pooled(const View& v, const Stage& from, const uint8_t* trains, int64_t steps, uint64_t* sums, Events<T>& e) {
  const int64_t rows = from.h / v.pool_h, columns = from.w / v.pool_w;
  int64_t spikes = 0, changes = 0;
  uint64_t* sum = sums;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x)
      for (int64_t c = 0; c < from.c; c += 8, sum += steps) {
        const uint8_t* window = trains + (y * v.pool_h * from.w + x * v.pool_w) * from.c + c;
        const uint64_t within = from.c - c < 8 ? ~uint64_t(0) >> 8 * (8 - (from.c - c)) : ~uint64_t(0);
        uint64_t any = 0, before = 0;
        std::fill_n(sum, steps, 0);
        for (int64_t i = 0; i < v.pool_h; ++i)
          for (int64_t j = 0; j < v.pool_w; ++j) any |= eight(window + (i * from.w + j) * from.c);
        if (!(any & within)) continue;
        for (int64_t i = 0; i < v.pool_h; ++i)
          for (int64_t j = 0; j < v.pool_w; ++j) {
            const uint64_t some = eight(window + (i * from.w + j) * from.c) & within;
            for (int64_t t = 0; t < steps; ++t) sum[t] += some >> t & ONES;
          }
        for (int64_t t = 0; t < steps; before = sum[t++]) {
          spikes += __builtin_popcountll(bytes_set(sum[t]));
          changes += __builtin_popcountll(bytes_set(sum[t] ^ before));
        }
      }
  e.begin(steps, changes < spikes);
  sum = sums;
  for (int64_t p = 0; p < rows * columns; ++p) {
    if (p < v.pixels()) e.begin_pixel(p);
    const int64_t first = v.pixels() == 1 ? p * from.c : 0;
    for (int64_t c = first; c < first + from.c; c += 8, sum += steps) {
      uint64_t before = 0, changed = 0;  // bit 8·t + k for channel k of the group
      for (int64_t t = 0; t < steps; before = e.differences ? sum[t] : 0, ++t)
        changed |= (bytes_set(sum[t] ^ before) >> 7) * 0x0102040810204080 >> 56 << 8 * t;
      for (; changed; changed &= changed - 1) {
        const int bit = __builtin_ctzll(changed), t = bit / 8, k = bit % 8 * 8;
        const int by = int(sum[t] >> k & 0xff) - (t && e.differences ? int(sum[t - 1] >> k & 0xff) : 0);
        int more = by < 0 ? -by : by;
        do e.add(t, c + bit % 8, T(by < 0 ? -(more & -more) : more & -more));
        while (more &= more - 1);
      }
    }
  }
  e.end(v.pixels());
}

// Events of `steps` steps of the network's input, each [c, h, w] and `stride` numbers after the one before. Returns whether all
// are finite.
template <class T>
TSSLBP_INLINE bool list_input(const View& v, const T* x, int64_t stride, int64_t steps, Events<T>& e) {
  bool finite = true;
  e.begin(steps, false), e.powers = false;
  for (int64_t t = 0; t < steps; ++t, x += stride)
    for (int64_t p = 0; p < v.pixels(); ++p) {
      e.start[p * steps + t] = e.counts[t];
      for (int64_t c = 0; c < v.c; ++c) {
        const T amount = x[c * v.pixels() + p];
        if (amount == 0) continue;
        finite &= amount - amount == 0;
        e.add(t, c, amount);
      }
    }
  e.end(v.pixels());
  return finite;
}

// Subtracts an image's background channel by channel: the value in its corner, or 0 if that is as common. Only differences from
// it need to be added up.
template <class T>
TSSLBP_INLINE void take_background(const T* x, int64_t channels, int64_t pixels, T* background, T* left) {
  for (int64_t c = 0; c < channels; ++c, x += pixels, left += pixels) {
    int64_t more = 0;
    for (int64_t p = 0; p < pixels; ++p) more += (x[p] == x[0]) - (x[p] == 0);
    const T value = background[c] = more > 0 ? x[0] : T(0);
    for (int64_t p = 0; p < pixels; ++p) left[p] = x[p] - value;
  }
}

#ifdef __clang__
#define TSSLBP_UNROLL _Pragma("unroll")
#else
#define TSSLBP_UNROLL _Pragma("GCC unroll 16")
#endif

// For functions in which products and sums may be fused, so that they round once.
#ifdef __clang__
#define TSSLBP_FUSED
#define TSSLBP_FUSE _Pragma("clang fp contract(fast)")
#else
#define TSSLBP_FUSED __attribute__((optimize("fp-contract=fast")))
#define TSSLBP_FUSE
#endif

// Adds amount·x. Where the amount is a power of two, the product is exact: fused or not, all bits are the same.
template <bool powers, class N, class T>
TSSLBP_INLINE void add_product(N& sum, T amount, const N& x) {
  if constexpr (powers) {
    TSSLBP_FUSE
    sum += amount * x;
  } else
    sum += amount * x;
}

// Adds rows of weights of `count` events (at least one), each times its amount, to `units` units of sums, which stay in
// registers: only if every loop over them is unrolled.
template <class T, int bytes, int units, bool powers>
TSSLBP_INLINE void add_units(T* sums, const T* rows, int64_t row, const uint32_t* channel, const T* amount, int64_t count) {
  constexpr int vectors = units * 64 / bytes;
  constexpr int64_t lanes = LANES_OF<T, bytes>;
  Numbers<T, bytes> sum[vectors];
  TSSLBP_UNROLL for (int k = 0; k < vectors; ++k) sum[k] = load<bytes>(sums + k * lanes);
  int64_t i = 0;
  do {
    const T* weights = rows + int64_t(channel[i]) * row;
    TSSLBP_UNROLL for (int k = 0; k < vectors; ++k) add_product<powers>(sum[k], amount[i], load<bytes>(weights + k * lanes));
  } while (++i < count);
  TSSLBP_UNROLL for (int k = 0; k < vectors; ++k) store<bytes>(sums + k * lanes, sum[k]);
}

// For an instruction set: add_units for every number of units that its registers hold.
template <class T>
struct Adders {
  using Add = void (*)(T*, const T*, int64_t, const uint32_t*, const T*, int64_t);
  static constexpr int MOST = 14;
  Add of[MOST + 1] = {};
  int64_t most = 0;

  TSSLBP_INLINE void operator()(T* sums, const T* rows, int64_t row, int64_t units, const uint32_t* channel, const T* amount,
                                int64_t count) const {
    for (int64_t now; units; units -= now, sums += now * UNIT<T>, rows += now * UNIT<T>) {
      now = std::min(units, most);
      of[now](sums, rows, row, channel, amount, count);
    }
  }
};

// Of any amounts, and of powers of two.
template <class T>
struct AllAdders {
  Adders<T> any, powers;
};

#define TSSLBP_ADDERS(set, target, bytes, most)                                                                             \
  template <class T, int units>                                                                                             \
  target void add_##set(T* sums, const T* rows, int64_t row, const uint32_t* channel, const T* amount, int64_t n) {          \
    add_units<T, bytes, units, false>(sums, rows, row, channel, amount, n);                                                 \
  }                                                                                                                         \
  template <class T, int units>                                                                                             \
  target TSSLBP_FUSED void add_powers_##set(T* sums, const T* rows, int64_t row, const uint32_t* channel, const T* amount,   \
                                            int64_t n) {                                                                    \
    add_units<T, bytes, units, true>(sums, rows, row, channel, amount, n);                                                  \
  }                                                                                                                         \
  template <class T, int... k>                                                                                              \
  AllAdders<T> adders_##set(std::integer_sequence<int, k...>) {                                                             \
    return {{{nullptr, &add_##set<T, k + 1>...}, most}, {{nullptr, &add_powers_##set<T, k + 1>...}, most}};                  \
  }
TSSLBP_ADDERS(baseline, , 16, 3)
#ifdef TSSLBP_X86
TSSLBP_ADDERS(avx2, __attribute__((target("avx2,fma"))), 32, 6)
TSSLBP_ADDERS(avx512, TSSLBP_AVX512, 64, 14)
#endif
#undef TSSLBP_ADDERS

template <class T>
AllAdders<T> adders() {
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2 && __builtin_cpu_supports("fma")) return adders_avx2<T>(std::make_integer_sequence<int, 6>());
  if (capability() == Capability::avx512) return adders_avx512<T>(std::make_integer_sequence<int, 14>());
#endif
  return adders_baseline<T>(std::make_integer_sequence<int, 3>());
}

// Adds to sums of a fully connected layer, [steps, line] of each of `n` samples, the events of its views. All samples and steps
// use some columns of the weights before the next are loaded.
template <class T>
TSSLBP_INLINE void add_up_flat(const Map& m, int64_t inputs, const Events<T>* const* e, int64_t n, const T* weights, const Adders<T>& add, T* sums) {
  const T* columns = weights + m.weights;
  for (int64_t first = 0; first < m.row; first += COLUMNS * UNIT<T>) {
    const int64_t width = std::min(COLUMNS * UNIT<T>, m.row - first);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t t = 0; t < e[j]->steps; ++t) {
        const int64_t count = e[j]->counts[t], at = t * e[j]->size;
        T* to = sums + (j * e[j]->steps + t) * m.step + first;
        if (count) add(to, columns, width, width / UNIT<T>, e[j]->channel + at, e[j]->amount + at, count);
      }
    columns += inputs * width;
  }
}

// Adds to sums of a map, [steps, h, line], the events of its view.
template <class T>
TSSLBP_INLINE void add_up(const Stage& s, const Map& m, const View& v, const Events<T>& e, const T* weights, const Adders<T>& add, T* sums) {
  const int64_t columns = m.merged ? 1 : m.kw, reached = s.c / m.groups, heard = v.c / m.groups;
  const int64_t units = (reached + UNIT<T> - 1) / UNIT<T>;
  for (int64_t ky = 0; ky < m.kh; ++ky) {
    const T* rows = weights + m.weights + ky * v.c * columns * m.row;  // a kernel row at a time, which stays in the cache
    for (int64_t k = 0, y = 0; k < e.busy_pixels; ++k) {
      const int64_t p = e.busy[k];
      while (p >= (y + 1) * v.w) ++y;
      const int64_t x = p - y * v.w, down = y + m.ph - ky * m.dh, line = down / m.sh;
      if (down < 0 || down % m.sh || line >= s.h) continue;
      const uint32_t* start = e.start + p * e.steps;
      // where merged columns of the kernel begin and end
      const int64_t all = x + m.pw - m.kw + 1, left = std::max<int64_t>(0, all), right = std::min(s.w, x + m.pw + 1);
      const int64_t merged_units = ((right - left) * s.c + UNIT<T> - 1) / UNIT<T>;
      if (m.merged && right <= left) continue;
      for (int64_t t = 0; t < e.steps; ++t) {
        const int64_t count = start[e.steps + t] - start[t], first = t * e.size + start[t];
        if (!count) continue;
        const uint32_t* channel = e.channel + first;
        const T* amount = e.amount + first;
        T* to = sums + t * m.step + line * m.line;
        if (m.weights < 0) {
          for (int64_t i = 0; i < count; ++i) to[x * s.c + channel[i]] += T(m.scale) * amount[i];
          continue;
        }
        if (m.merged) {
          add(to + left * s.c, rows + (left - all) * s.c, m.row, merged_units, channel, amount, count);
          continue;
        }
        for (int64_t kx = 0; kx < m.kw; ++kx) {
          const int64_t across = x + m.pw - kx * m.dw, column = across / m.sw;
          if (across < 0 || across % m.sw || column >= s.w) continue;
          for (int64_t i = 0, next; i < count; i = next) {  // the events of a group
            const int64_t group = channel[i] / heard;
            for (next = i + 1; next < count && channel[next] / heard == group;) ++next;
            T* at = to + column * s.c + group * reached;
            add(at, rows + kx * m.row, m.kw * m.row, units, channel + i, amount + i, next - i);
          }
        }
      }
    }
  }
}

}  // namespace tsslbp::events
