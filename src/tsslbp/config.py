"""Every setting of a training run, its meaning and its range."""

import functools
import json
import math
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tsslbp import ann, losses, rules
from tsslbp.errors import LARGEST, UserError, shown, unknown
from tsslbp.layers import ConvInit
from tsslbp.losses import Loss, RateBounds
from tsslbp.notation import AdaptiveSpec, Architecture, ConvSpec, contains, parse
from tsslbp.spec import write_spec

Choice = Literal["validation", "last", "test"]
"""What an epoch is chosen by."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run."""

    recipe: str = "custom"
    """Recipe the settings started from; a label, nothing else."""
    name: str | None = None
    """Name of the run's folder; the recipe's name, numbered if taken, when left out."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""
    resume: bool = False
    """Continue the run of this name from its checkpoint."""
    seed: int = 0
    """Seed of initial weights, order of samples, dropout, augmentation and spike encoders."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, nmnist, nmnist-stabilised, spoken-digits, spoken-digits-by-speaker,
    japanese-vowels, tonic:NAME, or a FILE.npz of your own with arrays x and y."""
    data_root: Path = Path("data")
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into the data root (through torchvision)."""
    validation: int | None = None
    """Samples held out of the training set to choose the epoch; the data set's default when left out. 0 trains on all of them,
    and then --choose must be last or test."""
    choose: Choice = "validation"
    """Which epoch's weights are kept and reported: the best on validation, the last, or the best on the test set. The last of
    these is how the paper reports, and flatters a result."""
    shift: int = 0
    """Shift each training image at random by up to this many pixels each way, zeros coming in."""
    flip: bool = False
    """Mirror each training image left to right at even odds; not for digits and letters."""
    encoding: Literal["constant", "poisson", "latency"] = "constant"
    """How a static sample enters: constant current, Poisson rate, or time to first spike."""

    network: str = "100-10"
    """Network in the field's notation, such as 15C5-P2-40C5-P2-300-10."""
    padding: tuple[int, ...] = (0,)
    """Zeros around the input of the convolutions: one number for all, or one for each."""
    dropout: float = 0.0
    """Probability of dropping an input of any layer but the first; the mask is constant in time."""
    conv_init: ConvInit = "uniform"
    """Initial weights of convolutions: uniform, PyTorch's default, or kaiming, normal as those of fully connected layers."""
    conv_scale: float = 1.0
    """Factor on the initial weights of convolutions."""
    standardise: bool = False
    """Standardise the weights of feed-forward hidden layers, neuron by neuron, and learn their size apart."""
    tau_a: float = 100.0
    """Time constant of adaptive thresholds (100A) in steps, at least 1."""
    beta: float = 0.1
    """Rise of an adaptive threshold by one spike; elsewhere beta is often the membrane's decay, here tau_m."""
    time_steps: int = 5
    """Steps per sample, T."""
    tau_m: float = 5.0
    """Membrane time constant in steps, at least 1."""
    tau_s: float = 3.0
    """Synaptic time constant in steps, at least 1."""
    threshold: float = 1.0
    """Firing threshold."""
    reset: bool = True
    """A spike resets the membrane potential. Without, a control for studies, the neurons are computed by the slow reference."""
    neuron: ann.Neuron = "spiking"
    """What follows a linear map: spiking neurons, or binary or rectified-linear units of an ANN, one pass without time."""
    rule: str = "tssl"
    """Learning rule, with options if wanted: tssl, "tssl(reset=False)", "surrogate(name=atan)"."""

    loss: str = "auto"
    """Loss on the output, with options if wanted: kernel, spike, count, softmax, first-spike,
    "kernel(target=double, label_weight=6, desired=01011)", "count(desired=15, undesired=3)". auto is kernel for spiking neurons
    and softmax for an ANN, which has these two only: its kernel loss is the squared error against 1 for the labelled class and
    0 for the others."""

    rate_penalty: float = 0.0
    """Weight of the penalty on hidden neurons whose mean rate, in spikes per step, is out of bounds; 0 turns it off."""
    rate_lower: float = 0.0
    """Lower bound on that rate."""
    rate_upper: float = 1.0
    """Upper bound on that rate."""

    epochs: int = 20
    """Passes over the training set."""
    surrogate_epochs: int = 0
    """Passes, the first ones, in which a rule of the tssl family uses its surrogate everywhere (fallback=always)."""
    batch_size: int = 50
    """Samples per step."""
    learning_rate: float = 5e-4
    """Learning rate of AdamW (its peak, under a schedule)."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    """Learning rate over the run."""
    gradient_clip: float = 1.0
    """Bound on the norm of the whole gradient; 0 turns it off."""
    weight_clamp: float = 4.0
    """Bound on every weight, applied after each step; 0 turns it off."""
    average: float = 0.0
    """Judge and keep a moving average of the weights, with this decay per step, such as 0.998; 0 turns it off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the linear maps in training; neurons, losses and evaluation stay float32. auto is bfloat16 where
    `tsslbp doctor` has measured that it is faster on this machine, float32 elsewhere."""
    time_block: int = 0
    """Compute blocks of this many steps again in the backward pass instead of keeping them all; 0 turns it off. For long
    sequences: about the square root of T needs the least memory."""
    tensorboard: bool = False
    """Also log for TensorBoard, into the run's folder."""

    def __post_init__(self) -> None:
        """Types, and ranges that no other part of the library checks. Raises UserError naming the flags of all mistakes."""
        if found := mistyped(self) or list(self._out_of_range()):
            raise UserError("; ".join(found))

    def _out_of_range(self) -> Iterator[str]:
        """What is wrong with values of the right types."""

        def must(be: str, name: str, holds: bool) -> Iterator[str]:
            if not holds:
                yield f"{_flag(name)} is {shown(getattr(self, name))}; it must {be}"

        for name in ("epochs", "batch_size", "learning_rate"):
            yield from must("be positive", name, getattr(self, name) > 0)
        for name in (
            "weight_decay",
            "gradient_clip",
            "weight_clamp",
            "time_block",
            "rate_penalty",
            "shift",
            "surrogate_epochs",
        ):
            yield from must("be 0 or more", name, getattr(self, name) >= 0)
        for name in ("learning_rate", "weight_decay", "gradient_clip", "weight_clamp"):
            yield from must("be finite", name, math.isfinite(getattr(self, name)))
        yield from must("be at least 0 and below 1", "average", 0 <= self.average < 1)
        yield from must(f"be from 0 to {LARGEST}", "seed", self.seed >= 0)
        for name in ("name", "recipe"):
            yield from must(FOLDER_NAME, name, getattr(self, name) is None or _names_a_folder(getattr(self, name)))
        yield from must(
            "be 0 for an ANN, which has no rates", "rate_penalty", self.neuron == "spiking" or not self.rate_penalty
        )
        yield from must("be 0 with a --rate-penalty", "time_block", not (self.time_block and self.rate_penalty))
        yield from must("be last or test with --validation 0", "choose", self.validation != 0 or self.choose != "validation")
        family = self.rule.split("(")[0].strip().startswith("tssl")
        yield from must("be 0 with a rule outside the tssl family", "surrogate_epochs", family or not self.surrogate_epochs)
        checks: dict[str, Callable[[], object]] = {
            "rule": lambda: rules.get(self.rule),
            "loss": lambda: self._made_loss(time_steps=1, tau_s=1),
            "rate_lower": lambda: RateBounds(self.tau_s, self.rate_lower, self.rate_upper),
        }
        for name, check in checks.items():
            try:
                check()
            except UserError as error:
                yield f"{_flag(name)}: {error}"
        try:
            parse(self.network)
        except UserError as error:
            yield f"--network is {shown(self.network)}; {error}"

    def architecture(self, input_shape: tuple[int, ...]) -> Architecture:
        """The network these settings describe, for samples of a shape."""
        return Architecture(
            notation=self.network,
            input_shape=input_shape,
            time_steps=self.time_steps,
            tau_m=self.tau_m,
            tau_s=self.tau_s,
            threshold=self.threshold,
            reset=self.reset,
            padding=self.padding[0] if len(self.padding) == 1 else self.padding,
            rule=self.rule,
            dropout=self.dropout,
            conv_init=self.conv_init,
            conv_scale=self.conv_scale,
            standardise=self.standardise,
            tau_a=self.tau_a,
            beta=self.beta,
            neuron=self.neuron,
        )

    def with_loss(self) -> "TrainConfig":
        """These settings with the loss that ``auto`` means."""
        return replace(self, loss=self._settled_loss())

    def _settled_loss(self) -> str:
        default = "kernel" if self.neuron == "spiking" else "softmax"
        return default if self.loss == "auto" else self.loss

    def make_loss(self) -> Loss:
        """The loss these settings describe."""
        return self._made_loss(self.time_steps, self.tau_s)

    def _made_loss(self, time_steps: int, tau_s: float) -> Loss:
        loss = self._settled_loss()
        return losses.get(loss, time_steps=time_steps, tau_s=tau_s) if self.neuron == "spiking" else losses.of_ann(loss)

    def idle(self) -> dict[str, str]:
        """Settings that change nothing beside the others, and with what they would."""
        idle: dict[str, str] = {}
        if not self.rate_penalty:
            idle |= dict.fromkeys(("rate_lower", "rate_upper"), "a --rate-penalty")
        if not contains(self.network, AdaptiveSpec):
            idle |= dict.fromkeys(("tau_a", "beta"), "a layer of adaptive thresholds in --network, such as 100A")
        if not contains(self.network, ConvSpec):
            idle |= dict.fromkeys(("conv_init", "conv_scale"), "a convolution in --network, such as 15C5")
        if self.neuron != "spiking":
            idle |= dict.fromkeys(("rule", "tau_m", "tau_s", "reset", "surrogate_epochs"), "--neuron spiking")
        return idle

    def to_dict(self) -> dict[str, Any]:
        """Every setting as TOML and JSON have it; what is left out (None) and what is not a setting (resume) stays out."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "resume"}
        return {name: _plain(value) for name, value in values.items() if value is not None}

    def to_toml(self) -> str:
        """:meth:`to_dict` as the text of a file that :meth:`from_toml` reads."""
        lines = ["# Replay with: tsslbp train --config THIS_FILE --name NEW_NAME"]
        return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in self.to_dict().items())]) + "\n"

    @staticmethod
    def from_toml(path: Path, base: "TrainConfig | None" = None) -> "TrainConfig":
        """The settings in a TOML file; what it does not name is as in ``base``, or at its default.

        Raises:
            UserError: the file cannot be read, is no TOML, or has an unknown or bad setting; all of them are named.
        """
        try:
            stored = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # also what is no UTF-8, and numbers of thousands of digits
            raise UserError(f"{path} is not valid TOML: {error}") from None
        stored = translated(stored)
        kinds = _kinds(TrainConfig)
        mistakes = [str(unknown("setting", name, kinds)) for name in stored if name not in kinds]
        given = {name: _typed(kinds[name], value) for name, value in stored.items() if name in kinds}
        mistakes += [mistake for name, value in given.items() if (mistake := _misfit(name, kinds[name], value))]
        try:
            if mistakes:
                raise UserError("; ".join(mistakes))
            return replace(base or TrainConfig(), **given)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


OF_LOSS = {
    "target": ("target", ("kernel",)),
    "label_weight": ("label_weight", ("kernel",)),
    "desired": ("desired", ("kernel", "spike")),
    "desired_count": ("desired", ("count",)),
    "undesired_count": ("undesired", ("count",)),
}
"""What settings of version 0.1.0 are now options of a loss, with the losses that have them."""


def translated(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings that a file holds, those of version 0.1.0 as they are written now."""
    stored = dict(stored)
    if stored.pop("augment", False):  # as files written before --shift and --flip say it
        stored = {"shift": 4, "flip": True, **stored}
    loss = stored.get("loss", "auto")
    if loss == "auto":
        loss = "kernel" if stored.get("neuron", "spiking") == "spiking" else "softmax"
    if not OF_LOSS.keys() & stored.keys() or loss not in list(losses.LOSSES):  # or no loss of 0.1.0, which knew no options
        return stored
    before = {name: stored.pop(name) for name in OF_LOSS if name in stored}
    options = {OF_LOSS[name][0]: value for name, value in before.items() if value != "" and loss in OF_LOSS[name][1]}
    default = losses.get(loss, time_steps=1, tau_s=1)
    options = {name: value for name, value in options.items() if value != getattr(default, name)}
    return {**stored, "loss": write_spec(loss, options)}


