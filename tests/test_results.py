"""Rows of the results table: trained, written, read again, and told as they came out."""

import json
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from tsslbp import UserError, cli
from tsslbp.cli import publishing
from tsslbp.training import records

pytestmark = pytest.mark.painted

ROOT = Path(__file__).parent.parent


def log(epochs, **final):
    """The metrics of a run that has ended."""
    accuracy = {"validation_accuracy": 89.0, "test_accuracy": 90.0}
    common = {"train_loss": 0.5, "train_accuracy": 95.0, **accuracy, "learning_rate": 1e-3, "seconds": 9.0}
    history = [{"epoch": epoch, **common} for epoch in range(1, epochs + 1)]
    best = {"best_epoch": epochs, "best_test_accuracy": 91.0, "best_test_epoch": 1}
    last = {"event": "final", **accuracy, **best, "epochs": epochs, "seconds": 1234.5, **final}
    return "".join(json.dumps(record) + "\n" for record in [*history, last])


def reproduce(tmp_path, samples, *more):
    places = ["--data-root", str(samples), "--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]
    return cli.main(["reproduce", "fashion-mnist-fc", "--epochs", "2", *places, *more])


def test_a_row_is_trained_and_told(tmp_path, samples, capsys):
    assert reproduce(tmp_path, samples, "--seeds", "2", "--precision", "float32") == 0
    folder = tmp_path / "results/fashion-mnist-fc-2-epochs"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "curve.svg", "seed0.jsonl", "seed1.jsonl"]
    logs = [(folder / f"seed{seed}.jsonl").read_text() for seed in range(2)]
    assert logs == [(tmp_path / f"runs/fashion-mnist-fc-2-epochs-seed{seed}/metrics.jsonl").read_text() for seed in range(2)]
    accuracies = [json.loads(log.splitlines()[-1])["test_accuracy"] for log in logs]
    mean_sd = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
    page = (folder / "README.md").read_text()
    command = "tsslbp reproduce fashion-mnist-fc --data-root DIR --seeds 2 --epochs 2 --precision float32"
    assert f"\n\n    {command}\n\n" in page
    assert f"| mean ± sd | {mean_sd} |" in page
    assert "(curve.svg)" in page
    curve = ElementTree.parse(folder / "curve.svg").getroot()
    assert curve.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"training", "validation", "test", "epoch"} <= set(" ".join(curve.itertext()).split())
    table = publishing.results_table(tmp_path / "results")
    assert table in capsys.readouterr().out
    *_, row = table.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["[`fashion-mnist-fc`](../results/fashion-mnist-fc-2-epochs)", "`tssl-paper`", "2", "2", mean_sd]
    assert cells[7] == "89.75 ± 0.03 after 100 epochs"


def test_what_is_there_is_used(tmp_path, samples, monkeypatch, capsys):
    assert reproduce(tmp_path, samples, "--seeds", "2") == 0
    before = (tmp_path / "results/fashion-mnist-fc-2-epochs/seed0.jsonl").read_text()
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *arguments: (steps.append(1), step(*arguments))[1])
    assert reproduce(tmp_path, samples, "--seeds", "2") == 0
    assert not steps
    folder = tmp_path / "results/fashion-mnist-fc-2-epochs"
    assert (folder / "seed0.jsonl").read_text() == before
    assert reproduce(tmp_path, samples, "--seeds", "1") == 2
    assert f"{folder} has results of seed 1; give --seeds 2, or choose another --out" in capsys.readouterr().err
    assert (folder / "seed1.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "ROW"),
        ("fashion-mnist", "unknown row 'fashion-mnist'; did you mean 'fashion-mnist-fc"),
        ("evidence", "unknown row 'evidence'"),
        ("mnist-cnn", "no mnist in"),
        ("mnist-cnn --seeds 0", "--seeds is 0; it must be positive"),
        ("mnist-cnn --epochs 0", "--epochs is 0; it must be positive"),
    ],
)
def test_bad_rows_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *arguments.split()]) == 2
    *_, error = capsys.readouterr().err.splitlines()  # a line before it may say which run begins
    assert error.startswith("tsslbp: ")
    assert message in error
    assert not list(tmp_path.rglob("*"))


