"""Train deep spiking neural networks by spike timing (TSSL-BP)."""

from tsslbp import starting  # noqa: F401, I001 (first, as the others take seconds)

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tsslbp import encoding, layers, losses, metrics, networks, neuron, rules
from tsslbp.errors import UserError
from tsslbp.functional import lif, lif_part
from tsslbp.networks import build
from tsslbp.neuron import spikes_from_psc
from tsslbp.rules import TSSL, EventProp, Rule, Surrogate
from tsslbp.training import Stream, load

if TYPE_CHECKING:
    from tsslbp import plot
    from tsslbp.classifier import SpikingClassifier

__version__ = version("tsslbp")
stream = Stream

__all__ = [
    "TSSL",
    "EventProp",
    "Rule",
    "SpikingClassifier",
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
    "plot",
    "rules",
    "spikes_from_psc",
    "stream",
]


_LATER = {
    "SpikingClassifier": ("tsslbp.classifier", "scikit-learn 1.6 or newer", "scikit-learn>=1.6"),
    "plot": ("tsslbp.plot", "Matplotlib", "matplotlib"),
}


def __getattr__(name: str) -> Any:
    """Import names that need scikit-learn or Matplotlib on first use, as these load slowly and may be missing."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, package, wanted = _LATER[name]
    try:
        found = import_module(module)
    except ImportError as error:
        raise UserError(f"{name} needs {package} ({error}): pip install '{wanted}'") from None
    return found if name == "plot" else getattr(found, name)
