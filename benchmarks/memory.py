"""Measures the peak memory of results again and writes it into them: those of comparisons and of ``tsslbp bench``.

    python benchmarks/memory.py DATA_ROOT RESULT.json ...

For results whose memory was measured by other means than today. Accuracies and times stay as they are.
"""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import command

from tsslbp import training
from tsslbp.bench import BLOCKS, TSSLBP, measure
from tsslbp.cli import study as commands
from tsslbp.study.base import training_settings
from tsslbp.study.compare import Compare, contestants
from tsslbp.study.runs import settled, with_validation
from tsslbp.study.step import peak_memory
from tsslbp.study.tuning import Tuning
from tsslbp.utils import files
from tsslbp.utils.errors import UserError


def compared(result: dict[str, Any], root: Path) -> None:
    """Measure a comparison, with the settings that its command has and that a search chose."""
    options = commands._training_options(Compare, "compare", shlex.split(result["command"])[2:])
    config = settled(replace(training_settings(options), data_root=root, test_every=1))
    settings = contestants(config, options.entries())
    _, dataset = with_validation(next(iter(settings.values())))
    tuning = Tuning.of(options.tune, options.tune_epochs, options.tune_seeds)
    for label, entry in result["rules"].items():
        chosen = tuning.best(label, entry["tried"]) if tuning else {}
        peak = peak_memory(replace(training.resolved(settings[label], dataset), **chosen))
        if peak is None:
            raise UserError(f"the memory of {label} was not measured; tsslbp train with its settings says why")
        entry["peak_mib"] = peak


def benched(result: dict[str, Any]) -> None:
    """Measure what ``tsslbp bench`` measured."""
    for name, case in result["cases"].items():
        for who, row in case["subjects"].items():
            row["peak_mib"] = measure.peak_memory(name, who)
    for row in result.get("growth", []):
        if "peak_mib" in row:
            name = f"{row['axis']} = {row['value']}"
            row |= {"peak_mib": measure.peak_memory(name, TSSLBP), "blocks_peak_mib": measure.peak_memory(name, BLOCKS)}


def main(root: str, result: str, *more: str) -> None:
    for path in map(Path, (result, *more)):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "rules" in found:
            compared(found, Path(root))
        else:
            benched(found)
        files.write_json(path, found)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    command.run(main, __doc__)
