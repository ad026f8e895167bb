// Surrogate gradients as PyTorch operators.
#include "backward.h"

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("surrogate" TSSLBP_BACKWARD);
  m.def("surrogate" TSSLBP_RECURRENT_BACKWARD);
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("surrogate_backward", TORCH_BOX(&tsslbp::backward<tsslbp::SurrogateNumbers>));
  m.impl("surrogate_recurrent_backward", TORCH_BOX(&tsslbp::recurrent_backward<tsslbp::SurrogateNumbers>));
}
