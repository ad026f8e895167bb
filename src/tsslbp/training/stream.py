"""A trained network on streams that never end, a step at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from tsslbp.data import Normalisation
from tsslbp.encoding import CONSTANT
from tsslbp.errors import UserError, check_tensor
from tsslbp.metrics import confidence, decode, settled
from tsslbp.networks import Network
from tsslbp.training.inputs import Inputs
from tsslbp.training.model import Model


class Step(NamedTuple):
    """What one step gave, for each of B streams."""

    spikes: Tensor
    """Of the output neurons in this step, ``[B, neurons]`` of exactly 0 and 1."""
    answer: Tensor
    """The class with the largest output so far, or ``NO_ANSWER``, ``[B]``: what the whole sequence gives if it ends here."""
    confidence: Tensor
    """The answer's share of the output so far, ``[B]``, 0 where there is no answer."""
    may_change: Tensor
    """Whether the T steps that the network was trained on could still change the answer, ``[B]`` of bool; after these T steps,
    always. See :func:`tsslbp.metrics.settled`."""
    layers: dict[str, Tensor]
    """Spikes of every layer by name, the output last: ``[B, ...]`` of exactly 0 and 1."""


class Stream:
    """Several sequences at once, step by step: ``stream(x)`` for every new step, memory independent of their length.

    The spikes are those of the whole sequence: bit for bit in float64; in float32 a product of other shape may round the
    membrane potential differently, so a neuron that lies within rounding of its threshold may differ.

    Args:
        model: a model (:func:`tsslbp.load`), which takes samples as they are stored, or a network, which takes its own input.
        streams: B.

    Raises:
        UserError: a network that does not spike; a model of encoded samples, or one whose preparation needs several steps.
    """

    def __init__(self, model: Model | Network, streams: int = 1) -> None:
        if not isinstance(streams, int) or streams < 1:
            raise UserError(f"streams is {streams}; it must be a whole number from 1")
        self.network = model.network if isinstance(model, Model) else model
        self.normalisation = _of_single_steps(model.inputs) if isinstance(model, Model) else None
        self.streams = streams
        self.network.eval()
        weight = next(self.network.parameters())
        self._rest = torch.zeros(streams, *self.network.architecture.input_shape, dtype=weight.dtype, device=weight.device)
        self.reset()

    def reset(self, which: Tensor | None = None) -> None:
        """Begin anew: all streams, or those of a mask or index ``which``, as if nothing had come before."""
        if which is None:
            with torch.inference_mode():
                psc, self._state = self.network.part(self._rest.unsqueeze(0))
            which = torch.arange(self.streams)
            self._total, self._steps = torch.zeros_like(psc[0]), torch.zeros(self.streams, dtype=torch.long)
        fresh = torch.zeros(self.streams, dtype=torch.bool)
        fresh[which] = True

        def rested(x: Tensor, axis: int) -> Tensor:
            return x.masked_fill(fresh.view(*[1] * axis, -1, *[1] * (x.dim() - axis - 1)), 0)

        self._state, self._total, self._steps = self._state.map(rested), rested(self._total, 0), rested(self._steps, 0)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Step:
        """One more step.

        Args:
            x: a step of every stream, ``[B, F]`` or ``[B, C, H, W]``, as the model's data set stores it or, given a network,
                as that takes it.

        Raises:
            UserError: another shape, or what is not finite; the streams stay as they were.
        """
        check_tensor("a step", x)
        if x.shape != self._rest.shape:
            raise UserError(f"a step has shape {list(x.shape)}; it must be {list(self._rest.shape)}, with one row a stream")
        x = (self.normalisation.normalise(x) if self.normalisation else x).to(self._rest)
        if not bool(x.isfinite().all()):
            raise UserError("a step holds NaN or infinity; look for it in the data")
        before = self._state
        psc, self._state = self.network.part(x.unsqueeze(0), before)
        current = psc[0]
        self._total, self._steps = self._total + current, self._steps + 1
        neurons = {name: state for name, state in self._state.layers.items() if len(state) > 1}  # max pooling has none
        layers = {name: self._spikes(name, state[1], before.layers[name][1]) for name, state in neurons.items()}
        *_, output = layers.values()
        remaining, total = self.network.time_steps - self._steps, self._total
        final = torch.zeros(self.streams, dtype=torch.bool)
        for steps in remaining.unique().tolist():
            if steps >= 0:
                done = settled(total, current, steps, self.network.neuron_of().tau_s) | (steps == 0)
                final |= done & (remaining == steps)
        return Step(output, decode(total[None]), confidence(total[None]), ~final, layers)

    def _spikes(self, name: str, psc: Tensor, before: Tensor) -> Tensor:
        """Equation (3) of ``neuron.py`` solved for the spikes: exactly 0 and 1."""
        neuron = self.network.neuron_of(name)
        return (psc - neuron.synapse_decay * before > 0.5 / neuron.tau_s).to(psc.dtype)


def _of_single_steps(inputs: Inputs) -> Normalisation:
    """The preparation of one step. Raises UserError if a step's depends on others."""
    needs = {
        "bins": inputs.bin > 1,
        "filters": inputs.filters,
        "changes": inputs.delta,
        "encoding": inputs.encoding != CONSTANT,
    }
    if found := [name for name, needed in needs.items() if needed]:
        raise UserError(
            f"the model prepares its samples by {' and '.join(found)}, which need more than one step; train one without"
        )
    return inputs.normalisation
