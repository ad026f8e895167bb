"""The folder ``results/``: logs of runs of a recipe with several seeds, and the table of all.

A folder holds ``seedN.jsonl``, the metrics of each run, and ``README.md``, whose first indented line is their command: the
recipe, then changed options. The table is made from these two.
"""

import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tsslbp.report import charts, figures
from tsslbp.report.page import machine_in_words, with_sd
from tsslbp.training import recipes, records
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.fields import flag, kinds_of
from tsslbp.utils.tables import markdown

HEAD = ("recipe", "rule", "epochs", "seeds", "test accuracy, %", "best test epoch, %", "seconds", "paper")
APART = ("--data-root", "--seed", "--seeds", "--epochs", "--name")
"""Options whose values are in other columns, or do not matter elsewhere."""
FLOAT32 = ("--precision", "float32")
FLAGS = {flag(name) for name, kind in kinds_of(TrainConfig).items() if kind is bool}
"""Options without a value."""
COLUMNS = {
    "test accuracy, %": ("test_accuracy", 2),
    "best test epoch, %": ("best_test_accuracy", 2),
    "validation, %": ("validation_accuracy", 2),
    "epoch chosen": ("best_epoch", 0),
    "epochs": ("epochs", 0),
    "seconds": ("seconds", 0),
}
"""Columns of a page, with fields of the final record and decimals."""
CHOSEN = {
    "validation": "Test accuracy is that of the epoch chosen on validation.",
    "last": "Test accuracy is that of the last epoch.",
    "test": "Test accuracy is that of the best test epoch, as the paper reports it. This choice flatters a result.",
}
F1 = "F1 × 100"
Log = tuple[list[records.Record], records.Record]
"""The epochs of a run, and its final record."""
CURVE = "![Accuracy by epoch, mean and standard deviation of the seeds](curve.svg)"


def write_results(folder: Path, command: str, runs: Sequence[Path]) -> Path:
    """Write the logs, the curve and the page of finished runs, with seeds 0, 1, ...; returns the path of the page.

    Notes on a page that is there are kept, except the one about the choice of the epoch and the machine.

    Args:
        folder: such as ``results/NAME``.
        command: that made the runs, ``tsslbp reproduce RECIPE ...``.
        runs: their folders.

    Raises:
        UserError: a file is damaged or cannot be written.
    """
    check_room(folder, len(runs))
    files.make_folder(folder, "choose another --out")
    logs = {seed: _ended(run / records.METRICS) for seed, run in enumerate(runs)}
    for seed, (history, final) in logs.items():
        records.write(folder / f"seed{seed}.jsonl", [*history, final])
    how = f"{CHOSEN[logs[0][1].get('choose', 'validation')]} `seedN.jsonl` is the run's `metrics.jsonl`."
    kept = [note for note in _notes(_paragraphs(folder)) if not note.startswith(tuple(CHOSEN.values()))]
    machines = dict.fromkeys(machine_in_words(final.get("machine") or machine.describe()) for _, final in logs.values())
    return _write_page(folder, command, logs, [" ".join([how, *machines]), *kept])


def check_room(folder: Path, seeds: int) -> None:
    """Raises UserError for a folder of results that cannot be made or written to, or holds runs of more seeds or a page that
    cannot be read."""
    files.check_folder(folder, "choose another --out")
    _paragraphs(folder)
    if beyond := [seed for seed in _logs(folder) if seed >= seeds]:
        raise UserError(f"{folder} has results of seed {max(beyond)}; give --seeds {max(beyond) + 1}, or choose another --out")


def draw_results(folder: Path) -> Path:
    """Write the curve and the page of a folder of logs again, with the command and notes of the page; returns its path.

    Raises:
        UserError: a file is damaged or cannot be written, or the page has no command.
    """
    _command(folder)
    paragraphs = _paragraphs(folder)
    command = next((paragraph.strip() for paragraph in paragraphs if paragraph.startswith("    tsslbp ")), "")
    logs = {seed: _ended(log) for seed, log in _logs(folder).items()}
    if not command or not logs:
        lacks = "log seedN.jsonl" if command else "command in a paragraph of its own in README.md"
        raise UserError(f"{folder} has no {lacks}, as tsslbp reproduce writes it")
    return _write_page(folder, command, logs, _notes(paragraphs))


def _paragraphs(folder: Path) -> list[str]:
    """Those of a folder's page; none if there is no page. Raises UserError if it cannot be read."""
    page = folder / "README.md"
    try:
        return page.read_text(encoding="utf-8").rstrip().split("\n\n") if page.is_file() else []
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {page}, whose notes are to be kept; save it as text in UTF-8, or move it") from None


def _notes(paragraphs: list[str]) -> list[str]:
    """The paragraphs that are not made from the logs."""
    made = ("# ", "    tsslbp ", "| seed |", CURVE)
    ours = next((at + 1 for at, paragraph in enumerate(paragraphs) if paragraph.startswith(CURVE)), len(paragraphs))
    return [paragraph for paragraph in paragraphs[:ours] if not paragraph.startswith(made)] + paragraphs[ours:]


