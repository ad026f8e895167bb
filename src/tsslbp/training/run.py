"""A training run: it is prepared, trained and kept in its folder, by one process or by several together."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tsslbp import data
from tsslbp.data.pictures import Broken, Unread
from tsslbp.network.network import Network
from tsslbp.training import checkpoint, choices, first_weights, records, tensorboard
from tsslbp.training.baselines import baselines
from tsslbp.training.folder import CHECKPOINT, MODEL, goes_on, opened
from tsslbp.training.loop import Interrupted, Loop
from tsslbp.training.model import Model
from tsslbp.training.preparation import prepare, with_data
from tsslbp.training.progress import Progress
from tsslbp.training.reading import as_stored, load
from tsslbp.training.records import CONFIG, METRICS
from tsslbp.training.settings import GROUPS, Place, TrainConfig
from tsslbp.utils import distributed, files, machine
from tsslbp.utils.errors import UserError

COPIES = 0.01
"""Share of the training samples among the test samples above which this is said."""
_CALLS: Counter[str] = Counter()
"""How many runs of each name a program has begun, which torchrun may start again."""


@torch.inference_mode(False)  # in which nothing could be trained
def train(
    config: TrainConfig,
    progress: Progress | None = None,
    adapt: Callable[[Network], object] = lambda network: None,
    dataset: data.Dataset | None = None,
    given: Collection[str] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train, or continue training, and keep everything in the run's folder.

    Args:
        config: every setting.
        progress: gets reports of the progress.
        adapt: called with the network before the first step, for example to hook a layer; the stored model does not have this.
        dataset: one made in Python, such as by :func:`tsslbp.data.of_arrays`, in place of the one that the settings name.
        given: see :func:`with_data`.

    Returns:
        The folder and the final record.

    Raises:
        UserError: bad settings or data, a folder that exists or cannot be written, a diverged run.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the checkpoint is written. A second Ctrl-C does not wait for one.

    Under ``torchrun``, all processes train one network together (:mod:`tsslbp.utils.distributed`), and the first of them
    writes."""
    arguments: tuple[tuple[object, Any], ...] = ((config, TrainConfig), (progress, Progress | None))
    if wrong := [argument for argument, kind in arguments if not isinstance(argument, kind)]:
        what = f"not a {type(wrong[0]).__name__}; data are given as dataset="
        raise UserError(f"train takes a TrainConfig and a Progress, {what}")
    with distributed.joined() as group, contextlib.ExitStack() as held:
        called = config.name or config.recipe
        _CALLS[called] += 1
        call = f"run {_CALLS[called]} of {called}"
        asked, config = config, _gone_on_with(config, group, call)
        with group.agreed():
            config, dataset = with_data(config, dataset, given)
            for part in dataset.parts.values():
                held.callback(part.close)  # if the garbage collector ended the processes, it would wait for ten seconds
            if not len(dataset.test):
                raise UserError(f"{dataset.name} has no test samples, on which the result of a run is measured; give it some")
            board_of = tensorboard.writer_class() if config.tensorboard else None
        precise = group.broadcast(config.precision.encode()) == b"float32"  # auto may differ between machines
        config = replace(config, precision="float32" if precise else "bfloat16")
        progress, own = (progress if group.leads else None) or Progress(), data.is_own(config.data) or not dataset.source
        if own:
            progress.prepared(choices.described(asked, config, dataset))  # before first weights, which take a while to scale
        restored = group.broadcast(b"yes" if goes_on(config) else b"")  # else --init still has to be obeyed
        with group.agreed(), distributed.alone():
            model, optimizer = prepare(replace(config, init=None, first_rates=False) if restored else config, dataset)
        facts, (without_filters, samples) = model.facts, model.filtered(dataset)
        assert facts is not None  # prepare() noted them
        adapt(model.network)
        for weight in model.network.state_dict().values():
            group.broadcast_(weight)
        told = [config.to_dict(of) for of in GROUPS.values() if of is not Place]
        group.same("other settings or samples", f"{told} {facts.fingerprint}")

        run = _begun(config, dataset, model, optimizer, group, held, progress)
        group.remembered(call, run.folder.name)
        if own:
            _warn_of_test_samples(facts, dataset, progress)
        if config.init is not None and not run.resumed and (flags := first_weights.unlike(model, config.init)):
            progress.warned(f"the network of --init has {flags}; give these to go on from what it has learned")
        if config.precision == "bfloat16" and config.device == "cpu" and not machine.multiplies_bfloat16():
            progress.warned("this processor has no fast products in bfloat16; --precision float32 may be several times faster")
        run.board = board_of(str(run.folder)) if board_of and group.leads else None
        try:
            loop = Loop(config, samples, without_filters, optimizer, run.state, progress, run.save)
            with loop.averaged():
                run.go_on(progress.warned)
            loop.run(run.end_epoch)
            final = records.summary(
                run.state.history, dataset, config.choose, lambda: run.measure(without_filters, samples.test)
            )
            final |= baselines(dataset) if own else {}
        except (Interrupted, KeyboardInterrupt):  # the latter of a second Ctrl-C, or after the last step
            raise Interrupted(run.folder) from None
        except (distributed.Lost, Unread) as error:
            kept = "nothing is lost" if group.leads else "the last checkpoint is kept"
            once = "once the picture is as it was, " if isinstance(error, Broken) else ""
            raise type(error)(f"{error}; {kept}, {once}go on with: {run.again}") from None
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # of a full disk
                raise
            raise UserError(f"{error}; once it can be written, go on with: {run.again}") from None
        finally:
            progress.close()
        if group.leads:
            run.end(final)
        return run.folder, final


