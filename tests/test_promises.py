"""What the documents promise: numbers are those of the results, files and public names exist, examples and models work."""

import importlib
import json
import re
import runpy
import shlex
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tsslbp
from tsslbp import bench, cli, study, training
from tsslbp.cli import publishing
from tsslbp.cli.publishing.results import mean_sd, read_finals
from tsslbp.study.compare import Compare
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS_PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
BY_HAND = (
    "checks",
    "constants",
    "depth",
    "exchange",
    "eventprop",
    "few-bits",
    "imagenet",
    "pictures",
    "residual",
    "silence",
    "spike-trains",
    "streaming",
    "without-fallback",
)
"""Folders of results whose page is not made by ``tsslbp report``."""
RESULTS = sorted(path.parent.name for path in ROOT.glob("results/*/seed0.jsonl") if '"f1"' not in path.read_text())


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".ci/full")]
    targets = re.findall(r"(?:^ *|`)make ([a-z-]+)", "\n".join(named), re.MULTILINE)
    assert len(targets) > 10
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_constraints_pin_what_is_installed_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "#" not in line
    )
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        wanted = Requirement(text)
        assert wanted.name == "tsslbp" or any(bound.operator == "<" for bound in wanted.specifier), text
        installed = text in project["dependencies"] or text in [*extras["dev"], *extras["vision"], *extras["tensorboard"]]
        if installed and wanted.name != "tsslbp":
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text


def test_every_sample_and_model_has_its_terms_in_the_notice():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    places = re.findall(r"(?:tests/samples|models)/\S+", notice)
    found = {str(path.relative_to(ROOT)) for place in places for path in ROOT.glob(place)}
    samples = {f"tests/samples/{path.name}" for path in (ROOT / "tests/samples").iterdir() if path.is_dir()}
    assert found - {"tests/samples"} == samples | {f"models/{path.name}" for path in ROOT.glob("models/*.safetensors")}


def test_public_names():
    assert set(tsslbp.__all__) == {
        *("TSSL", "EventProp", "Rule", "Surrogate", "UserError", "build", "lif", "lif_part", "load", "spikes_from_psc"),
        *("SpikingClassifier", "encoding", "layers", "losses", "metrics", "network", "neuron", "plot", "rules", "stream"),
    }
    for name in tsslbp.__all__:
        assert hasattr(tsslbp, name)


ONE_SEED = ("mnist-cnn", "fashion-mnist-cnn-kernel-paper-protocol")
"""Rows of one seed: the first has three by the paper's protocol, the second took seven hours."""


@pytest.mark.parametrize("name", RESULTS)
def test_results_in_the_documents_are_those_in_the_folder(name):
    (row,) = [line for line in RESULTS_PAGE.splitlines() if line.startswith("|") and f"(../results/{name})" in line]
    finals = [json.loads(path.read_text().splitlines()[-1]) for path in ROOT.glob(f"results/{name}/*.jsonl")]
    few = name.startswith(("cifar10-", "tiny-imagenet-40")) or name in ONE_SEED
    assert len(finals) == int(row.split("|")[4]) >= (1 if few else 3)
    for key in ("test_accuracy", "best_test_accuracy"):
        values = [final[key] for final in finals]
        if values == [None]:  # the test set was kept for the end
            assert "| – |" in row
            continue
        sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        assert f"| {statistics.mean(values):.2f}{sd} |" in row
    for short in [line for line in README.splitlines() if line.startswith("|") and f"(results/{name})" in line]:
        assert short.split("|")[2:4] == [row.split("|")[2], row.split("|")[5]]


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_what_eventprop_reaches_is_what_its_runs_reached(name):
    page = (ROOT / "docs/how-to-choose-a-rule.md").read_text(encoding="utf-8")
    finals = read_finals(ROOT / f"results/eventprop/{name}")
    assert f"{mean_sd([final['test_accuracy'] for final in finals], 2)} %" in page
    assert f"{statistics.mean(final['best_test_accuracy'] for final in finals):.2f}" in page


def test_results_table_is_that_of_the_folder():
    assert publishing.results_table(ROOT / "results") in RESULTS_PAGE


