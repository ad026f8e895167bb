"""A user's own samples as arrays: checked, recognised by shape and type, turned into tensors.

``x`` holds static samples ``[N, F]`` or ``[N, C, H, W]``, or sequences ``[N, T, F]`` or ``[N, T, C, H, W]``; up to four
channels, or fewer than a square has pixels a side, may be last. ``[N, H, W]`` are pictures if they hold bytes, are square and
use more values than events do; else they are ``[N, T, F]``.
``y`` holds the classes ``[N]`` or ``[N, 1]``: whole numbers from 0, or texts. Numbers are names, as texts are, if they go from
1, are -1 and 1, or if a model's classes are other numbers. Or ``y`` holds target spike trains ``[N, T, C]`` of 0 and 1, one
for each of C output neurons. Optional: ``x_test`` and ``y_test`` (else a fifth is held out), ``x_val`` and ``y_val``
(validation samples), ``classes`` (names of classes or output neurons), ``lengths``, ``lengths_test`` and ``lengths_val`` (steps
of each sequence before it was padded, ``[N]``), and ``groups`` (numbers or texts ``[N]``, such as patients: samples of one
group are held out together).
"""

import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tsslbp.data import sample_values
from tsslbp.data.dataset import FIFTH, Dataset, Split, class_names, kind_of
from tsslbp.data.found import Found, Wanted, kind_fact
from tsslbp.data.labels import alike, are_names, by_place, classes_of, no_class, numbered, plain, unlike
from tsslbp.utils.errors import LARGEST, UserError, all_of, few, shown

Arrays = dict[str, NDArray[Any]]
ENDS = {"train": "", "validation": "_val", "test": "_test"}
"""What the names of a part's arrays end with."""
SEQUENCE_DIMS, STATIC_DIMS = (3, 5), (2, 4)
CHANNELS = (1, 2, 3, 4)
"""Sizes of the last axis of pictures that need not be square to have the channels last."""


def of_arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    x_test: ArrayLike | Tensor | None = None,
    y_test: ArrayLike | Tensor | None = None,
    *,
    x_val: ArrayLike | Tensor | None = None,
    y_val: ArrayLike | Tensor | None = None,
    lengths: ArrayLike | Tensor | None = None,
    lengths_test: ArrayLike | Tensor | None = None,
    lengths_val: ArrayLike | Tensor | None = None,
    groups: ArrayLike | Tensor | None = None,
    classes: Iterable[str] | None = None,
    validation: int | None = None,
    name: str = "arrays",
) -> Dataset:
    """A data set of the user's own arrays or tensors, for :func:`tsslbp.training.train`.

    Args:
        x: samples, batch first: ``[N, F]``, ``[N, C, H, W]``, ``[N, T, F]`` or ``[N, T, C, H, W]``; the channels may be last.
        y: classes ``[N]``, whole numbers from 0 or 1, or texts; or target spike trains ``[N, T, C]`` of 0 and 1.
        x_test: test samples; a fifth is held out if left out.
        y_test: their classes or target trains.
        x_val: validation samples; a part of ``x`` is held out if left out.
        y_val: their classes or target trains.
        lengths: steps of each sequence before it was padded, ``[N]``.
        lengths_test: those of the test samples.
        lengths_val: those of the validation samples.
        groups: numbers or texts ``[N]``, such as patients or speakers. Samples of one group are held out together.
        classes: names of the classes, or of the output neurons that have target trains.
        validation: samples to hold out; a tenth if left out.
        name: of the data set.

    Raises:
        UserError: arrays that do not go together, missing values, classes without samples.
    """
    given = {"x": x, "y": y, "x_test": x_test, "y_test": y_test, "x_val": x_val, "y_val": y_val}
    columns = {key: [*map(str, getattr(given[key], "columns", ()))] for key in ("x", "x_test", "x_val")}  # of a DataFrame
    if odd := [key for key, own in columns.items() if own and columns["x"] and own != columns["x"]]:
        raise UserError(f"{odd[0]} has other columns than x, or in another order; give {odd[0]}[x.columns]")
    given |= {"lengths": lengths, "lengths_test": lengths_test, "lengths_val": lengths_val, "groups": groups}
    arrays = {key: sample_values.as_array(key, value) for key, value in given.items() if value is not None}
    if isinstance(classes, Mapping | Set | str) or not isinstance(classes, Iterable | None):
        raise UserError(f"classes is of type {type(classes).__name__}; give a list of names, in the order of their numbers")
    if classes is not None:
        arrays["classes"] = np.array([str(one) for one in classes])
    made = found(arrays, name, Wanted()).dataset(name, name, validation)
    return replace(made, columns=tuple(columns["x"])) if made.train.x.dim() == 2 else made


