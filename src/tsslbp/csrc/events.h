// Inference from events: a network goes over samples one by one, and what is silent costs nothing. As the synapse is linear, the
// current of a layer follows from the spikes s of the layer before, (1) to (3) as in neuron.py:
//
//     I[t] = (1 - 1/τs)·I[t-1] + S[t]/τs,      S[t] = W·s[t]        the synapse comes after the weights
//     S[t] = S[t-1] + W·(s[t] - s[t-1])                             what does not change costs nothing
//
// Time is cut into chunks of at most STEPS steps. A neuron's spike train in a chunk is one byte, bit t for step t, and eight
// silent neurons are passed over by one comparison. Neurons lie as [row, column, channel]; a fully connected layer is one pixel.
// A chunk goes through the layers one after the other: what a layer hears is listed as events, pixel by pixel and step by step;
// an event adds a row of weights to the sums of the neurons that it reaches; neurons turn sums into trains.
//
// In which order a neuron adds up its inputs depends on nothing but its sample: not on the batch, threads or instruction set.
// Loops are written with the compiler's vectors, which it splits where a processor has shorter ones.
#pragma once

#include "sweep.h"

#include <atomic>
#include <cstring>
#include <memory>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wpsabi"  // no vector passes between functions: all that take one are inlined
#endif

namespace tsslbp::events {

constexpr int64_t STEPS = 8;                          // of a chunk
constexpr int64_t MOST = 1 << 28;                     // neurons of a layer, and weights that one neuron reaches in a row
constexpr int64_t WINDOW = 255;                       // neurons of a pooling window: the sum of their spikes is a byte
constexpr uint64_t ONES = 0x0101010101010101;         // a byte of 1 for each of eight steps or neurons

template <class T>
constexpr int64_t WIDE = 64 / sizeof(T);
template <class T>
struct Vectors {
  using Signed = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Numbers __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
  typedef Signed Words __attribute__((vector_size(64)));
};
template <class T>
using Numbers = typename Vectors<T>::Numbers;
template <class T>
using Words = typename Vectors<T>::Words;

inline int64_t padded(int64_t n, int64_t to = 64) { return (n + to - 1) / to * to; }

// What a layer hears: trains of an earlier stage, or the network's input (-1), summed over pooling windows.
struct View {
  int64_t source, pool_h, pool_w, c, h, w;  // sizes after pooling; those of one pixel if it is flat

  bool pooled() const { return pool_h * pool_w > 1; }
  int64_t pixels() const { return h * w; }
  int64_t size() const { return h * w * c; }
};

// A linear map: a convolution, or the identity times a scale where `weights` is -1. Rows of weights lie as [kernel row, channel
// heard, kernel column], reversed and merged into one row for all kernel columns where they reach neurons side by side. Each
// row is padded with zeros to whole vectors.
struct Map {
  int64_t view = -1, weights = -1, kh = 1, kw = 1, sh = 1, sw = 1, ph = 0, pw = 0, dh = 1, dw = 1, groups = 1;
  double scale = 1;
  bool merged = true;
  int64_t row = 0, left = 0, line = 0, step = 0;  // of a row; of sums: columns before the first neuron, columns, size of a step
};

// Neurons, or max pooling of the spikes of stage `pooled`.
struct Stage {
  int64_t c = 1, h = 1, w = 1, pooled = -1, pool_h = 1, pool_w = 1, bias = -1, lateral = -1;
  bool adaptive = false;
  double tau_m = 1, tau_s = 1, threshold = 1, heard_tau_s = 1, tau_a = 1, beta = 0;
  Map maps[2];

  int64_t size() const { return h * w * c; }
  // Rows of state: as layers/ hand them from part to part of a sequence (membrane potential and current; the current again
  // where neurons hear each other; adaptation and spike), and the synapse of what the neurons hear.
  int64_t rows() const { return pooled >= 0 ? 0 : 1 + (lateral < 0 ? 2 : adaptive ? 5 : 3); }
};

// A network, from its numbers in the order in which they are read here (events.py writes them).
struct Network {
  int64_t c, h, w, row;  // of the input; neurons of a padded row of weights
  double tau_s;
  std::vector<View> views;
  std::vector<Stage> stages;

  int64_t inputs() const { return c * h * w; }
  const Stage& output() const { return stages.back(); }
  int64_t state_size() const {
    int64_t size = inputs();
    for (const Stage& stage : stages) size += stage.rows() * stage.size();
    return size;
  }

