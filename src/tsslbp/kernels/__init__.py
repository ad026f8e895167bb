"""Engines, which compute the neurons. ``engine.py`` has their interface; each engine is one file.

The readable reference in ``neuron.py`` and ``rules/`` is the ground truth that the others are tested against.
"""

from tsslbp.kernels.engine import PLAIN, Backend, Engine, Form, Pool, Usable, backends, choose, computed_in, find

for _name in ("reference", "cpp"):  # those of "auto" are imported now, as torch.compile cannot import
    find(_name)

__all__ = ["PLAIN", "Backend", "Engine", "Form", "Pool", "Usable", "backends", "choose", "computed_in", "find"]
