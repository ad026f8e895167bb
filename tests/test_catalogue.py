"""The registry of rules and models: complete, true, citable; and the commands made from it."""

import json
import re
import unicodedata
from importlib.metadata import version
from pathlib import Path

import oracle
import pytest
import torch
from shared import run

import tsslbp
from tsslbp import UserError, rivals, rules
from tsslbp.rivals import catalogue
from tsslbp.rivals.check import check, numbers

ROOT = Path(__file__).parent.parent


def test_every_name_is_there_once():
    family, others = {"tssl", "tssl-paper", "tssl-submission", "tssl+"}, {"surrogate", "stbp", "slayer", "superspike"}
    assert {*family, *others, "eventprop", "e-prop"} == set(rules.available())
    assert {"tempotron", "liquid", "smooth-gate", "superspike-online", "e-prop-online", "eventprop-exact"} == set(rivals.RIVALS)
    assert len(catalogue.entries()) == len(rules.RULES) + len(rivals.RIVALS)


def test_every_module_with_an_experiment_has_an_entry():
    found = {path.stem for path in (ROOT / "src/tsslbp/rivals").glob("*.py") if "\ndef experiment(" in path.read_text("utf-8")}
    assert found == {rival.module for rival in rivals.RIVALS.values()}


def test_every_entry_is_filled_in():
    for name, entry in catalogue.entries().items():
        for text in (entry.summary, entry.paper, entry.stores):
            assert text, name
            assert "\n" not in text
            assert "|" not in text  # the table's own
        assert entry.cites, name
        assert entry.supports, name


def test_what_a_rule_supports_is_what_it_does():
    entries = catalogue.entries()
    assert "parts" not in entries["eventprop"].supports
    for name in rules.available():
        for support, runs in (("parts", parts), ("kernels", kernels)):
            if support in entries[name].supports:
                runs(name)
            else:
                with pytest.raises(UserError):
                    runs(name)


def parts(name):
    current, state = torch.ones(3, 2, requires_grad=True), torch.zeros(2, 2)
    tsslbp.lif_part(current, state, tau_m=5, tau_s=3, rule=name, backend="reference")[0].sum().backward()


def kernels(name):
    if not tsslbp.kernels.backends()["cpp"].usable:
        pytest.skip("the kernels are not built")
    engine, (psc, membrane) = tsslbp.kernels.find("cpp"), torch.ones(2, 3, 1).unbind()
    formula = engine.formula(rules.get(name))
    if formula is None:
        raise UserError("what runs on the kernels has a formula")
    engine.backward(formula, psc, membrane, tsslbp.neuron.LIF(5, 3), None, None, tsslbp.kernels.PLAIN)


@pytest.mark.parametrize("backend", [n for n in ("reference", "cpp") if tsslbp.kernels.backends()[n].usable])
@pytest.mark.parametrize("name", ["stbp", "superspike", "slayer"])
def test_a_recurrent_network_step_by_step_has_the_gradient_of_autograd(name, backend):
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(12, 2, 4, generator=generator, dtype=torch.float64) + 0.6
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    rule, gradients = rules.get(name), []
    for ours in (True, False):
        leaf, total = weight.clone().requires_grad_(), 0
        psc = u = s = torch.zeros_like(current[0])
        state = torch.zeros(2, 2, 4, dtype=torch.float64)
        for current_t in current:
            into = current_t + psc @ leaf.T
            if ours:
                out, state = tsslbp.lif_part(into.unsqueeze(0), state, tau_m=5, tau_s=3, rule=rule, backend=backend)
                psc = out[0]
            else:
                u = 0.8 * u * (1 - (s if rule.through_reset else s.detach())) + into
                s = oracle.Step.apply(u - 1, rule)
                psc = psc * 2 / 3 + s / 3
            total = total + psc.square().sum()
        gradients += torch.autograd.grad(total, leaf)
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["stbp", "slayer", "superspike", "e-prop", "eventprop"])
def test_names_and_specs_go_back_and_forth(name):
    rule = rules.get(name)
    assert rules.spec(rule) == name
    option = "clip" if name == "eventprop" else "slope"
    assert rules.spec(rules.get(f"{name}({option}=2)")) == f"{name}({option}=2)"
    assert getattr(rules.get(f"{name}({option}=2)"), option) == 2


@pytest.mark.parametrize(
    ("name", "distance", "psi"),
    [
        *[("stbp", 0.49, 1.0), ("stbp", -0.51, 0.0)],
        *[("slayer", 0.5, 0.60653066), ("slayer", -1.0, 0.36787944)],  # exp(-|x|)
        *[("superspike", 0.1, 0.25), ("superspike", -0.3, 0.0625)],  # 1/(1 + 10|x|)²
        *[("e-prop", 0.5, 0.15), ("e-prop", -1.0, 0.0)],  # 0.3·max(0, 1 - |x|)
    ],
)
def test_named_surrogates_have_the_papers_shape(name, distance, psi):
    current = torch.tensor([1 + distance], dtype=torch.float64, requires_grad=True)
    tsslbp.lif(current, tau_m=5, tau_s=1, rule=name).sum().backward()
    assert current.grad.item() == pytest.approx(psi, abs=1e-8)