def of_torch(
    samples: Iterable[Any], test: Iterable[Any] | None = None, *, validation: int | None = None, name: str = "samples"
) -> Dataset:
    """A data set from a ``torch.utils.data`` ``Dataset`` or ``DataLoader`` of pairs: a sample and its class or target trains.

    Everything is read once and held in memory. See :func:`of_arrays` for shapes, ``validation`` and ``name``.

    Raises:
        UserError: items that are not pairs, samples that differ in shape, and what :func:`of_arrays` refuses.
    """
    x, y = _collected(samples, name)
    x_test, y_test = _collected(test, f"{name}, test") if test is not None else (None, None)
    names, others = map(_names, (samples, test))
    if names and others and names != others:  # as where a folder of the test pictures is missing
        try:
            y, y_test = np.array(names)[y], np.array(others)[y_test]
        except IndexError:
            raise UserError(f"{name}: some classes are no places in its list of classes") from None
    return of_arrays(x, y, x_test, y_test, classes=names, validation=validation, name=name)


def _names(samples: Any) -> list[str] | None:
    """Names of the classes that a Dataset, or that of a DataLoader, has. Some have their number instead."""
    named = (getattr(each, "classes", None) for each in (samples, getattr(samples, "dataset", None)))
    return next(([*map(str, names)] for names in named if names and isinstance(names, Iterable)), None)


