"""Models to give away: what the file and its card say is what the run did."""

import pytest
from safetensors import safe_open

from tsslbp import UserError, cli, report, training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("secret") / "runs"
    arguments = ["--network", "20-10", "--padding", "0", "--epochs", "3", "--seed", "7", "--runs-dir", str(runs)]
    assert cli.main(["train", "quickstart", *arguments]) == 0
    return runs / "quickstart"


def test_an_exported_model_works_alone_and_its_card_tells_of_it(trained, tmp_path, capsys):
    path = tmp_path / "models/digits.safetensors"
    assert cli.main(["export", str(trained), str(path)]) == 0
    assert capsys.readouterr().out == f"card: {tmp_path / 'models/README.md'}\n"
    _, final = training.read_metrics(trained)
    model = training.load(path)
    assert model.trained["final"] == final
    assert model.trained["settings"]["seed"] == 7
    assert cli.main(["evaluate", str(path)]) == 0
    assert f"test accuracy {final['test_accuracy']:.2f} %" in capsys.readouterr().out
    card = (tmp_path / "models/README.md").read_text()
    accuracies = f"{final['validation_accuracy']:.2f} | {final['test_accuracy']:.2f}"
    row = f"| [`digits.safetensors`](digits.safetensors) | digits | `20-10` | 5 | `tssl` | 1,480 | 3 | 7 | {accuracies} |"
    assert row in card.splitlines()
    for text in (card, str(safe_open(path, framework="pt").metadata())):
        assert "secret" not in text, "where a run lay is nobody's business"


def test_the_card_tells_of_all_models_of_the_folder(trained, tmp_path):
    report.export(trained, tmp_path / "b.safetensors")
    card = report.export(trained, tmp_path / "a.safetensors").read_text()
    assert card.index("[`a.safetensors`]") < card.index("[`b.safetensors`]")
    (tmp_path / "c.safetensors").write_bytes((trained / "model.safetensors").read_bytes())  # of which nothing is known
    assert report.model_card(tmp_path) == card
    (tmp_path / "c.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"c\.safetensors is damaged"):
        report.model_card(tmp_path)


def test_what_cannot_be_exported_is_told(trained, tmp_path):
    with pytest.raises(UserError, match="no run at"):
        report.export(tmp_path, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        report.export(trained, tmp_path / "a.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match="has not ended; go on with"):
        report.export(tmp_path / "run", tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
