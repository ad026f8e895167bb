"""Decoding of outputs, and measures of accuracy."""

from tsslbp.metrics import spike_trains
from tsslbp.metrics.decoding import NO_ANSWER, confidence, decode, settled, settled_step, wilson_interval

__all__ = ["NO_ANSWER", "confidence", "decode", "settled", "settled_step", "spike_trains", "wilson_interval"]
