"""Trained networks for other programs, one module for each format.

:mod:`tsslbp.exchange.nir` writes and reads graphs of the Neuromorphic Intermediate Representation.
:mod:`tsslbp.exchange.check` runs such a file in other simulators and compares spikes.
:mod:`tsslbp.exchange.onnx` writes graphs of ONNX, from raw samples to answers.
:mod:`tsslbp.exchange.c` writes C for an integer network (:mod:`tsslbp.exchange.integer`) or one in floating point.
"""
