"""The commands. Each takes its arguments and prints its answer; the first line of its docstring is its help."""

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tsslbp import bench, data, kernels, machine, metrics, processes, publish, recipes, report, training
from tsslbp.cli import predictions
from tsslbp.cli.methods import check_, cite, rules_
from tsslbp.cli.parse import given_in, parse, refuse_idle, starting_from
from tsslbp.cli.publish import export, import_, reproduce
from tsslbp.cli.show import console
from tsslbp.cli.study import compare, study_
from tsslbp.errors import UserError, unknown
from tsslbp.settings import TrainConfig

CHOSEN = {"validation": "chosen on validation", "last": "the last", "test": "chosen on the test set, which flatters it"}
"""How an epoch was chosen, in a reader's words."""


def train(arguments: list[str]) -> None:
    """train a network: tsslbp train RECIPE [--field value ...]"""
    config, command, arguments = starting_from("train", arguments)
    given = given_in(arguments) if command == "train" and "--config" not in arguments else None
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 == len(arguments):
            raise UserError("--config needs a file, such as runs/NAME/config.toml")
        config = TrainConfig.from_toml(Path(arguments[position + 1]), config)
        arguments = arguments[:position] + arguments[position + 2 :]
    about = (
        f"Train a network. RECIPE is one of: {', '.join(recipes.RECIPES)}. "
        "Without one, settings that you leave out suit the data, whatever default is shown below. "
        "--config FILE trains again with the settings in a run's config.toml."
    )
    config = parse(TrainConfig, command, arguments, config, about)
    refuse_idle(config, arguments)
    machine.keep_memory()
    folder, final = training.train(config, training.watcher(), given=given)
    if not processes.leads():
        return
    chosen = CHOSEN[final.get("choose", "validation")]
    if "f1" in final:
        console.print(
            f"F1 {final['f1']:.4f} (spikes within one step), van Rossum distance {final['van_rossum']:.3f} "
            f"({final['test_samples']} test samples; epoch {final['best_epoch']}, {chosen}), {final['seconds']:.0f} s"
        )
    else:
        right = round(final["test_accuracy"] / 100 * final["test_samples"])
        best = "" if final["best_test_accuracy"] is None else f"best test epoch {final['best_test_accuracy']:.2f} %, "
        console.print(
            f"test accuracy {final['test_accuracy']:.2f} % ({right} of {final['test_samples']}; epoch {final['best_epoch']}, "
            f"{chosen}), {best}{final['seconds']:.0f} s"
        )
        if said := training.verdict(final):
            console.print(said)
    console.print(f"report: {report.write(folder)}")