  // `vector` numbers make a vector, and `weights` are there. Raises for what does not fit together.
  Network(const std::vector<double>& numbers, int64_t vector, int64_t weights) : row(vector), weights_(weights) {
    Fields f("plan", numbers);
    read_sizes(f, c, h, w);
    tau_s = f.from("tau_s", 1, FINITE);
    const int64_t count = f.whole("stages", 1, 1 << 16);
    for (int64_t i = 0; i < count; ++i) stages.push_back(read_stage(f));
    f.end();
    STD_TORCH_CHECK(output().pooled < 0 && output().h * output().w == 1, "tsslbp: the plan's last stage is no flat layer");
  }

 private:
  int64_t weights_;

  static void read_sizes(Fields& f, int64_t& c, int64_t& h, int64_t& w) {
    c = f.whole("c", 1, MOST), h = f.whole("h", 1, MOST), w = f.whole("w", 1, MOST);
    STD_TORCH_CHECK(double(c) * double(h) * double(w) <= double(MOST), "tsslbp: the plan has a layer too large to count");
  }

  int64_t read_offset(Fields& f, const char* name, double numbers) const {
    const int64_t offset = f.whole(name, -1, EXACT);
    STD_TORCH_CHECK(offset < 0 || double(offset) + numbers <= double(weights_), "tsslbp: plan.", name, " leads beyond the weights");
    return offset;
  }

  Stage read_stage(Fields& f) {
    Stage s;
    read_sizes(f, s.c, s.h, s.w);
    s.pooled = f.whole("pooled", -1, int64_t(stages.size()) - 1);
    if (s.pooled >= 0) {
      const Stage& from = stages[s.pooled];
      s.pool_h = f.whole("pool_h", 1, MOST), s.pool_w = f.whole("pool_w", 1, MOST);
      STD_TORCH_CHECK(s.c == from.c && s.h == from.h / s.pool_h && s.w == from.w / s.pool_w, "tsslbp: plan.pool does not fit");
      return s;
    }
    s.tau_m = f.from("tau_m", 1, ANY), s.tau_s = f.from("tau_s", 1, FINITE), s.threshold = f.positive("threshold", FINITE);
    s.heard_tau_s = f.from("heard_tau_s", 1, FINITE);
    s.bias = read_offset(f, "bias", double(s.w * s.c));
    s.lateral = read_offset(f, "lateral", double(s.size()) * double(padded(s.size(), row)));
    s.adaptive = f.flag("adaptive"), s.tau_a = f.from("tau_a", 1, ANY), s.beta = f.from("beta", 0, FINITE);
    STD_TORCH_CHECK(s.lateral >= 0 ? s.h * s.w == 1 : !s.adaptive, "tsslbp: the plan's recurrent layer is not flat, or adapts without");
    for (Map& map : s.maps) read_map(f, s, map);
    STD_TORCH_CHECK(s.maps[0].view >= 0 && s.maps[0].weights >= 0 && (s.lateral < 0 || s.maps[1].view < 0),
                    "tsslbp: the plan has a layer without a map, or a recurrent one with two");
    return s;
  }

  void read_map(Fields& f, const Stage& s, Map& m) {
    const int64_t source = f.whole("source", -2, int64_t(stages.size()) - 1);
    if (source == -2) return;
    const int64_t pool_h = f.whole("pool_h", 1, WINDOW), pool_w = f.whole("pool_w", 1, WINDOW);
    STD_TORCH_CHECK(pool_h * pool_w <= WINDOW && (source >= 0 || pool_h * pool_w == 1), "tsslbp: the plan's pool is too large");
    m.view = view(source, pool_h, pool_w, f.flag("flat"));
    const View& v = views[m.view];
    m.kh = f.whole("kh", 1, MOST), m.kw = f.whole("kw", 1, MOST), m.sh = f.whole("sh", 1, MOST), m.sw = f.whole("sw", 1, MOST);
    m.ph = f.whole("ph", 0, MOST), m.pw = f.whole("pw", 0, MOST), m.dh = f.whole("dh", 1, MOST), m.dw = f.whole("dw", 1, MOST);
    m.groups = f.whole("groups", 1, MOST), m.scale = f.any("scale");
    STD_TORCH_CHECK(v.c % m.groups == 0 && s.c % m.groups == 0, "tsslbp: plan.groups does not divide the channels");
    m.merged = m.sw == 1 && m.dw == 1 && m.groups == 1;
    m.row = padded((m.merged ? m.kw : 1) * (s.c / m.groups), row);
    m.weights = read_offset(f, "weights", double(m.kh) * double(v.c) * double(m.merged ? 1 : m.kw) * double(m.row));
    const bool same = v.c == s.c && v.h == s.h && v.w == s.w;
    STD_TORCH_CHECK(m.weights >= 0 || (same && m.kh * m.kw == 1), "tsslbp: the plan's shortcut changes the shape");
    // Merged rows of weights may reach over the edges of a line of neurons, so lines of sums have room there.
    m.left = m.merged ? std::max<int64_t>(0, m.kw - 1 - m.pw) : 0;
    m.line = m.left + s.w;
    if (m.merged) m.line = std::max(m.line, v.w + m.pw + m.left);
    STD_TORCH_CHECK(double(s.h) * double(m.line) * double(s.c) + double(m.row) <= double(MOST), "tsslbp: the plan's layer is too large");
    m.step = padded(s.h * m.line * s.c + m.row);
  }

