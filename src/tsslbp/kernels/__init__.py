"""The neuron's operations, fast. They know arrays and numbers; rules and layers call them (``rules/base.py``).

The readable reference in ``neuron.py`` and ``rules/`` is the ground truth these are tested against.
"""

from tsslbp.kernels.cpu import lif_forward, lif_psc, surrogate_backward, tssl_backward
from tsslbp.kernels.dispatch import Backend, Usable, backends, choose, compiled
from tsslbp.kernels.form import PLAIN, Form, Pool

__all__ = [
    "PLAIN",
    "Backend",
    "Form",
    "Pool",
    "Usable",
    "backends",
    "choose",
    "compiled",
    "lif_forward",
    "lif_psc",
    "surrogate_backward",
    "tssl_backward",
]
