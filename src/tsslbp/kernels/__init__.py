"""The neuron's operations, fast. They know arrays and numbers; rules and layers call them (``rules/base.py``).

The readable reference in ``neuron.py`` and ``rules/`` is the ground truth these are tested against.
"""

from tsslbp.kernels.cpu import lif_forward, lif_psc, surrogate_backward, tssl_backward
from tsslbp.kernels.dispatch import Backend, Usable, backends, choose, compiled
from tsslbp.kernels.form import PLAIN, Form, Pool, computed_in

__all__ = [
    "PLAIN",
    "Backend",
    "Form",
    "Pool",
    "Usable",
    "backends",
    "choose",
    "compiled",
    "computed_in",
    "lif_forward",
    "lif_psc",
    "surrogate_backward",
    "tssl_backward",
]