  int64_t view(int64_t source, int64_t pool_h, int64_t pool_w, bool flat) {
    View v{source, pool_h, pool_w, c, h, w};
    if (source >= 0) v.c = stages[source].c, v.h = stages[source].h / pool_h, v.w = stages[source].w / pool_w;
    STD_TORCH_CHECK(v.size() >= 1, "tsslbp: the plan's pool does not fit");
    if (flat) v.c = v.size(), v.h = v.w = 1;
    for (size_t i = 0; i < views.size(); ++i)
      if (std::memcmp(&views[i], &v, sizeof v) == 0) return int64_t(i);
    views.push_back(v);
    return int64_t(views.size()) - 1;
  }
};

// Events of a view in a chunk: in step t those of pixel p are at t·size + start[t·(pixels + 1) + p] and following. Each is a
// channel, and by how much the neuron's spike (or the sum of a window) is more than 0 or, as `differences`, more than before.
template <class T>
struct Events {
  uint32_t *start, *channel;
  T* amount;
  int64_t size, pixels;
  bool differences;
};

// Memory of one thread, handed out piece by piece: the first of two walks measures it.
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

template <class T>
TSSLBP_INLINE Numbers<T> load(const T* p) {
  return *reinterpret_cast<const Numbers<T>*>(p);
}
template <class T>
TSSLBP_INLINE void store(T* p, Numbers<T> x) {
  *reinterpret_cast<Numbers<T>*>(p) = x;
}
// The first `count` numbers of a vector.
template <class T>
TSSLBP_INLINE Numbers<T> load(const T* p, int64_t count) {
  if (count >= WIDE<T>) return load(p);
  Numbers<T> x = {};
  std::memcpy(&x, p, count * sizeof(T));
  return x;
}
template <class T>
TSSLBP_INLINE void store(T* p, Numbers<T> x, int64_t count) {
  if (count >= WIDE<T>) store(p, x);
  else std::memcpy(p, &x, count * sizeof(T));
}

TSSLBP_INLINE uint64_t eight(const uint8_t* p) {
  uint64_t x;
  std::memcpy(&x, p, 8);
  return x;
}

// One byte for each of eight steps, 1 where a train has a spike.
TSSLBP_INLINE uint64_t spread(uint8_t train) {
  return ((((train * ONES) & 0x8040201008040201) + 0x7f * ONES) >> 7) & ONES;
}

// How many bytes are not 0.
TSSLBP_INLINE int64_t bytes_set(uint64_t x) {
  return __builtin_popcountll((((x & (0x7f * ONES)) + 0x7f * ONES) | x) & (0x80 * ONES));
}

template <class T>
TSSLBP_INLINE void add_event(Events<T>& e, uint32_t* counts, int64_t t, int64_t channel, T amount) {
  const int64_t at = t * e.size + counts[t]++;
  e.channel[at] = uint32_t(channel), e.amount[at] = amount;
}

template <class T>
TSSLBP_INLINE void begin_pixel(Events<T>& e, const uint32_t* counts, int64_t steps, int64_t pixel) {
  for (int64_t t = 0; t < steps; ++t) e.start[t * (e.pixels + 1) + pixel] = counts[t];
}

// Events of trains that are heard as they are. The array of trains has eight bytes more.
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
  e.differences = changes < spikes;
  uint32_t counts[STEPS] = {};
  for (int64_t p = 0; p < v.pixels(); ++p) {
    begin_pixel(e, counts, steps, p);
    const uint8_t* pixel = trains + p * v.c;
    for (int64_t c = 0; c < v.c; c += 8) {
      uint64_t x = eight(pixel + c);
      if (v.c - c < 8) x &= ~uint64_t(0) >> 8 * (8 - (v.c - c));
      for (uint64_t left = e.differences ? x ^ ((x << 1) & later) : x; left; left &= left - 1) {
        const int bit = __builtin_ctzll(left);
        add_event(e, counts, bit % 8, c + bit / 8, x >> bit & 1 ? T(1) : T(-1));
      }
    }
  }
  begin_pixel(e, counts, steps, v.pixels());
}

