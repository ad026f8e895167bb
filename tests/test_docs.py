"""The documents: code and commands print what the pages show, links lead somewhere, generated pages are up to date."""

import contextlib
import dataclasses
import functools
import importlib
import io
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tsslbp import cli, data, losses, rules, study
from tsslbp.cli import publishing
from tsslbp.rivals import catalogue
from tsslbp.rules import surrogate

pytestmark = pytest.mark.painted

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(<!-- minutes -->\n)?```(bash|python)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
"""A block of code, with the output that a page shows directly below it. Marked ones are left to ``make test-slow``."""
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
}
QUICK = {page for page, text in PAGES.items() if any(not slow for slow, *_ in BLOCK.findall(text))}
SLOW = {page for page, text in PAGES.items() if any(slow for slow, *_ in BLOCK.findall(text))}

NOT_RUN = {
    "python benchmarks/automatic.py": "it takes sets that may not be in the repository; test_benchmarks.py runs it on others",
    "python benchmarks/inference.py": "it takes the test images, or a quiet machine; test_benchmarks.py runs it on a few",
    "python benchmarks/streaming.py": "it takes all recordings, or a quiet machine; test_benchmarks.py runs it on a few",
    "pip install .": "it changes the environment; .ci/install tries it in a new one",
    "torchrun --nnodes": "it takes several machines",
    "srun torchrun": "it takes Slurm",
    "tsslbp compare mnist-cnn --rules tssl+,surrogate --seed": "it takes a job array; test_compare.py takes seeds one by one",
    "tsslbp study fidelity": "twenty seeds take minutes; test_fidelity.py tests the measure",
}
"""Beginnings of commands in the pages that no test runs, with the reason. All other commands of a page are run."""

NUMBER = r"\d[\d,]*(?:\.\d+)?"
PART = re.compile(rf"(\.\.\.|\[[\d, ]+\]|{NUMBER})")


def agrees(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows.

    The text must be the same, but ``...`` stands for any text. Numbers may differ by 5 percent or 0.02, as trained networks
    do where a processor rounds differently. Those in brackets, ``[5, 10]``, are shapes and must be equal. Those after "epoch"
    or "step" or before "s" say where a training settled and how long it took, and may be any. A trained network may also
    leave a few samples without an answer, or never answer a class, which ``evaluate`` then says at the end.
    """
    printed = re.sub(r"(^(no output neuron spiked for|classes that) .*\n)+\Z", "", printed, flags=re.MULTILINE).strip()
    parts = PART.split(shown.strip())  # text at even places, the rest between
    forms = {"...": r"[\s\S]*?"} | {part: f"({NUMBER})" for part in parts[1::2] if re.fullmatch(NUMBER, part)}
    found = re.fullmatch(
        "".join(forms.get(part, re.escape(part)) if i % 2 else re.escape(part) for i, part in enumerate(parts)), printed
    )
    if found is None:
        return False
    places = [i for i in range(1, len(parts), 2) if re.fullmatch(NUMBER, parts[i])]
    for i, number in zip(places, found.groups(), strict=True):
        if re.search(r"(epoch|step)\s+$", parts[i - 1]) or re.match(r" s\b", parts[i + 1]):
            continue
        wanted, got = (float(text.replace(",", "")) for text in (parts[i], number))
        if abs(wanted - got) > max(0.02, 0.05 * wanted):
            return False
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder that a reader works in, one for all pages."""
    folder = tmp_path_factory.mktemp("reader")
    for name, target in (("data", "tests/samples"), ("tests", "tests"), ("models", "models")):
        (folder / name).symlink_to(ROOT / target)
    return folder


@functools.cache
def printed_by(command: str) -> str:
    """What a command prints, errors and progress too. Several pages show the same training, which runs once."""
    began = time.process_time()  # the pages say minutes of a quiet machine
    if command.startswith("torchrun "):  # of this environment, whether it is activated or not
        words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)[1:]]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        assert cli.main(shlex.split(command)[1:]) == 0, command
    assert time.process_time() - began < 180, command
    return out.getvalue()


NEEDED = {"docs/exchange.md": ("nir", "onnx", "onnxruntime")}
"""Packages that the commands of a page need, and that may not be installed."""


def check(page: str, blocks: list[tuple[str, str, str]]) -> None:
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package, reason=f"{page} needs the package {package}")
    names = {"__name__": "page"}
    for kind, code, shown in blocks:
        if file := re.match(r"# (\w+\.py)\n", code):  # the page says that this goes into a file of its own
            Path(file[1]).write_text(code, encoding="utf-8")
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, page, "exec"), names)
            printed = out.getvalue()
        else:
            commands = [line.split("  #")[0].strip() for line in code.splitlines()]
            printed = "".join(printed_by(command) for command in commands if not command.startswith(tuple(NOT_RUN)))
        if shown:
            assert agrees(shown, printed), f"{page} shows\n{shown}\nand this printed\n{printed}"


FIRST = sorted(page for page in QUICK if re.search("^tsslbp train quickstart$", PAGES[page], re.MULTILINE))
"""Pages that begin with the same training."""


@pytest.mark.parametrize(
    "pages", [pytest.param(FIRST, id="quickstart"), *(pytest.param([page], id=page) for page in sorted(QUICK - {*FIRST}))]
)
def test_a_page_prints_what_it_shows(pages, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)  # as a Python that is started there has it
    for page in pages:
        with monkeypatch.context() as registered:
            for module, name in ((rules, "RULES"), (surrogate, "DERIVATIVES"), (losses, "LOSSES"), (data, "SETS")):
                registered.setattr(module, name, dict(getattr(module, name)))
            check(page, [block for slow, *block in BLOCK.findall(PAGES[page]) if not slow])
    if pages is FIRST:
        check_pictures(place)


def check_pictures(place: Path) -> None:
    """The tutorial's pictures are those that its commands draw."""
    for name, drawn in (("accuracy", "accuracy"), ("raster", "raster-1")):
        kept, made = (
            ElementTree.fromstring(path.read_text(encoding="utf-8")).get("aria-label")
            for path in (DOCS / f"first-steps-{name}.svg", place / f"runs/quickstart/{drawn}.svg")
        )
        assert re.sub(NUMBER, "0", kept) == re.sub(NUMBER, "0", made)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(SLOW))
def test_what_takes_minutes_prints_what_it_shows(page, place, monkeypatch):
    monkeypatch.chdir(place)
    check(page, [block for _, *block in BLOCK.findall(PAGES[page])])


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("test 98.89 %, 20 s", "test 97.22 %, 9 s", True),
        ("test 98.89 %, 20 s", "test 93.50 %, 20 s", False),
        ("epoch 30, loss 0.0007", "epoch 15, loss 0.0100", True),
        ("epoch 30, loss 0.0007", "epoch 15, loss 0.1000", False),
        ("step 3 of 5", "step 2 of 5", True),
        ("step 3 of 5", "step 3 of 6", False),
        ("[5, 297, 10]", "[5, 296, 10]", False),
        ("...\nreport: a", "epoch 1\nepoch 2\nreport: a", True),
        ("...\nreport: a", "epoch 1\nreport: a\nwarning: b", False),
        ("yes", "yes\nno output neuron spiked for 2 of these samples, which counts as wrong\n", True),
    ],
)
def test_what_agrees(shown, printed, same):
    assert agrees(shown, printed) is same


@pytest.mark.parametrize("page", ["docs/gradient.md", "docs/own-rule.md"])
def test_links_lead_to_symbols_that_are_there(page):
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./src/(\S+?)\.py\)", PAGES[page])
    assert len(links) >= 3
    for symbol, path in links:
        found = importlib.import_module(path.replace("/", "."))
        for name in symbol.split("."):
            found = getattr(found, name)


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "KNOWN_LIMITS.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", (ROOT / name).read_text(encoding="utf-8")):
        target = (ROOT / name).parent / link if link else ROOT / name
        assert link.startswith("https://") or target.exists(), link
        if anchor and target.suffix == ".md":
            text = target.read_text(encoding="utf-8")
            headings = {
                re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.MULTILINE)
            }
            assert anchor in headings | set(re.findall(r'<a name="([^"]+)"', text)), f"{link}#{anchor}"


def test_commands_that_are_not_run_are_listed():
    programs = "tsslbp|pip|make|python|git|torchrun|srun"
    indented = {
        command
        for text in PAGES.values()
        for command in re.findall(rf"^(?: {{4}}|\t)((?:{programs}) .*)", BLOCK.sub("", text), re.MULTILINE)
    }
    assert all(command.startswith(tuple(NOT_RUN)) for command in indented)
    assert not [page for page, text in PAGES.items() if re.search(r"^(```|~~~)(sh|shell|console|py)$", text, re.MULTILINE)]
    shown = indented | {
        line for text in PAGES.values() for _, kind, code, _ in BLOCK.findall(text) for line in code.splitlines()
    }
    assert all(any(command.startswith(beginning) for command in shown) for beginning in NOT_RUN), "one is not shown any more"