def test_notes_that_cannot_be_read_are_told_before_anything_is_trained(tmp_path):
    (tmp_path / "README.md").write_bytes("# Zürich\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read .*README.md, whose notes are to be kept; save it as text in UTF-8"):
        publishing.results.check_room(tmp_path, 1)


def test_a_page_is_made_again_from_its_logs(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/seed0.jsonl").write_text(log(3, f1=0.9))
    (tmp_path / "a/README.md").write_text("# old\n\n    tsslbp train spike-pattern --seed N     (N = 0)\n\nTold by hand.\n")
    assert cli.main(["report", str(tmp_path / "a")]) == 2
    assert "whose page is in Markdown; add --markdown" in capsys.readouterr().err
    for _ in range(2):
        assert cli.main(["report", str(tmp_path / "a"), "--markdown"]) == 0
        page = (tmp_path / "a/README.md").read_text()
        assert page.startswith("# a, 1 seed\n\n    tsslbp train spike-pattern --seed N     (N = 0)\n\n| seed | F1 × 100 |")
        assert page.endswith("(curve.svg)\n\nTold by hand.\n")
    notes = "# More\n\n![of mine](mine.svg)\n\n| mine |\n| --- |\n\n    tsslbp rules\n\nThe end.\n"
    (tmp_path / "a/README.md").write_text(f"{page}\n{notes}")
    assert cli.main(["report", str(tmp_path / "a"), "--markdown"]) == 0
    assert (tmp_path / "a/README.md").read_text() == f"{page}\n{notes}"
    (tmp_path / "a/README.md").write_text("no command\n")
    assert cli.main(["report", str(tmp_path / "a"), "--markdown"]) == 2
    assert "README.md must hold the command of its runs" in capsys.readouterr().err


def test_rows_come_in_the_order_of_the_recipes_and_spike_trains_stay_out(tmp_path):
    for name, recipe, extra in (("a", "evidence", {}), ("b", "mnist-cnn", {}), ("c", "spike-pattern", {"f1": 1.0})):
        (tmp_path / name).mkdir()
        command = f"tsslbp train {recipe} --seed N --rule 'tssl(clip=1)'     (N = 0)"
        (tmp_path / name / "README.md").write_text(f"# {name}\n\n    {command}\n")
        (tmp_path / name / "seed0.jsonl").write_text(log(3, **extra))
    rows = publishing.results_table(tmp_path).splitlines()[2:]
    assert rows == [
        "| [`mnist-cnn`](../results/b) `--rule 'tssl(clip=1)'` | `tssl(clip=1)` | 3 | 1 | 90.00 | 91.00 | 1,234 "
        "| 99.50 ± 0.02 after 100 epochs |",
        "| [`evidence`](../results/a) `--rule 'tssl(clip=1)'` | `tssl(clip=1)` | 3 | 1 | 90.00 | 91.00 | 1,234 |  |",
    ]


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    path, whole = tmp_path / "a/seed0.jsonl", log(2)
    fired = whole
    for epoch in (1, 2):
        fired = fired.replace(f'"epoch": {epoch}', f'"rates": {{"a": 0.{epoch}}}, "epoch": {epoch}')
    for content, message in (
        ("", "does not end with a final record"),
        (whole.rpartition('{"event"')[0], "does not end with a final record"),
        ("{", "is damaged (line 1: b'{' is no record)"),
        ("[1]\n", "is damaged (line 1: [1] is no record)"),
        ('{"epoch": 1}\n', "is damaged (line 1: it has no train_loss)"),
        ('{"event": "final"}\n', "is damaged (line 1: it has no test_accuracy)"),
        (whole.replace('"epoch": 2', '"epoch": 3'), "is damaged (line 2: epoch is 3)"),
        (whole.replace('"epochs": 2', '"epochs": 3'), "is damaged (line 3: epochs is 3)"),
        (whole.replace("91.0", "true"), "is damaged (line 3: best_test_accuracy is True)"),
        (whole.replace("91.0", "NaN"), "is damaged (line 3: best_test_accuracy is nan)"),
        (fired.replace('{"a": 0.2}', '{"b": 0.2}'), "is damaged (line 2: rates names other layers than before)"),
        (fired.replace('{"a": 0.2}', '{"a": "0.2"}'), "is damaged (line 2: rates is {'a': '0.2'})"),
        (whole.replace("91.0", "[" * 100_000), "is damaged (line 3: b'{\"event"),
    ):
        path.write_text(content)
        with pytest.raises(UserError) as error:
            publishing.results_table(tmp_path)
        assert f"{path} {message}" in str(error.value)
    path.write_text(whole)
    for page in ("", "    tsslbp train", "    tsslbp train evidence 'open", "    tsslbp train evidence --seed"):
        (tmp_path / "a/README.md").write_text(page)
        with pytest.raises(UserError, match=r"README\.md must hold the command"):
            publishing.results_table(tmp_path)


def test_every_log_of_this_repository_is_read():
    logs = sorted((Path(__file__).parents[1] / "results").glob("*/seed*.jsonl"))
    if not logs:
        pytest.skip("the repository's results are not here")
    for path in logs:
        history, final = records.read(path)
        assert final["epochs"] == len(history)


def test_a_run_that_kept_its_test_set_for_the_end_has_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    *epochs, last = log(2, best_test_accuracy=None, best_test_epoch=None).splitlines(keepends=True)
    epochs = [epoch.replace('"test_accuracy": 90.0', '"test_accuracy": null') for epoch in epochs]
    (tmp_path / "run/metrics.jsonl").write_text("".join([*epochs, last]))
    page = publishing.write_results(tmp_path / "mnist", "tsslbp train mnist-cnn", [tmp_path / "run"]).read_text()
    assert "| seed | test accuracy, % | validation, % | epoch chosen |" in page
    assert "validation" in (tmp_path / "mnist/curve.svg").read_text()
    assert "| 90.00 | – |" in publishing.results_table(tmp_path)


def test_notes_on_a_page_outlive_more_seeds(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text(log(2))
    made = [tmp_path / "results", "tsslbp reproduce mnist-cnn", [tmp_path / "run"]]
    page = publishing.write_results(*made)
    first = page.read_text()
    page.write_text(f"{first}\n## Seed 0\n\n| a | b |\n| --- | --- |\n")
    made[2] *= 2
    assert publishing.write_results(*made).read_text().endswith("\n\n## Seed 0\n\n| a | b |\n| --- | --- |\n")
    assert page.read_text().count("Test accuracy is that of") == first.count("Test accuracy is that of") == 1


def test_a_damaged_run_costs_no_results(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text(log(2))
    publishing.write_results(tmp_path / "results", "tsslbp reproduce mnist-cnn", [tmp_path / "run"] * 2)
    before = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    (tmp_path / "run/metrics.jsonl").write_text(log(2)[:-50])
    with pytest.raises(UserError, match="is damaged"):
        publishing.write_results(tmp_path / "results", "tsslbp reproduce mnist-cnn", [tmp_path / "run"] * 2)
    assert {path: path.read_bytes() for path in (tmp_path / "results").iterdir()} == before


def test_seeds_are_those_of_the_logs(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "README.md").write_text("# old\n\n    tsslbp reproduce mnist-cnn\n")
    for seed in (0, 2):
        (folder / f"seed{seed}.jsonl").write_text(log(2))
    publishing.write_page(folder, markdown=True)
    assert "\n| 2 | " in (folder / "README.md").read_text()
    assert "\n| 1 | " not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("page", "logs", "message"),
    [
        ("\n\n    tsslbp reproduce mnist-cnn\n", {"seed0": 2, "seed1": 3}, "differ in epochs, or in what was measured"),
        ("# old\n    tsslbp reproduce mnist-cnn\n", {"seed0": 2}, "has no command in a paragraph of its own in README.md"),
        ("\n\n    tsslbp reproduce mnist-cnn\n", {"seedX": 2}, "has no log seedN.jsonl"),
    ],
)
def test_a_folder_that_is_none_is_said_in_a_line(page, logs, message, tmp_path):
    (tmp_path / "README.md").write_text(page)
    for name, epochs in logs.items():
        (tmp_path / f"{name}.jsonl").write_text(log(epochs))
    with pytest.raises(UserError, match=message):
        publishing.write_page(tmp_path, markdown=True)


def test_a_data_root_for_results_has_no_effect(capsys):
    for folder in ("compare-tuned-quickstart", "studies/mnist-cnn", "mnist-cnn-best"):
        assert cli.main(["report", str(ROOT / "results" / folder), "--markdown", "--data-root", "x"]) == 2
        assert "--data-root has no effect" in capsys.readouterr().err.splitlines()[-1]
