"""A trained network on endless streams, step by step."""

from functools import cached_property

import torch
from torch import Tensor

from tsslbp.data import Normalisation
from tsslbp.data.audio import changes
from tsslbp.encoding import CONSTANT
from tsslbp.metrics import confidence, decode, settled
from tsslbp.network.network import Network
from tsslbp.network.state import State
from tsslbp.training.inputs import Inputs
from tsslbp.training.model import Model, need_parts
from tsslbp.utils.errors import UserError, check_tensor, check_whole


class Step:
    """Results of one step for each of B streams. All but ``total`` are computed on first use."""

    def __init__(self, network: Network, before: State, after: State, current: Tensor, total: Tensor, steps: Tensor) -> None:
        self._network, self._before, self._after, self._current, self._steps = network, before, after, current, steps
        self.total = total
        """Summed output current or voltage of every class, ``[B, classes]``, float64. A spike adds 1 in the end; with k voters,
        1/k."""

    @cached_property
    def spikes(self) -> Tensor:
        """Spikes of the output neurons, ``[B, neurons]`` of exactly 0 and 1. Raises UserError if they do not spike."""
        if not self._network.spikes_last:
            raise UserError("the output is read from its voltage and does not spike; layers has the spikes of the others")
        *_, output = self._neurons()
        return self._fired(output)

    @cached_property
    def layers(self) -> dict[str, Tensor]:
        """Spikes of every spiking layer by name, the output last: ``[B, ...]`` of exactly 0 and 1."""
        return {name: self._fired(name) for name in self._neurons()}

    @cached_property
    def answer(self) -> Tensor:
        """The class with the largest output so far, or ``NO_ANSWER``, ``[B]``: the answer if the sequence ends here.

        Raises UserError for output that holds NaN.
        """
        return decode(self._evidence)

    @cached_property
    def confidence(self) -> Tensor:
        """The answer's share of the output so far, ``[B]``, 0 where there is no answer; for voltages its probability."""
        return confidence(self._evidence)

    @cached_property
    def _evidence(self) -> Tensor:
        return self._network.evidence(self.total[None])

    @cached_property
    def lead(self) -> Tensor:
        """How far the answer leads the next class in ``total``, ``[B]``; 0 where there is no answer."""
        best = self.total.topk(min(2, self.total.shape[-1]), dim=-1).values
        return best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]

    @cached_property
    @torch.no_grad()
    def may_change(self) -> Tensor:
        """Whether the rest of the T steps that the network was trained on could change the answer, ``[B]`` of bool: true for
        voltages before step T, and for all after it. See :func:`tsslbp.metrics.settled`."""
        remaining = self._network.time_steps - self._steps
        final = remaining == 0
        for steps in remaining.unique().tolist():
            if steps > 0 and self._network.spikes_last:
                final |= settled(self.total, self._current, steps, self._network.neuron_of().tau_s) & (remaining == steps)
        return ~final

    def _neurons(self) -> list[str]:
        return [name for name, state in self._after.layers.items() if len(state) > 1]  # max pooling has none

    @torch.no_grad()  # constants may be learned
    def _fired(self, name: str) -> Tensor:
        """Equation (3) of ``neuron.py`` solved for the spikes: exactly 0 and 1."""
        neuron, psc, before = self._network.neuron_of(name), self._after.layers[name][1], self._before.layers[name][1]
        return (psc - neuron.synapse_decay * before > 0.5 / neuron.tau_s).to(psc.dtype)


