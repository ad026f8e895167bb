"""Every setting of a training run: declared, documented, checked and defaulted in one place.

The settings come in four groups. The group that declares a setting determines its section in ``config.toml``, whether a model
file stores it, whether a resumed run may change it, and whether a card or a study leaves it out.

To add a setting, add a field with its range and its docstring: command line, files, cards, reports and studies then know it.
"""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w

from tsslbp import data, losses, rules
from tsslbp import encoding as encoders
from tsslbp.losses import Loss, RateBounds
from tsslbp.network.architecture import Architecture, NetworkSettings
from tsslbp.network.notation import RecurrentSpec, contains, has_hidden, normalised
from tsslbp.utils import distributed, files, imports
from tsslbp.utils.errors import LARGEST, UserError, unknown
from tsslbp.utils.fields import (
    BELOW_1,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Group,
    Means,
    Must,
    faults,
    flag,
    kinds_of,
    misfits,
    plain,
    typed,
)
from tsslbp.utils.spec import parse_spec, write_spec

LONGEST_NAME = 255
"""Bytes of the longest name of a folder."""
FOLDER = Must(
    f"be a plain folder name: printable, without a separator, of at most {LONGEST_NAME} bytes",
    lambda x: Path(x).name == x and x not in ("", "..") and x.isprintable() and len(x.encode()) <= LONGEST_NAME,
)


@dataclass(frozen=True, kw_only=True)
class DataSettings(Group):
    """The samples, and how they enter."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, nmnist, nmnist-stabilised, spoken-digits, spoken-digits-by-speaker,
    japanese-vowels, spike-pattern, delayed-xor, evidence (these three also with options, as "delayed-xor(delay=50)"),
    tonic:NAME, or a path of your own: FILE.npz, .csv, .ts, .tsv, .txt, or a folder of pictures, sounds or
    event recordings with a folder for each class. image-folder:DIR leaves pictures in their files, however many there are;
    webdataset:SHARDS leaves them in tar files, of a folder or a pattern such as train-{000..127}.tar. Both may lie in the data
    root."""
    validation: Annotated[int | None, NOT_NEGATIVE] = None
    """Samples held out of the training set to choose the epoch. Default: the data set's own number. 0 holds none
    out, and leaves out validation samples of the data's own; --choose must then be last or test."""
    shift: Annotated[int, NOT_NEGATIVE] = 0
    """Shift each training image at random by up to this many pixels each way, and fill with zeros."""
    flip: bool = False
    """Mirror each training image left to right with probability one half. Not for digits and letters."""
    cutout: Annotated[int, NOT_NEGATIVE] = 0
    """Replace a square of this many pixels each way, anywhere in each training image, by the mean colour, or by 0
    with --normalise none."""
    size: Annotated[int | None, POSITIVE] = None
    """Bring pictures of image-folder:DIR or webdataset:SHARDS to this many pixels each way: the shorter side is scaled, and the
    middle is cut out. Default: the pictures' own shorter side if it is the same for all, and 224 otherwise."""
    random_crop: Annotated[float, SHARE] = 0.0
    """In training, cut a random piece out of each of these pictures instead, and bring it to --size. The piece has at least
    this share of the picture's area (0.08 is usual for ImageNet), and proportions from 3:4 to 4:3. 0 turns it off."""
    skip_broken: bool = False
    """Leave out pictures of image-folder:DIR or webdataset:SHARDS that cannot be read, and name them. All pictures are read
    once to find them, before the first training on these files."""
    encoding: Annotated[str, Means(encoders.get)] = encoders.CONSTANT
    """How a static sample enters: as a constant current, as poisson spikes ("poisson(rate=0.2)" draws fewer of them), or by the
    latency of one spike."""
    bin: Annotated[int, POSITIVE] = 1
    """Average this many steps of the data's own into one, which shortens long series. The model keeps the number."""
    filters: Annotated[int, NOT_NEGATIVE] = 0
    """Turn each series into the firing rates of about this many fixed filters over time, which enter as a static sample. 0
    feeds a series step by step."""
    normalise: Literal["auto", "none"] = "auto"
    """auto brings the channels of your own samples to mean 0 and standard deviation 1 over the training samples, and leaves
    spikes and events as they are. Data sets known by name have their own constants. none leaves all values as stored, except
    that images of bytes, and the digits with values from 0 to 16, are scaled to run from 0 to 1."""

    def idle(self) -> dict[str, str]:
        needs = f"--data {data.in_files.FORMS}"
        return {} if data.in_files.is_one(self.data) else dict.fromkeys(("size", "random_crop", "skip_broken"), needs)