@dataclass
class _Run:
    """A run in its folder, into which one process writes."""

    config: TrainConfig
    dataset: data.Dataset
    model: Model
    optimizer: torch.optim.Optimizer
    group: distributed.Group
    folder: Path
    state: checkpoint.RunState
    resumed: bool
    """Whether there was a checkpoint."""
    ended: records.Record | None
    """The final record, if there was nothing left to train."""
    check_place: Callable[[], None]
    """:func:`tsslbp.utils.files.place_of` the folder, in the process that writes."""
    board: Any = None
    """The writer of TensorBoard's files."""

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        return f"{distributed.command()} {records.resuming(self.folder)}"

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.model.facts is not None
        if self.group.leads:
            self.check_place()
            at, fingerprint = self.folder / CHECKPOINT, self.model.facts.fingerprint
            checkpoint.save(at, self.state, self.model.network, self.optimizer, self.config, fingerprint)

    def end_epoch(self, record: records.Record) -> None:
        """Write the records, and the model if this epoch is the chosen one so far."""
        if not self.group.leads:
            return
        self.check_place()
        records.write(self.folder / METRICS, self.state.history)
        if records.chosen(self.state.history, self.config.choose) is record:
            self.model.save(self.folder / MODEL)
        if self.board:
            tensorboard.write(self.board, record)

    def measure(self, without_filters: Model, test: data.Split) -> float:
        """Accuracy of the chosen epoch's model, which the network becomes, on the (filtered) test samples."""
        with self.group.agreed():
            if self.group.leads:
                self._check()
        self.model.take_weights(self.folder / MODEL)
        try:
            accuracy = without_filters.accuracy(test)
        except distributed.Lost:
            raise
        except UserError as error:
            raise UserError(f"{error}; the network is trained, so then measure it with: {self.again}") from None
        if self.resumed and self.group.leads:
            self.model.save(self.folder / MODEL)  # with the name and the facts of the test samples, which may be others since
        return accuracy

    def go_on(self, warned: Callable[[str], object]) -> None:
        """If it is resumed, make the folder what the checkpoint says. A model that is missing or wrong is written again if it
        is that of the last epoch, which the network has now.

        Raises UserError if it is that of another epoch.
        """
        with self.group.agreed():
            if not (self.config.resume and self.group.leads):
                return
            config, state = self.config, self.state
            try:
                if state.history:
                    self._check()  # before anything is trained
            except UserError as error:
                if state.step or records.chosen(state.history, config.choose) is not state.history[-1]:
                    raise
                warned(f"{error}; it is written again from the checkpoint")
                self.model.save(self.folder / MODEL)
            files.remove_leftovers(self.folder)
            files.write_text(self.folder / CONFIG, replace(config, name=self.folder.name).to_toml())
            if state.epoch <= config.epochs:  # a run that goes on has not ended
                self.ended = None
            if state.history and self.ended is None:
                records.write(self.folder / METRICS, state.history)

    def _check(self) -> None:
        """Raises UserError for a model that is damaged or not that of the chosen epoch, and would be measured as it."""
        path, again = self.folder / MODEL, "or train again under another --name"
        try:
            stored = as_stored(path).digest()
        except UserError as error:
            raise UserError(f"{error}, {again}") from None
        if self.state.model not in ("", stored):
            raise UserError(f"{path} is not the model that this run wrote; restore that file, {again}")

    def end(self, final: records.Record) -> None:
        """Complete the final record, and write it."""
        self.check_place()
        assert self.model.facts is not None
        final |= {"model": self.state.model} if self.state.model else {}
        final["fingerprint"] = self.model.facts.fingerprint
        if self.ended is None:
            final["machine"] = machine.lasting(self.model.device)
        elif "machine" in self.ended:  # nothing was trained here
            final["machine"] = self.ended["machine"]
        if self.dataset.trains:
            final["van_rossum"] = load(self.folder).distance(self.dataset.test)
        records.write(self.folder / METRICS, [*self.state.history, final])


