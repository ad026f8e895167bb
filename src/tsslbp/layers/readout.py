"""An output that does not spike."""

import math

from torch import Tensor

from tsslbp.kernels import Pool, computed_in
from tsslbp.layers.linear import Linear
from tsslbp.neuron import LIF, ends, synapse
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Signal, expanded


class Readout(Linear):
    """Fully connected leaky integrators, ``[T, B, in] -> [T, B, out]``. The output is their membrane potential.

        v[t] = (1 - 1/τm)·v[t-1] + I[t]/τm

    They have no threshold and no output synapse, and their gradient needs no rule.

    Source: F. Zenke and T. P. Vogels, The Remarkable Robustness of Surrogate Gradient Learning for Instilling Complex Function
    in Spiking Neural Networks, Neural Computation 33, 2021.

    Raises:
        UserError: as :class:`~tsslbp.layers.Linear`; an infinite τm, under which v stays 0.
    """

    def _check_constants(self, neuron: LIF) -> None:
        super()._check_constants(neuron)
        if math.inf in ends("tau_m", neuron.tau_m):
            raise UserError("tau_m is infinite; it must be finite for an output that is read from its voltage")

    @property
    def state_rows(self) -> int:
        """The voltage."""
        return 1

    def crossed(self, current: Signal, state: Tensor | None, pool: Pool | None, bf16: bool) -> tuple[Tensor, Tensor | None]:
        current = expanded(current)
        before = None if state is None else state[0]
        voltage = synapse(current.to(computed_in(current.dtype)), self.neuron.tau_m, before)
        return voltage, voltage[-1:].clone()  # as the output may be changed
