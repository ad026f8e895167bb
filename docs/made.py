"""The pages of the site that nobody writes: the reference, and copies of what the pages link to outside of this folder.

``conf.py`` calls :func:`make`, which writes ``reference/``, ``repository/`` and an example of each kind of report, and has
:func:`read` turn links of a repository viewer into links of the site.
"""

import contextlib
import io
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from docutils import nodes
from sphinx import addnodes

from tsslbp import cli, report, study
from tsslbp.cli import publishing
from tsslbp.cli.commands import COMMANDS
from tsslbp.training import recipes
from tsslbp.training.settings import GROUPS, TrainConfig
from tsslbp.utils.fields import Group, Must, docstrings, flag, kinds_of
from tsslbp.utils.tables import markdown

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 88
"""Characters of a line of code that fit on a page."""
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
ITEM = re.compile(r"^- \[([^]]+)\]\(([^)#\s]+)\)", re.MULTILINE)

MODULES = {
    "tsslbp": "Build, call and load",
    "tsslbp.network": "Networks",
    "tsslbp.network.state": "States between chunks",
    "tsslbp.layers": "Layers",
    "tsslbp.neuron": "The neuron",
    "tsslbp.rules": "Learning rules",
    "tsslbp.layers.quantisation": "Weights of few bits",
    "tsslbp.layers.sparse": "Maps by what changes",
    "tsslbp.losses": "Losses",
    "tsslbp.encoding": "Encoders",
    "tsslbp.utils.signals": "Signals",
    "tsslbp.metrics": "Decoding outputs",
    "tsslbp.metrics.spike_trains": "Spike-train distances",
    "tsslbp.network.notation": "Notation of networks",
    "tsslbp.data": "Data sets",
    "tsslbp.data.arrays": "Arrays of your own",
    "tsslbp.data.npz": "Files of your own",
    "tsslbp.data.synthetic": "Synthetic tasks",
    "tsslbp.data.audio": "Sound",
    "tsslbp.data.speech": "Spoken digits",
    "tsslbp.sklearn": "scikit-learn classifier",
    "tsslbp.report.plot": "Figures",
    "tsslbp.training": "Training runs",
    "tsslbp.utils.distributed": "Several processes",
    "tsslbp.exchange.nir": "NIR graphs",
    "tsslbp.exchange.onnx": "ONNX graphs",
}
"""What the API reference has a page of, with its title."""
ELSEWHERE = ("TSSL", "EventProp", "Rule", "Surrogate")
"""Names of the package that the page of another module describes."""
ROUTING = ("set_fit_request", "set_score_request")
"""Methods that scikit-learn adds to every estimator."""
EQUATIONS = {"tsslbp.rules": ("base", "tssl", "surrogate", "eventprop")}
"""Modules whose docstring, with its equations, stands on the page of their package."""
REFERENCE = {
    "api": "Python API",
    "commands": "Command line",
    "settings": "Settings",
    "recipes": "Recipes",
    "reports": "Example reports",
}
"""Pages of the reference, which the table of contents names after those that are written."""
EXAMPLES = {"compare": "compare-mnist-cnn", "study": "studies/mnist-cnn"}
"""Folders of results of which the site shows the HTML page."""


def make(docs: Path = DOCS) -> None:
    """Write all that is made into the folder of the pages."""
    for folder in ("reference", "repository"):
        shutil.rmtree(docs / folder, ignore_errors=True)
    for name, text in {**reference(), **repository()}.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text, encoding="utf-8")
    examples(docs / "_build")


def reference() -> dict[str, str]:
    """The pages of the reference by their path."""
    pages = {"api": api(), "commands": commands(), "settings": settings(), "recipes": recipes_page(), "reports": reports()}
    return {f"reference/{name}.md": text for name, text in {**pages, **dict(modules())}.items()}


def api() -> str:
    rows = [[f"[{title}](api/{name}.md)", f"`{name}`"] for name, title in MODULES.items()]
    toc = "\n".join(f"api/{name}" for name in MODULES)
    return f"# Python API\n\n{markdown(('page', 'module'), rows)}\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"


def modules() -> Iterator[tuple[str, str]]:
    """A page of the API for each module, which autodoc fills."""
    for name, title in MODULES.items():
        lines = [f".. automodule:: {name}"]
        if left_out := {"tsslbp": ELSEWHERE, "tsslbp.sklearn": ROUTING}.get(name):
            lines += [f"   :exclude-members: {', '.join(left_out)}"]
        for part in EQUATIONS.get(name, ()):
            docstring = [f".. automodule:: {name}.{part}", "   :no-members:", "   :no-index:"]
            lines += ["", f".. rubric:: {name}.{part}", "", *docstring]
        yield f"api/{name}", f"# {title}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```\n"


