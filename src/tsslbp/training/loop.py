"""The training loop: epochs of plain forward, backward and update steps."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tsslbp import rules
from tsslbp.data import Dataset, Split
from tsslbp.data.augment import crop_and_flip, cutout
from tsslbp.data.pictures import Unread
from tsslbp.encoding import CONSTANT
from tsslbp.layers import Dropout, Spiking
from tsslbp.losses import RateBounds
from tsslbp.rules import TSSL
from tsslbp.training import layer_rates
from tsslbp.training.checkpoint import RunState
from tsslbp.training.first_weights import clamped
from tsslbp.training.loss_value import checked
from tsslbp.training.model import Model
from tsslbp.training.progress import Progress
from tsslbp.training.records import chosen
from tsslbp.training.reduction import Reduction
from tsslbp.training.score import score
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed, prng
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import before_end

SAVE_EVERY = 300.0
"""Seconds between checkpoints inside a long epoch."""
WARM_UP = 0.2
"""Share of a one-cycle run in which the learning rate rises."""


Ahead = Iterator[tuple[Tensor, Tensor | None, Split]]
"""The parts of the steps to come: sample numbers, their keys if anything is drawn for them, and the samples."""


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGHUP) and has stopped between two steps. The argument is its folder."""


class Diverged(UserError):
    """Loss or gradient is not finite: the learning rate is too high."""


