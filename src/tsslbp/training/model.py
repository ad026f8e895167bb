"""Trained networks as one self-describing safetensors file."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_weights
from torch import Tensor

from tsslbp import encoding
from tsslbp.data import Dataset, Facts, Split, bare, is_own
from tsslbp.data.dataset import AS_STORED
from tsslbp.metrics import confidence, decode, settled, settled_step
from tsslbp.metrics.spike_trains import van_rossum
from tsslbp.network.model_file import check, sha256, write
from tsslbp.network.network import Network
from tsslbp.network.notation import classes, voters
from tsslbp.training.inputs import Inputs
from tsslbp.training.score import score
from tsslbp.utils import distributed, imports
from tsslbp.utils.errors import UserError, check_tensor, check_whole
from tsslbp.utils.files import read_bytes
from tsslbp.utils.signals import check_lengths

STORED = {"float32": torch.float32, "float16": torch.float16}
"""Formats of weights in a file, by their name in the metadata."""

AT_ONCE, MEMORY = 500, 2**30
"""Samples that are evaluated at once, and the bytes that they or their largest layer may take: with more, there are fewer."""
LARGE = 3 * 32 * 32
"""Values of a picture in a file above which there are fewer, too, because batches are read ahead."""


def need_parts(network: Network) -> None:
    """Raises UserError if a network's call is not that of our class, as parts of a sequence then would not do the same."""
    own = (
        getattr(network.forward, "__func__", None) is not Network.forward
        or network._forward_hooks
        or network._forward_pre_hooks
    )
    if own and type(network).part is Network.part:
        what = "has a forward or hooks of its own, which part() does not call"
        raise UserError(f"{type(network).__name__} {what}: streams and early exit need a class with its own part()")