def commands() -> str:
    """What every command and every study prints for ``--help``."""
    names = [*COMMANDS, *(f"study {name}" for name in study.studies())]
    parts = ["# Command line", "```text\n" + printed("--help") + "```"]
    for name in sorted(names, key=lambda name: list(COMMANDS).index(name.split()[0])):
        parts += [f"## tsslbp {name}", "```text\n" + printed(*name.split(), "--help") + "```"]
    return "\n\n".join(parts) + "\n"


def printed(*arguments: str) -> str:
    """What a command prints, as wide as a page."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(WIDTH)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            cli.main(list(arguments))
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if before is None else {"COLUMNS": before})
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "".join((line if len(line) <= WIDTH else textwrap.fill(line, WIDTH)) + "\n" for line in lines)


def settings() -> str:
    """Every setting of a training, by group, from its declaration."""
    about = (
        "`tsslbp train RECIPE --help` lists these flags with the defaults of a recipe. "
        "The file `config.toml` in a run's folder holds them by group, with `_` for `-`."
    )
    parts = ["# Settings", about]
    for name, group in GROUPS.items():
        parts += [f"## {name.capitalize()}: `[{name}]`", group.__doc__ or "", "\n".join(map("- {}".format, entries(group)))]
    return "\n\n".join(parts) + "\n"


def entries(group: type[Group]) -> Iterator[str]:
    """A line for each setting of a group: flag, type, default, range and docstring."""
    said = docstrings(group)
    for name, kind in kinds_of(group).items():
        demands = [demand for demand in get_args(kind)[1:] if isinstance(demand, Must)] if get_origin(kind) is Annotated else []
        default = getattr(group, name)
        facts = [in_words(kind), *([] if default is None else [f"default `{value(default)}`"])]
        facts += [f"must {' and '.join(demand.be for demand in demands)}"] if demands else []
        yield f"**`{flag(name)}`** ({'; '.join(facts)}): {said[name]}"


def in_words(kind: Any) -> str:
    """A setting's type, as a reader calls it."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return "whole numbers"
    names = {"bool": "yes or no", "int": "whole number", "float": "number", "str": "text", "Path": "path"}
    (name,) = (option.__name__ for option in (get_args(kind) or (kind,)) if option is not type(None))
    return names[name]


def value(setting: Any) -> str:
    return " ".join(map(str, setting)) if isinstance(setting, (tuple, list)) else f"{setting}"


def recipes_page() -> str:
    """Every recipe with what it says of itself and its main settings."""
    parts = ["# Recipes", "`tsslbp train RECIPE` trains one of these. Every setting can be changed by its flag."]
    for name, recipe in recipes.RECIPES.items():
        given, default = (config.to_dict() for config in (recipe.config, TrainConfig()))
        changed = {key: setting for key, setting in given.items() if setting != default.get(key) and key != "recipe"}
        rows = [[f"`{flag(key)}`", f"`{value(setting)}`"] for key, setting in changed.items()]
        published = [f"The paper reports {recipe.published}."] if recipe.published else []
        parts += [f"## {name}", f"{recipe.summary}.", *published, markdown(("setting", "value"), rows).rstrip()]
    return "\n\n".join(parts) + "\n"


def reports() -> str:
    """Links to an example of each kind of HTML page."""
    kinds = {
        "run": "The report that `tsslbp train quickstart` ends with; [Read a report](/how-to-read-a-report.md) explains it.",
        "compare": "A comparison of rules: `tsslbp compare`.",
        "study": "Studies of one network: `tsslbp study`.",
    }
    lines = [f'- <a href="../examples/{name}.html">{name}.html</a>: {text}' for name, text in kinds.items()]
    about = "These pages are single HTML files, made by the package when this site was made."
    return f"# Example reports\n\n{about}\n\n" + "\n".join(lines) + "\n"