def test_speeds_are_those_of_the_newest_result():
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    results = [
        path
        for path in ROOT.glob("benchmarks/results/*.json")
        if not path.name.startswith(("against-", "inference-", "tables"))
    ]
    newest = max(results, key=lambda path: json.loads(path.read_text())["date"])
    assert bench.table(json.loads(newest.read_text())) in page
    assert newest.name in page


def test_growth_with_time_in_words_is_that_of_the_result():
    result = json.loads((ROOT / "benchmarks/results/growth/amd-epyc-2026-11-30.json").read_text())
    short, long = ({row["value"]: row for row in result["growth"] if row["axis"] == "T"}[steps] for steps in (100, 1000))
    time, memory = (long[key] / short[key] for key in ("step_ms", "peak_mib"))
    blocks, whole = (round(long[key]) for key in ("blocks_peak_mib", "peak_mib"))
    names = ("speed.md", "how-to-long-sequences.md")
    pages = {name: " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split()) for name in names}
    assert f"takes {time:.1f} times as long as one of T = 100, and needs {memory:.1f} times the memory." in pages["speed.md"]
    assert f"| ≤ 11, 11 | {time:.1f}, {memory:.1f} | both |" in pages["speed.md"]
    for page in pages.values():
        assert f"{blocks} MiB instead of {whole}" in page


def test_times_of_inference_are_those_of_the_result(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    (path,) = ROOT.glob("benchmarks/results/inference-*.json")
    page, result = (ROOT / "docs/speed.md").read_text(encoding="utf-8"), json.loads(path.read_text())
    assert path.name in page
    for weights in ("trained", "first"):
        assert importlib.import_module("inference").table(result, weights) in page


def test_silence_in_the_docs_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert all(table.strip() in page for table in importlib.import_module("silence").table().split("\n\n"))


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/results/*/*.json")), ids=lambda path: path.parent.name)
def test_speeds_in_the_docs_are_those_of_their_results(path):
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert bench.table(json.loads(path.read_text())) in page
    assert str(path.relative_to(ROOT)) in page


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("compare-tuned-fashion-mnist-fc", "docs/results.md"),
        ("compare-paper-fallback", "docs/gradient.md"),
        ("compare-intra-images", "docs/answers.md"),
        ("compare-intra-images-paper", "docs/answers.md"),
        ("compare-intra-speech", "docs/answers.md"),
        ("compare-tuned-mnist-cnn", "docs/results.md"),
        ("compare-tuned-fashion-mnist-cnn", "docs/results.md"),
        ("compare-eventprop-mnist-cnn", "docs/results.md"),
        ("compare-tuned-quickstart", "docs/results.md"),
        ("compare-tuned-spike-pattern", "docs/spike-trains.md"),
        ("compare-mnist-cnn", "docs/answers.md"),
        ("compare-tiny-imagenet-40-rules", "docs/results.md"),
        ("compare-tuned-spoken-digits", "docs/answers.md"),
        ("compare-tuned-spoken-digits-fc", "docs/answers.md"),
        ("compare-tuned-nmnist-cnn", "docs/results.md"),
        ("compare-tuned-cifar10-small", "docs/results.md"),
        ("compare-tuned-cifar10-resnet", "docs/results.md"),
        ("compare-tuned-tiny-imagenet-40", "docs/results.md"),
        ("compare-tuned-japanese-vowels", "docs/results.md"),
        ("compare-tuned-delayed-xor", "docs/results.md"),
        ("compare-tuned-evidence", "docs/results.md"),
    ],
)
def test_comparisons_in_the_documents_are_those_in_the_folder(name, page):
    *outcome, last = (part for part in (ROOT / f"results/{name}/README.md").read_text().split("\n\n") if part.startswith("|"))
    wanted = [last] if "intra" in name else [*outcome, last]  # of the planned tests the pages show the differences
    for table in wanted:
        assert table.strip() in (ROOT / page).read_text(encoding="utf-8")


FAMILY = ("tssl-paper", "tssl", "tssl+")
REAL = {
    "none": [],
    "`tssl-paper` behind `tssl+`": ["tssl-paper"],
    "`tssl` behind `tssl+`": ["tssl"],
    "both behind `tssl+`": ["tssl-paper", "tssl"],
}


def test_the_family_is_told_as_it_was_measured():
    table = RESULTS_PAGE.partition("### The TSSL-BP family")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| \[.*\]\(\.\./(\S+)\).* \| (\d+) \| (.*) \| (.*) \| (.*) \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    for folder, trials, *told, real in rows:
        result = json.loads((ROOT / folder / "compare.json").read_text(encoding="utf-8"))
        assert int(trials) == result["tuning"]["trials"]
        for rule, mean in zip(FAMILY, told, strict=True):
            runs = [run["test_accuracy"] for run in result["rules"].get(rule, {"runs": []})["runs"]]
            assert mean == (mean_sd(runs, 2) if runs else "–")
        tested = result["differences"]["rules"]
        assert all(tested[rule]["mean"] < 0 for rule in FAMILY[:2] if rule in tested and tested[rule]["real"])
        behind = [rule for rule in FAMILY[:2] if rule in tested and tested[rule]["real"]]
        assert REAL[real] == behind


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/compare-*/compare.json")), ids=lambda path: path.parent.name)
def test_no_chosen_learning_rate_lies_at_an_end(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    if not result["tuning"] or "trials" in result["tuning"] or path.parent.name in ENDED:
        return
    for name, rule in result["rules"].items():
        tried = {trial["learning_rate"]: trial["validation_accuracy"] for trial in rule["tried"]}
        highest = max(accuracy for accuracy in tried.values() if accuracy is not None)
        best = [rate for rate, accuracy in tried.items() if accuracy == highest]
        assert best not in ([min(tried)], [max(tried)]), name


ENDED = ("compare-fashion-mnist-fc-head",)
"""Comparisons of before grids went on beyond their ends."""


@pytest.mark.parametrize("name", ["cifar10-cnn1", "cifar10-cnn2"])
def test_trainings_in_the_docs_are_those_in_the_folders(name):
    rows = (ROOT / "docs/speed.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if f"results/compare-{name})" in row]
    folder = ROOT / f"results/compare-{name}"
    *_, source = (row for row in (folder / "README.md").read_text(encoding="utf-8").splitlines() if row.startswith("|"))
    (run,) = json.loads((folder / "compare.json").read_text())["rules"]["tssl"]["runs"]
    epochs, *values = row.split("|")[2:-1]
    assert int(epochs) == run["epochs"]
    assert values.pop().strip() == f"{run['seconds']:,.1f}"
    assert set(values) < set(source.split("|"))


def test_tables_of_better_settings_are_those_in_the_folders():
    page = (ROOT / "docs/better.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| [")]
    assert rows
    for row in rows:
        (target,) = re.findall(r"\(\.\./(results/[^)]*)\)", row)
        text = (ROOT / target / "README.md").read_text(encoding="utf-8")
        values = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", row)[:2]  # the aim and the paper's own come after these
        assert len(values) == 2
        table = [line for line in text.splitlines() if line.startswith("|")]
        (source,) = [line for line in table if f"| {' | '.join(values)} |" in line]
        assert all("±" in value for value in values) or source == table[2] == table[-1], "one seed's, where there are several"
        if (ROOT / target / "compare.json").is_file():  # spikes and energy, too
            assert set(row.split("|")[-3:-1]) < set(source.split("|"))


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("results/studies/*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_answers_are_those_of_the_studies(path):
    page = (ROOT / "docs/answers.md").read_text(encoding="utf-8")
    section = study.section(json.loads(path.read_text()))
    assert " ".join(section.answer.split()) in " ".join(page.replace("*", "").split())
    assert f"(../results/studies/{path.parent.name})" in page
    if path.stem in ("ablation", "dynamics"):
        assert markdown(section.heads, section.rows) in page


FOLDERS = sorted(
    {path.parent for path in ROOT.glob("results/**/*.json*")} - {ROOT / f"results/{name}" for name in BY_HAND},
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_pages_are_those_of_the_results_beside_them(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    for figure in copy.glob("*.svg"):
        figure.unlink()
    page = publishing.write_page(copy, markdown=True)  # not the figures, which another Matplotlib may draw a little differently
    assert page.read_text(encoding="utf-8") == (folder / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()}


def test_commands_of_the_results_are_understood_today(monkeypatch, tmp_path, capsys):
    class Understood(Exception):
        pass

    def start(*_, **__):
        raise Understood

    monkeypatch.chdir(tmp_path)
    for owner, name in ((training, "train"), (publishing, "reproduce"), (Compare, "run"), (study, "check_folder")):
        monkeypatch.setattr(owner, name, start)
    commands = [
        line.strip().partition("     (")[0].replace("seed N", "seed 0").replace("seed=N", "seed=0")
        for page in ROOT.glob("results/**/README.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match("    tsslbp (train|compare|reproduce|study) ", line)
    ]
    assert len(commands) > 50
    for command in commands:
        with pytest.raises(Understood):
            assert not cli.main(shlex.split(command)[1:]), f"{command}: {capsys.readouterr().err}"


def test_results_are_data_pages_and_figures():
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git repository")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    assert {path.suffix for path in paths} == {".json", ".jsonl", ".md", ".svg"}
    assert all((path.parent / "README.md").is_file() for path in paths)


@pytest.mark.parametrize(
    ("page", "result", "script", "table"),
    [
        ("spike-trains", "spike-trains/easy", "spike_trains", "table"),
        ("spike-trains", "spike-trains/hard", "spike_trains", "table"),
        ("spike-trains", "spike-trains/capacity", "spike_trains", "capacity_table"),
        ("spike-trains", "spike-trains/causes", "spike_train_causes", "parts_table"),
        ("spike-trains", "spike-trains/causes", "spike_train_causes", "changes_table"),
        ("answers", "without-fallback/without-fallback", "without_fallback", "table"),
        ("answers", "checks/fallback-size", "fallback_size", "table"),
        ("answers", "eventprop/speech", "eventprop_speech", "table"),
        ("how-to-own-network", "residual/residual", "residual", "table"),
        ("gradient", "checks/gradient-terms", "gradient_terms", "closeness_table"),
        ("gradient", "checks/gradient-terms", "gradient_terms", "optima_table"),
        ("gradient", "checks/paper-fallback", "paper_fallback", "table"),
        ("streaming", "streaming/answers", "streaming", "answers_table"),
    ],
)
def test_tables_of_the_benchmarks_are_those_of_their_results(page, result, script, table, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = getattr(importlib.import_module(script), table)
    content = json.loads((ROOT / f"results/{result}.json").read_text(encoding="utf-8"))
    assert made(content) in (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")


def test_card_is_that_of_the_models():
    assert publishing.model_card(ROOT / "models") == (ROOT / "models/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*.safetensors")), ids=lambda path: path.stem)
def test_models_are_right_about_the_samples(path, samples, capsys):
    if not training.load(path).data:
        pytest.skip("benchmarks/streaming.py made its data; test_benchmarks.py listens with it")
    assert cli.main(["evaluate", str(path), "--data-root", str(samples)]) == 0
    assert float(capsys.readouterr().out.split()[2]) > 60  # of the few samples; chance is 10


def test_example_learns_a_picture(tmp_path):
    main = runpy.run_path(str(ROOT / "examples/learn_a_picture.py"))["main"]
    assert main(250, tmp_path / "picture.svg") > 0.8
    assert (tmp_path / "picture.svg").read_text().count("<use") > 300


def test_example_draws_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["learn_a_picture.py", "--steps", "1"])
    runpy.run_path(str(ROOT / "examples/learn_a_picture.py"), run_name="__main__")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "nowhere/picture.svg"], "cannot write nowhere/picture.svg: No such file or directory; choose another --out"),
        (["--out", "picture.foo"], "--out is picture.foo; it must end in one of "),
        (["--out", "picture"], "--out is picture; it must end in one of "),
        (["--steps", "0"], "--steps is 0; it must be positive"),
    ],
)
def test_example_fails_in_one_line_before_it_trains(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["learn_a_picture.py", *arguments])
    monkeypatch.setattr("tsslbp.build", None)  # it does not get that far
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "examples/learn_a_picture.py"), run_name="__main__")
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not [*tmp_path.iterdir()]


def test_picture_is_drawn(tmp_path):
    main = runpy.run_path(str(ROOT / "docs/crossing.py"))["main"]
    main(tmp_path / "crossing.svg")
    assert (tmp_path / "crossing.svg").read_text().count("<path") > 10