// Events of trains that are heard pooled. `levels` is scratch, [pixels, channels]: a byte for each step.
template <class T>
TSSLBP_INLINE void list_pooled(const View& v, const Stage& from, const uint8_t* trains, int64_t steps, uint64_t* levels, Events<T>& e) {
  const uint64_t within = steps == 8 ? ~uint64_t(0) : (uint64_t(1) << 8 * steps) - 1;
  const int64_t rows = from.h / v.pool_h, columns = from.w / v.pool_w;
  int64_t spikes = 0, changes = 0;
  uint64_t* level = levels;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x)
      for (int64_t c = 0; c < from.c; c += 8) {
        const uint8_t* window = trains + (y * v.pool_h * from.w + x * v.pool_w) * from.c + c;
        const int64_t count = std::min<int64_t>(8, from.c - c);
        uint64_t any = 0;
        for (int64_t i = 0; i < v.pool_h; ++i)
          for (int64_t j = 0; j < v.pool_w; ++j) any |= eight(window + (i * from.w + j) * from.c);
        for (int64_t k = 0; k < count; ++k, any >>= 8) {
          uint64_t sum = 0;
          if (any & 0xff) {
            for (int64_t i = 0; i < v.pool_h; ++i)
              for (int64_t j = 0; j < v.pool_w; ++j) sum += spread(window[(i * from.w + j) * from.c + k]);
            spikes += bytes_set(sum), changes += bytes_set((sum ^ (sum << 8)) & within);
          }
          *level++ = sum;
        }
      }
  e.differences = changes < spikes;
  uint32_t counts[STEPS] = {};
  level = levels;
  for (int64_t p = 0; p < v.pixels(); ++p) {
    begin_pixel(e, counts, steps, p);
    for (int64_t c = 0; c < v.c; ++c) {
      const uint64_t now = *level++;
      if (!now) continue;
      const uint64_t before = e.differences ? now << 8 : 0;
      for (int64_t t = 0; t < steps; ++t) {
        const int amount = int(now >> 8 * t & 0xff) - int(before >> 8 * t & 0xff);
        if (amount) add_event(e, counts, t, c, T(amount));
      }
    }
  }
  begin_pixel(e, counts, steps, v.pixels());
}

// Events of `steps` steps of the network's input, each [c, h, w] and `stride` numbers after the one before. Returns whether all
// are finite.
template <class T>
TSSLBP_INLINE bool list_input(const View& v, const T* x, int64_t stride, int64_t steps, Events<T>& e) {
  e.differences = false;
  bool finite = true;
  uint32_t counts[STEPS] = {};
  for (int64_t t = 0; t < steps; ++t, x += stride)
    for (int64_t p = 0; p < v.pixels(); ++p) {
      e.start[t * (e.pixels + 1) + p] = counts[t];
      for (int64_t c = 0; c < v.c; ++c) {
        const T amount = x[c * v.pixels() + p];
        if (amount == 0) continue;
        finite &= amount - amount == 0;
        add_event(e, counts, t, c, amount);
      }
    }
  begin_pixel(e, counts, steps, v.pixels());
  return finite;
}

// Adds `count` events' rows of weights, each times its amount, to `vectors` vectors of sums: the sums stay in registers.
template <class T, int vectors>
TSSLBP_INLINE void add_vectors(T* sums, const T* rows, int64_t row, const uint32_t* channel, const T* amount, int64_t count) {
  Numbers<T> sum[vectors] = {};
  for (int64_t i = 0; i < count; ++i) {
    const T* weights = rows + int64_t(channel[i]) * row;
    for (int k = 0; k < vectors; ++k) sum[k] += amount[i] * load(weights + k * WIDE<T>);
  }
  for (int k = 0; k < vectors; ++k) store<T>(sums + k * WIDE<T>, load<T>(sums + k * WIDE<T>) + sum[k]);
}

template <class T>
TSSLBP_INLINE void add_rows(T* sums, const T* rows, int64_t row, int64_t length, const uint32_t* channel, const T* amount, int64_t count) {
  constexpr int64_t W = WIDE<T>;
  int64_t j = 0;
  for (; length - j >= 8 * W; j += 8 * W) add_vectors<T, 8>(sums + j, rows + j, row, channel, amount, count);
  if (length - j >= 4 * W) add_vectors<T, 4>(sums + j, rows + j, row, channel, amount, count), j += 4 * W;
  if (length - j >= 2 * W) add_vectors<T, 2>(sums + j, rows + j, row, channel, amount, count), j += 2 * W;
  if (length - j >= W) add_vectors<T, 1>(sums + j, rows + j, row, channel, amount, count);
}

