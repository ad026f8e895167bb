"""Engines: what computes the neurons. ``engine.py`` says what one offers; each of the others is a file of its own.

The readable reference in ``neuron.py`` and ``rules/`` is the ground truth the others are tested against.
"""

from tsslbp.kernels.engine import PLAIN, Backend, Engine, Form, Pool, Usable, backends, choose, computed_in, find

for _name in ("reference", "cpp"):  # what "auto" chooses from is there at once, also for torch.compile, which cannot import
    find(_name)

__all__ = ["PLAIN", "Backend", "Engine", "Form", "Pool", "Usable", "backends", "choose", "computed_in", "find"]
