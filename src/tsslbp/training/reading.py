"""Reads trained networks from files, which may be damaged or a stranger's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tsslbp.data import Facts, Normalisation
from tsslbp.data.dataset import class_names
from tsslbp.data.filters import Filters
from tsslbp.layers import check_stored
from tsslbp.network.architecture import Architecture
from tsslbp.network.model_file import LONGEST, METADATA_KEY, sha256
from tsslbp.network.network import Network
from tsslbp.network.notation import classes, voters
from tsslbp.training.folder import MODEL
from tsslbp.training.inputs import Inputs
from tsslbp.training.model import STORED, Model, as_model
from tsslbp.training.records import PERCENT, PERCENT_OR_NONE, read_metrics, whole
from tsslbp.training.settings import translated
from tsslbp.utils import imports, machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.files import check_readable


@torch.inference_mode(False)  # so that weights loaded in inference mode can be trained, and their changes seen
def load(path: str | Path) -> Model:
    """A model from ``model.safetensors``, or from the folder of the run that wrote it.

    Normalisation and standardised weights come folded into plain weights and biases.

    The file may also be one of :meth:`tsslbp.network.Network.save`: ``inputs`` then passes on network input, also sequences,
    and ``classes`` are numbers.

    Metadata, shapes of the weights and the memory that a sample needs are checked before anything is allocated, and then the
    checksum. Files of version 0.1.0 have no checksum.

    Raises:
        UserError: no such file, a broken file, one that needs an import, a safetensors file that holds no tsslbp model, or a
            model whose samples need more memory than is free.
    """
    model = as_stored(path)
    model.network.fold()
    return replace(model, trained_weights=model.digest()) if model.trained else model


def as_stored(path: str | Path) -> Model:
    """As :func:`load`, but what a run normalised or standardised is not folded and can be trained further as it is."""
    given = Path(path)
    path = given / MODEL if given.is_dir() else given
    written = _written(given) if given.is_dir() else ""  # first, as the run may just be writing its last model
    if not path.is_file():
        raise UserError(f"no model at {path}; give a run's folder or its model.safetensors")
    if path.suffix == ".nir":
        raise UserError(f"{path} is a NIR file; make a model of it: tsslbp import {path} MODEL.safetensors")
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise UserError(f"it holds no tsslbp model: its metadata has no {METADATA_KEY!r} entry")
            if len(text) > LONGEST:
                raise UserError(f"its metadata has {len(text):,} characters, more than any model's")
            about = json.loads(text)
            model = model_of(about)
            _check_shapes(file, model)
            machine.need_memory(4 * model.numbers, "a sample, over all its time steps,")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # damaged files may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} is damaged or not a model of tsslbp ({type(error).__name__}: {reason})") from None
    if about.pop("sha256", None) not in (None, sha256(about, weights)):
        raise UserError(f"{path} is damaged: its checksum does not fit; copy or export it again")
    if written and written != sha256({}, weights):
        raise UserError(f"{path} is not the model that this run wrote; restore it, or use it from another folder")
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path}: weights {name!r} hold NaN or infinity; the file is damaged")
    try:
        check_stored(weights)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    network = model.network.float().to_empty(device="cpu")
    network.load_state_dict(weights)
    network.eval()
    return model


def _written(folder: Path) -> str:
    """Checksum of the weights that a run wrote when it ended; empty if it is not known."""
    try:
        return str((read_metrics(folder)[1] or {}).get("model", ""))
    except UserError:  # commands that need the records say what is wrong with them
        return ""


def model_of(about: dict[str, Any]) -> Model:
    """The model that a file's metadata describes, its network on the meta device. Damaged metadata may raise any error."""
    known = {"architecture", "inputs", "classes", "data", "facts", "trained", "imports", "trains", "sha256"}
    if odd := sorted(about.keys() - known):
        raise UserError(f"written by another version of tsslbp, with {', '.join(odd)}")
    imports.need(about.get("imports", []))
    if about.keys() - {"imports"} == {"architecture", "sha256"}:
        with torch.device("meta"):
            return as_model(Network(Architecture.from_json(about["architecture"])), tuple(about.get("imports", ())))
    given, trained = about["inputs"], dict(about.get("trained", {}))
    norm = given["normalisation"]
    normalisation = Normalisation(scale=norm["scale"], mean=tuple(norm["mean"]), std=tuple(norm["std"]))
    filters = _filters(given.get("filters"))
    inputs = Inputs(**{**given, "normalisation": normalisation, "filters": filters})
    architecture = Architecture.from_json(about["architecture"])
    with torch.device("meta"):
        network = Network(architecture)
    names = class_names(about["classes"], "classes")
    channels = filters.channels if filters else architecture.input_shape[0] // (2 if inputs.delta else 1)
    if inputs.time_steps != network.time_steps or len(inputs.normalisation.mean) not in (1, channels):
        raise UserError("its network does not fit its input preparation")
    if len(names) != classes(architecture.network):
        raise UserError(f"{len(names)} classes are named, the network has {classes(architecture.network)}")
    if trained and not _describes_training(**trained):
        raise UserError("its record of the training is damaged")
    if trained:
        trained["settings"] = translated(trained["settings"])
    facts, source = Facts.read(about["facts"]) if "facts" in about else None, str(about["data"])
    if facts and len(facts.low) not in (1, channels):
        raise UserError(f"the ranges of its training samples are of {len(facts.low)} features, not of {channels}")
    if not facts and source == "japanese-vowels":
        raise UserError("it is of version 0.1.0, where this set was normalised outside its models; train it again")
    trains = about.get("trains", not facts and source.startswith("spike-pattern"))  # 0.1.0 says only the name
    if type(trains) is not bool or (trains and voters(architecture.network) > 1):
        raise UserError("what it says of its targets is damaged")
    return Model(network, inputs, names, source, facts, trained, tuple(about.get("imports", ())), trains)


def _filters(given: dict[str, Any] | None) -> Filters | None:
    if given is None:
        return None
    fields: dict[str, Any] = {name: tuple(of) if isinstance(of, list) else of for name, of in given.items()}
    return Filters(**fields)


def _describes_training(settings: dict[str, Any], final: dict[str, Any], stored: str = "float32") -> bool:
    """Whether these are settings and a final record with all that the card of a model tells."""
    measured = PERCENT_OR_NONE(final["validation_accuracy"]) and PERCENT(final["test_accuracy"])
    counted = whole()(settings["seed"]) and whole(1)(final["epochs"])
    return stored in STORED and isinstance(settings["rule"], str) and measured and counted


def _check_shapes(file: Any, model: Model) -> None:
    """Raises UserError unless a file has the weights of its network."""
    wanted = {name: list(weight.shape) for name, weight in model.network.state_dict().items()}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    found = {name: part.get_shape() for name, part in slices.items()}
    if found != wanted or any(part.get_dtype() not in ("F32", "F16") for part in slices.values()):
        raise UserError(f"its weights are {found}, those of its network {wanted}")