@dataclass
class Loop:
    """Trains a model on a data set.

    Args:
        config: the run's settings.
        dataset: training, validation and test samples.
        model: the network to train, in place.
        optimizer: its optimiser.
        state: progress of the run; kept up to date.
        progress: gets reports of the progress.
        save: writes a checkpoint; by default, none is written.
        weights: of the training samples in the loss, ``[N]``; None if all count the same. A loss that is a mean becomes a
            weighted mean. Losses and accuracies in the records are unweighted.
    """

    config: TrainConfig
    dataset: Dataset
    model: Model
    optimizer: torch.optim.Optimizer
    state: RunState = field(default_factory=RunState)
    progress: Progress = field(default_factory=Progress)
    save: Callable[[], None] = lambda: None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        self.loss, self.group = self.config.make_loss(), distributed.group()
        self._stop, self._asked = threading.Event(), False  # asked here, and known to all processes
        self._before: list[Tensor] = []
        self._waited = self._began = 0.0  # seconds of this epoch spent waiting for a batch, and its beginning
        self.steps = math.ceil(len(self.dataset.train) / self.config.batch_size)
        if self.weights is not None and self.loss.is_mean:
            self.weights = self.weights / self.weights.mean()

    def run(self, end_epoch: Callable[[dict[str, Any]], None]) -> None:
        """Train to the last epoch. ``end_epoch`` gets each epoch's record when its checkpoint is written, and the network then
        has the weights that were measured.

        Raises:
            Interrupted: any process was asked to stop; a checkpoint is written.
            Diverged: loss or gradient is not finite.
            Lost: another process has ended; a checkpoint is written.
            Unread: samples cannot be read now; likewise.
        """
        state, began, saved = self.state, time.perf_counter() - self.state.seconds, time.perf_counter()
        self.progress.started(state.epoch, self.config.epochs, self.steps)
        with torch.enable_grad(), _stop_request(self._stop), self._nothing_lost():
            while state.epoch <= self.config.epochs:
                self._take_rule()
                self._waited, self._began = 0.0, time.perf_counter()
                steps = self._batches()
                ahead = self._read(steps)
                for samples in steps:
                    self.step(samples, ahead)
                    state.seconds = time.perf_counter() - began
                    stopping = self._stop.is_set() if self.group.world_size == 1 else self._asked
                    if stopping or time.perf_counter() - saved > SAVE_EVERY:
                        self.save()
                        saved = time.perf_counter()
                    if stopping:
                        raise Interrupted
                next(ahead, None)  # ends it, so that the reading workers are free for the evaluation
                with self.averaged():
                    record = self._record()
                    state.seconds = record["seconds"] = time.perf_counter() - began
                    state.history.append(record)
                    if chosen(state.history, self.config.choose) is record:
                        state.model = self.model.digest()
                    state.epoch, state.step, state.loss_sum, state.right, state.seen = state.epoch + 1, 0, 0.0, 0, 0
                self.save()  # first, because what follows can be made again from it
                with self.averaged():
                    end_epoch(record)
                saved = time.perf_counter()
                self.progress.finished_epoch(record)
                for message in layer_rates.warnings(state.history, self.config):
                    self.progress.warned(message)
            if float(self.group.all_reduce_(torch.tensor(float(self._stop.is_set())))):  # in the last epoch's evaluation
                raise Interrupted

    def _take_rule(self) -> None:
        """Give the layers the rule of this epoch, if ``surrogate_epochs`` is set."""
        if not self.config.surrogate_epochs:
            return
        rule = rules.get(self.config.rule)
        if self.state.epoch <= self.config.surrogate_epochs and isinstance(rule, TSSL):
            rule = replace(rule, fallback="always")
        for _, layer in self.model.network.named_layers():
            if isinstance(layer, Spiking):
                layer.rule = rule

    def _batches(self) -> Sequence[Tensor]:
        """The remaining batches of this epoch, as sample numbers."""
        seed = (self.config.seed * 1_000_003 + self.state.epoch) * 1_000_003 % 2**63
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.dataset.train), generator=generator)
        return order.split(self.config.batch_size)[self.state.step :]

    def _parts(self, samples: Tensor) -> Sequence[Tensor]:
        """The samples of a step in the parts that are computed one after the other."""
        return samples.tensor_split(min(self.config.accumulate, len(samples)))

    def _read(self, steps: Iterable[Tensor]) -> Ahead:
        """The samples of this process in these steps, part by part."""
        asked: deque[tuple[Tensor, Tensor | None]] = deque()

        def requests() -> Iterator[tuple[Tensor, Tensor | None]]:
            for part in (part for samples in steps for part in self._parts(samples)):
                mine = self.group.share(part)
                keys = prng.mix(self.config.seed, self.state.epoch, mine) if self._draws else None
                asked.append((mine, keys))
                yield asked[-1]

        for read in self.dataset.train.batches(requests()):
            yield *asked.popleft(), read

    def step(self, samples: Tensor, ahead: Ahead | None = None) -> None:
        """One training step on the training samples of these numbers, ``[B]``, of which each process takes its share.

        If samples are read in advance, ``ahead`` yields these next.
        """
        ahead = self._read([samples]) if ahead is None else ahead
        state, network = self.state, self.model.network
        if not network.training:
            network.train()
        for learned in (*self._weights, *self._constants):
            learned.grad = None
        loss, right, parts = 0.0, 0.0, self._parts(samples)
        fails_late = self.group.world_size > 1 or len(parts) > 1  # after a forward pass, which changes running statistics
        self._before = [buffer.clone() for buffer in network.buffers()] if fails_late else []
        for part in parts:
            more = self._add_gradients(part, len(samples), ahead, last=part is parts[-1])
            loss, right = loss + more[0], right + more[1]
        loss, right, asked = self._reduction.end([loss, right, float(self._stop.is_set())])
        self._asked, self._before = asked > 0, []
        self._update(loss)
        state.step += 1
        state.seen += len(samples)
        state.right += right
        state.loss_sum += loss * (len(samples) if self.loss.is_mean else 1)
        self.progress.stepped(state.epoch, state.step, state.loss_sum / state.seen, 100 * state.right / state.seen)

    def _add_gradients(self, samples: Tensor, of: int, ahead: Ahead, last: bool) -> tuple[float, float]:
        """Add the gradients of this process's share of some of the ``of`` samples of a step; returns its loss and score.

        After the ``last`` part the gradients are complete, and the processes begin to add them. The shares' losses add up to
        that of the step, so a loss that is a mean is weighted by its number of samples.
        """
        config, network = self.config, self.model.network
        asked = time.perf_counter()
        mine, keys, part = next(ahead)
        self._waited += time.perf_counter() - asked
        part = part.to(self._weights[0].device)
        x, y, lengths = part.x, part.y, part.lengths
        if keys is not None and (config.shift or config.flip):
            x = crop_and_flip(x, keys, config.shift, config.flip)
        if keys is not None and config.cutout:
            x = cutout(x, keys, config.cutout, self._colour)
        x = self.model.inputs(x, 0 if keys is None else keys, lengths)
        steps = None if lengths is None else self.model.inputs.lengths(lengths)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            output, penalty = self._output(x, keys, steps)
        mask = None if steps is None else before_end(steps, len(output))
        if self.weights is not None:
            gain = self.weights.index_select(0, mine).to(output).unsqueeze(1)
            output.register_hook(lambda gradient: gain * gradient)  # a loss is a sum over samples: this weights its terms
        loss = self._loss(output, y.transpose(0, 1) if self.dataset.trains else y, mask)
        if self.loss.is_mean and len(mine) != of:
            loss = loss * (len(mine) / of)
        if penalty is not None:
            loss = loss + penalty * (len(samples) / of / self.group.world_size)
        with self._reduction.early() if last else nullcontext():
            loss.backward()
        if not math.isfinite(value := loss.item()):  # _update reports it for all processes
            return value, 0.0
        output = network.evidence(output.detach().float(), steps)
        return value, float(score(output, y, network.neuron_of().tau_s).sum())

    def _loss(self, output: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """The loss; 0 without samples. Raises UserError for a bad result of a user's own loss."""
        if not output.shape[1]:
            return output.sum()
        return checked(self.loss(output, y, mask), self.loss, output)

    @contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """If another process ends, or samples cannot be read, write a checkpoint of the state before the current step."""
        try:
            yield
        except (distributed.Lost, Unread):
            for buffer, before in zip(self.model.network.buffers(), self._before, strict=False):
                buffer.copy_(before)
            self.save()
            raise

    def _update(self, loss: float) -> None:
        """Update the weights by the gradients of a step. Raises Diverged if these or the loss are not finite."""
        config, state = self.config, self.state
        kinds = [[x.grad for x in learned if x.grad is not None] for learned in (self._weights, self._constants)]
        gradients = list(filter(None, kinds))  # each kind has its own norm; a user may have frozen one
        if not gradients:
            raise UserError(
                f"{type(self.loss).__name__} gives no weight a gradient; compute it from the output, without item() or detach()"
            )
        norms = [torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in kind])) for kind in gradients]
        if not all(map(math.isfinite, (loss, *(norm.item() for norm in norms)))):
            raise Diverged(
                f"training diverged in epoch {state.epoch}, step {state.step + 1}: {self._culprit()}; what is on disk is kept; "
                f"lower --learning-rate (now {config.learning_rate}), keep --gradient-clip and --weight-clamp on"
            )
        for kind, norm in zip(gradients, norms, strict=True):
            if config.gradient_clip and (factor := (config.gradient_clip / (norm + 1e-6)).item()) < 1:
                for gradient in kind:
                    gradient.mul_(factor)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._rate_factor(state.step) * group.get("scale", 1.0)
        self.optimizer.step()
        with torch.no_grad():
            if config.weight_clamp:
                for weight in self._clamped:
                    weight.clamp_(-config.weight_clamp, config.weight_clamp)
            if config.average:
                kept = list(self.model.network.state_dict().values())  # running statistics included
                state.average = state.average or [weight.clone() for weight in kept]
                done = (state.epoch - 1) * self.steps + state.step
                decay = min(config.average, (1 + done) / (10 + done))  # smaller at first, to forget the first weights
                for average, weight in zip(state.average, kept, strict=True):
                    average.lerp_(weight, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has the average of its weights, if there is one."""
        weights = list(self.model.network.state_dict().values()) if self.state.average else []
        own = [weight.clone() for weight in weights]
        with torch.no_grad():
            for weight, average in zip(weights, self.state.average, strict=True):
                weight.copy_(average)
            try:
                yield
            finally:
                for weight, before in zip(weights, own, strict=True):
                    weight.copy_(before)

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        """The weights, kept because going through the modules in each step would take longer than a small layer."""
        constants = self.model.network.constants()
        return [weight for name, weight in self.model.network.named_parameters() if name not in constants]

    @cached_property
    def _clamped(self) -> list[nn.Parameter]:
        return clamped(self.model.network)

    @cached_property
    def _constants(self) -> list[nn.Parameter]:
        """The constants of the neurons that are learned."""
        return list(self.model.network.constants().values())

    @cached_property
    def _reduction(self) -> Reduction:
        return Reduction([*self._weights, *self._constants], self.group)

    @cached_property
    def _colour(self) -> Tensor:
        """The stored value of each channel that normalisation makes 0, ``[C]``."""
        normalisation = self.model.inputs.normalisation
        return torch.tensor(normalisation.mean, device=self.model.device) * normalisation.scale

    @cached_property
    def _draws(self) -> bool:
        """Whether anything is drawn for a sample."""
        drops = any(isinstance(layer, Dropout) for layer in self.model.network.modules())
        changes = self.config.shift or self.config.flip or self.config.cutout or self.config.random_crop
        return drops or bool(changes) or self.model.inputs.encoding != CONSTANT

    def _output(self, x: Tensor, keys: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The network's output, and the penalty on hidden neurons whose firing rate is out of bounds."""
        config, network = self.config, self.model.network
        if not config.rate_penalty:
            return network(x, keys=keys, lengths=lengths), None
        *hidden, (_, output) = network.activity(x, keys=keys, lengths=lengths).items()
        penalty = output.new_zeros(())
        for name, psc in hidden:
            bounds = RateBounds(network.neuron_of(name).tau_s, config.rate_lower, config.rate_upper)
            penalty = penalty + bounds(psc.to(torch.promote_types(psc.dtype, torch.float32)), lengths)
        return network.vote(output), config.rate_penalty * penalty

    def _rate_factor(self, step: int) -> float:
        """Learning rate of a step of this epoch, from 0, as a share of the configured one."""
        done = ((self.state.epoch - 1) * self.steps + step) / (self.config.epochs * self.steps)
        if self.config.schedule == "constant":
            return 1.0
        if self.config.schedule == "one-cycle" and done < WARM_UP:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * done / WARM_UP)) / 2
        if self.config.schedule == "one-cycle":
            done = (done - WARM_UP) / (1 - WARM_UP)
        return (1 + math.cos(math.pi * done)) / 2

    def _culprit(self) -> str:
        """The first layer, from the output back, whose numbers are not finite."""
        for name, weight in reversed(list(self.model.network.layers.named_parameters())):
            if not bool(weight.isfinite().all()):
                return f"the weights of layer {name.split('.')[0]!r} are not finite"
            if weight.grad is not None and not bool(weight.grad.isfinite().all()):
                return f"the gradient of layer {name.split('.')[0]!r} is not finite"
        return "the loss is not finite"

    def _record(self) -> dict[str, Any]:
        state, data, config = self.state, self.dataset, self.config
        waited = self._waited / (time.perf_counter() - self._began)
        tests = config.test_every and state.epoch % config.test_every == 0 and len(data.test)
        record: dict[str, Any] = {
            "epoch": state.epoch,
            "train_loss": state.loss_sum / state.seen,
            "train_accuracy": 100 * state.right / state.seen,
            "validation_accuracy": self.model.accuracy(data.validation) if len(data.validation) else None,
            "test_accuracy": self.model.accuracy(data.test) if tests else None,
            "learning_rate": config.learning_rate * self._rate_factor(state.step - 1),  # as of the last step, resumed or not
        }
        if data.train.streamed:
            record["data_wait"] = waited
        if self.model.network.is_spiking:
            held = data.validation if len(data.validation) else data.train
            record |= layer_rates.measure(self.model, held, len(data.train), config.batch_size)
        return record


@contextmanager
def _stop_request(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C, SIGTERM or SIGHUP sets the event, so that a run stops between two steps; a second Ctrl-C stops at once."""

    def ask(number: int, _frame: Any) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    with distributed.handling(ask, signal.SIGINT, *distributed.STOPS) as before:
        yield
