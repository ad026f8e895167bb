// EventProp as a PyTorch operator, which takes whole sequences only.
#include "backward.h"

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("eventprop" TSSLBP_BACKWARD);
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("eventprop_backward", TORCH_BOX(&tsslbp::backward<tsslbp::EventPropNumbers>));
}