// Sums S of a map, [steps, h, line, c], from the events of its view.
template <class T>
TSSLBP_INLINE void add_up(const Stage& s, const Map& m, const View& v, const Events<T>& e, const T* weights, int64_t steps, T* sums) {
  std::memset(sums, 0, steps * m.step * sizeof(T));
  if (m.weights < 0) {
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t p = 0; p < v.pixels(); ++p) {
        const uint32_t* start = e.start + t * (e.pixels + 1) + p;
        for (int64_t i = t * e.size + start[0]; i < t * e.size + start[1]; ++i)
          sums[t * m.step + p * s.c + e.channel[i]] += T(m.scale) * e.amount[i];
      }
    return;
  }
  const int64_t columns = m.merged ? 1 : m.kw, reached = s.c / m.groups, heard = v.c / m.groups;
  for (int64_t ky = 0; ky < m.kh; ++ky) {
    const T* rows = weights + m.weights + ky * v.c * columns * m.row;  // a kernel row at a time, which stays in the cache
    for (int64_t y = 0; y < v.h; ++y) {
      const int64_t down = y + m.ph - ky * m.dh, line = down / m.sh;
      if (down < 0 || down % m.sh || line >= s.h) continue;
      T* to = sums + line * m.line * s.c;
      for (int64_t x = 0; x < v.w; ++x)
        for (int64_t t = 0; t < steps; ++t) {
          const uint32_t* start = e.start + t * (e.pixels + 1) + y * v.w + x;
          const int64_t count = start[1] - start[0];
          if (!count) continue;
          const uint32_t* channel = e.channel + t * e.size + start[0];
          const T* amount = e.amount + t * e.size + start[0];
          T* at = to + t * m.step;
          if (m.merged) {
            add_rows(at + (x + m.pw - m.kw + 1 + m.left) * s.c, rows, m.row, m.row, channel, amount, count);
            continue;
          }
          for (int64_t kx = 0; kx < m.kw; ++kx) {
            const int64_t right = x + m.pw - kx * m.dw, column = right / m.sw;
            if (right < 0 || right % m.sw || column >= s.w) continue;
            for (int64_t i = 0, next; i < count; i = next) {  // the events of a group
              const int64_t group = channel[i] / heard;
              for (next = i + 1; next < count && channel[next] / heard == group;) ++next;
              add_rows(at + column * s.c + group * reached, rows + kx * m.row, m.kw * m.row, m.row, channel + i, amount + i, next - i);
            }
          }
        }
    }
  }
}

// The sums of a map as neurons read them.
template <class T>
struct Heard {
  const T* sums = nullptr;  // none if null
  int64_t step = 0, line = 0;
  bool differences = false;
};

// State of a stage's neurons, a row each; null where nobody reads or writes it.
template <class T>
struct Rows {
  T *u = nullptr, *a = nullptr, *synapse = nullptr, *b = nullptr;
};

// Neurons, in the steps from `begin` to `end` of a chunk.
template <class T>
struct Neurons {
  const Stage& s;
  const T *constant, *response, *bias;  // the current is response[t]·constant + bias + what the synapse makes of `heard`; may be null
  Heard<T> heard[2];
  Rows<T> before, after;
  uint8_t* trains;
  T* output;  // of output neurons, [steps, ...] with `output_step` numbers from one step to the next; may be null
  int64_t output_step;