def _read_loss(loss: str) -> None:
    if loss != "auto":
        losses.get(loss, time_steps=len(loss), tau_s=1)  # enough steps for every desired train


Choice = Literal["validation", "last", "test"]
"""How an epoch is chosen."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Group):
    """How the network learns."""

    seed: Annotated[int, Must(f"be from 0 to {LARGEST}", lambda x: x >= 0)] = 0
    """Seed of initial weights, order of samples, dropout, augmentation and spike encoders."""
    init: Path | None = None
    """Run's folder or model file whose weights training starts from, in place of random ones. Its network must have the same
    layers; it may have other neurons, another rule, other bits and other fixed constants. Learned constants, and those of each
    neuron's own, must be the same ones with the same settings, unless one of the two is an ANN."""
    loss: Annotated[str, Means(_read_loss)] = "auto"
    """Loss on the output, with options in brackets to change the defaults: kernel, spike, count, softmax, first-spike,
    "kernel(target=double, label_weight=6, desired=01011)", "count(desired=15, undesired=3)". auto means kernel for an output
    that spikes, and softmax for a voltage (--readout) and an ANN. A voltage takes only softmax. An ANN takes only these two,
    and its kernel loss is the squared error against 1 for the labelled class and 0 for the others."""
    rate_penalty: Annotated[float, NOT_NEGATIVE, FINITE] = 0.0
    """Weight of the penalty on hidden neurons whose mean rate, in spikes per step, is out of bounds; 0 turns it off."""
    rate_lower: Annotated[float, SHARE] = 0.0
    """Lower bound on the rate, for --rate-penalty."""
    rate_upper: Annotated[float, SHARE] = 1.0
    """Upper bound on the rate, for --rate-penalty."""
    epochs: Annotated[int, POSITIVE] = 20
    """Passes over the training set."""
    surrogate_epochs: Annotated[int, NOT_NEGATIVE] = 0
    """Number of first epochs in which a rule of the tssl family uses its surrogate everywhere (fallback=always)."""
    choose: Choice = "validation"
    """Which epoch's weights are kept and reported: the best on validation, the last, or the best on the test set. The paper
    reports the best on the test set, which flatters a result. Of equally good epochs it is the last."""
    batch_size: Annotated[int, POSITIVE] = 50
    """Samples per step."""
    accumulate: Annotated[int, POSITIVE] = 1
    """Compute each step's samples in this many parts, one after the other, and add their gradients, which takes less memory.
    Normalisation, --rate-penalty and fallback=rate then see one part at a time."""
    learning_rate: Annotated[float, POSITIVE, FINITE] = 5e-4
    """Learning rate of AdamW (its peak, under a schedule). Learned constants take steps in proportion to their setting."""
    weight_decay: Annotated[float, NOT_NEGATIVE, FINITE] = 0.01
    """Weight decay of AdamW."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    """Learning rate over the run."""
    gradient_clip: Annotated[float, NOT_NEGATIVE, FINITE] = 1.0
    """Bound on the norm of the whole gradient of the weights, and on that of the learned constants; 0 turns both off."""
    weight_clamp: Annotated[float, NOT_NEGATIVE, FINITE] = 4.0
    """Bound on every weight after each step, except for constants and the gains of normalised layers; 0 turns it off.
    Weights of --init beyond it are refused."""
    output_scale: Annotated[float, POSITIVE, FINITE] = 1.0
    """Factor on the initial weights of the output layer. A small one makes answers depend only on what was learned."""
    hidden_scale: Annotated[float, POSITIVE, FINITE] = 1.0
    """Factor on the initial weights of the hidden layers, including shortcuts, but not on lateral weights."""
    first_rates: bool = False
    """Scale the initial weights of every hidden layer whose neurons would spike in fewer than 2 % or in more than 50 % of the
    steps of some training samples, as far as --weight-clamp allows, so that it does not start silent or saturated. Normalised
    layers stay as they are."""
    average: Annotated[float, BELOW_1] = 0.0
    """Decay per step of a moving average of the weights, such as 0.998. The average is what is evaluated and kept. It has a
    shorter memory at the start. 0 turns it off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the linear maps in training; neurons, losses and evaluation stay float32. auto means bfloat16 if the
    CPU trains and `tsslbp doctor` has measured that bfloat16 is faster on it, and float32 otherwise."""
    sparse: bool = True
    """In linear maps, multiply only what changes from one step to the next, where that is faster (docs/speed.md). Results
    differ by rounding."""
    time_block: Annotated[int, NOT_NEGATIVE] = 0
    """In the backward pass, compute blocks of this many steps again instead of keeping all steps; 0 turns this off. About the
    square root of T needs the least memory."""

    def idle(self) -> dict[str, str]:
        if not self.rate_penalty:
            return dict.fromkeys(("rate_lower", "rate_upper"), "a --rate-penalty")
        return {} if self.rate_lower > 0 or self.rate_upper < 1 else {"rate_penalty": "--rate-lower or --rate-upper"}


@dataclass(frozen=True, kw_only=True)
class Place(Group):
    """Where a run finds and leaves things. Its result does not depend on these, so a resumed run may change them."""

    name: Annotated[str | None, FOLDER] = None
    """Name of the run's folder. Default: the recipe's name, with a number if that name is taken."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""
    resume: bool = False
    """Continue the run of this name from its checkpoint."""
    data_root: Path = Path("data")
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into the data root: images through torchvision, N-MNIST and tonic:NAME through tonic. Speech and
    japanese-vowels are never fetched."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read pictures of image-folder:DIR or webdataset:SHARDS ahead of the training; 0 reads them in the training
    process. Default: one less than the cores of each process, at most 8."""
    device: Annotated[str, Means(distributed.check_device)] = "cpu"
    """Device: cpu, cuda or cuda:N. Under torchrun, cuda means the GPU of each process's own number. cuda was never tried on a
    GPU."""
    tensorboard: bool = False
    """Also log for TensorBoard, into the run's folder."""
    test_every: Annotated[int, NOT_NEGATIVE] = 0
    """Also measure the test set after every this many epochs. 0 measures it once, at the end, with the weights that are kept;
    the best test epoch is known only with 1, which --choose test needs and sets."""


