"""Summary of a user's own data and the settings chosen for them, with the flags that change these."""

from tsslbp.data import Dataset
from tsslbp.encoding import CONSTANT
from tsslbp.training.settings import TrainConfig


def described(given: TrainConfig, config: TrainConfig, dataset: Dataset) -> list[str]:
    """Lines for a reader, from the settings as the user gave them, the complete ones, and the data set."""
    parts = {name: f"{len(part):,} {name}" for name, part in dataset.parts.items()}
    total = sum(map(len, dataset.parts.values()))
    seen = (dataset.train.looked_at() if dataset.train.streamed else dataset.train).values()
    low, high = (float(x) for x in seen.aminmax())
    names = ", ".join(dataset.classes[:6]) + (", ..." if dataset.classes[6:] else "")
    held = parts["validation"] if len(dataset.validation) else "none for validation"
    flag = "" if given.validation is not None else " (--validation N)"
    learns = f"rule {config.rule} (--rule)" if config.neuron == "spiking" else f"{config.neuron} units (--neuron)"
    split = f"{parts['train']}, {held}{flag}, {parts['test']}: {dataset.tested_on}"
    many = "s" * (config.epochs > 1)
    rows = {
        "data": f"{dataset.kind}, {total:,} samples of {_size(dataset)} {_targets(dataset)} ({names})",
        "values": f"{str(seen.dtype).removeprefix('torch.')}, from {low:g} to {high:g}",
        "split": split,
        "input": _input(config, dataset),
        "steps": _steps(config, dataset),
        "network": f"{config.network} (--network), {learns}, loss {config.loss} (--loss)",
        "training": (
            f"{config.epochs} epoch{many} (--epochs) of batches of {config.batch_size} (--batch-size), learning rate "
            f"{config.learning_rate:g} (--learning-rate); the epoch kept: {config.choose} (--choose)"
        ),
    }
    width = max(map(len, rows))
    return [f"{what:<{width}}  {said}" for what, said in rows.items()] + [f"{'':<{width}}  {note}" for note in dataset.notes]


def _targets(dataset: Dataset) -> str:
    if not dataset.trains:
        return f"in {len(dataset.classes)} classes"
    steps, neurons = dataset.train.y.shape[1:]
    return f"with target spike trains of {steps} steps for {neurons} neuron{'s' * (neurons > 1)}"


def _size(dataset: Dataset) -> str:
    shape = dataset.sample_shape
    one = f"{shape[0]} channels" if len(shape) == 1 else " × ".join(map(str, shape))
    if dataset.sequence:
        return f"{dataset.time_steps} steps × {one}"
    return f"{shape[0]} features" if len(shape) == 1 else one


def _input(config: TrainConfig, dataset: Dataset) -> str:
    norm = dataset.normalisation
    spikes = f", then a spike for each change of {dataset.delta:g}" if dataset.delta else ""
    if config.encoding != CONSTANT or (norm.mean == (0.0,) and norm.std == (1.0,)):
        stored = "values as they are stored" if norm.scale == 1 else f"values divided by {norm.scale:g}"
        return stored + ("" if config.normalise == "auto" else " (--normalise)") + spikes
    shared = len(norm.mean) == 1 < dataset.sample_shape[0]
    by = "with one mean and deviation" if shared else f"by {'feature' if dataset.kind == 'vectors' else 'channel'}"
    return f"normalised {by} (--normalise none turns it off){spikes}"


def _steps(config: TrainConfig, dataset: Dataset) -> str:
    if dataset.trains:
        encoded = "" if dataset.sequence else f"; encoding {config.encoding} (--encoding)"
        return f"{config.time_steps}, those of the target trains{encoded}"
    ann = config.neuron != "spiking"
    if not dataset.sequence and ann:
        drawn = "" if config.encoding == CONSTANT else f" over the mean of {config.time_steps}, encoding {config.encoding}"
        return f"none: one pass for every sample{drawn}"
    if not dataset.sequence:
        return f"{config.time_steps} steps for every sample (--time-steps), encoding {config.encoding} (--encoding)"
    if config.filters:
        steps = "none: one pass" if ann else config.time_steps
        return f"{steps} for the rates of {config.filters} filters over time (--filters 0 feeds the series itself)"
    if dataset.cut:
        return f"{config.time_steps} (--time-steps)"
    if config.bin > 1:
        return f"{config.time_steps}, means over {config.bin} of the data's own (--bin)"
    return f"{config.time_steps}, the data's own (--bin N averages N of them)"