  // Returns whether a potential is NaN.
  TSSLBP_INLINE bool operator()(int64_t begin, int64_t end) const {
    using N = Numbers<T>;
    const T membrane_decay = T(1 - 1 / s.tau_m), synapse_decay = T(1 - 1 / s.tau_s), per_tau_s = T(1) / T(s.tau_s);
    const T heard_decay = T(1 - 1 / s.heard_tau_s), per_heard_tau_s = T(1) / T(s.heard_tau_s);
    const T adaptation_decay = T(1 - 1 / s.tau_a), beta = T(s.beta);
    const N zero = {}, threshold = zero + T(s.threshold), leak = zero + membrane_decay, step_up = zero + per_tau_s, one = zero + T(1);
    const bool hears = heard[0].sums || heard[1].sums, currents = output || after.a;
    Words<T> nan = {};
    const int64_t length = s.w * s.c;
    for (int64_t y = 0; y < s.h; ++y)
      for (int64_t j = 0; j < length; j += WIDE<T>) {
        const int64_t n = y * length + j, count = std::min(WIDE<T>, length - j);
        const N last = before.u ? load(before.u + n, count) : zero, value = constant ? load(constant + n, count) : zero;
        const N shift = bias ? load(bias + j, count) : zero;
        N carried = leak * last * (last > threshold ? zero : one), u = last, sum[2] = {};
        N synapse = before.synapse ? load(before.synapse + n, count) : zero, a = before.a ? load(before.a + n, count) : zero;
        N b = before.b ? load(before.b + n, count) : zero, spike = last > threshold ? one : zero;
        Words<T> train = {};
        for (int64_t t = begin; t < end; ++t) {
          N current = zero;
          if (constant) current = value * response[t];
          if (hears) {
            N all = zero;
            for (int k = 0; k < 2; ++k) {
              if (!heard[k].sums) continue;
              const N made = load(heard[k].sums + t * heard[k].step + y * heard[k].line + j);
              sum[k] = heard[k].differences ? sum[k] + made : made;
              all += sum[k];
            }
            synapse = heard_decay * synapse + all * per_heard_tau_s;
            current += synapse;
          }
          if (bias) current += shift;
          if (s.adaptive) {  // (2) and (3) of layers/recurrent.py
            const N next = spike + adaptation_decay * b;
            current -= beta * (next - membrane_decay * (b * (one - spike)));
            b = next;
          }
          u = current + carried;                                 // (1)
          const auto fires = u > threshold;                      // (2)
          carried = u * (fires ? zero : leak);
          spike = fires ? one : zero;
          train |= fires & (Words<T>{} + (1 << t));
          if (currents) a = synapse_decay * a + (fires ? step_up : zero);  // (3)
          if (output) store(output + t * output_step + n, a, count);
        }
        nan |= count < WIDE<T> ? Words<T>{} : Words<T>(carried != carried);
        for (int64_t i = 0; i < count; ++i) {
          nan[0] |= count < WIDE<T> && carried[i] != carried[i];
          trains[n + i] = uint8_t(begin ? trains[n + i] | train[i] : train[i]);
        }
        if (after.u) store(after.u + n, u, count);
        if (after.a) store(after.a + n, a, count);
        if (after.synapse) store(after.synapse + n, synapse, count);
        if (after.b) store(after.b + n, b, count);
      }
    bool any = false;
    for (int64_t i = 0; i < WIDE<T>; ++i) any |= nan[i] != 0;
    return any;
  }
};

// Max pooling of spikes: a window spikes when one of its neurons does.
TSSLBP_INLINE void pool_trains(const Stage& s, const Stage& from, const uint8_t* trains, uint8_t* pooled) {
  std::memset(pooled, 0, s.size());
  for (int64_t y = 0; y < s.h * s.pool_h; ++y)
    for (int64_t x = 0; x < s.w * s.pool_w; ++x) {
      const uint8_t* in = trains + (y * from.w + x) * s.c;
      uint8_t* out = pooled + (y / s.pool_h * s.w + x / s.pool_w) * s.c;
      for (int64_t c = 0; c < s.c; ++c) out[c] |= in[c];
    }
}

// What a call is about. A static input is a constant current, response[t] times itself.
template <class T>
struct Job {
  const Network& net;
  const T *x, *response, *weights, *before;  // [steps, batch, inputs] or, with response, [batch, inputs]; `before` may be null
  T *out, *after;                            // [steps, batch, outputs]; [batch, state_size], null if nobody wants it
  int64_t steps, batch;

  int64_t chunk() const { return std::min(steps, STEPS); }
  bool remembers(const Stage& s) const { return after || steps > STEPS || s.lateral >= 0; }
};

