"""Rows of the results table: trained, written, read again, and told as they came out."""

import json
import statistics
from xml.etree import ElementTree

import pytest
import torch

from tsslbp import UserError, cli, report


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
    table = report.results_table(tmp_path / "results")
    assert table in capsys.readouterr().out
    *_, row = table.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["[`fashion-mnist-fc`](results/fashion-mnist-fc-2-epochs)", "`tssl`", "2", "2", mean_sd]
    assert cells[7] == "89.75 ± 0.03 after 100 epochs"


def test_what_is_there_is_used(tmp_path, samples, monkeypatch):
    assert reproduce(tmp_path, samples, "--seeds", "2") == 0
    before = (tmp_path / "results/fashion-mnist-fc-2-epochs/seed0.jsonl").read_text()
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *arguments: (steps.append(1), step(*arguments))[1])
    assert reproduce(tmp_path, samples, "--seeds", "1") == 0
    assert not steps
    folder = tmp_path / "results/fashion-mnist-fc-2-epochs"
    assert (folder / "seed0.jsonl").read_text() == before
    assert not (folder / "seed1.jsonl").exists(), "a page of one seed is not left with the log of another"
    assert "±" not in (folder / "README.md").read_text(), "one seed has no standard deviation"


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


def test_rows_come_in_the_order_of_the_recipes_and_spike_trains_stay_out(tmp_path):
    for name, recipe, extra in (("a", "evidence", {}), ("b", "mnist-cnn", {}), ("c", "spike-pattern", {"f1": 1.0})):
        (tmp_path / name).mkdir()
        command = f"tsslbp train {recipe} --seed N --rule 'tssl(clip=1)'     (N = 0)"
        (tmp_path / name / "README.md").write_text(f"# {name}\n\n    {command}\n")
        final = {"event": "final", "test_accuracy": 90.0, "best_test_accuracy": 91.0, "epochs": 3, "seconds": 1234.5, **extra}
        (tmp_path / name / "seed0.jsonl").write_text('{"epoch": 1}\n' + json.dumps(final) + "\n")
    rows = report.results_table(tmp_path).splitlines()[2:]
    assert rows == [
        "| [`mnist-cnn`](results/b) `--rule 'tssl(clip=1)'` | `tssl(clip=1)` | 3 | 1 | 90.00 | 91.00 | 1,234 "
        "| 99.50 ± 0.02 after 100 epochs |",
        "| [`evidence`](results/a) `--rule 'tssl(clip=1)'` | `tssl(clip=1)` | 3 | 1 | 90.00 | 91.00 | 1,234 |  |",
    ]


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    log = tmp_path / "a/seed0.jsonl"
    for content in ("", "{", '{"epoch": 1}\n', "[1]\n"):
        log.write_text(content)
        with pytest.raises(UserError, match=r"seed0\.jsonl does not end with a final record"):
            report.results_table(tmp_path)
    log.write_text('{"event": "final"}\n')
    with pytest.raises(UserError, match=r"README\.md must hold the command"):
        report.results_table(tmp_path)
