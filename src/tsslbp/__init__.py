"""Train deep spiking neural networks by spike timing (TSSL-BP)."""

from importlib.metadata import version

from tsslbp import encoding, layers, losses, metrics, networks, neuron, rules
from tsslbp.errors import UserError
from tsslbp.functional import lif, lif_part
from tsslbp.networks import build
from tsslbp.neuron import spikes_from_psc
from tsslbp.rules import TSSL, EventProp, Rule, Surrogate
from tsslbp.training import Stream, load

__version__ = version("tsslbp")
stream = Stream

__all__ = [
    "TSSL",
    "EventProp",
    "Rule",
    "Surrogate",
    "UserError",
    "build",
    "encoding",
    "layers",
    "lif",
    "lif_part",
    "load",
    "losses",
    "metrics",
    "networks",
    "neuron",
    "rules",
    "spikes_from_psc",
    "stream",
]