GROUPS: dict[str, type[Group]] = {
    "network": NetworkSettings,
    "data": DataSettings,
    "training": TrainingSettings,
    "place": Place,
}
"""The groups, by the name of their section in TOML."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Place, TrainingSettings, DataSettings, NetworkSettings):
    """Settings of a training run.

    Raises UserError for values of wrong types, out of range or in conflict; all mistakes are named at once.
    """

    recipe: Annotated[str, FOLDER] = "custom"
    """Recipe that the settings started from; the first argument names it, and this keeps its name."""

    def __post_init__(self) -> None:
        vars(self).update({name: plain(value) for name, value in vars(self).items()})  # files hold no types of NumPy
        if found := list(faults(self)) or list(self.conflicts()):
            raise UserError("; ".join(found))

    def conflicts(self) -> Iterator[str]:
        """Settings that are right by themselves but conflict with each other."""
        ann_ = self.neuron != "spiking"
        checks: dict[str, Callable[[], object]] = {
            "loss": lambda: self.make_loss() if ann_ or self.time_steps else None,
            "rate_lower": lambda: RateBounds(self.tau_s, self.rate_lower, self.rate_upper),
        }
        for name, check in checks.items():
            try:
                check()
            except UserError as error:
                yield f"{flag(name)}: {error}"
        if ann_ and self.encoding == "latency":
            yield "--encoding is latency; it must be constant for an ANN, which takes a sample's mean over time: one spike each"
        if ann_ and self.rate_penalty:
            yield f"--rate-penalty is {self.rate_penalty}; it must be 0 for an ANN, which has no rates"
        if ann_ and self.network and contains(self.network, RecurrentSpec):
            yield f"--network {self.network} has recurrent layers, which an ANN has not; it is one pass without time"
        whole = not ann_ and not rules.get(self.rule).takes_parts
        if whole and self.time_block:
            yield f"--time-block is {self.time_block}; it must be 0 with --rule {self.rule}, which needs whole sequences"
        if whole and self.network and contains(self.network, RecurrentSpec):
            yield f"--network {self.network} has recurrent layers; --rule {self.rule} needs whole sequences, so take another"
        if self.time_block and self.rate_penalty:
            yield f"--time-block is {self.time_block}; it must be 0 with a --rate-penalty"
        if self.time_block and self.network and normalised(self.network):
            yield f"--time-block is {self.time_block}; it must be 0 for normalised layers, which learn from whole sequences"
        loss, _ = parse_spec(self._loss, "loss")
        if self.readout == "voltage" and loss in ("kernel", "spike", "count", "first-spike"):
            yield f"--loss {self._loss} is for an output that spikes; with --readout voltage take --loss softmax"
        if "tau_s" in {*self.learn, *self.per_neuron} and loss in ("spike", "first-spike"):
            yield f"--loss {loss} reads spikes by one fixed --tau-s; leave tau_s out of --learn and --per-neuron"
        if self.validation == 0 and self.choose == "validation":
            yield "--choose is validation; it must be last or test with --validation 0"
        if self.accumulate > self.batch_size:
            yield f"--accumulate is {self.accumulate}; it must be at most --batch-size, {self.batch_size}"
        if self.choose == "test" and self.test_every > 1:
            yield f"--test-every is {self.test_every}; it must be 1 with --choose test"
        if self.surrogate_epochs and not isinstance(rules.get(self.rule), rules.TSSL):
            yield f"--surrogate-epochs is {self.surrogate_epochs}; it must be 0 with a rule outside the tssl family"

    def idle(self) -> dict[str, str]:
        """Settings without effect beside the others, and what would give them one."""
        idle = {name: wanted for group in GROUPS.values() for name, wanted in group.idle(self).items()}
        if not data.in_files.is_one(self.data):
            idle["workers"] = f"--data {data.in_files.FORMS}"
            if data.is_own(self.data):
                idle |= dict.fromkeys(("data_root", "download"), "a data set that has a name")
        if self.network and not has_hidden(self.network):
            idle |= dict.fromkeys(("dropout", "hidden_scale", "first_rates", "rate_penalty"), "a hidden layer in --network")
        if self.neuron != "spiking":
            idle |= dict.fromkeys(("surrogate_epochs", "first_rates", "time_block"), "--neuron spiking")
        if getattr(rules.get(self.rule), "fallback", None) == "always":
            idle["surrogate_epochs"] = "a --rule with another fallback than always"
        if self.init:
            idle |= dict.fromkeys(("conv_init", "conv_scale"), "random weights, which --init replaces")
        return idle

    def architecture(self, input_shape: tuple[int, ...]) -> Architecture:
        """The network of these settings for samples of a shape, once its size and ``time_steps`` are known."""
        return Architecture(input_shape=input_shape, **{name: getattr(self, name) for name in kinds_of(NetworkSettings)})

    @property
    def streaming(self) -> data.Streaming:
        """How pictures that stay in their files are read."""
        return data.Streaming(self.size, self.random_crop, self.skip_broken, self.workers)

    def with_loss(self) -> Self:
        """These settings with the loss that ``auto`` means."""
        return replace(self, loss=self._loss)

    @property
    def _loss(self) -> str:
        default = "kernel" if self.spikes_last else "softmax"
        return default if self.loss == "auto" else self.loss

    def make_loss(self) -> Loss:
        """The loss of these settings, once ``time_steps`` is known."""
        if self.neuron != "spiking":
            return losses.of_ann(self._loss)
        assert self.time_steps is not None
        return losses.get(self._loss, time_steps=self.time_steps, tau_s=self.tau_s)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the user's own files that define the rule, the loss or the data set, or were given (``--import``)."""
        loss = losses.LOSSES[parse_spec(self._loss, "loss")[0]]
        return imports.defining(*rules.get(self.rule).code(), loss, data.SETS.get(self.data))

    def to_toml(self) -> str:
        """:meth:`to_dict` as TOML for :meth:`from_toml`, with a section for each group and a line for each setting."""
        sections = {
            group: {name: " ".join(map(str, x)) if isinstance(x, list) else x for name, x in self.to_dict(of).items()}
            for group, of in GROUPS.items()
        }
        head = f"# Replay with: tsslbp train --config THIS_FILE --name NEW_NAME{imports.again(self.needs)}\n"
        imported = {"imports": self.needs} if self.needs else {}
        return head + tomli_w.dumps({"recipe": self.recipe, **imported, **sections})

    @classmethod
    def from_toml(cls, path: Path, base: Self | None = None) -> Self:
        """The settings in a TOML file; others are taken from ``base``, or have their default.

        Files of version 0.1.0, without sections and with losses in several settings, are read too.

        Raises:
            UserError: the file cannot be read, is no TOML, needs an import, or has unknown or bad settings; all are named.
        """
        try:
            files.refuse_special(path)
            stored = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # also for invalid UTF-8 and numbers of thousands of digits
            raise UserError(f"{path} is not valid TOML: {error}") from None
        if not stored:
            raise UserError(f"{path} is empty; restore it, or write settings into it")
        try:
            imports.need(stored.pop("imports", []))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        sections = {name: values for name, values in stored.items() if name in GROUPS and isinstance(values, dict)}
        flat = {name: value for name, value in stored.items() if name not in sections}
        mistakes = [
            str(unknown(f"setting in [{section}]:", name, kinds_of(GROUPS[section])))
            for section, values in sections.items()
            for name in values
            if name not in kinds_of(GROUPS[section])
        ]
        inside = {name: section for section, values in sections.items() for name in values}
        mistakes += [f"{name} is set twice, above the sections and in [{inside[name]}]" for name in flat if name in inside]
        strange = {name for name, value in flat.items() if isinstance(value, dict)} - kinds_of(cls).keys()
        mistakes += [str(unknown("section", name, GROUPS)) for name in strange]
        flat = {name: value for name, value in flat.items() if name not in strange}
        given = translated({**flat, **{name: value for values in sections.values() for name, value in values.items()}})
        kinds = kinds_of(cls)
        mistakes += [str(unknown("setting", name, kinds)) for name in flat if name in given and name not in kinds]
        given = {name: typed(kinds[name], value) for name, value in given.items() if name in kinds}
        try:
            if mistakes := mistakes + [fault for name, value in given.items() for fault in misfits(name, kinds[name], value)]:
                raise UserError("; ".join(mistakes))
            return replace(base or cls(), **given)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