def _write_page(folder: Path, command: str, logs: Mapping[int, Log], notes: Sequence[str]) -> Path:
    """The page of runs by seed. Raises UserError if they have different numbers of epochs, or different fields."""
    histories, finals = zip(*logs.values(), strict=True)
    alike = {(len(history), *(final[key] is None for key, _ in COLUMNS.values())) for history, final in logs.values()}
    if len(alike) > 1:
        raise UserError(f"the logs of {folder} differ in epochs, or in what was measured; keep those of one command")
    files.write_text(folder / "curve.svg", figures.standalone(curve(histories, "f1" in finals[0])))
    columns = {name: column for name, column in COLUMNS.items() if finals[0][column[0]] is not None}
    rows = [[str(seed), *(f"{logs[seed][1][key]:.{places}f}" for key, places in columns.values())] for seed in logs]
    if len(finals) > 1:
        rows.append(["mean ± sd", *(mean_sd([final[key] for final in finals], places) for key, places in columns.values())])
    heads = [name.replace("test accuracy, %", F1).replace(", %", f", {F1}") if "f1" in finals[0] else name for name in columns]
    page = [
        f"# {folder.name}, {len(finals)} seed{'s' * (len(finals) > 1)}",
        f"    {command}",
        markdown(("seed", *heads), rows).rstrip(),
        CURVE,
        *notes,
    ]
    files.write_text(folder / "README.md", "\n\n".join(page) + "\n")
    return folder / "README.md"


def curve(histories: Sequence[figures.Records], trains: bool = False) -> Markup:
    """Accuracy of training, validation and test by epoch, over several runs of one recipe; for spike trains 100 times F1."""
    parts = {"training": "train_accuracy", "validation": "validation_accuracy", "test": "test_accuracy"}
    values = {name: np.array([figures.column(history, key) for history in histories]) for name, key in parts.items()}
    values = {name: runs for name, runs in values.items() if np.isfinite(runs).any()}
    shown = "test" if "test" in values else "validation"  # the test set may be measured at the end only
    description = f"Line chart of {', '.join(values)} accuracy over {len(histories[0])} epochs, {len(histories)} seeds"
    return charts.means("curve", values, F1 if trains else "right answers, %", [shown], description)


def results_table(results: Path) -> str:
    """The Markdown table of all folders of runs, for docs/results.md; spike trains, scored by F1, are left out.

    Raises:
        UserError: a folder with logs but no page or command, or damaged ones.
    """
    order, rows = list(recipes.RECIPES), []  # better settings come after the paper's own
    for folder in sorted({log.parent for log in results.glob("*/seed*.jsonl")}):
        finals = read_finals(folder)
        if not finals or any("f1" in final for final in finals):
            continue
        recipe, options = _command(folder)
        config = recipes.get(recipe)
        given = {option[0]: option[-1] for option in options}
        neuron = given.get("--neuron", config.neuron)
        told = [word for option in options if option[0] not in APART and option != FLOAT32 for word in option]
        epochs = statistics.fmean(final["epochs"] for final in finals)
        seconds = statistics.fmean(final["seconds"] for final in finals)
        best = [final["best_test_accuracy"] for final in finals]
        row = [
            " ".join([f"[`{recipe}`](../results/{folder.name})", *([f"`{shlex.join(told)}`"] if told else [])]),
            {"spiking": f"`{given.get('--rule', config.rule)}`", "relu": "ReLU ANN", "binary": "binary ANN"}[neuron],
            f"{epochs:.0f}",
            str(len(finals)),
            "–" if finals[0].get("choose") == "test" else mean_sd([final["test_accuracy"] for final in finals], 2),
            "–" if None in best else mean_sd(best, 2),
            f"{seconds:,.0f}",
            recipes.RECIPES[recipe].published if neuron == "spiking" else "",
        ]
        rows.append(((order.index(recipe.removesuffix("-best")), recipe, folder.name), row))
    return markdown(HEAD, [row for _, row in sorted(rows)])


def read_finals(folder: Path) -> list[dict[str, Any]]:
    """The final records of a folder's runs, by seed. Raises UserError if one is damaged or has not ended."""
    return [_ended(log)[1] for log in _logs(folder).values()]


def _logs(folder: Path) -> dict[int, Path]:
    """A folder's logs, by seed."""
    found = {path: re.fullmatch(r"seed([0-9]{1,10})", path.stem) for path in folder.glob("seed*.jsonl")}
    return dict(sorted((int(seed[1]), path) for path, seed in found.items() if seed))


def _ended(log: Path) -> Log:
    history, final = records.read(log)
    if final is None:
        raise UserError(f"{log} does not end with a final record; it is damaged, or of a run that has not ended")
    return history, final


def mean_sd(values: Sequence[float], decimals: int) -> str:
    """``mean ± standard deviation``; for one value, the value."""
    return with_sd(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, decimals)


def _command(folder: Path) -> tuple[str, list[tuple[str, ...]]]:
    """The recipe and the options with their values, from the page's ``tsslbp train RECIPE --option value --flag ...``."""
    path = folder / "README.md"
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        command = next(line for line in lines if line.startswith("    tsslbp "))
        _, _, recipe, *rest = shlex.split(command.split("     (")[0])
        words = iter(rest)
        return recipe, [(word,) if word in FLAGS else (word, next(words)) for word in words]
    except (ValueError, StopIteration):
        raise UserError(f"{path} must hold the command of its runs, indented: tsslbp reproduce RECIPE ...") from None
