"""Studies of one run or many. Each returns its data; ``report/`` draws it."""

from tsslbp.study.ablation import ablation
from tsslbp.study.activity import Activity, measure
from tsslbp.study.compare import compare, contestants
from tsslbp.study.dynamics import dynamics
from tsslbp.study.energy import energy
from tsslbp.study.fidelity import fidelity
from tsslbp.study.firing import firing
from tsslbp.study.latency import latency
from tsslbp.study.reproduce import reproduce
from tsslbp.study.robustness import robustness

__all__ = [
    "Activity",
    "ablation",
    "compare",
    "contestants",
    "dynamics",
    "energy",
    "fidelity",
    "firing",
    "latency",
    "measure",
    "reproduce",
    "robustness",
]