def mistyped(settings: Any) -> list[str]:
    """What is wrong with the values of a dataclass of settings as ones of their declared types, naming the flags."""
    found = (_misfit(_flag(name), kind, getattr(settings, name)) for name, kind in _kinds(settings.__class__).items())
    return [mistake for mistake in found if mistake]


FOLDER_NAME = "be a plain folder name: printable, without a separator, of at most 255 bytes"


def _names_a_folder(name: str) -> bool:
    plain = Path(name).name == name and name not in ("", "..")
    return plain and name.isprintable() and len(name.encode()) <= 255


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@functools.cache
def _kinds(settings: type) -> dict[str, Any]:
    """The declared type of every setting."""
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings)}


def _typed(kind: Any, value: Any) -> Any:
    """A value from TOML, which has neither tuples nor paths; one number may stand for a list of one."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    if get_origin(kind) is tuple:
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def _misfit(name: str, kind: Any, value: Any) -> str | None:
    """What is wrong with a value as one of a declared type; None if nothing is."""
    if isinstance(kind, UnionType):
        *_, kind = (option for option in get_args(kind) if option is not NoneType)
        return None if value is None else _misfit(name, kind, value)
    if get_origin(kind) is tuple:
        parts = value if isinstance(value, tuple) else ()
        wrong = next((mistake for part in parts if (mistake := _misfit(name, get_args(kind)[0], part))), None)
        return wrong if isinstance(value, tuple) else f"{name} is {shown(value)}; it must be a tuple"
    if get_origin(kind) is Literal:
        must, fits = (
            f"be one of {', '.join(map(str, get_args(kind)))}",
            isinstance(value, (str, int)) and value in get_args(kind),
        )
    elif kind is bool:
        must, fits = "be true or false", isinstance(value, bool)
    elif kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        must, fits = f"be a whole number of at most {LARGEST}", whole and abs(value) <= LARGEST
    elif kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        must, fits = "be a number", number and (isinstance(value, float) or abs(value) <= sys.float_info.max)
    else:
        text = str(value)
        must, fits = "be Unicode text without NUL", isinstance(value, kind) and "\0" not in text and not SURROGATE.search(text)
    return None if fits else f"{name} is {shown(value)}; it must {must}"


SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python has for bytes of a file name that are not UTF-8; no file in UTF-8 can hold it."""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _toml(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # else as in JSON