// One thread's work on a job.
template <class T>
class Worker {
 public:
  Worker(const Job<T>& job, char* memory) : job_(job), net_(job.net), memory_(memory) {
    int64_t sums[2] = {}, levels = 0, lateral = 0;
    for (const Stage& s : net_.stages) {
      trains_.push_back(memory_.template take<uint8_t>(s.size() + 8));
      for (int k = 0; k < 2; ++k)
        if (s.maps[k].view >= 0) sums[k] = std::max(sums[k], s.maps[k].step * job.chunk());
      if (s.lateral >= 0) lateral = std::max(lateral, padded(s.size(), WIDE<T>));
      const bool constant = job.response && s.maps[0].view >= 0 && net_.views[s.maps[0].view].source < 0;
      constant_.push_back(constant ? memory_.template take<T>(s.size()) : nullptr);
      T* row = nullptr;
      if (s.pooled < 0 && job.remembers(s) && !job.after) row = memory_.template take<T>(4 * s.size());
      rows_.push_back(row ? Rows<T>{row, row + s.size(), row + 2 * s.size(), row + 3 * s.size()} : Rows<T>{});
    }
    for (const View& v : net_.views) {
      const int64_t steps = v.source < 0 && job.response ? 1 : job.chunk();
      events_.push_back({memory_.template take<uint32_t>(steps * (v.pixels() + 1)), memory_.template take<uint32_t>(steps * v.size()),
                         memory_.template take<T>(steps * v.size()), v.size(), v.pixels(), false});
      if (v.pooled()) levels = std::max(levels, v.size());
    }
    for (int k = 0; k < 2; ++k) sums_[k] = memory_.template take<T>(sums[k]);
    levels_ = memory_.template take<uint64_t>(levels);
    lateral_ = memory_.template take<T>(lateral), ones_ = memory_.template take<T>(lateral);
    speakers_ = memory_.template take<uint32_t>(lateral);
    if (memory) std::fill_n(ones_, lateral, T(1));
  }

  int64_t memory() const { return memory_.used(); }

  // Returns whether everything was a number, finite in the input.
  TSSLBP_INLINE bool sample(int64_t b) {
    begin_state(b);
    bool fine = true;
    for (int64_t first = 0; first < job_.steps; first += STEPS) {
      const int64_t steps = std::min(STEPS, job_.steps - first);
      listed_.assign(net_.views.size(), false);
      for (size_t i = 0; i < net_.stages.size(); ++i) {
        const Stage& s = net_.stages[i];
        if (s.pooled >= 0) pool_trains(s, net_.stages[s.pooled], trains_[s.pooled], trains_[i]);
        else fine &= layer(b, i, first, steps);
      }
      if (job_.after && !job_.response) input_current(b, first, steps);
    }
    if (job_.after) end_state();
    return fine;
  }

 private:
  const Job<T>& job_;
  const Network& net_;
  Memory memory_;
  std::vector<uint8_t*> trains_;
  std::vector<T*> constant_;
  std::vector<Rows<T>> rows_;
  std::vector<Events<T>> events_;
  std::vector<char> listed_;
  T *sums_[2], *lateral_, *ones_;
  uint64_t* levels_;
  uint32_t* speakers_;

  TSSLBP_INLINE void begin_state(int64_t b) {
    if (T* at = job_.after ? job_.after + b * net_.state_size() : nullptr) {
      if (job_.before) std::copy_n(job_.before + b * net_.state_size(), net_.state_size(), at);
      else std::fill_n(at, net_.state_size(), T(0));
      at += net_.inputs();
      for (size_t i = 0; i < net_.stages.size(); ++i) {
        const Stage& s = net_.stages[i];
        if (s.rows()) rows_[i] = {at, at + s.size(), at + (s.rows() - 1) * s.size(), s.adaptive ? at + 3 * s.size() : nullptr};
        at += s.rows() * s.size();
      }
    } else
      for (size_t i = 0; i < net_.stages.size(); ++i)
        if (rows_[i].u) std::fill_n(rows_[i].u, 4 * net_.stages[i].size(), T(0));
  }

  // Rows of state that follow from others.
  TSSLBP_INLINE void end_state() {
    for (size_t i = 0; i < net_.stages.size(); ++i) {
      const Stage& s = net_.stages[i];
      T* u = rows_[i].u;
      if (s.lateral >= 0) std::copy_n(rows_[i].a, s.size(), u + 2 * s.size());
      if (s.adaptive)
        for (int64_t j = 0; j < s.size(); ++j) u[4 * s.size() + j] = u[j] > T(s.threshold) ? T(1) : T(0);
    }
  }

  // Equation (3) for the input itself.
  TSSLBP_INLINE void input_current(int64_t b, int64_t first, int64_t steps) {
    T* __restrict a = job_.after + b * net_.state_size();
    const T tau_s = T(net_.tau_s), decay = T(1 - 1 / net_.tau_s);
    for (int64_t t = 0; t < steps; ++t) {
      const T* __restrict x = job_.x + ((first + t) * job_.batch + b) * net_.inputs();
      for (int64_t j = 0; j < net_.inputs(); ++j) a[j] = x[j] / tau_s + decay * a[j];
    }
  }

