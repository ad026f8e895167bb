"""What an output says, and how often it is right."""

from tsslbp.metrics.decoding import NO_ANSWER, confidence, decode, settled_step, wilson_interval

__all__ = ["NO_ANSWER", "confidence", "decode", "settled_step", "wilson_interval"]