NOW_OF_LOSS = {
    "target": ("target", ("kernel",), "double"),
    "label_weight": ("label_weight", ("kernel",), "6"),
    "desired": ("desired", ("kernel", "spike"), "01011"),
    "desired_count": ("desired", ("count",), "4"),
    "undesired_count": ("undesired", ("count",), "1"),
}
"""Settings of version 0.1.0 that are now options of a loss, with the losses that have them and an example."""


def translated(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file, those of version 0.1.0 as they are written now."""
    stored = dict(stored)
    if stored.pop("augment", False):  # of files from before --shift and --flip
        stored = {"shift": 4, "flip": True, **stored}
    loss = stored.get("loss", "auto")
    if loss == "auto":
        loss = "kernel" if stored.get("neuron", "spiking") == "spiking" else "softmax"
    if not NOW_OF_LOSS.keys() & stored.keys() or loss not in list(losses.LOSSES):  # or no loss of 0.1.0, which knew no options
        return stored
    before = {name: stored.pop(name) for name in NOW_OF_LOSS if name in stored}
    options = {NOW_OF_LOSS[name][0]: value for name, value in before.items() if value != "" and loss in NOW_OF_LOSS[name][1]}
    default = losses.get(loss, time_steps=1, tau_s=1)
    options = {name: value for name, value in options.items() if value != getattr(default, name)}
    return {**stored, "loss": write_spec(loss, options)}
