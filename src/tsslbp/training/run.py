"""A training run: its settings are completed for the data, then it is prepared, trained and kept in its folder."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tsslbp import automatic, data, files, machine, processes, quantisation
from tsslbp.data.dataset import AS_STORED
from tsslbp.data.own import fitted
from tsslbp.encoding import CONSTANT
from tsslbp.errors import UserError
from tsslbp.filters import Filters
from tsslbp.layers import Spiking
from tsslbp.networks import Network
from tsslbp.notation import classes, normalises_neurons, voters
from tsslbp.settings import GROUPS, Place, TrainConfig
from tsslbp.spec import parse_spec
from tsslbp.training import checkpoint, choices, records, start, tensorboard
from tsslbp.training.baselines import baselines
from tsslbp.training.folder import CHECKPOINT, MODEL, begun, goes_on, named, opened
from tsslbp.training.inputs import Inputs, mean_of_bins
from tsslbp.training.loop import Interrupted, Loop
from tsslbp.training.model import Model
from tsslbp.training.progress import Progress
from tsslbp.training.reading import as_stored, load
from tsslbp.training.records import METRICS

STATIC_STEPS = 5
"""Default T of static samples."""
HIDDEN = 100
"""Default number of hidden neurons."""
COPIES = 0.01
"""Share of the training samples among the test samples above which this is said."""
FAINT = 15
"""Encoders get no bytes whose white is this many times as large as the largest of them, such as masks of 0 and 1."""
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
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.

    Under ``torchrun``, all processes train one network together (:mod:`tsslbp.processes`), and the first of them writes.
    """
    arguments: tuple[tuple[object, Any], ...] = ((config, TrainConfig), (progress, Progress | None))
    if wrong := [given for given, kind in arguments if not isinstance(given, kind)]:
        what = f"not a {type(wrong[0]).__name__}; data are given as dataset="
        raise UserError(f"train takes a TrainConfig and a Progress, {what}")
    with processes.joined() as group, contextlib.ExitStack() as held:
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
        precise = group.told(config.precision.encode()) == b"float32"  # auto may differ between machines
        config = replace(config, precision="float32" if precise else "bfloat16")
        progress, own = (progress if group.leads else None) or Progress(), data.is_own(config.data) or not dataset.source
        if own:
            progress.prepared(choices.described(asked, config, dataset))  # before first weights, which take a while to scale
        restored = group.told(b"yes" if goes_on(config) else b"")  # else --init still has to be obeyed
        with group.agreed(), processes.alone():
            model, optimizer = prepare(replace(config, init=None, first_rates=False) if restored else config, dataset)
        network, facts, (seen, samples) = model.network, model.facts, model.filtered(dataset)
        assert facts is not None  # prepare() noted them
        adapt(network)
        for weight in network.state_dict().values():
            group.first_(weight)
        fingerprint, state = facts.fingerprint, checkpoint.RunState()
        told = [config.to_dict(of) for of in GROUPS.values() if of is not Place]
        group.same("other settings or samples", f"{told} {fingerprint}")

        with group.agreed():
            folder, stored = opened(config, held, facts.exact) if group.leads else (Path(), b"")
        folder, stored = Path(group.told(str(folder).encode()).decode()), group.told(stored)
        group.remembered(call, folder.name)
        if stored:
            of = config, len(dataset.train), fingerprint, progress.warned
            state = checkpoint.restore(stored, folder / CHECKPOINT, network, optimizer, *of)
        ended = None
        with contextlib.suppress(UserError):  # damaged records are written again
            ended = records.read_metrics(folder)[1] if stored and group.leads else None
        if config.resume and group.leads:
            files.remove_leftovers(folder)
            files.write_text(folder / "config.toml", replace(config, name=folder.name).to_toml())
            if ended is not None and state.epoch <= config.epochs:  # a run that goes on has not ended
                records.write(folder / METRICS, state.history)
                ended = None
        board = board_of(str(folder)) if board_of and group.leads else None
        if own:
            _warn_of_copies(facts, dataset.test, progress)
        if config.precision == "bfloat16" and config.device == "cpu" and not machine.multiplies_bfloat16():
            progress.warned("this processor has no fast products in bfloat16; --precision float32 may be several times faster")

        def save() -> None:
            if group.leads:
                checkpoint.save(folder / CHECKPOINT, state, network, optimizer, fingerprint)

        def end_epoch(record: dict[str, Any]) -> None:
            if not group.leads:
                return
            records.write(folder / METRICS, state.history)
            if records.chosen(state.history, config.choose) is record:
                model.save(folder / MODEL)
            if board:
                tensorboard.write(board, record)

        again = f"{processes.command()} {records.resuming(folder)}"

        def measure() -> float:
            with group.agreed():
                if group.leads:
                    _check(folder / MODEL)
            model.take_weights(folder / MODEL)
            try:
                accuracy = seen.accuracy(samples.test)
            except processes.Lost:
                raise
            except UserError as error:
                raise UserError(f"{error}; the network is trained, so then measure it with: {again}") from None
            if stored and group.leads:
                model.save(folder / MODEL)  # with the name and the facts of the test samples, which may be others since
            return accuracy

        try:
            Loop(config, samples, seen, optimizer, state, progress, save).run(end_epoch)
            final = records.summary(state.history, dataset, config.choose, measure) | (baselines(dataset) if own else {})
        except Interrupted:
            raise Interrupted(folder) from None
        except processes.Lost as lost:
            kept = "nothing is lost" if group.leads else "the last checkpoint is kept"
            raise processes.Lost(f"{lost}; {kept}, go on with: {again}") from None
        finally:
            progress.close()
        if group.leads:
            if ended is None:
                final["machine"] = machine.lasting(model.device)
            elif "machine" in ended:  # nothing was trained here
                final["machine"] = ended["machine"]
            if dataset.trains:
                final["van_rossum"] = load(folder).distance(dataset.test)
            records.write(folder / METRICS, [*state.history, final])
        return folder, final


