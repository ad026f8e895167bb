"""The documents: their code runs, what they link to exists, what is generated is up to date."""

import importlib
import re
from pathlib import Path

import pytest

from tsslbp import catalogue, rules

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["gradient.md", "own-rule.md"]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_code_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    names = {"__name__": "page"}
    assert blocks(page)
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_symbols_that_are_there(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./src/(\S+?)\.py\)", text)
    assert len(links) >= 3
    for symbol, path in links:
        found = importlib.import_module(path.replace("/", "."))
        for name in symbol.split("."):
            found = getattr(found, name)


def test_table_of_rules_is_up_to_date():
    assert (DOCS / "rules.md").read_text(encoding="utf-8") == catalogue.markdown(), "tsslbp rules --markdown > docs/rules.md"