@dataclass(frozen=True)
class Evaluate:
    """Measure the accuracy of a trained model on its test set."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, or a model.safetensors."""
    data: str | None = None
    """Data set, or file or folder of your own, whose test samples are used. Default: the one the model was trained on."""
    all: Path | None = None
    """File or folder of which every sample is used. The model must never have been trained on it."""
    data_root: Path = Path("data")
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into the data root."""
    skip_broken: bool = False
    """Leave out pictures of image-folder:DIR or webdataset:SHARDS that cannot be read, and name them."""
    workers: int | None = None
    """Processes that read pictures of image-folder:DIR or webdataset:SHARDS. Default: one less than the cores, at most 8."""
    early_exit: bool = False
    """Stop each sample as soon as its answer can no longer change, whatever the remaining steps bring."""


def evaluate(arguments: list[str]) -> None:
    """measure the accuracy of a trained model on its test set"""
    options = parse(Evaluate, "evaluate", arguments)
    model = training.load(options.model)
    if options.all and options.data:
        raise UserError("--all and --data both name samples; give one of them")
    streaming = _streaming(options, model.data if options.all else options.data or model.data)
    if options.all:
        samples = training.samples_of_file(model, options.all, streaming)
    else:
        samples = training.samples_to_test(model, options.data, options.data_root, options.download, streaming)
    for warning in samples.warnings:
        say(f"warning: {warning}")
    test = samples.split
    if options.early_exit and test.trains:
        raise UserError("--early-exit is for classes; this model answers with spike trains")
    if test.trains:
        distance = f"van Rossum distance {model.distance(test):.3f}"
        console.print(f"F1 {model.accuracy(test) / 100:.4f} (spikes within one step), {distance}, on {samples.which}")
        return
    if options.early_exit and test.lengths is not None:
        raise UserError(f"--early-exit is for sequences of one length; some of these have {int(test.lengths.min())} steps")
    if options.early_exit:
        answers, taken = model.decide(test)
        console.print(f"decided after {float(taken.double().mean()):.2f} of {model.network.time_steps} steps on average")
    else:
        answers = model.answers(test)
    right = int((answers == test.y).sum())
    low, high = metrics.wilson_interval(right, len(test))
    console.print(
        f"test accuracy {100 * right / len(test):.2f} % "
        f"({right} of {len(test)}; 95 % interval {100 * low:.2f} to {100 * high:.2f}) on {samples.which}"
    )
    if silent := int((answers == metrics.NO_ANSWER).sum()):
        console.print(f"no output neuron spiked for {silent} of these samples, which counts as wrong")


def _streaming(options: "Evaluate | Predict", name: str) -> data.Streaming:
    """How pictures in files are read. Raises UserError for options without effect on a data set of this name."""
    given = {"--skip-broken": options.skip_broken, "--workers": options.workers is not None}
    if idle := [flag for flag, said in given.items() if said and not data.in_files.is_one(name)]:
        raise UserError(f"{' and '.join(idle)} has no effect without a model or data of {data.in_files.FORMS}; leave it out")
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must be 0 or more")
    return data.Streaming(skip_broken=options.skip_broken, workers=options.workers)


@dataclass(frozen=True)
class Predict:
    """Classify an image, or every sample of a file or folder, with a trained model."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, or a model.safetensors."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """An image file, or a file or folder of any kind that train takes; labels are not needed. Images may have any size.
    Transparent parts become white. Images are converted to grey or RGB as the network needs, padded to the network's shape with
    the colour of their border, and scaled. Models of image-folder:DIR or webdataset:SHARDS take them as in their training,
    without padding, and read shards too."""
    out: Path | None = None
    """CSV file for the predictions, with columns sample, class, confidence and step. A model of target spike trains has a row
    for each output spike, with columns sample, neuron and step (from 0). Without it the first ones are printed."""
    skip_broken: bool = False
    """Leave out pictures that cannot be read, and name them; for models of image-folder:DIR or webdataset:SHARDS."""
    workers: int | None = None
    """Processes that read pictures, for models of image-folder:DIR or webdataset:SHARDS. Default: one less than the cores, at
    most 8."""
    invert: Literal["auto", "yes", "no"] = "auto"
    """Exchange light and dark. The grey data sets are light on dark, so auto inverts a grey image with a light border, such as
    a dark digit on paper, and says so."""


def predict(arguments: list[str]) -> None:
    """classify an image, or every sample of a file or folder: class, confidence, time of decision"""
    options = parse(Predict, "predict", arguments)
    model = training.load(options.model)
    inverted = {"auto": None, "yes": True, "no": False}[options.invert]
    samples = predictions.samples(options.path, model, inverted, _streaming(options, model.data))
    for line in samples.warnings:
        say(line)
    made = predictions.of(model, samples)
    if options.out:
        predictions.write(options.out, made, options.path)
        console.print(f"wrote {made.what} to {options.out}")
        return
    for line in made.said[: predictions.SHOWN]:
        console.print(line)
    if more := made.said[predictions.SHOWN :]:
        console.print(f"and {len(more):,} more; --out FILE.csv writes all")


@dataclass(frozen=True)
class Bench:
    """Speed and memory of a training step, and how it grows, against the linear maps alone, a ReLU network and other libraries.

    All are timed in turns in one run, so that other work on the machine affects them alike. Read the ratios and not the
    milliseconds.
    """

    cases: tuple[str, ...] = tuple(name for name, case in bench.cases().items() if not case.large)
    """Networks to measure. cifar10-cnn1 and cifar10-cnn2 take minutes each, and run only if you name them."""
    seconds: float = 30.0
    """Seconds for each network. More seconds give steadier numbers."""
    memory: bool = True
    """Also measure peak memory, each contestant in a process of its own."""
    growth: bool = True
    """Also measure how the time of a step grows with T, batch size and width."""
    against: Path | None = None
    """The Python interpreter of another installation of tsslbp. Only training steps are then measured, in turns with that
    installation, and the ratio of the times is printed."""
    results: Path = Path("benchmarks/results")
    """Folder for the result, a JSON file named by processor and date."""


