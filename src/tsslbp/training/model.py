"""Trained networks as one safetensors file that says by itself what it is."""

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tsslbp.data import Normalisation, Split
from tsslbp.errors import UserError
from tsslbp.files import write_bytes
from tsslbp.losses import length_mask
from tsslbp.metrics import decode, settled
from tsslbp.networks import Network
from tsslbp.notation import Architecture
from tsslbp.training.inputs import Inputs
from tsslbp.training.score import score

METADATA_KEY = "tsslbp"


@dataclass(frozen=True)
class Model:
    """A network with what is needed to use it on raw samples."""

    network: Network
    inputs: Inputs
    classes: tuple[str, ...]
    data: str
    trained: dict[str, Any] = field(default_factory=dict)
    """Of a model that was exported: settings and final record of its run, the format its weights are stored in; else empty."""

    def save(self, path: Path) -> None:
        """Write the model; the file at ``path`` is replaced whole or not at all."""
        about = {
            "architecture": self.network.architecture.to_json(),
            "inputs": asdict(self.inputs),
            "classes": self.classes,
            "data": self.data,
            **({"trained": self.trained} if self.trained else {}),
        }
        stored = getattr(torch, self.trained.get("stored", "float32"))
        weights = {name: weight.to(stored).contiguous() for name, weight in self.network.state_dict().items()}
        write_bytes(path, save(weights, metadata={METADATA_KEY: json.dumps(about)}))

    @torch.inference_mode()
    def outputs(self, x: Tensor, lengths: Tensor | None = None, batch_size: int = 500) -> Tensor:
        """Outputs for stored samples in evaluation mode: ``[N, ...] -> [T, N, C]``.

        Currents of spiking neurons, 0 after the end of a sequence of ``lengths`` ``[N]``; of an ANN class probabilities, T = 1.
        """
        was_training = self.network.training
        self.network.eval()
        chunks = [self.network(self.inputs(part, seed=start)) for start, part in enumerate(x.split(batch_size))]
        self.network.train(was_training)
        output = self.network.evidence(torch.cat(chunks, dim=1))
        return output if lengths is None else output * length_mask(lengths, len(output)).unsqueeze(2)

    @torch.inference_mode()
    def response(self, x: Tensor, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
        """What one stored sample ``[1, ...]`` sets off: every layer's spikes, ``[T, neurons]`` of bool by name, and the output.

        ``seed`` is that of an encoder which draws spikes.
        """
        currents = self.network.activity(self.inputs(x, seed=seed))
        *_, output = currents.values()
        return {name: self.network.fired(psc).flatten(1) for name, psc in currents.items()}, self.network.vote(output)

    @torch.inference_mode()
    def decide(self, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Answers, each given in the first step after which it could no longer change, and the number of steps it took.

        What is computed for a sample ends there. The answers are those of :func:`tsslbp.metrics.decode` for the whole sequence;
        see :func:`tsslbp.metrics.settled` for why. (A batch that shrinks may round differently, as any other batch size may.)

        Args:
            x: stored samples, ``[N, ...]``.
            batch_size: samples at a time.

        Returns:
            Class numbers or ``NO_ANSWER``, and steps from 1 to T; ``[N]`` each.
        """
        was_training = self.network.training
        self.network.eval()
        parts = [self._decide(self.inputs(part, seed=start)) for start, part in enumerate(x.split(batch_size))]
        self.network.train(was_training)
        answers, steps = zip(*parts, strict=True)
        return torch.cat(answers), torch.cat(steps)

    def _decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.network
        sequence = x.shape[1:] != net.architecture.input_shape
        undecided = torch.arange(x.shape[1] if sequence else x.shape[0])
        answers, steps = torch.empty_like(undecided), torch.empty_like(undecided)
        state, total = None, None
        for t in range(net.time_steps):
            psc, state = net.part(x[t : t + 1] if sequence else x, state)
            total = psc[0] if total is None else total + psc[0]
            remaining = net.time_steps - t - 1
            done = settled(total, psc[0], remaining, net.neuron.tau_s) | (remaining == 0)
            answers[undecided[done]], steps[undecided[done]] = decode(total[None, done]), t + 1
            if bool(done.all()):
                break
            if bool(done.any()):
                undecided, total, state = undecided[~done], total[~done], state.take(~done)
                x = x[:, ~done] if sequence else x[~done]
        return answers, steps

    def scores(self, samples: Split) -> Tensor:
        """:func:`tsslbp.training.score.score` of every sample, ``[N]``."""
        return score(self.outputs(samples.x, samples.lengths), samples.y, None, self.network.neuron.tau_s)

    def accuracy(self, samples: Split) -> float:
        """Share of right answers in percent; for target trains 100 times the mean F1."""
        return 100 * float(self.scores(samples).mean())


def load(path: str | Path) -> Model:
    """A model from ``model.safetensors``, or from the folder of the run that wrote it; standardised weights come folded.

    Raises:
        UserError: no such file, a broken file, or a safetensors file that holds no tsslbp model.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise UserError(f"no model at {path}; give a run's folder or its model.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, struct.error, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
    if about is None:
        raise UserError(f"{path} holds no tsslbp model: its metadata has no {METADATA_KEY!r} entry")
    try:
        inputs = Inputs(**{**about["inputs"], "normalisation": _normalisation(about["inputs"]["normalisation"])})
        network = Network(Architecture.from_json(about["architecture"]))
        network.load_state_dict(weights)
        classes, data, trained = tuple(about["classes"]), str(about["data"]), dict(about.get("trained", {}))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} was written by another version of tsslbp or its weights do not fit ({reason})") from None
    for name, weight in network.named_parameters():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path}: weights {name!r} hold NaN or infinity; the file is damaged")
    network.fold()
    return Model(network.eval(), inputs, classes, data, trained)


def _normalisation(fields: dict[str, Any]) -> Normalisation:
    return Normalisation(scale=fields["scale"], mean=tuple(fields["mean"]), std=tuple(fields["std"]))
