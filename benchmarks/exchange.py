"""Spikes of the trained models in other simulators: python benchmarks/exchange.py DATA_ROOT [MODEL ...]

Writes each model of models/ (or those named) as a NIR file, reads it back, runs test samples through it in every simulator
that is installed (pip install 'tsslbp[peers]'), and counts the spikes that differ from the network's own. Controls are graphs
that were changed on purpose: they must differ. A model whose data are not in DATA_ROOT is left out. Prints the table and, if no
model is missing from it, writes results/exchange/exchange.json and README.md.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import command
import torch

import tsslbp
from tsslbp import training
from tsslbp.exchange import check, nir, simulators
from tsslbp.exchange.graph import neurons_of
from tsslbp.exchange.graph import read as read_graph
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results/exchange"
SAMPLES, OF_CONTROLS = 1000, 100
CONTROL = "spoken-digits"
"""The model that controls change: it hears itself."""


def changed(graph: Any, control: str) -> Any:
    """A graph that was changed on purpose."""
    for name, node in graph.nodes.items():
        if control == "no lateral weights" and name.endswith("_lateral"):
            node.weight = 0 * node.weight
        elif control == "lateral weights transposed" and name.endswith("_lateral"):
            node.weight = node.weight.T.copy()
        elif control == "τm × 1.1" and name in neurons_of(graph):
            node.tau_mem, node.r = 1.1 * node.tau_mem, 1.1 * node.r
    return graph


CONTROLS = ("no lateral weights", "lateral weights transposed", "τm × 1.1")


def of_model(path: Path, data_root: Path) -> dict[str, Any]:
    """What every simulator makes of a model, and of its controls."""
    model = tsslbp.load(path)
    test = training.samples_to_test(model, None, data_root).split
    some = test.select(torch.arange(min(SAMPLES, len(test))))
    x = model.inputs(some.x, 0, some.lengths)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.nir"
        nir.write(nir.to_nir(model), file)
        checked = check.check(
            model.network, read_graph(file), x, say=lambda line: print(f"{path.stem}: {line}", file=sys.stderr)
        )
        single, double = (check.spikes(model.network, x, dtype) for dtype in check.DTYPES)
        controls = {}
        if path.stem == CONTROL:
            few = x[:, :OF_CONTROLS]
            for control in CONTROLS:
                graph = changed(read_graph(file), control)
                controls[control] = [_told(each) for each in check.check(model.network, graph, few).comparisons]
    return {
        "samples": checked.samples,
        "neuron_steps": sum(train.numel() for train in double.values()),
        "spikes": sum(int(train.sum()) for train in double.values()),
        "own": sum(int((single[name] ^ train).sum()) for name, train in double.items()),
        "comparisons": [_told(each) for each in checked.comparisons],
        "guaranteed": {str(dtype).removeprefix("torch."): count for dtype, count in checked.guaranteed.items()},
        "controls": controls,
    }


def _told(each: check.Comparison) -> dict[str, Any]:
    dtype = str(each.dtype).removeprefix("torch.")
    return {"simulator": each.simulator, "dtype": dtype, "differ": each.differ, "refused": each.refused}


def cell(comparisons: list[dict[str, Any]], simulator: str) -> str:
    """Differing spikes in float32 and in float64."""
    mine = [each for each in comparisons if each["simulator"] == simulator]
    return " / ".join("refused" if each["refused"] else f"{sum(each['differ'].values()):,}" for each in mine)


def table(result: dict[str, Any]) -> str:
    """Differing spikes in float32 / float64, by model and simulator."""
    programs = list(result["simulators"])
    rows = []
    for name, found in result["models"].items():
        about = f"{name} ({found['samples']:,} samples, {found['neuron_steps'] / 1e6:,.0f} M)"
        shares = " / ".join(f"{100 * count / found['samples']:.0f} %" for count in found["guaranteed"].values())
        rows.append([about, f"{found['own']:,}", *(cell(found["comparisons"], each) for each in programs), shares])
    return markdown(["model (neurons × steps)", "ours, float32 against float64", *programs, "guaranteed"], rows)


def controls(result: dict[str, Any]) -> str:
    """The same for graphs that were changed on purpose."""
    programs = list(result["simulators"])
    found = result["models"][CONTROL]["controls"]
    return markdown(
        ["change", *programs], [[name, *(cell(each, program) for program in programs)] for name, each in found.items()]
    )


def page(result: dict[str, Any]) -> str:
    """README.md of the folder."""
    versions = ", ".join(f"{name} {version}".strip() for name, version in result["simulators"].items())
    return f"""# The same spikes in other simulators

    python benchmarks/exchange.py DATA_ROOT

Spikes that differ from the network's own, float32 / float64, over all neurons and steps of the test samples: {versions}.
"Guaranteed" is the share of samples whose margins prove that every exact simulator makes the same spikes.

{table(result)}
Graphs that were changed on purpose, {CONTROL}, {OF_CONTROLS} samples:

{controls(result) if CONTROL in result["models"] else ""}"""


def main(data_root: str, *names: str) -> None:
    found, models = {}, {path.stem: path for path in sorted(ROOT.glob("models/*.safetensors"))}
    for name in names:
        if name not in models:
            raise unknown("model", name, models)
    for path in models.values():
        if not names or path.stem in names:
            try:
                found[path.stem] = of_model(path, Path(data_root))
            except UserError as error:
                print(f"{path.stem}: left out: {error}", file=sys.stderr)
    if not found:
        raise UserError("no model was run; give the folder that holds their data as DATA_ROOT")
    programs = {name: each.version for name, each in simulators.installed().items()}
    result = {"machine": machine.describe(), "simulators": programs, "models": found}
    print(table(result))
    if len(found) == len(models):
        files.make_folder(RESULTS, "run it in a checkout of the repository")
        files.write_json(RESULTS / "exchange.json", result)
        files.write_text(RESULTS / "README.md", page(result))


if __name__ == "__main__":
    command.run(main, __doc__)