def bench_(arguments: list[str]) -> None:
    """measure speed and memory against the linear maps alone and other libraries"""
    options = parse(Bench, "bench", arguments)
    for name in options.cases:
        if name not in bench.cases():
            raise unknown("case", name, bench.cases())
    if not options.seconds > 0:
        raise UserError(f"--seconds is {options.seconds}; it must be positive")
    machine.keep_memory()  # for all that are compared
    if options.against:
        found = bench.against(options.against, options.cases, options.seconds, say)
        console.print(bench.against_table(found))
        about = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe()}
        console.print(f"result: {bench.save({**about, 'against': found}, options.results, 'against-')}")
        return
    result = bench.run(options.cases, options.seconds, options.memory, say)
    if options.growth:
        result["growth"] = bench.growth(options.seconds, options.memory, say)
    console.print(bench.table(result))
    console.print(bench.spent_table(result))
    console.print(f"result: {bench.save(result, options.results)}")


def say(text: str) -> None:
    """A line of progress, apart from the answer."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Report:
    """Make the page of a folder: of a run, of a comparison, or of studies."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of a run, of tsslbp compare, of tsslbp study or of tsslbp reproduce. The page is written into it."""
    markdown: bool = False
    """Write README.md, a short page, with SVG figures, which any repository viewer shows. Default: one HTML file."""
    data_root: Path | None = None
    """Folder that holds the data sets, for a run. Default: the run's own."""


def report_(arguments: list[str]) -> None:
    """make the page of a run, a comparison or studies, in HTML or Markdown"""
    options = parse(Report, "report", arguments)
    console.print(f"report: {publish.write_page(options.folder, options.markdown, options.data_root)}")


@dataclass(frozen=True)
class Nothing:
    """No options."""


def recipes_(arguments: list[str]) -> None:
    """list the recipes"""
    parse(Nothing, "recipes", arguments)
    for name, recipe in recipes.RECIPES.items():
        config = recipe.config
        console.print(f"{name}: {recipe.summary}")
        steps = "T from the data" if config.time_steps is None else f"T = {config.time_steps}"
        console.print(f"    {config.network}, {steps}, {config.epochs} epochs, batches of {config.batch_size}")


@dataclass(frozen=True)
class Doctor:
    """Show which kernels and packages work here, and measure whether bfloat16 is faster. `--precision auto` follows that
    measurement."""

    measure: bool = True
    """Measure bfloat16. The result is kept in the cache folder."""
    seconds: float = 5.0
    """Seconds for each network measured."""


def doctor(arguments: list[str]) -> None:
    """show which kernels and packages work here, and measure whether bfloat16 is faster"""
    options = parse(Doctor, "doctor", arguments)
    rows = machine.describe()
    for name, backend in kernels.backends().items():
        rows[f"backend {name}"] = f"{'usable' if backend.usable else 'not usable'}: {backend.reason}"
    for package, purpose in (("torchvision", "downloads"), ("PIL", "predict"), ("tensorboard", "--tensorboard")):
        found = importlib.util.find_spec(package) is not None
        extra = "tensorboard" if package == "tensorboard" else "vision"
        missing = f"missing; {purpose} needs it: pip install 'tsslbp[{extra}]'"
        rows[f"package {package}"] = "installed" if found else missing
    if options.measure and kernels.backends()["cpp"].usable:
        machine.keep_memory()
        gains = bench.bfloat16_gains(options.seconds)
        machine.record_bfloat16(gains)
        rows["bfloat16"] = ", ".join(f"{gain:.2f} times as fast on {name}" for name, gain in gains.items())
    rows["--precision auto"] = f"takes {'bfloat16' if machine.bfloat16_pays() else 'float32'}"
    width = max(map(len, rows))
    for what, here in rows.items():
        console.print(f"{what:<{width}}  {here}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report_,
    "compare": compare,
    "study": study_,
    "reproduce": reproduce,
    "export": export,
    "import": import_,
    "bench": bench_,
    "recipes": recipes_,
    "rules": rules_,
    "cite": cite,
    "check": check_,
    "doctor": doctor,
}
