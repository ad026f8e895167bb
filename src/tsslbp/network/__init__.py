"""Networks: a notation, layers one after the other, and the program that describes them."""

from tsslbp.network.architecture import PAPER, Architecture, NetworkSettings
from tsslbp.network.network import Network, build
from tsslbp.network.state import State

__all__ = ["PAPER", "Architecture", "Network", "NetworkSettings", "State", "build"]