def test_readme_is_read_in_three_minutes():
    assert len(PAGES["README.md"].splitlines()) <= 130


def test_every_rule_option_is_explained():
    for name in rules.available():
        for option in dataclasses.fields(rules.get(name)):
            assert f"`{option.name}`" in PAGES["docs/how-to-choose-a-rule.md"], (name, option.name)


def test_every_surrogate_and_every_loss_has_its_row():
    rows = [line for line in PAGES["docs/how-to-choose-a-rule.md"].splitlines() if line.startswith("| `")]
    for name, (_, slope) in surrogate.DERIVATIVES.items():
        assert any(re.match(rf"\| `{name}` .*\| {slope:g} \|$", row) for row in rows), name
    for name, loss in losses.LOSSES.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` ")]
        for option in dataclasses.fields(loss):
            default = option.name if option.default is None else f"{option.name}={option.default}".removesuffix(".0")
            assert option.name in ("time_steps", "tau_s") or f"`{default}`" in row, (name, option.name)


def test_flags_that_are_named_exist():
    modules = [
        importlib.import_module(f"{package.__name__}.{path.stem}")
        for package in (cli, publishing, study)
        for path in Path(package.__file__).parent.glob("*.py")
    ]
    options = [thing for module in modules for thing in vars(module).values() if dataclasses.is_dataclass(thing)]
    names = {field.replace("_", "-") for cls in options for field in cls.__dataclass_fields__} | {"config", "help", "import"}
    known = {f"--{word}{name}" for word in ("", "no-") for name in names}
    known |= {"--nproc-per-node", "--max-restarts", "--signals-to-handle", "--signal"}  # of torchrun and Slurm
    for page, text in PAGES.items():
        for command in re.findall(r"`([^`]*)`|^    (tsslbp .*)", text, re.MULTILINE):
            for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", " ".join(command)):
                assert flag in known or "benchmarks/" in " ".join(command), (page, flag)


def test_table_of_rules_is_up_to_date():
    assert PAGES["docs/rules.md"] == catalogue.markdown(), "tsslbp rules --markdown > docs/rules.md"