def _collected(samples: Iterable[Any], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    batched = isinstance(samples, torch.utils.data.DataLoader) and samples.batch_sampler is not None
    streams = isinstance(samples, torch.utils.data.IterableDataset)
    try:
        pairs = enumerate(samples)
    except TypeError:
        raise UserError(f"{name}: {shown(samples)} is no Dataset or DataLoader") from None
    if isinstance(samples, torch.utils.data.Dataset) and hasattr(samples, "__len__") and not streams:
        pairs = enumerate(samples[number] for number in range(len(samples)))  # a Dataset need not stop an iteration
    xs, ys = [], []
    for number, pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise UserError(f"{name}: item {number} is {type(pair).__name__}; it must be a pair of a sample and its class")
        label = np.array(pair[1]) if isinstance(pair[1], str) else pair[1]
        x, y = sample_values.as_array(f"sample {number}", pair[0]), sample_values.as_array(f"class of sample {number}", label)
        xs.append(x if batched else x[None])
        ys.append(y if batched else y[None])
        if xs[-1].shape[1:] != xs[0].shape[1:]:
            shapes = f"{list(xs[-1].shape[1:])}, the first has {list(xs[0].shape[1:])}"
            raise UserError(f"{name}: item {number} has shape {shapes}; bring all samples to one shape")
    if not xs:
        raise UserError(f"{name} holds no samples")
    return np.concatenate(xs), np.concatenate(ys)


def found(arrays: Arrays, where: str, wanted: Wanted) -> Found:
    """The samples in arrays named as above. Raises UserError, with ``where``, for what does not fit the description."""
    names = _class_names(where, arrays)
    if names is not None and wanted.classes is not None and names != wanted.classes:
        raise UserError(f"{where} names the classes {unlike(names, wanted.classes)}")
    ends = {part: end for part, end in ENDS.items() if not end or {f"x{end}", f"y{end}", f"lengths{end}"} & arrays.keys()}
    odd = [f"lengths{end}" for end in ends.values() if ("lengths" in arrays) != (f"lengths{end}" in arrays)]
    faults = [f"{where} has only one of lengths and {name}; write both or neither" for name in odd]
    classes = named = names or wanted.classes
    by_name = names is None and are_names(arrays.get("y"), classes)
    parts, notes, layout = dict[str, Split](), list[str](), None
    for part, end in ends.items():
        try:
            x, y = _samples(where, arrays, f"x{end}", f"y{end}", wanted.labelled, by_name)
            if y is not None and y.ndim == 1 and (y.dtype.kind == "U" or by_name):
                texts = [plain(str(label)) for label in y]
                classes = classes or classes_of(alike(texts), where)
                y = numbered(texts, classes, f"{where}: y{end}", wanted).numpy()
            elif y is not None and y.ndim == 1 and not wanted.labelled and classes is not None:
                y = np.where((y >= 0) & (y < len(classes)), y.astype(np.int64), -1)
            x, layout, note = _recognised(x, f"x{end}", "lengths" in arrays, wanted.shape, layout)
            parts[part] = _split(where, end, x, y, arrays.get(f"lengths{end}"), layout.startswith("T"))
            if not end:
                notes = [note] * bool(note) + ([] if wanted.whole else _lost(x, parts[part].lengths))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise all_of(faults)
    train, sequence = parts["train"], layout is not None and layout.startswith("T")
    _check_alike(where, arrays, parts, named is not None)
    if train.trains:
        classes = _output_neurons(where, parts, classes, wanted)
    elif not wanted.whole:
        classes = _every_class(where, train.y, classes)
    assert classes is not None
    for part, split in parts.items():
        if not split.trains and int(split.y.max()) >= len(classes):
            raise UserError(f"{where}: y{ENDS[part]} has class {int(split.y.max())}; there are classes 0 to {len(classes) - 1}")
    kind = kind_of(train.x, sequence)
    if kind == "series" and sample_values.counts_events(train.x):
        kind = "events"
    labels = {part: [f"x{ENDS[part]} {n}" for n in range(len(split))] for part, split in parts.items()}
    labels["train"] = [str(n) for n in range(len(train))]
    unnamed = wanted.whole and wanted.labelled and names is None and not by_name and not train.trains
    numbers = unnamed and arrays["y"].dtype.kind != "U"
    return Found(
        parts,
        classes,
        sequence,
        sample_values.white(train.x),
        "your x_test" if "test" in parts else FIFTH,
        labels,
        kind_fact(kind, *notes),
        [by_place([*map(str, range(len(classes)))], classes)] if numbers else [],
        None if wanted.whole else _groups(where, arrays, parts),
    )


def _lost(x: NDArray[Any], lengths: Tensor | None) -> list[str]:
    """Notes on features of tables and series that float32 does not hold."""
    if x.ndim not in (2, 3):
        return []
    inside = x if lengths is None else x[np.arange(x.shape[1]) < lengths.numpy()[:, None]]
    return [sample_values.LOST.format(f"feature {number} of x") for number in sample_values.lost_in_float32(inside)]


def _check_alike(where: str, arrays: Arrays, parts: dict[str, Split], named: bool) -> None:
    """Raises UserError for parts that differ in shape or type, or in the kind of their labels."""
    for part, split in parts.items():
        end, x, other = ENDS[part], arrays["x"], arrays[f"x{ENDS[part]}"]
        if other.shape[1:] != x.shape[1:] or (other.dtype == np.uint8) != (x.dtype == np.uint8):
            described = [f"{a.dtype} {list(a.shape[1:])}" for a in (other, x)]
            raise UserError(f"{where}: samples of x{end} are {described[0]}, those of x {described[1]}; they must be alike")
        if not named and len({arrays[key].dtype.kind == "U" for key in ("y", f"y{end}") if key in arrays}) > 1:
            raise UserError(f"{where}: one of y and y{end} holds texts, the other numbers; write both alike, or add classes")
        if split.trains != parts["train"].trains:
            raise UserError(f"{where}: one of y and y{end} holds classes, the other spike trains; write both alike")


def _groups(where: str, arrays: Arrays, parts: dict[str, Split]) -> Tensor | None:
    """Numbers of the training samples' groups ``[N]``. Raises UserError for anything but a number or text for each."""
    if (given := arrays.get("groups")) is None:
        return None
    kind, samples = given.dtype.kind, len(parts["train"])
    if given.shape != (samples,) or kind not in "iufU" or (kind == "f" and bool((given != np.trunc(given)).any())):
        described = f"{given.dtype} of shape {list(given.shape)}"
        must = f"{samples} whole numbers or texts, one for each sample"
        raise UserError(f"{where}: groups is {described}; it must be {must}, and none may be missing")
    if {"validation", "test"} <= parts.keys():
        raise UserError(f"{where}: groups is for parts that are held out, and x_val and x_test are given; leave groups out")
    return torch.from_numpy(np.unique(given, return_inverse=True)[1])


def _recognised(
    x: NDArray[Any], key: str, lengths: bool, shape: tuple[int, ...] | None, layout: str | None
) -> tuple[NDArray[Any], str, str]:
    """``x`` with channels first, the axes of a sample, and a note if the axes are ambiguous."""
    views = {("F", "TF", "CHW", "TCHW")[x.ndim - 2]: x}
    if x.ndim == 3:
        views["HW"] = x[:, None]
    if x.ndim > 3:
        views["HWC" if x.ndim == 4 else "THWC"] = np.moveaxis(x, -1, -3)
    if layout is None and shape is not None:  # as the model takes them
        layout = next((name for name, view in views.items() if view.shape[1:] == shape), None)
    if layout in views:
        return views[layout], layout, ""
    first, size = next(iter(views)), " × ".join(map(str, x.shape[1:]))
    if x.ndim > 3:
        first, last = views
        rows, columns, channels = x.shape[-3:]
        axes = ", ".join(["N", *last])
        unclear = rows > channels != columns  # channels first would be more than the pixels of a side, which differ
        if unclear and (rows == columns or (channels in CHANNELS and rows > max(CHANNELS))):
            return views[last], last, f"{key} has the channels last, [{axes}]; they were put first"
        note = f"{key} was taken as {size} with the channels first; if they are last, give numpy.moveaxis({key}, -1, -3)"
        return x, first, note if unclear else ""
    if x.ndim == 3 and not lengths and x.dtype == np.uint8:
        if x.shape[1] == x.shape[2] and int(x.max()) > sample_values.MOST_EVENTS and len(np.unique(x[:100])) > 2:
            return views["HW"], "HW", f"{key} was taken as pictures of {size} bytes, [N, H, W]; as series, store real numbers"
        return views[first], first, f"{key} was taken as {size} steps × channels of events; pictures are [N, 1, H, W]"
    many_channels = x.ndim == 3 and x.shape[1] < x.shape[2]  # as spikes and events often have
    real = many_channels and x.dtype.kind in "iuf" and x.dtype != np.uint8
    if real and not sample_values.counts_events(torch.from_numpy(x[:100].astype(np.float64))):
        note = f"{key} was taken as {size} steps × channels; if the channels come first, give {key}.swapaxes(1, 2)"
        return views[first], first, note
    if x.ndim == 3 and x.shape[1] == x.shape[2]:
        return views[first], first, f"{key} was taken as {size} steps × channels; pictures are [N, 1, H, W]"
    return x, first, ""


def _samples(
    where: str, arrays: Arrays, x_name: str, y_name: str, labelled: bool, by_name: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """``x`` and ``y`` as given, checked by themselves and together; integers are class numbers unless ``by_name``."""
    for name in (x_name, *([y_name] if labelled else [])):
        if name not in arrays:
            raise UserError(f"{where} has no array {name!r}; it needs both {x_name} and {y_name}")
    x, y = arrays[x_name], arrays.get(y_name)
    if x.ndim not in (*STATIC_DIMS, *SEQUENCE_DIMS) or 0 in x.shape:
        shapes = "[N, F], [N, C, H, W], [N, T, F] or [N, T, C, H, W]"
        fix = "; pad sequences of different lengths, and give lengths" if x.dtype == object else ""
        raise UserError(f"{where}: {x_name} has shape {list(x.shape)}; it must be {shapes}{fix}")
    if x.dtype.kind not in "buif":
        fix = f", which {x_name}.astype(float) makes of texts" if x.dtype.kind in "US" else ""
        raise UserError(f"{where}: {x_name} is {x.dtype}; it must hold real numbers{fix}")
    if y is None:
        return x, None
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # a column
    if y.dtype.kind in "bf" and y.ndim == 1:
        numbers = y.astype(np.float64)
        y = numbers.astype(np.int64) if bool(((numbers == np.trunc(numbers)) & (abs(numbers) < 2**53)).all()) else y
    if y.ndim not in (1, 3) or len(y) != len(x) or 0 in y.shape:
        one_hot = y.ndim == 2 and y.dtype.kind in "buif" and bool(((y != 0).sum(1) == 1).all() and (y.sum(1) == 1).all())
        raise UserError(
            f"{where}: {y_name} has shape {list(y.shape)}; {x_name} has {len(x)} samples, so it must be [{len(x)}], or "
            f"[{len(x)}, T, C] for target spike trains{f'; {y_name} is one-hot, so give {y_name}.argmax(1)' if one_hot else ''}"
        )
    if y.ndim == 3:
        return x, _target_trains(y, f"{where}: {y_name}")
    if y.dtype.kind == "U":
        return x, y
    if y.dtype.kind in "iu" and (by_name or not labelled):
        return x, y
    if y.dtype.kind == "f" and not labelled:
        return x, None
    if y.dtype.kind not in "iu" or y.min() < 0:
        raise UserError(f"{where}: {y_name} must hold classes, integers from 0 or texts; it has {no_class(y)}")
    if int(y.max()) >= LARGEST:
        raise UserError(f"{where}: {y_name} has class {y.max()}, and no sample of class 1; number the classes 0, 1, 2, ...")
    return x, y


def _target_trains(y: NDArray[Any], what: str) -> NDArray[Any]:
    """Spike trains as bytes. Raises UserError for other values than 0 and 1."""
    spikes = (y == 1) if y.dtype.kind in "buif" else np.zeros_like(y, bool)
    if odd := y[~spikes & (y != 0)].ravel()[:1].tolist():
        raise UserError(f"{what} has {odd[0]!r}; target spike trains hold 0 and 1, where a neuron must be silent and spike")
    return spikes.astype(np.uint8)


def _output_neurons(where: str, parts: dict[str, Split], names: tuple[str, ...] | None, wanted: Wanted) -> tuple[str, ...]:
    """Names of the neurons with target trains, by default their numbers. Raises UserError if they do not fit."""
    neurons = parts["train"].y.shape[2]
    if wanted.classes and len(wanted.classes) != neurons:
        raise UserError(f"{where}: y has trains of {neurons} neurons; the model has {len(wanted.classes)}")
    if names is not None and len(names) != neurons:
        raise UserError(f"{where}: y has trains of {neurons} neurons, but classes names {len(names)}")
    if not wanted.whole and not parts["train"].y.any():
        raise UserError(f"{where}: y holds only 0; a target spike train needs a 1 where the neuron is to spike")
    for part, split in parts.items():
        if split.trains and split.y.shape[1:] != parts["train"].y.shape[1:]:
            shapes = f"{list(split.y.shape[1:])}, those of y {list(parts['train'].y.shape[1:])}"
            raise UserError(f"{where}: target trains of y{ENDS[part]} are {shapes}; they must be alike")
    return names or tuple(map(str, range(neurons)))


def _class_names(where: str, arrays: Arrays) -> tuple[str, ...] | None:
    names = arrays.get("classes")
    if names is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(f"{where}: classes is {names.dtype} of shape {list(names.shape)}; it must be a list of strings")
    return class_names(map(str, names), where)


def _every_class(where: str, y: Tensor, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the classes, by default their numbers. Raises UserError for one without samples or without a name."""
    present = y.unique().tolist()
    classes = len(names) if names else present[-1] + 1
    if present[-1] >= classes:
        fix = "give y - 1" if present == [*range(1, classes + 1)] else "name every class, in the order of their numbers"
        raise UserError(f"{where}: y has class {present[-1]}, but classes names only {classes}; {fix}")
    if len(present) < classes:
        known = {*present}  # one number may be a date, far beyond all others
        absent = [*itertools.islice((str(number) for number in range(classes) if number not in known), 6)]
        which = f"class{'es' * (len(absent) > 1)} {few(absent, 5)}"
        fix = "take its name out of classes" if names else "number the classes 0, 1, 2, ... without gaps"
        raise UserError(f"{where}: no sample of {which}; {fix}")
    return names or tuple(map(str, range(classes)))


def _split(
    where: str, end: str, x: NDArray[Any], y: NDArray[Any] | None, lengths: NDArray[Any] | None, sequence: bool
) -> Split:
    """Bytes stay bytes (bools become bytes, but for tables), all others become float32; padding becomes 0, also of targets."""
    if y is not None and y.ndim == 3 and sequence and y.shape[1] != x.shape[1]:
        raise UserError(
            f"{where}: y{end} has {y.shape[1]} steps and x{end} {x.shape[1]}; target spike trains [N, T, C] must have as many "
            "as their samples"
        )
    if lengths is not None:
        if not sequence:
            raise UserError(f"{where}: x holds samples without steps, {list(x.shape)}; leave lengths out")
        steps = x.shape[1]
        if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > steps:
            swapped = x.ndim == 3 and lengths.shape == (len(x),) and steps < lengths.max() <= x.shape[2]
            raise UserError(
                f"{where}: lengths must be {len(x)} integers from 1 to {steps}, the steps of the sequences"
                f"{f'; if the channels of x{end} come first, give x{end}.swapaxes(1, 2)' if swapped else ''}"
            )
    if x.dtype == np.bool_ and x.ndim > 2:  # in a table, each feature has a mean of its own
        x = x.view(np.uint8)
    elif x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what overflows is reported below
            x = x.astype(np.float32)
    stored = torch.from_numpy(np.ascontiguousarray(x))
    targets = torch.full((len(x),), -1) if y is None else torch.from_numpy(y if y.ndim == 3 else y.astype(np.int64))
    counted = None if lengths is None else torch.from_numpy(lengths.astype(np.int64))
    if counted is not None:
        beyond = torch.arange(stored.shape[1]) >= counted[:, None]
        stored = stored.masked_fill(beyond.view(*beyond.shape, *[1] * (stored.dim() - 2)), 0)
        if targets.dim() == 3:
            targets = targets.masked_fill(beyond.unsqueeze(2), 0)
    sample_values.refuse_missing(stored, f"{where}: ", sequence, f"x{end}, " if end else "")
    return Split(stored, targets, counted)
