"""Trained models for publication: one file each, and a card, ``README.md``, for the folder."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tsslbp import data, training
from tsslbp.encoding import CONSTANT
from tsslbp.training.settings import Place, TrainConfig
from tsslbp.utils import files, imports
from tsslbp.utils.errors import UserError
from tsslbp.utils.fields import kinds_of
from tsslbp.utils.tables import literal, markdown

HEAD = ("model", "data", "network", "T", "rule", "weights", "stored as", "epochs", "seed", "validation, %", "test, %")
MARK = "<!-- tsslbp export writes this page; changes to it are lost. -->"
OLD_MARK = "# Models\n\n| " + " | ".join(HEAD)
"""Beginning of the cards of version 0.1.0."""
USE = """\
In Python, `tsslbp.load("NAME.safetensors")` gives the network, its `inputs` (normalisation) and the names of its classes.
A file holds the weights in the format named above; computations use float32. The metadata hold everything else: how to use the
weights, the settings of the training and its result. Loading a file runs no code.

For a model of pictures, `predict` takes an image of any size. Transparent parts become white. The image is converted to grey or
RGB, padded to the network's shape with the colour of its border, and scaled. The grey data sets are light on dark, so `predict`
exchanges light and dark in an image with a light border, such as a dark digit on paper (`--invert no` prevents it). Cut a
photographed digit out, with a margin as in the data set. For a model of `image-folder:` or `webdataset:`, the image is scaled
and cut as in training.

Test accuracy is that of the weights as stored, in the epoch chosen on validation samples, which were not trained on. "last
epoch" marks weights that nothing chose, and "test epoch" marks weights chosen on the test set, which flatters the accuracy. How
the networks answer samples unlike those of their data sets is untested. They have no class for "none of these"."""


def export(run: Path, path: Path, half: bool = False, data_root: Path | None = None) -> Path:
    """Copy the model of a finished run, with its settings and result, and write the card of the target folder.

    Args:
        run: the run's folder.
        path: the file, ``.safetensors``; an existing one is replaced.
        half: whether to store the weights in float16, and measure their test accuracy.
        data_root: folder that holds the data set, for ``half``. Default: the run's own.

    Returns:
        The path of the card.

    Raises:
        UserError: no run, an unfinished one, a file of another kind, one that cannot be written, a damaged model beside it, a
            README.md beside it that is no card, missing data.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors")
    card = path.parent / "README.md"
    if card.exists() and not card.read_text(encoding="utf-8", errors="replace").startswith((MARK, OLD_MARK)):
        raise UserError(f"{card} is not a card that tsslbp export wrote; export to a folder of its own, such as models/")
    if path.parent.is_dir():
        model_card(path.parent)  # finds damaged models beside it before anything is written
    final = {key: value for key, value in training.final_of(run).items() if key not in ("machine", "model")}
    config = TrainConfig.from_toml(run / training.CONFIG)
    told = config.to_dict().items()
    settings = {key: value for key, value in told if key not in kinds_of(Place)}  # nor of where it was trained
    model = training.load(run)
    if half:
        model.network.half().float()
        test = training.dataset_of_run(model, config, data_root).test
        final = final | {"test_accuracy": model.accuracy(test)}
        if model.trains:
            final |= {"f1": final["test_accuracy"] / 100, "van_rossum": model.distance(test)}
    stored = "float16" if half else "float32"
    if data.is_own(model.data):
        model = model.given_away()
        settings["data"] = model.data
    if "init" in settings:
        settings["init"] = Path(settings["init"]).name
    model = replace(model, trained={"settings": settings, "final": final, "stored": stored})
    files.make_folder(path.parent, "choose another folder")
    model.save(path)
    files.write_text(card, model_card(path.parent))
    return card


def model_card(folder: Path) -> str:
    """The card of a folder's models, Markdown. Raises UserError if one is damaged."""
    models = {path.name: training.load(path) for path in sorted(folder.glob("*.safetensors"))}
    models = {name: model for name, model in models.items() if model.trained}
    rows = [[f"[`{name}`]({quote(name)})", *_row(model)] for name, model in models.items()]
    commands = [
        f"    tsslbp evaluate {shlex.quote(name)} {_data_of(model)}{imports.again(model.imports)}"
        for name, model in models.items()
        if model.data  # else it was made in Python
    ]
    commands += [
        f"    tsslbp predict {shlex.quote(name)} IMAGE{imports.again(model.imports)}"
        for name, model in models.items()
        if len(model.sample_shape) == 3
    ]
    settings = [
        f"`{name}`: {', '.join(f'{literal(key)} {_told(of)}' for key, of in model.trained['settings'].items() if of != '')}."
        for name, model in models.items()
    ]
    parts = [MARK, "# Models", markdown(HEAD, rows).rstrip(), "\n".join(commands), USE, "## Settings", *settings]
    return "\n\n".join(part for part in parts if part) + "\n"


def _told(value: object) -> str:
    """A setting that may be a stranger's, in the card of a folder with their model."""
    return str(value) if isinstance(value, bool | int | float) else literal(value)


def _data_of(model: training.Model) -> str:
    return f"--data {shlex.quote(' '.join(model.data.splitlines()))}" if data.is_own(model.data) else "--data-root DIR"


def _row(model: training.Model) -> list[str]:
    settings: dict[str, Any] = model.trained["settings"]
    final: dict[str, Any] = model.trained["final"]
    spiking, inputs = model.network.is_spiking, model.inputs
    one_pass = not (spiking or inputs.sequence or inputs.encoding != CONSTANT)
    return [
        literal(model.data or settings["data"]),
        f"`{model.network.architecture.network}`",
        "1" if one_pass else str(model.network.time_steps),
        f"`{' '.join(settings['rule'].replace('`', '').split())}`" if spiking else "–",
        f"{sum(weight.numel() for weight in model.network.parameters()):,}",
        model.trained.get("stored", "float32"),
        str(final["epochs"]),
        str(settings["seed"]),
        "–" if final["validation_accuracy"] is None else _measured(model, final["validation_accuracy"]),
        _measured(model, final["test_accuracy"]) + (f" ({literal(final['choose'])} epoch)" if "choose" in final else ""),
    ]


def _measured(model: training.Model, percent: float) -> str:
    return f"F1 {percent / 100:.4f}" if model.trains else f"{percent:.2f}"