class Stream:
    """Several sequences at once, step by step: ``stream(x)`` for every new step. Memory does not depend on their length.

    The spikes are those of the whole sequence, bit for bit in float64. In float32, products of other shapes may round
    differently, so a neuron within rounding of its threshold may differ.

    Args:
        model: a model (:func:`tsslbp.load`, or ``model_`` of a trained :class:`~tsslbp.SpikingClassifier`), which takes stored
            samples and prepares them, also into spikes for changes; or a network, which takes its own input. The network is put
            into evaluation mode.
        streams: B.

    Raises:
        UserError: anything else; a network that does not spike; a model of encoded samples, or one that prepares several steps
            at once.
    """

    def __init__(self, model: Model | Network, streams: int = 1) -> None:
        network = model.network if isinstance(model, Model) else model
        if not isinstance(network, Network):
            raise UserError(
                f"a stream takes a model or a network of tsslbp.build, not {type(model).__name__}; of a SpikingClassifier take "
                "its model_, and step through a module of your own with part() of its layers"
            )
        need_parts(network)
        check_whole("streams", streams)
        self.network, self.streams = network, streams
        self.normalisation, self.delta, shape = None, 0.0, network.architecture.input_shape
        if isinstance(model, Model):
            self.normalisation, self.delta = _of_single_steps(model.inputs), model.inputs.delta
            shape = model.sample_shape[1:] if model.inputs.sequence else model.sample_shape
        self.network.eval()
        self._rest = next(network.parameters()).new_zeros(1, streams, *network.architecture.input_shape).detach()
        self._received = torch.zeros(streams, *shape, device=self._rest.device)
        self.reset()

    def reset(self, which: Tensor | None = None) -> None:
        """Start again from rest: all streams, or those of a mask or index ``which``.

        Raises UserError for streams that do not exist.
        """
        device = self._rest.device
        if which is None:
            with torch.inference_mode():
                psc, self._state = self.network.part(self._rest)
            which = torch.arange(self.streams)
            self._total = torch.zeros_like(psc[0], dtype=torch.float64)  # in float32, sums of days would stop growing
            self._steps = torch.zeros(self.streams, dtype=torch.long, device=device)
        fresh = torch.zeros(self.streams, dtype=torch.bool, device=device)
        try:
            if (named := torch.as_tensor(which)).dtype != torch.bool and bool((named < 0).any()):
                raise IndexError
            fresh[named] = True
        except (IndexError, RuntimeError, TypeError, ValueError):
            raise UserError(
                f"there is no stream {which}; give numbers from 0 to {self.streams - 1}, or a mask of {self.streams}"
            ) from None

        def rested(x: Tensor, axis: int) -> Tensor:
            return x.masked_fill(fresh.view(*[1] * axis, -1, *[1] * (x.dim() - axis - 1)), 0)

        self._state = self._state.map(rested)
        self._total, self._steps, self._received = (rested(x, 0) for x in (self._total, self._steps, self._received))

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Step:
        """One more step.

        Args:
            x: a step of every stream, ``[B, F]`` or ``[B, C, H, W]``, as the model's data set stores it, or as the network
                takes it.

        Raises:
            UserError: another shape, NaN or infinity, or a network that was put into training mode; the streams stay as they
                were.
        """
        check_tensor("a step", x)
        if x.shape != self._received.shape:
            raise UserError(f"a step has shape {list(x.shape)}; it must be {list(self._received.shape)}, with one row a stream")
        if self.network.training:
            raise UserError("the network is in training mode; call its eval() before the next step")
        if x.is_complex():
            raise UserError(f"a step is {x.dtype}; it must be real")
        x = x.to(self._rest.device)
        x = self.normalisation.normalise(x) if self.normalisation else x
        if not bool(x.to(self._rest.dtype).isfinite().all()):
            raise UserError(f"a step holds NaN or infinity in {self._rest.dtype}; look for it in the data")
        before, received = self._state, self._received
        if self.delta:
            x, received = changes(x, received, self.delta)
        psc, self._state = self.network.part(x.to(self._rest.dtype).unsqueeze(0), before)
        self._total, self._steps, self._received = self._total + psc[0], self._steps + 1, received
        return Step(self.network, before, self._state, psc[0], self._total, self._steps)


def _of_single_steps(inputs: Inputs) -> Normalisation:
    """The normalisation of one step. Raises UserError if the preparation needs more than one step."""
    needs = {"bins": inputs.bin > 1, "filters": inputs.filters, "encoding": inputs.encoding != CONSTANT}
    if found := [name for name, needed in needs.items() if needed]:
        raise UserError(
            f"the model prepares its samples by {' and '.join(found)}, which need more than one step; train one without"
        )
    return inputs.normalisation
