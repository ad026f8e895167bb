"""Train deep spiking neural networks by spike timing (TSSL-BP)."""

from tsslbp.utils import startup  # noqa: F401, I001 (first, as the others take seconds)

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tsslbp import encoding, layers, losses, metrics, network, neuron, rules
from tsslbp.utils.errors import UserError
from tsslbp.functional import lif, lif_part
from tsslbp.network import build
from tsslbp.neuron import spikes_from_psc
from tsslbp.rules import TSSL, EventProp, Rule, Surrogate
from tsslbp.training import Stream, load

if TYPE_CHECKING:
    from tsslbp.report import plot
    from tsslbp.sklearn import SpikingClassifier

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
    "network",
    "neuron",
    "plot",
    "rules",
    "spikes_from_psc",
    "stream",
]


_LATER = {
    "SpikingClassifier": ("tsslbp.sklearn", "scikit-learn 1.6 or newer", "scikit-learn>=1.6"),
    "plot": ("tsslbp.report.plot", "Matplotlib", "matplotlib"),
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
