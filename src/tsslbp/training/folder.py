"""The folder of a training run: made or found again, and locked.

runs/NAME/config.toml          every setting; ``tsslbp train --config`` replays it
runs/NAME/metrics.jsonl        one record an epoch, then one ``{"event": "final", ...}``
runs/NAME/model.safetensors    the model of the chosen epoch, by default the best on validation
runs/NAME/checkpoint.pt        everything needed to go on
"""

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

from tsslbp import data
from tsslbp.training import records
from tsslbp.training.records import CONFIG, METRICS
from tsslbp.training.settings import Place, TrainConfig
from tsslbp.utils import files
from tsslbp.utils.errors import UserError
from tsslbp.utils.fields import kinds_of

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"


def files_of(path: Path) -> list[Path]:
    """The files that a run's folder must keep, or the model file itself."""
    return [path / name for name in (CONFIG, METRICS, MODEL, CHECKPOINT)] if path.is_dir() else [path]


def opened(config: TrainConfig, held: contextlib.ExitStack, exact: bool) -> tuple[Path, bytes]:
    """The folder of a run that starts or goes on, and its checkpoint, empty if there is none.

    The folder is locked for this process until ``held`` is closed. Raises files.Taken if another process has it. ``exact``: see
    :class:`tsslbp.data.Facts`.
    """
    folder = _resumed(config, exact) if config.resume else _started(config)
    held.enter_context(files.locked(folder, "wait for it, stop it, or choose another --name"))
    if config.resume and (folder / CHECKPOINT).exists():
        return folder, files.read_bytes(folder / CHECKPOINT) or b"an empty file"  # which is damaged, and not missing
    history, final = records.read_metrics(folder) if config.resume and (folder / METRICS).exists() else ([], None)
    if final or history:  # which are written after a checkpoint
        raise UserError(f"{folder} has no {CHECKPOINT} to go on from; restore that file, or choose another --name")
    return folder, b""


def named(config: TrainConfig) -> Path:
    """The folder that the settings of a run name."""
    return config.runs_dir / (config.name or config.recipe)


def goes_on(config: TrainConfig) -> bool:
    """Whether a run goes on from a checkpoint."""
    return config.resume and (named(config) / CHECKPOINT).exists()


def begun(folder: Path) -> TrainConfig:
    """The settings that a run began with. Settings that are newer had their defaults, and arithmetic was float32."""
    config = TrainConfig.from_toml(folder / CONFIG).with_loss()
    return replace(config, precision="float32") if config.precision == "auto" else config


def ended(config: TrainConfig, facts: data.Facts) -> records.Record | None:
    """The final record of the named run, if it has ended with these settings and samples; None otherwise.

    Raises UserError for damaged records.
    """
    folder = named(config)
    if not ((folder / CONFIG).is_file() and (folder / METRICS).is_file()):
        return None
    final, before = records.read_metrics(folder)[1], vars(begun(folder))
    if final is None or final.get("fingerprint") != facts.fingerprint:
        return None
    same = all(before[name] == value for name, value in vars(config).items() if name not in kinds_of(Place))
    return final if same else None


def _started(config: TrainConfig) -> Path:
    """The folder of a new run, with its ``config.toml``. Without a name it has the recipe's, numbered if that is taken.

    Raises:
        files.Taken: another run or anything else has the name.
        UserError: the folder cannot be made or written to; then none is left behind.
    """
    first = named(config)
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            _take(folder, replace(config, name=folder.name))
        except FileExistsError:
            if config.name is not None:
                more = "add --resume to go on with it or " if (folder / CONFIG).is_file() else ""
                raise files.Taken(f"{folder} exists; {more}choose another --name") from None
        else:
            return folder
    raise AssertionError  # there are more numbers than folders


def _take(folder: Path, config: TrainConfig) -> None:
    """Make the folder of a run. Raises FileExistsError if it holds more than left-overs."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - set(folder.glob(files.TEMPORARY))):
        raise FileExistsError(folder)
    try:
        files.make_folder(folder, "choose another --runs-dir")
        with files.replacing(folder / CONFIG, new=True) as file:  # only one of two runs gets past this
            file.write(config.to_toml().encode())
    except UserError:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
        raise
    files.remove_leftovers(folder)


def changeable(config: TrainConfig) -> set[str]:
    """Names of settings that may change when a run goes on."""
    return {*kinds_of(Place), "skip_broken", *(["epochs"] if config.schedule == "constant" else [])}


def _resumed(config: TrainConfig, exact: bool) -> Path:
    """The folder of a resumed run. Raises UserError if there is none, or it began with other settings.

    Broken pictures may be left out, and if the fingerprint of its samples is ``exact``, a user's own data may have moved: the
    checkpoint is refused if the samples are others.
    """
    folder = named(config)
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"nothing to resume: no {path}; leave out --resume, or name the run with --name")
    before, wanted = vars(begun(folder)), vars(config)
    free = changeable(config) | ({"data"} if exact and _moved(before["data"], config.data) else set())
    if before["validation"] is None:  # runs of this version always have it
        raise UserError(f"{folder} is of an older version and cannot go on; train it again with: --config {path} --name NEW")
    if others := [setting for setting in sorted(wanted.keys() - free) if before[setting] != wanted[setting]]:
        way = f"go on with: tsslbp {records.resuming(folder)}, or take another folder (--name; --out of a study)"
        raise UserError(f"{folder} was started with other settings ({', '.join(others)}); {way}")
    return folder


def _moved(before: str, now: str) -> bool:
    """Whether both are paths of a user's own data of one kind."""
    kinds = [(data.in_files.prefix(name), Path(name).suffix.lower()) for name in (before, now)]
    return data.is_own(before) and data.is_own(now) and kinds[0] == kinds[1]