@dataclass(frozen=True)
class Model:
    """A network with what is needed to use it on raw samples."""

    network: Network
    inputs: Inputs
    classes: tuple[str, ...]
    data: str
    """Name of the data set for :func:`tsslbp.data.load`; empty if it was made in Python."""
    facts: Facts | None = None
    """Facts about the data set; None in files of version 0.1.0."""
    trained: dict[str, Any] = field(default_factory=dict)
    """For an exported model: settings and final record of its run, and the format of its weights; else empty."""
    imports: tuple[str, ...] = field(default_factory=imports.names)
    """Names of the files that must be imported (``--import``) before it is loaded again."""
    trains: bool = False
    """Whether it was trained on target spike trains; ``classes`` are then the names of the output neurons."""
    trained_weights: str = ""
    """Checksum of the weights that ``trained`` tells of, if they were loaded; other weights are saved without it."""

    def __repr__(self) -> str:
        what = "sequences" if self.inputs.sequence else "samples"
        answers = "spike trains" if self.trains else "classes"
        return f"Model({what} {list(self.sample_shape)} -> {len(self.classes)} {answers}, {self.network.describe()})"

    def about(self) -> dict[str, Any]:
        """The metadata of the model's file, JSON values only; :func:`model_of` reads it."""
        return {
            "architecture": self.network.architecture.to_json(),
            "inputs": self.inputs.to_dict(),
            "classes": self.classes,
            "data": self.data,
            **({"facts": self.facts.to_dict()} if self.facts else {}),
            **({"trained": self.trained} if self.trained else {}),
            **({"imports": self.imports} if self.imports else {}),
            **({"trains": True} if self.trains else {}),
        }

    def given_away(self) -> "Model":
        """This model without the folders in which the user's own data lie, which are private."""
        return replace(self, data=bare(self.data)) if is_own(self.data) else self

    def save(self, path: str | Path) -> None:
        """Write the model; the file at ``path`` is replaced whole or not at all.

        Weights are stored as float32, whatever they are.

        Raises UserError as :meth:`tsslbp.Network.save` does, except for the rule and the type of the weights.
        """
        self.network.check_as_noted()
        about = self.about()
        if self.trained_weights and self.trained_weights != self.digest():
            about.pop("trained")
        dtype = STORED[about.get("trained", {}).get("stored", "float32")]
        weights = {name: weight.to(dtype) for name, weight in self.network.state_dict().items()}
        check({name: weight.float() for name, weight in weights.items()})  # float16 makes large weights infinite
        write(Path(path), about, weights)

    def digest(self) -> str:
        """Checksum of the weights as they are now."""
        return sha256({}, {name: weight.cpu() for name, weight in self.network.state_dict().items()})

    def take_weights(self, path: Path) -> None:
        """Load the weights of a whole file that :meth:`save` wrote; one process reads it for all.

        Raises UserError if it cannot be read or is of another network.
        """
        group = distributed.group()
        with group.agreed():
            stored = read_bytes(path) if group.leads else None
        try:
            self.network.load_state_dict(load_weights(group.broadcast(stored)))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is of another network ({reason}); train again under another --name") from None

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of a stored sample: that of the network's input, with T first if it is a sequence."""
        steps = (self.inputs.raw_steps,) if self.inputs.sequence else ()
        if self.inputs.filters:
            return (*steps, self.inputs.filters.channels)
        shape = self.network.architecture.input_shape
        return steps + ((shape[0] // 2,) if self.inputs.delta else shape)

    @property
    def stores_bytes(self) -> bool:
        """Whether stored samples are bytes; if a file of 0.1.0 does not say it, it follows from their scale."""
        return self.facts.dtype == "uint8" if self.facts else self.inputs.normalisation.scale == 255

    def _samples(self, x: Tensor, lengths: Tensor | None = None) -> Split:
        """Stored samples without answers. Raises UserError for what is no tensor or of another shape, and for lengths that
        cannot be theirs."""
        check_tensor("x", x)
        if x.device.type != "cpu":
            raise UserError(f"x is on {x.device}; give samples on the CPU, from where the model takes them")
        if x.shape[1:] != self.sample_shape:
            wanted = ", ".join(map(str, self.sample_shape))
            raise UserError(f"x has shape {list(x.shape)}; the model takes samples [N, {wanted}]")
        if lengths is not None:
            check_lengths(lengths, x.transpose(0, 1) if x.dim() > 1 else x, not self.inputs.sequence)
        return Split(x, torch.arange(len(x)), lengths)

    @contextmanager
    def evaluating(
        self, samples: Split, batch_size: int | None = None, first: int = 0
    ) -> Iterator[Iterator[tuple[Split, Tensor]]]:
        """``with model.evaluating(samples) as batches``: samples batch by batch, each batch with its network input.

        Lengths of the batches are in steps of the network, not of the stored sequences; after filters there are none. Inside,
        the network is in evaluation mode and gradients are off; afterwards the mode of each layer is restored. A Poisson
        encoder draws sample number n with seed n, whatever the batch size; ``first`` is the first sample's number. By
        default 500 samples are a batch, fewer if these or their largest layer would take more than 1 GiB, and fewer large
        pictures in files.
        """
        if not isinstance(samples, Split):
            raise UserError(f"samples are of type {type(samples).__name__}; give a part of a data set, such as dataset.test")
        if batch_size is None:
            batch_size = self._at_once(samples)
        check_whole("batch_size", batch_size)
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        parts = samples.batches((index, None) for index in torch.arange(len(samples)).split(batch_size))
        try:
            with torch.inference_mode():
                yield (self._entering(part, first + n * batch_size) for n, part in enumerate(parts))
        finally:
            for module, mode in modes:
                module.training = mode

    def _entering(self, part: Split, seed: int) -> tuple[Split, Tensor]:
        part = part.to(self.device)
        return replace(part, lengths=self.inputs.steps(part.lengths)), self.inputs(part.x, seed, part.lengths)

    def filtered(self, dataset: Dataset) -> "tuple[Model, Dataset]":
        """The model without its filters and the filtered data, so that filters are computed once; unchanged without filters."""
        if not self.inputs.filters:
            return self, dataset
        train, held, test = (Split(self.inputs(part.x, 0, part.lengths), part.y) for part in dataset.parts.values())
        inputs = Inputs(encoding.CONSTANT, AS_STORED, self.inputs.time_steps, sequence=False)
        rates = replace(dataset, train=train, validation=held, test=test, normalisation=AS_STORED, sequence=False)
        return replace(self, inputs=inputs), rates

    def shades(self) -> tuple[Tensor, Tensor] | None:
        """Black and white in stored images, ``[C, 1, 1]`` each; None if a file of 0.1.0 does not say."""
        scale = self.inputs.normalisation.scale
        if scale != 1:  # bytes, or the digits' 16 shades: the training images need not have used them all
            return torch.zeros(1, 1, 1), torch.full((1, 1, 1), float(scale))
        if self.facts is None:
            return None
        return torch.tensor(self.facts.low).view(-1, 1, 1), torch.tensor(self.facts.high).view(-1, 1, 1)

    def outputs(self, x: Tensor, lengths: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        """Outputs for stored samples in evaluation mode: ``[N, ...] -> [T, N, C]``.

        Currents of spiking neurons, 0 after the end of a sequence of ``lengths`` ``[N]``; for an output without spikes, class
        probabilities with T = 1. The default of ``batch_size`` is that of :meth:`evaluating`.

        Raises UserError for samples of another shape, and for lengths that cannot be theirs.
        """
        with self._outputs(self._samples(x, lengths), batch_size) as outputs:
            parts = [output for _, output in outputs]
        return torch.cat(parts, dim=1)  # outside, so that a loss may use it

    @contextmanager
    def _outputs(
        self, samples: Split, batch_size: int | None = None, first: int = 0
    ) -> Iterator[Iterator[tuple[Split, Tensor]]]:
        """:meth:`outputs` batch by batch, each with its samples."""
        with self.evaluating(samples, batch_size, first) as batches:
            yield ((part, self.network.evidence(self.network(x), part.lengths).cpu()) for part, x in batches)

    def decoded(self, samples: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Answers to samples, the confidence of each, and the step (from 0) from which it no longer changed, ``[N]`` each.

        See :func:`tsslbp.metrics.decode`, :func:`tsslbp.metrics.confidence` and :func:`tsslbp.metrics.settled_step`.
        """
        with self._outputs(samples) as outputs:
            parts = [(decode(output), confidence(output), settled_step(output)) for _, output in outputs]
        answers, shares, steps = map(torch.cat, zip(*parts, strict=True))
        return answers, shares, steps

    def answers(self, samples: Split) -> Tensor:
        """Answers to samples, class numbers or ``NO_ANSWER``, ``[N]``; see :func:`tsslbp.metrics.decode`."""
        with self._outputs(samples) as outputs:
            parts = [decode(output) for _, output in outputs]
        return torch.cat(parts)

    def response(self, x: Tensor, seed: int = 0, lengths: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Response to one stored sample ``[1, ...]``: spikes of every spiking layer up to the sample's end, ``[T, neurons]`` of
        bool by name, and the output, as in :meth:`outputs`.

        ``seed`` is the sample's number, with which an encoder draws spikes, and ``lengths`` ``[1]`` its steps if it is padded.
        """
        if len(samples := self._samples(x, lengths)) != 1:
            raise UserError(f"x has {len(samples)} samples; a response is that to one")
        with self.evaluating(samples, first=seed) as batches:
            ((part, inputs),) = batches
            currents = self.network.activity(inputs)
            *_, output = currents.values()
            evidence = self.network.evidence(self.network.vote(output), part.lengths)
            end = None if part.lengths is None else int(part.lengths)
            spikes = {name: train[:end].flatten(1) for name, train in self.network.trains(currents).items()}
        return {name: train.clone() for name, train in spikes.items()}, evidence.clone()  # outside, so that they may be changed

    def decide(self, x: Tensor | Split, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Answers, each given in the first step after which it could no longer change, and the number of steps it took.

        A sample is computed only up to this step. The answers are those of :func:`tsslbp.metrics.decode` for the whole
        sequence, as :func:`tsslbp.metrics.settled` explains. (The batch shrinks, which may change rounding.)

        Args:
            x: stored samples, ``[N, ...]``, or a part of a data set.
            batch_size: samples at a time. Default: as in :meth:`evaluating`.

        Returns:
            Class numbers or ``NO_ANSWER``, and steps from 1 to T; ``[N]`` each.

        Raises:
            UserError: an output that does not spike, and so has no bound, or sequences of different lengths.
        """
        if isinstance(x, Split) and x.padded and not self.inputs.filters:
            raise UserError("early exit needs sequences of one length; predict padded ones without it")
        if not self.network.spikes_last:
            raise UserError("early exit needs an output that spikes; any later step can change another one's answer")
        samples = x if isinstance(x, Split) else self._samples(x)
        with self.evaluating(samples, batch_size) as batches:
            answers, steps = zip(*(self._decide(inputs) for _, inputs in batches), strict=True)
        return torch.cat(answers).cpu(), torch.cat(steps).cpu()

    def _decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        need_parts(net := self.network)
        static = net.is_static(x)
        undecided = torch.arange(x.shape[0 if static else 1], device=x.device)
        answers, steps = torch.empty_like(undecided), torch.empty_like(undecided)
        state, total = None, None
        for t in range(net.time_steps):
            psc, state = net.part(x if static else x[t : t + 1], state)
            total = psc[0] if total is None else total + psc[0]
            remaining = net.time_steps - t - 1
            done = settled(total, psc[0], remaining, net.neuron_of().tau_s) | (remaining == 0)
            answers[undecided[done]], steps[undecided[done]] = decode(total[None, done]), t + 1
            if bool(done.all()):
                break
            if bool(done.any()):
                undecided, total, state = undecided[~done], total[~done], state.take(~done)
                x = x[~done] if static else x[:, ~done]
        return answers, steps

    def spikes(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Output spikes for stored samples in evaluation mode, ``[T, N, neurons]`` of bool; none after the end of a sequence.

        See :meth:`outputs`. Raises UserError for an output that does not spike, or whose neurons vote for classes.
        """
        self._need_spikes()
        return self.network.fired(self.outputs(x, lengths))

    def _need_spikes(self) -> None:
        if not self.network.spikes_last or voters(self.network.architecture.network) > 1:
            raise UserError("the outputs are no spikes of single neurons here; take network.trains(network.activity(x))")

    def scores(self, samples: Split, first: int = 0) -> Tensor:
        """:func:`tsslbp.training.score.score` of every sample, ``[N]``; ``first`` is the number of the first."""
        tau_s = self.network.neuron_of().tau_s
        with self._outputs(samples, first=first) as outputs:
            parts = [score(output, part.y, tau_s) for part, output in outputs]
        return torch.cat(parts)

    @property
    def numbers(self) -> int:
        """How many numbers the largest layer, or the input, holds for a sample over all steps."""
        return self.network.time_steps * self.network.largest

    def _at_once(self, samples: Split) -> int:
        numbers = max(self.numbers, math.prod(samples.shape))
        most = min(AT_ONCE, max(1, MEMORY // (4 * numbers)))
        return min(most, max(10, AT_ONCE * LARGE // math.prod(samples.shape))) if samples.streamed else most

    def distance(self, samples: Split) -> float:
        """Van Rossum distance of output spikes from target trains, with the time constant τs, mean over neurons and samples.

        See :func:`tsslbp.metrics.spike_trains.van_rossum`.
        """
        self._need_spikes()
        found = []
        with self._outputs(samples) as outputs:
            for part, output in outputs:
                wanted = part.y.transpose(0, 1).cpu()
                found.append(van_rossum(self.network.fired(output).to(wanted), wanted, self.network.neuron.tau_s).double())
        return float(torch.cat(found).mean())

    def accuracy(self, samples: Split) -> float:
        """Share of right answers in percent; for target trains 100 times the mean F1. Processes share the work."""
        group = distributed.group()
        mine = group.share(torch.arange(len(samples)))
        if group.world_size == 1:
            return 100 * float(self.scores(samples).mean())
        total = self.scores(samples.select(mine), int(mine[0])).sum() if len(mine) else torch.zeros((), dtype=torch.float64)
        return 100 * (float(group.all_reduce_(total)) / len(samples))  # the last bit of the mean above, as ties must stay ties


def as_model(network: Network, needed: tuple[str, ...] | None = None, sequence: bool = False) -> Model:
    """A network that was made in Python, as a model: its inputs are the network's own, and its classes are numbers.

    ``needed``: names of files to import before it is loaded again, by default the present ones. ``sequence``: whether its
    samples are sequences.
    """
    inputs = Inputs(encoding.CONSTANT, AS_STORED, network.time_steps, sequence)
    numbers = tuple(map(str, range(classes(network.architecture.network))))
    return Model(network, inputs, numbers, "", imports=imports.names() if needed is None else needed)
