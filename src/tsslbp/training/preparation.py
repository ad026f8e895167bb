"""What a run needs before its first step: the data set, settings completed for it, the network and its optimiser."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from tsslbp import data, losses
from tsslbp.data.dataset import AS_STORED
from tsslbp.data.filters import Filters
from tsslbp.data.sample_values import fitted
from tsslbp.encoding import CONSTANT
from tsslbp.layers import Spiking, quantisation
from tsslbp.network.network import Network
from tsslbp.network.notation import LinearSpec, classes, normalised, voters
from tsslbp.training import automatic, first_weights
from tsslbp.training.folder import begun, named
from tsslbp.training.inputs import Inputs, mean_of_bins
from tsslbp.training.model import Model
from tsslbp.training.records import CONFIG
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed, machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.spec import parse_spec

STATIC_STEPS = 5
"""Default T of static samples."""
HIDDEN = 100
"""Default number of hidden neurons."""
FAINT = 15
"""Encoders get no bytes whose white is this many times as large as the largest of them, such as masks of 0 and 1."""


def with_data(
    config: TrainConfig, dataset: data.Dataset | None = None, given: Collection[str] | None = None
) -> tuple[TrainConfig, data.Dataset]:
    """The completed settings (:func:`resolved`), and the run's data set: the given one or the one they name.

    Args:
        config: every setting.
        dataset: one made in Python.
        given: names of the settings that the user chose; all others are chosen for the data
            (:mod:`tsslbp.training.automatic`). None leaves all settings as they are.

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
    inputs = Inputs(
        config.encoding,
        dataset.normalisation,
        steps,
        dataset.sequence,
        bin=config.bin,
        stored_steps=stored,
        rate=dataset.rate,
        delta=dataset.delta,
    )
    if config.filters:
        lengths = None if train.lengths is None else inputs.lengths(train.lengths)
        filters = Filters.fitted(inputs.series(train.x, train.lengths), lengths, config.filters)
        inputs = replace(inputs, filters=filters, time_steps=config.time_steps)
    network = Network(config.architecture(inputs.network_shape(dataset.sample_shape))).float()  # whatever is PyTorch's default
    network.time_block = config.time_block
    if config.init is not None:
        first_weights.take(network, config.init)
    for layer in network.modules():
        if isinstance(layer, Spiking):
            layer.by_changes = config.sparse
    first_weights.scale(network, inputs, train, config)
    network.to(distributed.device(config.device))
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
    if config.resume and (folder / CONFIG).is_file():
        return replace(config, precision=begun(folder).precision)
    pays = config.device == "cpu" and machine.bfloat16_pays()  # which nobody has measured on a GPU
    return replace(config, precision="bfloat16" if pays else "float32")


def _check_fit(config: TrainConfig, dataset: data.Dataset) -> None:
    """Raises UserError for settings that do not go with the data."""
    assert config.network is not None
    assert config.time_steps is not None
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
    lengths = None if config.filters else dataset.train.lengths
    least = config.time_steps if lengths is None else -(-int(lengths.min()) // config.bin)  # steps of the shortest sample
    one_pass = config.neuron != "spiking" or least == 1
    batches = {min(config.batch_size, len(dataset.train)), len(dataset.train) % config.batch_size} - {0}
    if one_pass and normalised(config.network, LinearSpec) and any(size // config.accumulate <= 1 for size in batches):
        said = "a batch, or a part of one, has one sample"
        raise UserError(f"{said}, which --network {config.network} cannot normalise; change --batch-size or --accumulate")
    name, options = parse_spec(config.loss, "loss")
    if dataset.trains and (name not in ("kernel", "spike") or options.keys() - {"target"}):
        raise UserError(
            f"--loss {config.loss} is for classes; the targets of {dataset.name} are spike trains: take kernel, "
            "kernel(target=double) or spike"
        )
    begins = getattr(config.make_loss(), "begins", 1)
    if least < begins and not dataset.trains and not config.resume:
        other = losses.changed(config.loss, desired="1", **({"target": "single"} if "target" in options else {}))
        raise UserError(
            f"--loss {config.loss} asks samples of fewer than {begins} steps for silence, and {dataset.name} has some of "
            f"{least}; take another, such as {other}"
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