  TSSLBP_INLINE bool layer(int64_t b, size_t i, int64_t first, int64_t steps) {
    const Stage& s = net_.stages[i];
    bool fine = true;
    const int64_t outputs = net_.output().size();
    T* out = i + 1 == net_.stages.size() ? job_.out + (first * job_.batch + b) * outputs : nullptr;
    Neurons<T> neurons{s, constant_[i], job_.response ? job_.response + first : nullptr, s.bias < 0 ? nullptr : job_.weights + s.bias,
                       {}, rows_[i], rows_[i], trains_[i], out, job_.batch * outputs};
    for (int k = 0; k < 2; ++k) {
      const Map& m = s.maps[k];
      if (m.view < 0) continue;
      const bool once = k == 0 && constant_[i];
      if (once && first) continue;
      fine &= list(m.view, b, first, once ? 1 : steps);
      add_up(s, m, net_.views[m.view], events_[m.view], job_.weights, once ? 1 : steps, sums_[k]);
      const T* sums = sums_[k] + m.left * s.c;
      if (once)
        for (int64_t y = 0; y < s.h; ++y) std::copy_n(sums + y * m.line * s.c, s.w * s.c, constant_[i] + y * s.w * s.c);
      else
        neurons.heard[k] = {sums, m.step, m.line * s.c, events_[m.view].differences};
    }
    const bool nan = s.lateral < 0 ? neurons(0, steps) : recurrent(s, rows_[i], neurons, steps);
    return fine && !nan;
  }

  TSSLBP_INLINE bool list(int64_t view, int64_t b, int64_t first, int64_t steps) {
    if (listed_[view]) return true;
    listed_[view] = true;
    const View& v = net_.views[view];
    Events<T>& e = events_[view];
    if (v.source < 0) return list_input(v, job_.x + (first * job_.batch + b) * net_.inputs(), job_.batch * net_.inputs(), steps, e);
    if (v.pooled()) list_pooled(v, net_.stages[v.source], trains_[v.source], steps, levels_, e);
    else list_trains(v, trains_[v.source], steps, e);
    return true;
  }

  // Step by step: in each, neurons hear what they spiked in the step before.
  TSSLBP_INLINE bool recurrent(const Stage& s, const Rows<T>& rows, Neurons<T>& neurons, int64_t steps) {
    Heard<T>& heard = neurons.heard[0];
    for (int64_t t = 1; t < steps && heard.differences; ++t)
      for (int64_t j = 0; j < s.size(); ++j) sums_[0][t * heard.step + j] += sums_[0][(t - 1) * heard.step + j];
    heard.differences = false;
    neurons.heard[1] = {lateral_, 0, 0, false};
    const int64_t row = padded(s.size(), WIDE<T>);
    bool nan = false;
    for (int64_t t = 0; t < steps; ++t) {
      int64_t count = 0;
      for (int64_t j = 0; j < s.size(); ++j) {
        speakers_[count] = uint32_t(j);
        count += t ? neurons.trains[j] >> (t - 1) & 1 : rows.u[j] > T(s.threshold);
      }
      std::fill_n(lateral_, row, T(0));
      add_rows(lateral_, job_.weights + s.lateral, row, row, speakers_, ones_, count);
      nan = neurons(t, t + 1);
    }
    return nan;
  }
};

template <class T>
TSSLBP_INLINE bool samples(Worker<T>& worker, int64_t begin, int64_t end) {
  bool fine = true;
  for (int64_t b = begin; b < end; ++b) fine &= worker.sample(b);
  return fine;
}

template <class T>
bool samples_baseline(Worker<T>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}

#ifdef TSSLBP_X86
template <class T>
TSSLBP_AVX2 bool samples_avx2(Worker<T>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}

template <class T>
TSSLBP_AVX512 bool samples_avx512(Worker<T>& worker, int64_t begin, int64_t end) {
  return samples(worker, begin, end);
}
#endif

// Returns whether everything was a number, finite in the input; if not, what was made is not what the equations say.
template <class T>
bool run(const Job<T>& job) {
  auto* go = &samples_baseline<T>;
#ifdef TSSLBP_X86
  if (capability() == Capability::avx2) go = &samples_avx2<T>;
  if (capability() == Capability::avx512) go = &samples_avx512<T>;
#endif
  const int64_t memory = Worker<T>(job, nullptr).memory();
  std::atomic<bool> fine{true};
  torch::stable::parallel_for(0, job.batch, 1, [&](int64_t begin, int64_t end) {
    const FlushTinyNumbers flush;
    const std::unique_ptr<char[]> at(new char[memory + 64]);  // not initialised
    Worker<T> worker(job, at.get() + (64 - reinterpret_cast<uintptr_t>(at.get()) % 64));
    if (!go(worker, begin, end)) fine = false;
  });
  return fine;
}

}  // namespace tsslbp::events
