// A network for inference from events (events.h): its stages, their inputs and the places of their weights. All of it comes as
// numbers from network/event_plan.py, and is checked here.
#pragma once

#include "sweep.h"

#include <cstring>

namespace tsslbp::events {

constexpr int64_t MOST = 1 << 28;   // neurons of a layer, and weights that one neuron reaches in a row
constexpr int64_t COLUMNS = 8;      // adjacent vectors of weights in a fully connected layer
constexpr int64_t WINDOW = 255;     // neurons of a pooling window: the sum of their spikes is a byte

inline int64_t padded(int64_t n, int64_t to = 64) { return (n + to - 1) / to * to; }

// Input of a layer: trains of an earlier stage, or the network's input (-1), summed over pooling windows.
struct View {
  int64_t source, pool_h, pool_w, c, h, w;  // sizes after pooling; those of one pixel if it is flat

  bool pooled() const { return pool_h * pool_w > 1; }
  int64_t pixels() const { return h * w; }
  int64_t size() const { return h * w * c; }
  // Most events of one change: the bits of a number up to that of the window's neurons.
  int64_t most() const {
    int64_t bits = 0;
    while ((pool_h * pool_w + 1) >> (bits + 1)) ++bits;
    return bits;
  }
};

// A linear map: a convolution, or the identity times a scale if `weights` is -1. Rows of weights lie as [kernel row, input
// channel, kernel column], reversed and merged into one row for all kernel columns if these reach adjacent neurons. Each row is
// padded with zeros to whole vectors, so that these can be added wherever in the row they begin. In a fully connected layer
// (flat) the rows are cut into columns of up to COLUMNS vectors, which lie one after the other.
struct Map {
  int64_t view = -1, weights = -1, kh = 1, kw = 1, sh = 1, sw = 1, ph = 0, pw = 0, dh = 1, dw = 1, groups = 1;
  int64_t background = -1;  // where the sums of an image of ones begin, [channel of the input, step]; -1: no such image
  double scale = 1;
  bool merged = true, flat = false;
  int64_t row = 0, line = 0, step = 0;  // numbers of a row of weights; of sums, in a line of neurons and in a step
  double reached = 1;                   // neurons that an event reaches, if it is not at an edge
};

// Neurons, or max pooling of the spikes of stage `pooled`.
struct Stage {
  int64_t c = 1, h = 1, w = 1, pooled = -1, pool_h = 1, pool_w = 1, bias = -1, lateral = -1;
  bool adaptive = false;
  double tau_m = 1, tau_s = 1, threshold = 1, heard_tau_s = 1, tau_a = 1, beta = 0;
  Map maps[2];

  int64_t size() const { return h * w * c; }
  // Rows of state: those of layers/ between parts of a sequence (membrane potential and current; the current again in recurrent
  // layers; adaptation and spike), and the synapse of the neurons' input.
  int64_t rows() const { return pooled >= 0 ? 0 : 1 + (lateral < 0 ? 2 : adaptive ? 5 : 3); }
};

// A network, from its numbers in the order of network/event_plan.py.
struct Network {
  int64_t c, h, w, vector;  // of the input; numbers in a vector
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

  // `vector` numbers make a vector, and there are `weights` weights. Raises for numbers that do not fit together.
  Network(const std::vector<double>& numbers, int64_t vector, int64_t weights) : vector(vector), weights_(weights) {
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
    s.lateral = read_offset(f, "lateral", double(s.size()) * double(padded(s.size(), vector)));
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
    m.flat = f.flag("flat");
    m.view = view(source, pool_h, pool_w, m.flat);
    const View& v = views[m.view];
    m.kh = f.whole("kh", 1, MOST), m.kw = f.whole("kw", 1, MOST), m.sh = f.whole("sh", 1, MOST), m.sw = f.whole("sw", 1, MOST);
    m.ph = f.whole("ph", 0, MOST), m.pw = f.whole("pw", 0, MOST), m.dh = f.whole("dh", 1, MOST), m.dw = f.whole("dw", 1, MOST);
    m.groups = f.whole("groups", 1, MOST), m.scale = f.any("scale");
    STD_TORCH_CHECK(v.c % m.groups == 0 && s.c % m.groups == 0, "tsslbp: plan.groups does not divide the channels");
    STD_TORCH_CHECK(!m.flat || (s.h * s.w == 1 && m.kh * m.kw * m.sh * m.sw * m.dh * m.dw * m.groups == 1 && m.ph + m.pw == 0),
                    "tsslbp: the plan has a fully connected layer with a kernel");
    m.merged = m.sw == 1 && m.dw == 1 && m.groups == 1;
    const int64_t reached = (m.merged ? m.kw : 1) * (s.c / m.groups);
    m.reached = double(m.kh) * double(m.kw) * double(s.c / m.groups) / double(m.sh) / double(m.sw);
    const bool cut = m.merged && m.kw > 1 && s.c % vector;  // at the left edge a row may begin within a vector
    m.row = padded(reached + (cut ? vector - 1 : 0), vector);
    m.weights = read_offset(f, "weights", double(m.kh) * double(v.c) * double(m.merged ? 1 : m.kw) * double(m.row));
    if (m.weights < 0) m.reached = 1;
    const bool same = v.c == s.c && v.h == s.h && v.w == s.w;
    STD_TORCH_CHECK(m.weights >= 0 || (same && !m.flat && m.kh * m.kw == 1), "tsslbp: the plan's shortcut changes the shape");
    m.line = padded(s.w * s.c, vector) + vector;  // rows are added in whole vectors, and may end behind their line
    STD_TORCH_CHECK(double(s.h) * double(m.line) <= double(MOST), "tsslbp: the plan's layer is too large");
    m.step = s.h * m.line;
    m.background = read_offset(f, "background", double(c) * double(m.step));
    STD_TORCH_CHECK(m.background < 0 || source < 0, "tsslbp: the plan has a background where there is no input");
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

}  // namespace tsslbp::events
