// TSSL-BP as PyTorch operators.
#include "backward.h"

STABLE_TORCH_LIBRARY_FRAGMENT(tsslbp, m) {
  m.def("tssl" TSSLBP_BACKWARD);
  m.def("tssl" TSSLBP_RECURRENT_BACKWARD);
}

STABLE_TORCH_LIBRARY_IMPL(tsslbp, CPU, m) {
  m.impl("tssl_backward", TORCH_BOX(&tsslbp::backward<tsslbp::TsslNumbers>));
  m.impl("tssl_recurrent_backward", TORCH_BOX(&tsslbp::recurrent_backward<tsslbp::TsslNumbers>));
}
