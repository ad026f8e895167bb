"""Every setting of a training run, its meaning and its range."""

import math
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tsslbp import ann, rules
from tsslbp.errors import UserError
from tsslbp.losses import CountLoss, FirstSpikeLoss, KernelLoss, Loss, RateBounds, SoftmaxLoss, SpikeLoss
from tsslbp.notation import Architecture


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
    """Samples held out of the training set to choose the epoch; the data set's default when left out."""
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

    loss: Literal["auto", "kernel", "spike", "count", "softmax", "first-spike"] = "auto"
    """Loss on the output. auto is kernel for spiking neurons and softmax for an ANN, which has no other."""
    target: Literal["single", "double"] = "single"
    """Kernel loss: filter the desired train once, or twice as the published code does."""
    label_weight: float = 1.0
    """Kernel loss: weight of the labelled class's error. At 1, as published, an output neuron that is less than half sure
    learns to stay silent."""
    desired: str = ""
    """Kernel and spike loss: the labelled class's spike train, as 0 and 1 for each step, repeated if shorter than T. The
    published one, 01111 below ten steps and 01 from ten on, when left out."""
    desired_count: float = 4.0
    """Count loss: spikes wanted from the labelled class."""
    undesired_count: float = 0.0
    """Count loss: spikes wanted from every other class."""

    rate_penalty: float = 0.0
    """Weight of the penalty on hidden neurons whose mean rate, in spikes per step, is out of bounds; 0 turns it off."""
    rate_lower: float = 0.0
    """Lower bound on that rate."""
    rate_upper: float = 1.0
    """Upper bound on that rate."""

    epochs: int = 20
    """Passes over the training set."""
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
        """Ranges that no other part of the library checks. Raises UserError naming the flag."""
        for name in ("epochs", "batch_size", "learning_rate", "label_weight"):
            self._check(name, getattr(self, name) > 0, "be positive")
        for name in ("weight_decay", "gradient_clip", "weight_clamp", "time_block", "rate_penalty", "shift"):
            self._check(name, getattr(self, name) >= 0, "be 0 or more")
        for name in ("learning_rate", "weight_decay", "gradient_clip", "weight_clamp", "label_weight"):
            self._check(name, math.isfinite(getattr(self, name)), "be finite")
        self._check("average", 0 <= self.average < 1, "be at least 0 and below 1")
        self._check("seed", 0 <= self.seed < 2**31, "be from 0 to 2147483647")
        self._check("name", self.name is None or Path(self.name).name == self.name, "be a plain folder name")
        self._check("loss", self.neuron == "spiking" or self.loss in ("auto", "softmax"), "be softmax for an ANN")
        self._check("rate_penalty", self.neuron == "spiking" or not self.rate_penalty, "be 0 for an ANN, which has no rates")
        self._check("time_block", not (self.time_block and self.rate_penalty), "be 0 with a --rate-penalty")
        self._check("desired", set(self.desired) <= {"0", "1"}, "be of 0 and 1, such as 00001")
        RateBounds(self.tau_s, self.rate_lower, self.rate_upper)
        rules.get(self.rule)

    def _check(self, name: str, holds: bool, must: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must {must}")

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
            conv_scale=self.conv_scale,
            standardise=self.standardise,
            tau_a=self.tau_a,
            beta=self.beta,
            neuron=self.neuron,
        )

    def with_loss(self) -> "TrainConfig":
        """These settings with the loss that ``auto`` means."""
        if self.loss != "auto":
            return self
        return replace(self, loss="kernel" if self.neuron == "spiking" else "softmax")

    def make_loss(self) -> Loss:
        """The loss these settings describe."""
        loss = self.with_loss().loss
        if loss == "kernel":
            return KernelLoss(
                time_steps=self.time_steps,
                tau_s=self.tau_s,
                desired=self._desired(),
                target=self.target,
                label_weight=self.label_weight,
            )
        if loss == "spike":
            return SpikeLoss(time_steps=self.time_steps, tau_s=self.tau_s, desired=self._desired())
        if loss == "count":
            return CountLoss(desired=self.desired_count, undesired=self.undesired_count)
        if loss == "first-spike":
            return FirstSpikeLoss(tau_s=self.tau_s)
        return SoftmaxLoss()

    def _desired(self) -> tuple[float, ...] | None:
        if not self.desired:
            return None
        return tuple(float(self.desired[step % len(self.desired)]) for step in range(self.time_steps))

    def to_toml(self) -> str:
        """Every setting as TOML; what is left out (None) and what is not a setting (resume) stays out."""
        lines = ["# Replay with: tsslbp train --config THIS_FILE --name NEW_NAME"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "resume":
                lines.append(f"{field.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, unchecked. Raises UserError for a missing or broken file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def flags_from_toml(path: Path) -> list[str]:
    """The settings in a TOML file as command-line flags, so that one parser checks both."""
    flags: list[str] = []
    settings = read_toml(path)
    if settings.pop("augment", False):  # as files written before --shift and --flip say it
        settings = {"shift": 4, "flip": True, **settings}
    for key, value in settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return flags