def _check(path: Path) -> None:
    """Raises UserError for a damaged model, which would be measured and then saved as a whole one."""
    try:
        as_stored(path)
    except UserError as error:
        raise UserError(f"{error}, or train again under another --name") from None


def _gone_on_with(config: TrainConfig, group: processes.Group, call: str) -> TrainConfig:
    """The settings of a job; if torchrun has started it again, it resumes the run of this call."""
    name = group.remembered(call) if processes.restarts() else None
    return replace(config, name=name, resume=True) if name else config


def _warn_of_copies(facts: data.Facts, test: data.Split, progress: Progress) -> None:
    """Warn if training samples are among the test samples."""
    share, repeated = facts.seen(test)
    if share > COPIES and not repeated:
        alike = "have the names and sizes of test samples" if test.streamed else "are test samples, too"
        copies = f"about {100 * share:.0f} % of the training samples {alike}"
        progress.warned(f"{copies}; if these are copies, the test accuracy is too high: keep them in one part")


def with_data(
    config: TrainConfig, dataset: data.Dataset | None = None, given: Collection[str] | None = None
) -> tuple[TrainConfig, data.Dataset]:
    """The completed settings (:func:`resolved`), and the run's data set: the given one or the one they name.

    Args:
        config: every setting.
        dataset: one made in Python.
        given: names of the settings that the user chose; all others are chosen for the data (:mod:`tsslbp.automatic`). None
            leaves all settings as they are.

    Raises:
        UserError: missing or damaged data, settings that do not go with them, or given ones that have no effect.
    """
    if dataset is not None:
        dataset = _in_form(config, data.check(dataset, "dataset"))
        config = replace(config, data=dataset.source or data.MADE + dataset.name)
    else:
        dataset = loaded(config)
        left_out = given is not None and not {"validation", "choose"} & set(given)
        if left_out and not data.is_task(config.data) and not automatic.holds_out(dataset):
            unchosen = replace(config, validation=0, choose="last")
            whole = loaded(unchosen)
            total, before = (sum(map(len, each.parts.values())) for each in (whole, dataset))
            if total == before and not len(whole.validation):  # it has no own validation part
                config, dataset, whole = unchosen, whole, dataset
            whole.train.close()  # that of the two which is not kept
    if given is not None:
        config = replace(config, **automatic.choose(dataset, {name: getattr(config, name) for name in given}))
    config = resolved(config, dataset)
    config.refuse_idle(given or ())
    return config, dataset


def loaded(config: TrainConfig) -> data.Dataset:
    """The data set that settings name. Raises UserError for missing or damaged data, and settings that do not go with them."""
    steps = config.time_steps if config.bin == 1 and not config.filters else None  # T counts bins, or is that of static samples
    how: dict[str, Any] = {"validation": config.validation, "download": config.download, "streaming": config.streaming}
    return _in_form(config, data.load(config.data, config.data_root, time_steps=steps, **how))


def _in_form(config: TrainConfig, dataset: data.Dataset) -> data.Dataset:
    dataset = _binned(dataset, config.bin) if config.bin > 1 else dataset
    return _unnormalised(dataset, config.encoding) if config.normalise == "none" else dataset