def examples(build: Path) -> None:
    """An HTML page of each kind, where conf.py takes it from. The quick start is trained once and then kept."""
    shown = build / "extra/examples"
    shown.mkdir(parents=True, exist_ok=True)
    run = build / "runs/quickstart"
    if not (run / "report.html").is_file():
        shutil.rmtree(run, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert cli.main(["train", "quickstart", "--runs-dir", str(run.parent)]) == 0
    shutil.copy(report.write(run), shown / "run.html")
    for name, folder in EXAMPLES.items():
        copied = shutil.copytree(ROOT / "results" / folder, build / "pages" / name, dirs_exist_ok=True)
        shutil.copy(publishing.write_page(copied), shown / f"{name}.html")


def repository() -> dict[str, str]:
    """Copies of what the pages link to outside of this folder, by path: pages as they are, other text in a block of code."""
    made: dict[str, str] = {}
    waiting = [*DOCS.glob("*.md"), *(ROOT / "results").rglob("README.md")]
    while waiting:
        path = waiting.pop()
        text = content(path)
        if outside(path):
            made[place(path).removeprefix("/")] = text if path.suffix == ".svg" else page(path, text)
        if path.suffix == ".md":
            found = (target(path.parent, link) for link, _ in LINK.findall(text))
            waiting += [at for at in found if at and outside(at) and place(at).removeprefix("/") not in made]
    return made


def content(path: Path) -> str:
    """A file's text; of a folder that has no page what lies in it."""
    if path.is_dir():
        return "\n".join(f"- `{each.name}`" for each in sorted(path.iterdir()) if not each.name.startswith(("_", "."))) + "\n"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"A binary file of {path.stat().st_size:,} bytes.\n"


def outside(path: Path) -> bool:
    """Whether the site needs a copy of it."""
    return not path.is_relative_to(DOCS) or path.suffix not in (".md", ".svg")


def target(folder: Path, link: str) -> Path | None:
    """What in this repository a link leads to: the page of a folder rather than the folder."""
    path = (folder / link).resolve()
    if "://" in link or not path.is_relative_to(ROOT) or not path.exists():
        return None
    return path / "README.md" if (path / "README.md").is_file() else path


def place(path: Path) -> str:
    """Where the site has a file or folder of the repository."""
    if path.is_relative_to(DOCS) and not outside(path):
        return f"/{path.relative_to(DOCS)}"
    name = f"/repository/{path.relative_to(ROOT)}"
    return name if path.suffix in (".md", ".svg") else f"{name}.md"


def page(path: Path, text: str) -> str:
    """The page of a file or folder; that of Markdown is the file itself."""
    front = "---\norphan: true\n---\n\n"  # most are in no table of contents
    if path.suffix == ".md":
        return front + text
    language = {".py": "python", ".json": "json", ".h": "cpp", ".cpp": "cpp"}.get(path.suffix, "text")
    return f"{front}# {path.relative_to(ROOT)}\n\n" + (f"``````{language}\n{text}\n``````\n" if path.is_file() else text)


def read(app: Any, docname: str, source: list[str]) -> None:
    """Sphinx's event: the text of a page, with links of the site, and the table of contents as Sphinx wants it."""
    copied = docname.startswith("repository/")
    folder = ((ROOT / docname.removeprefix("repository/")) if copied else DOCS / docname).parent
    text = re.sub(r'<a name="([^"]+)"></a>', r"(\1)=\n", source[0])
    if not docname.startswith("reference/"):
        text = LINK.sub(lambda found: rewritten(folder, found), text)
    if docname == "index":
        text += contents(text)
    if docname in ("repository/results/README", "repository/results/studies/README"):
        text += toctree("", sorted(f"{path.parent.name} <{path.parent.name}/README>" for path in folder.glob("*/README.md")))
    source[0] = text


def rewritten(folder: Path, found: re.Match[str]) -> str:
    path = target(folder, found[1])
    return found[0] if path is None else f"]({place(path)}{found[2] or ''})"


def contents(text: str) -> str:
    """Tables of contents for the sections of index.md, with the links of their lists."""
    made = ""
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        entries = [f"{name} <{link.removesuffix('.md')}>" for name, link in ITEM.findall(body)]
        entries += [f"{name} </reference/{page}>" for page, name in REFERENCE.items()] if title == "Reference" else []
        made += toctree(title, entries)
    return made


def toctree(caption: str, entries: list[str]) -> str:
    """A table of contents: beside the pages if it has a caption, else on the page itself."""
    options = [":hidden:", f":caption: {caption}"] if caption else [":maxdepth: 1"]
    return "\n```{toctree}\n" + "\n".join([*options, "", *entries]) + "\n```\n"


def equations(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's event: an indented block after a line of text is code, as in Markdown."""
    made: list[str] = []
    for line in lines:
        begins = line.startswith("    ") and len(made) > 1 and not made[-1].strip()
        before = next((earlier for earlier in reversed(made) if earlier.strip()), "")
        if begins and before and not before.startswith(" ") and not before.endswith("::"):
            made += ["::", ""]
        made.append(line)
    lines[:] = made


def values(app: Any, doctree: nodes.document) -> None:
    """Sphinx's event: a long value of a constant is left out of its heading."""
    for node in list(doctree.findall(addnodes.desc_annotation)):
        if len(node.astext()) > WIDTH and node.astext().startswith(" = "):
            node.parent.remove(node)