def test_only_stbp_goes_through_the_reset():
    assert [name for name in ("stbp", "slayer", "superspike") if rules.get(name).through_reset] == ["stbp"]


# BibTeX.


def fields(entry):
    return dict(re.findall(r"^  (\w+)\s*= \{(.*?)\},?$", entry, re.MULTILINE | re.DOTALL))


def plain(text):
    """Letters alone, without accents, from LaTeX or not."""
    return re.sub(r"[^A-Za-z]", "", unicodedata.normalize("NFD", text))


def test_every_paper_is_cited_and_well_formed():
    cited = {key for entry in catalogue.entries().values() for key in entry.cites}
    assert cited == set(catalogue.papers())
    for key, text in catalogue.papers().items():
        assert re.match(rf"@(article|inproceedings)\{{{key},\n", text)
        assert text.count("{") == text.count("}")
        found = fields(text)
        assert {"author", "title", "year", "volume"} <= found.keys(), key
        assert "journal" in found or "booktitle" in found
        assert "doi" in found or "eprint" in found
        assert key.startswith(plain(found["author"].split(",")[0]).lower() + found["year"])


def test_paper_and_bibtex_agree():
    for name, entry in catalogue.entries().items():
        found = fields(catalogue.papers()[entry.cites[0]])
        assert found["year"] in entry.paper, name
        if "arXiv" in entry.paper and "eprint" in found:
            assert entry.paper.endswith(found["eprint"])
        assert plain(found["author"].split(",")[0]) in plain(entry.paper), name


def test_software_is_cited_as_in_citation_cff():
    cff = (ROOT / "CITATION.cff").read_text("utf-8")
    found = fields(catalogue.software())
    assert found["version"] == version("tsslbp")
    assert f"version: {found['version']}" in cff
    assert found["author"].strip("{}") in cff
    assert found["title"].startswith("tsslbp: Train deep spiking neural networks by spike timing")


def test_cite_prints_software_and_papers(capsys):
    code, out, _ = run(capsys, "cite")
    assert code == 0
    assert out == f"{catalogue.software()}\n\n{catalogue.papers()['zhang2020temporal']}\n"
    assert "@article{maass2002real," in run(capsys, "cite", "--rule", "liquid")[1]
    assert "@article{markram1998differential," in run(capsys, "cite", "--rule", "liquid")[1]
    assert "shrestha2018slayer" in run(capsys, "cite", "--rule", "slayer(slope=2)")[1]


def test_rules_lists_everything(capsys):
    out = run(capsys, "rules")[1]
    for name, entry in catalogue.entries().items():
        assert f"{name}: {entry.summary}\n    source: {entry.paper}\n" in out
    assert "local, online, recurrent" in out
    assert run(capsys, "rules", "--markdown")[1] == catalogue.markdown()


# Checks.


def test_check_keeps_what_came_out(capsys, tmp_path):
    code, out, _ = run(capsys, "check", "eventprop-exact", "--quick", "--seeds", "2", "--out", str(tmp_path / "checks"))
    assert code == 0
    assert f"result: {tmp_path}/checks/eventprop-exact-quick.json\n" in out
    assert re.search(r"^passed +True +True$", out, re.MULTILINE)
    kept = json.loads((tmp_path / "checks/eventprop-exact-quick.json").read_text())
    assert kept["passed"]
    assert kept["quick"]
    assert "torch" in kept["machine"]
    assert [result["seed"] for result in kept["runs"]] == [0, 1]
    assert kept["runs"][0]["relative_error"] != kept["runs"][1]["relative_error"]
    assert all(result["seconds"] > 0 for result in kept["runs"])


def test_a_check_that_fails_leaves_with_exit_code_1(capsys, tmp_path, monkeypatch):
    def experiment(self, seed=0, quick=False):
        return {"seed": seed, "passed": seed == 0}

    monkeypatch.setattr(rivals.Rival, "experiment", experiment)
    assert run(capsys, "check", "tempotron", "--out", str(tmp_path))[0] == 0
    assert run(capsys, "check", "tempotron", "--seeds", "2", "--out", str(tmp_path))[0] == 1
    assert not json.loads((tmp_path / "tempotron.json").read_text())["passed"]
    assert not check("tempotron", seeds=2)["passed"]


def test_numbers_are_flat():
    nested = {"a": {"b": 0.25, "c": [1, 2.5]}, "d": True, "e": [[1], [2]], "f": [{"g": 1}]}
    assert numbers(nested) == {"a.b": "0.25", "a.c": "1 2.5", "d": "True"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cite", "--rule", "slyer"], "unknown rule 'slyer'; did you mean 'slayer'"),
        (["cite", "--rule", "tempotorn"], "did you mean 'tempotron'"),
        (["check", "tempotorn"], "unknown model 'tempotorn'; did you mean 'tempotron'"),
        (["check", "tempotron", "--seeds", "0"], "seeds is 0"),
        (["check"], "NAME"),
        (["fidelity", "tssl", "--seeds", "3"], "fidelity is now: tsslbp study fidelity tssl --seeds 3 --table"),
        (["rules", "--markdwn"], "did you mean '--markdown'"),
    ],
)
def test_errors_name_the_fix_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
