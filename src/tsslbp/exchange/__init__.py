"""Trained networks for other programs: one module a format.

:mod:`tsslbp.exchange.nir` writes and reads graphs of the Neuromorphic Intermediate Representation.
:mod:`tsslbp.exchange.check` runs such a file in other simulators and compares spikes.
"""