def _unnormalised(dataset: data.Dataset, encoder: str) -> data.Dataset:
    """The data set without mean and standard deviation. Raises UserError if it has none, so that this has no effect."""
    plain = data.Normalisation(dataset.normalisation.scale, (0.0,), (1.0,))
    if dataset.normalisation == plain or encoder != CONSTANT:
        why = f"{dataset.name} is not" if encoder == CONSTANT else f"what --encoding {encoder} takes is never"
        raise UserError(f"--normalise none has no effect: {why} normalised; leave it out")
    return replace(dataset, normalisation=plain)


def _binned(dataset: data.Dataset, size: int) -> data.Dataset:
    """The data set with the normalisation of its bins. Raises UserError if bins of this size are not possible."""
    if not dataset.sequence or dataset.cut or dataset.trains:
        instead = "cut it into fewer steps with --time-steps" if dataset.cut else "it has no steps"
        instead = "its targets have a spike or none in each step" if dataset.trains else instead
        raise UserError(f"--bin is for series that have steps of their own; {dataset.name} holds {dataset.kind}: {instead}")
    if size > (dataset.time_steps or 0):
        raise UserError(f"--bin is {size}; the sequences of {dataset.name} have {dataset.time_steps} steps")
    if dataset.normalisation == AS_STORED:
        return dataset
    train = dataset.train
    lengths = None if train.lengths is None else (train.lengths + size - 1) // size
    bins = data.Split(mean_of_bins(train.x, size, train.lengths), train.y, lengths)
    return replace(dataset, normalisation=fitted(bins, sequence=True))


def resolved(config: TrainConfig, dataset: data.Dataset) -> TrainConfig:
    """The settings with all that was left open filled in for the data.

    T is that of the data's sequences or target trains; the output layer has a neuron for each class. Every ``auto`` is replaced
    by its meaning here; a resumed run keeps the meaning from its beginning. With few bits, time constants are changed to those
    whose leaks are small fractions.

    Raises:
        UserError: settings that do not go with the data.
    """
    chosen = len(dataset.validation) if config.validation is None else config.validation
    config = replace(
        config,
        time_steps=config.time_steps or (0 if config.filters else _steps(config, dataset)) or STATIC_STEPS,
        network=config.network or f"{HIDDEN}-{len(dataset.classes)}",
        validation=chosen,
        size=dataset.sample_shape[-1] if dataset.train.streamed else config.size,
        choose="last" if chosen == 0 and config.choose == "validation" else config.choose,
        test_every=1 if config.choose == "test" else config.test_every,
    )
    config = _with_precision(quantisation.with_small_leaks(config).with_loss())
    _check_fit(config, dataset)
    return config


