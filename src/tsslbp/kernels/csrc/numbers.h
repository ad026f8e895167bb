// The numbers that come with arrays, and names of choices among them. Each group is a struct that an operator takes as float[],
// in the order of its fields; it checks them and names the field of a wrong number.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace tsslbp {

// The two fixed constants of the published rule, as in rules/tssl.py.
constexpr double FALLBACK_RANGE = 8, RATE_LIMIT = 0.1;

// Where the fallback applies; "rate" becomes one of the two before it.
enum class Fallback { quiet, no_spike, never, always, rate };
constexpr const char* FALLBACKS = "quiet no-spike never always rate";  // as rules/tssl.py calls them, in the same order

// Shapes of the stand-in ψ(x) for the derivative of the spike, 1 at x = 0, as in rules/surrogate.py. To add one, add a line:
// its name, and a formula of x or of values that `stand_in` in rules.h has computed from it.
#define TSSLBP_SHAPES(SHAPE)                                        \
  SHAPE(fast_sigmoid, 1 / (y * y))                                  \
  SHAPE(sigmoid, 4 * logistic_derivative(x))                        \
  SHAPE(atan, 1 / (1 + z * z))                                      \
  SHAPE(triangular, w < 0 ? T(0) : w)                               \
  SHAPE(rectangular, distance < T(0.5) ? T(1) : T(0))               \
  SHAPE(gaussian, exp_negative(x * x * T(-0.5)))                    \
  SHAPE(exponential, exp_negative(-distance))

#define TSSLBP_ENUMERATOR(name, formula) name,
#define TSSLBP_NAME(name, formula) #name " "
enum class Shape { TSSLBP_SHAPES(TSSLBP_ENUMERATOR) count };
constexpr const char* SHAPES = TSSLBP_SHAPES(TSSLBP_NAME);

constexpr double FINITE = std::numeric_limits<double>::max(), ANY = std::numeric_limits<double>::infinity();
constexpr int64_t EXACT = int64_t(1) << 53;  // no float64 below it is between two integers

// A group's numbers, read one by one, each with the name of its field.
class Fields {
 public:
  Fields(const char* group, const std::vector<double>& numbers)
      : group_(group), next_(numbers.data()), end_(next_ + numbers.size()) {}

  double any(const char* field) {
    STD_TORCH_CHECK(next_ != end_, "tsslbp: ", group_, ".", field, " is missing");
    return *next_++;
  }
  double from(const char* field, double low, double high, bool low_too = true) {
    const double x = any(field);
    STD_TORCH_CHECK((low_too ? x >= low : x > low) && x <= high, "tsslbp: ", group_, ".", field, " is ", x, "; it must be ",
                    low_too ? "from " : "above ", low, " to ", high);
    return x;
  }
  double positive(const char* field, double high) { return from(field, 0, high, false); }
  int64_t whole(const char* field, int64_t low, int64_t high) {
    const double x = from(field, double(low), double(high));
    STD_TORCH_CHECK(x == std::floor(x), "tsslbp: ", group_, ".", field, " is ", x, "; it must be a whole number");
    return int64_t(x);
  }
  bool flag(const char* field) { return whole(field, 0, 1) != 0; }
  bool end() const {
    STD_TORCH_CHECK(next_ == end_, "tsslbp: ", group_, " has too many numbers");
    return true;
  }

 private:
  const char* group_;
  const double *next_, *end_;
};

// Each group is made from its fields, in the order in which its members stand here.

struct NeuronNumbers {
  Fields f;
  double tau_m = f.from("tau_m", 1, ANY), tau_s = f.from("tau_s", 1, FINITE), threshold = f.positive("threshold", FINITE);
  bool complete = f.end();
};

// Of an adaptive threshold; missing for a fixed one.
struct AdaptationNumbers {
  Fields f;
  double tau_a = f.from("tau_a", 1, ANY), beta = f.from("beta", 0, FINITE);
  bool complete = f.end();
};

struct TsslNumbers {
  static constexpr const char* GROUP = "tssl";
  static constexpr bool PARTS = true;  // whether a sequence may come in parts
  static constexpr bool through_reset = false;
  Fields f;
  bool timing = f.flag("timing"), inter = f.flag("inter"), reset = f.flag("reset"), leak = f.flag("leak");
  bool error_reset = f.flag("error_reset");
  Fallback fallback = Fallback(f.whole("fallback", 0, int64_t(Fallback::rate)));
  double clip = f.positive("clip", ANY), width = f.positive("width", FINITE);
  bool complete = f.end();
};

struct SurrogateNumbers {
  static constexpr const char* GROUP = "surrogate";
  static constexpr bool PARTS = true;
  Fields f;
  Shape shape = Shape(f.whole("shape", 0, int64_t(Shape::count) - 1));
  double slope = f.positive("slope", FINITE), scale = f.positive("scale", FINITE);
  bool through_reset = f.flag("through_reset");
  bool complete = f.end();
};

struct EventPropNumbers {
  static constexpr const char* GROUP = "eventprop";
  static constexpr bool PARTS = false;
  Fields f;
  double clip = f.positive("clip", ANY), wake = f.from("wake", 0, FINITE);
  bool complete = f.end();
};

}  // namespace tsslbp
