"""The site: every page is in its table of contents, and everything public has its place in the reference."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import tsslbp
from tsslbp import study
from tsslbp.cli.commands import COMMANDS
from tsslbp.training import recipes
from tsslbp.training.settings import GROUPS
from tsslbp.utils.fields import flag, kinds_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def made():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("made")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pages(made):
    return made.reference()


def test_every_page_is_in_the_table_of_contents(made):
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert {path.name for path in DOCS.glob("*.md")} - {"index.md"} == set(re.findall(r"\]\(([\w-]+\.md)", text))
    toc = read(made, "index", text)
    for path in DOCS.glob("*.md"):
        assert path.name == "index.md" or f"</{path.stem}>" in toc, path
    for name in made.REFERENCE:
        assert f"</reference/{name}>" in toc


def test_every_folder_of_results_is_in_a_table_of_contents(made):
    toc = read(made, "repository/results/README", "# Results\n")
    folders = {path.parent.name for path in ROOT.glob("results/*/*") if path.is_file()} | {"studies"}
    assert folders == set(re.findall(r"^.* <(.*)/README>$", toc, re.MULTILINE))


def test_every_command_and_study_has_its_help(pages):
    text = pages["reference/commands.md"]
    for name in [*COMMANDS, *(f"study {name}" for name in study.studies())]:
        _, _, rest = text.partition(f"\n## tsslbp {name}\n")
        assert rest.startswith(f"\n```text\nusage: tsslbp {name}"), name
    assert max(map(len, text.splitlines())) <= 88


def test_every_setting_has_its_place(pages):
    text = pages["reference/settings.md"]
    for name in (name for group in GROUPS.values() for name in kinds_of(group)):
        (line,) = [line for line in text.splitlines() if line.startswith(f"- **`{flag(name)}`**")]
        assert re.search(r"\): \S.*\.\)?$", line), line
    assert "- **`--epochs`** (whole number; default `20`; must be positive): Passes over the training set." in text


def test_every_recipe_has_its_place(pages):
    text = pages["reference/recipes.md"]
    for name, recipe in recipes.RECIPES.items():
        assert f"\n## {name}\n\n{recipe.summary}.\n" in text
    assert "| `--rule` | `tssl-paper` |" in text


def test_every_public_name_has_its_place(made, pages):
    for name in tsslbp.__all__:
        thing = getattr(tsslbp, name)
        if inspect.ismodule(thing):
            assert f".. automodule:: {thing.__name__}\n" in pages[f"reference/api/{thing.__name__}.md"]
        elif name in made.ELSEWHERE:
            assert name in tsslbp.rules.__all__
    for name in made.MODULES:
        assert importlib.import_module(name).__doc__
        assert f"\napi/{name}\n" in pages["reference/api.md"]


def read(made, docname, text):
    source = [text]
    made.read(None, docname, source)
    return source[0]


def test_links_of_the_repository_lead_to_the_site(made):
    before = (
        "[a](how-to-own-data.md#networks) [b](../KNOWN_LIMITS.md) [c](../results/evidence) [d](../src/tsslbp/neuron.py) "
        "[e](https://example.org/x.md) ![f](crossing.svg) [g](../src/tsslbp/kernels) "
    )
    assert read(made, "gradient", before) == (
        "[a](/how-to-own-data.md#networks) [b](/repository/KNOWN_LIMITS.md) [c](/repository/results/evidence/README.md) "
        "[d](/repository/src/tsslbp/neuron.py.md) [e](https://example.org/x.md) ![f](/crossing.svg) "
        "[g](/repository/src/tsslbp/kernels.md) "
    )
    assert read(made, "repository/results/evidence/README", "![c](curve.svg) [l](../README.md)") == (
        "![c](/repository/results/evidence/curve.svg) [l](/repository/results/README.md)"
    )
    assert read(made, "answers", 'see\n\n<a name="intra"></a>**The term.**') == "see\n\n(intra)=\n**The term.**"


def test_what_pages_link_to_is_copied(made):
    copies = made.repository()
    for name in ("README.md", "KNOWN_LIMITS.md", "results/compare-mnist-cnn/README.md", "src/tsslbp/neuron.py.md"):
        assert f"repository/{name}" in copies
    assert (ROOT / "src/tsslbp/neuron.py").read_text(encoding="utf-8") in copies["repository/src/tsslbp/neuron.py.md"]
    assert copies["repository/results/evidence/curve.svg"] == (ROOT / "results/evidence/curve.svg").read_text(encoding="utf-8")
    for docname, text in copies.items():
        if docname.endswith("README.md"):
            for link in re.findall(r"\]\(/(repository/[^)#]+)", read(made, docname.removesuffix(".md"), text)):
                assert link in copies, (docname, link)


def test_equations_in_docstrings_are_code(made):
    lines = ["The neuron:", "", "    u = 1", "    s = 2", "", "Args:", "    x: text.", "", "Such::", "", "    code"]
    made.equations(None, "module", "a", None, None, lines)
    assert lines == ["The neuron:", "", "::", "", *lines[4:]]
    assert lines.count("::") == 1