def _steps(config: TrainConfig, dataset: data.Dataset) -> int:
    """T of sequences in bins, or of target trains; 0 for static samples with classes."""
    return -(-(dataset.time_steps or 0) // config.bin)


@torch.random.fork_rng(devices=[])  # the caller's generator is left as it was
def prepare(config: TrainConfig, dataset: data.Dataset) -> tuple[Model, torch.optim.Optimizer]:
    """A run before its first step. Initial weights depend on seed and network, not on rule and kind of neuron."""
    torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed the generators of GPUs, too
    assert config.time_steps is not None
    train, stored = dataset.train, dataset.time_steps or 0 if config.bin > 1 else 0
    steps = _steps(config, dataset) if config.filters else config.time_steps
    plain = (config.encoding, dataset.normalisation, steps, dataset.sequence)
    inputs = Inputs(*plain, config.bin, stored, dataset.rate, dataset.delta)
    if config.filters:
        lengths = None if train.lengths is None else inputs.lengths(train.lengths)
        filters = Filters.fitted(inputs.series(train.x, train.lengths), lengths, config.filters)
        inputs = replace(inputs, filters=filters, time_steps=config.time_steps)
    network = Network(config.architecture(inputs.network_shape(dataset.sample_shape))).float()  # whatever is PyTorch's default
    network.time_block = config.time_block
    if config.init is not None:
        start.take(network, config.init)
    for layer in network.modules():
        if isinstance(layer, Spiking):
            layer.by_changes = config.sparse
    start.scale(network, inputs, train, config)
    network.to(processes.device(config.device))
    optimizer = torch.optim.AdamW(_groups(network), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    facts = data.Facts.of(dataset)
    model = Model(network, inputs, dataset.classes, dataset.source, facts, imports=config.needs, trains=dataset.trains)
    return model, optimizer


def _groups(network: Network) -> list[dict[str, Any]]:
    """Groups of weights and of learned constants, which do not decay. ``scale`` is a factor on the learning rate: steps of
    constants are in proportion to the setting that they start from."""
    learned = network.constants()
    weights = [parameter for name, parameter in network.named_parameters() if name not in learned]
    groups: list[dict[str, Any]] = [{"params": weights, "scale": 1.0}]
    for constant in dict.fromkeys(network.architecture.learn):  # a user may name one twice
        own = [parameter for name, parameter in learned.items() if name.endswith(constant)]
        groups.append({"params": own, "scale": float(getattr(network.architecture, constant)), "weight_decay": 0.0})
    return groups


def _with_precision(config: TrainConfig) -> TrainConfig:
    if config.precision != "auto":
        return config
    folder = named(config)
    if config.resume and (folder / "config.toml").is_file():
        return replace(config, precision=begun(folder).precision)
    pays = config.device == "cpu" and machine.bfloat16_pays()  # which nobody has measured on a GPU
    return replace(config, precision="bfloat16" if pays else "float32")


def _check_fit(config: TrainConfig, dataset: data.Dataset) -> None:
    """Raises UserError for settings that do not go with the data."""
    assert config.network is not None
    if config.validation != len(dataset.validation):
        has = f"{dataset.name} has {len(dataset.validation)} samples for it"
        raise UserError(f"--validation is {config.validation}; {has}, so leave it out, or give it where the data set is made")
    if config.filters and (not dataset.sequence or len(dataset.sample_shape) != 1 or dataset.trains or dataset.delta):
        raise UserError(f"--filters is for series with classes; {dataset.name} holds other samples; leave it out")
    if dataset.sequence and config.encoding != CONSTANT:
        raise UserError(f"--encoding {config.encoding} is for static samples; {dataset.name} holds sequences")
    steps = _steps(config, dataset)
    if steps and config.time_steps != steps and not config.filters:
        bins = f" bins of {config.bin} steps" if config.bin > 1 else ""
        what = "sequences" if dataset.sequence else "targets"
        raise UserError(f"--time-steps is {config.time_steps}; the {what} of {dataset.name} have {steps}{bins}")
    if classes(config.network) != len(dataset.classes):
        what = "output neurons" if dataset.trains else "classes"
        raise UserError(f"--network {config.network} must end with {len(dataset.classes)}, the {what} of {dataset.name}")
    if dataset.trains and config.neuron != "spiking":
        raise UserError(f"--neuron {config.neuron} makes no spikes; the targets of {dataset.name} are spike trains")
    if dataset.trains and config.readout == "voltage":
        raise UserError(f"--readout voltage makes no spikes; the targets of {dataset.name} are spike trains")
    if dataset.trains and voters(config.network) > 1:
        raise UserError(f"votes (V) are for classes; the targets of {dataset.name} are spike trains")
    shortest = None if config.filters else dataset.train.lengths
    one_step = config.time_steps == 1 or (shortest is not None and int(shortest.min()) <= config.bin)
    one_pass = config.neuron != "spiking" or one_step
    batches = {min(config.batch_size, len(dataset.train)), len(dataset.train) % config.batch_size} - {0}
    if one_pass and normalises_neurons(config.network) and any(size // config.accumulate <= 1 for size in batches):
        said = "a batch, or a part of one, has one sample"
        raise UserError(f"{said}, which --network {config.network} cannot normalise; change --batch-size or --accumulate")
    name, options = parse_spec(config.loss, "loss")
    if dataset.trains and (name not in ("kernel", "spike") or options.keys() - {"target"}):
        raise UserError(
            f"--loss {config.loss} is for classes; the targets of {dataset.name} are spike trains: take kernel, "
            "kernel(target=double) or spike"
        )
    if config.encoding != CONSTANT:
        scale = dataset.normalisation.scale
        ends = torch.stack([torch.stack(part.looked_at().x.aminmax()) for part in dataset.parts.values() if len(part)])
        low, high = map(float, ends.aminmax())  # bytes would overflow
        if low < 0 or high > scale or (scale > 1 and high * FAINT < scale):
            found = f"those of {dataset.name} run from {low:g} to {high:g}"
            raise UserError(f"--encoding {config.encoding} takes values from 0 to {scale:g}; {found}: scale them to this range")
    changes = [flag for flag in ("shift", "flip", "cutout") if getattr(config, flag)]
    if changes and (dataset.sequence or len(dataset.sample_shape) != 3):
        what = "sequences" if dataset.sequence else f"samples of shape {list(dataset.sample_shape)}"
        raise UserError(f"--{changes[0]} is for images; {dataset.name} holds {what}")