def _begun(
    config: TrainConfig,
    dataset: data.Dataset,
    model: Model,
    optimizer: torch.optim.Optimizer,
    group: distributed.Group,
    held: contextlib.ExitStack,
    progress: Progress,
) -> _Run:
    """The run in its folder, new or as its checkpoint left it. The folder is locked until ``held`` is closed."""
    facts = model.facts
    assert facts is not None
    with group.agreed():
        folder, stored = opened(config, held, facts.exact) if group.leads else (Path(), b"")
    folder, stored = Path(group.broadcast(str(folder).encode()).decode()), group.broadcast(stored)
    state, ended = checkpoint.RunState(), None
    if stored:
        state = checkpoint.restore(
            stored,
            folder / CHECKPOINT,
            model.network,
            optimizer,
            config,
            samples=len(dataset.train),
            data=facts.fingerprint,
            warned=progress.warned,
        )
    with contextlib.suppress(UserError):  # damaged records are written again
        ended = records.read_metrics(folder)[1] if stored and group.leads else None
    check_place = files.place_of(folder, held) if group.leads else lambda: None
    return _Run(config, dataset, model, optimizer, group, folder, state, bool(stored), ended, check_place)


def _gone_on_with(config: TrainConfig, group: distributed.Group, call: str) -> TrainConfig:
    """The settings of a job; if torchrun has started it again, it resumes the run of this call."""
    name = group.remembered(call) if distributed.restarts() else None
    return replace(config, name=name, resume=True) if name else config


def _warn_of_test_samples(facts: data.Facts, dataset: data.Dataset, progress: Progress) -> None:
    """Warn if training samples are among the test samples, or if these have other ranges."""
    test = dataset.test
    share, repeated = facts.seen(test)
    if share > COPIES and not repeated:
        alike = "have the names and sizes of test samples" if test.streamed else "are test samples, too"
        copies = f"about {100 * share:.0f} % of the training samples {alike}"
        progress.warned(f"{copies}; if these are copies, the test accuracy is too high: keep them in one part")
    if len(test) and not test.streamed and (found := facts.unlike(test.values(), dataset.sequence)):
        progress.warned(f"values of the test samples {found[0]}")
