"""The run report: a page that stands alone, says what happened, and shows every spike it claims to show."""

import base64
import html
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tsslbp import UserError
from tsslbp.metrics import wilson_interval
from tsslbp.report import RunReport, SampleRaster, figures, run, write_run_report
from tsslbp.report import page as pages
from tsslbp.utils import tables

pytestmark = pytest.mark.painted

VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADS = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


def synthetic(classes=tuple("0123456789"), steps=5, epochs=4, silent=0, per_class=36, image=True, samples=1) -> RunReport:
    random = np.random.default_rng(0)
    n = len(classes)
    counts = np.zeros((n, n + 1), dtype=np.int64)
    for row in range(n):
        counts[row, row], counts[row, (row + 1) % n], counts[row, n] = per_class - 3 - silent, 3, silent
    history = [
        {
            "epoch": epoch,
            "train_loss": 3 / epoch,
            "train_accuracy": 99 - 30 / epoch,
            "validation_accuracy": 96 - 30 / epoch,
            "test_accuracy": 95 - 30 / epoch,
            "learning_rate": 5e-4,
            "seconds": 2.5 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    sizes = {"conv1": 300, "linear2": 60, "output": n}
    rasters = [
        SampleRaster(
            image=random.random((8, 8)) if image else None,
            label=classes[number % n],
            answer=classes[2 * number % n],
            confidence=0.625,
            spikes={name: random.random((steps, size)) < 0.2 for name, size in sizes.items()},
        )
        for number in range(samples)
    ]
    return RunReport(
        title="first run",
        command="tsslbp train quickstart --seed 1",
        settings={"network": "16C3-P2-60-10", "learning_rate": 5e-4, "padding": (1,), "validation": None},
        history=history,
        final={
            "test_accuracy": 100 * np.trace(counts[:, :n]) / counts.sum(),
            "best_epoch": epochs,
            "validation_accuracy": history[-1]["validation_accuracy"],
            "best_test_accuracy": history[-1]["test_accuracy"],
            "best_test_epoch": epochs,
            "seconds": 2.5 * epochs,
            "test_images": int(counts.sum()),
            "train_samples": 1257,
        },
        classes=classes,
        confusion=counts,
        samples=rasters,
        machine={"python": "3.11", "threads": "2"},
    )


def rendered(report: RunReport) -> str:
    name, filters, context = run._contents(report)
    return pages.template(f"{name}.html", **filters).render(context)


class Page(HTMLParser):
    """A page, checked for what every report must be: balanced, alone, described, free of repeated ids and not-a-numbers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"(?:url\(|href=\")#([^\")]+)", self.html)) <= set(ids)
        for tag, attributes in self.tags:
            assert tag not in {"script", "link", "iframe", "object"}
            assert not any(name.startswith("on") for name in attributes)
            assert all((attributes[name] or "").startswith(("#", "data:")) for name in LOADS & attributes.keys())
        assert "http:" not in self.html
        assert "https:" not in self.html
        assert "@import" not in self.html
        assert all(attributes.get("aria-label") for attributes in self.all("svg"))
        assert all(attributes.get("alt") for attributes in self.all("img"))
        assert not re.search(r"\b(nan|inf|None)\b", self.text)
        assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', self.html)
        assert "#fe00a" not in self.html

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def page(tmp_path):
    def make(report: RunReport) -> Page:
        write_run_report(tmp_path / "report.html", report)
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
        return Page(tmp_path / "report.html")

    return make


def test_the_answer_comes_first_in_one_sentence(page):
    report = synthetic()
    low, high = (f"{100 * bound:.1f}" for bound in wilson_interval(330, 360))
    text = page(report).text
    assert text.startswith("first run: 91.7 % Training run first run")
    interval = f"(95 % interval {low} to {high})"
    sentence = f"91.7 % of 360 test images correctly {interval}, with the weights of the epoch chosen on validation."
    assert sentence in text
    assert "88.5 %" in text  # validation accuracy of epoch 4
    assert "87.5 % (epoch 4)" in text  # best test epoch
    assert "training samples 1257" in text
    assert "The run itself recorded" not in text
    assert "no answer" not in text


def test_large_test_sets_get_a_second_decimal(page):
    assert "98.50 % of 2000 test images" in page(synthetic(per_class=200)).text


def test_page_has_every_part(page):
    report = synthetic()
    made = page(report)
    assert len(made.all("svg")) == 3 + len(report.samples)
    for words in (report.command, "16C3-P2-60-10", "0.0005", "(1,)", "threads", "62 % of the output's current", "time step"):
        assert words in made.text
    assert "training validation test chosen epoch (4)" in made.text
    assert "training loss" in made.text
    assert "2 1.5 84 81 80 0.0005 5" in made.text  # the second epoch in the table


def test_mistakes_in_words(page):
    counts = np.zeros((3, 4), dtype=np.int64)
    counts[:, :3] = [[80, 20, 0], [1, 48, 1], [30, 0, 70]]
    report = replace(synthetic(("cat", "dog", "eel")), confusion=counts)
    text = page(report).text
    first, second, third = (text.index(words) for words in ("eel taken for cat", "cat taken for dog", "dog taken for cat"))
    assert first < second < third
    assert "eel taken for cat : 30 times, 30.0 % of all images of eel" in text
    assert "dog taken for cat : 1 time, 2.0 % of all images of dog" in text
    assert text.count(" taken for ") == 3


def test_no_mistakes(page):
    report = synthetic()
    perfect = np.diag(np.full(10, 36))
    text = page(replace(report, confusion=np.hstack([perfect, np.zeros((10, 1), dtype=int)]))).text
    assert "No image was taken for another class." in text
    assert "taken for another class" in text
    assert "The run itself recorded 330 right answers; the matrix below, computed afterwards, counts 360." in text


def test_silent_output_is_shown_only_where_it_happened(page):
    report = synthetic(classes=("cat", "dog", "eel"), silent=2)
    quiet = {name: np.zeros_like(spikes) for name, spikes in report.samples[0].spikes.items()}
    report.samples.append(replace(report.samples[0], answer="no answer", confidence=0.0, spikes=quiet))
    text = page(report).text
    assert "6 of them got no answer" in text
    assert "cat dog eel no answer" in text  # the columns of the matrix
    assert "True class cat , no answer. The output layer never spiked." in text
    assert "conv1: 0 of 300 neurons fire, activity 0 %" in text


def test_classes_that_are_never_the_answer_are_named(page):
    report = synthetic(classes=("cat", "dog & pup", "eel"))
    counts = np.array([[33, 0, 3, 0], [20, 0, 16, 0], [3, 0, 33, 0]])
    assert "Classes that were the answer to none of them: dog & pup" in page(replace(report, confusion=counts)).text
    counts[1] = 0  # which nothing shows
    assert "answer to none" not in page(replace(report, confusion=counts)).text


def test_cells_lie_at_their_class_and_answer_in_the_colour_of_right_or_wrong():
    svg = figures.confusion("c", np.array([[901, 902, 0, 903], [0, 904, 905, 0], [906, 0, 907, 0]]), "abc")
    place = {int(n): (float(x), float(y)) for x, y, n in re.findall(r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(9\d\d)<', svg)}
    rows, columns = [{901, 902, 903}, {904, 905}, {906, 907}], [{901, 906}, {902, 904}, {905, 907}, {903}]
    for groups, axis in ((columns, 0), (rows, 1)):
        at = [{round(place[n][axis], 1) for n in group} for group in groups]
        assert all(len(positions) == 1 for positions in at)
        assert [min(positions) for positions in at] == sorted(min(positions) for positions in at)
    cells = re.findall(r"fill: var\(--(right|wrong)\); fill-opacity", svg)
    assert (cells.count("right"), cells.count("wrong")) == (3, 4)


def test_chosen_epoch_is_marked_at_its_place():
    history = synthetic(epochs=9).history

    def line(chosen):
        (x,) = re.findall(
            r'd="M ([\d.]+) [\d.]+ *\s*L \1 [\d.]+ *\s*" [^>]*stroke: var\(--ink\)', figures.accuracy("a", history, chosen)
        )
        return float(x)

    first, second, eighth, ninth = map(line, (1, 2, 8, 9))
    assert 10 < second - first == pytest.approx(ninth - eighth, abs=0.02)
    assert ninth - first == pytest.approx(8 * (second - first), abs=0.1)


def test_the_test_curve_joins_the_epochs_that_were_tested():
    history = synthetic(epochs=40).history
    for record in history[::2]:
        record["test_accuracy"] = None
    (test,) = re.findall(r'd="(M [^"]*)"[^>]*stroke: var\(--right\)', figures.accuracy("a", history, 1))[:1]
    assert test.count("L") == 19
    assert test.count("M") == 1


def test_a_point_that_is_alone_is_marked():
    history = synthetic(epochs=40).history
    for record in history[:-1]:
        record["test_accuracy"] = None
    assert figures.accuracy("a", history, 1).count("var(--right)") > 2  # beside the line without length and its legend


def test_twenty_lines_look_different():
    assert len({tuple(map(str, look.values())) for look in figures.looks(20)}) == 20


def test_a_command_breaks_between_its_words():
    report = replace(synthetic(samples=0), command="tsslbp train --name 'a <b>'  x")
    page = rendered(report)
    assert "<code><span>tsslbp</span> <span>train</span> <span>--name</span> <span>&#39;a</span> <span>&lt;b&gt;&#39;" in page
    command = re.sub("<[^>]*>", "", re.search("<code>.*?</code>", page)[0])
    assert html.unescape(command) == report.command


def test_rates_and_fallback_are_drawn_where_they_were_kept():
    report = synthetic(epochs=3, samples=0)
    assert run._firing(report.history) == []
    for record in report.history[1:]:  # as of a run that was resumed by a later release
        record |= {"rates": {"conv1": 0.25, "output": 0.5}, "fallback": {"conv1": 0.75, "output": 1.0}}
    page = rendered(report)
    assert page.count("spikes per neuron and step over 3 epochs: conv1, output") == 1
    assert page.count("share of gradient entries over 3 epochs: conv1, output") == 1
    assert "{'conv1'" not in page


def test_cells_carry_their_counts_up_to_twenty_classes():
    def numbers(n):
        counts = np.zeros((n, n + 1), dtype=np.int64)
        counts[np.arange(n), np.arange(n)] = 777
        return figures.confusion("c", counts, [f"class {i}" for i in range(n)]).count(">777<")

    assert numbers(20) == 20
    assert numbers(21) == 0


def test_names_are_text_wherever_they_appear(page):
    hostile = ("<b>bold", "</svg><script>", "--><i>", 'x" onload="y', "{{ 7 * 7 }}", "$x_1$", "_under")
    counts = np.hstack([np.full((7, 7), 2), np.zeros((7, 1), dtype=int)])
    for name in ("<b>bold", 'x" onload="y'):
        report = replace(
            synthetic(hostile),
            confusion=counts,
            title=name,
            command=name,
            settings={name: name},
            machine={"processor": name, "torch": name},
        )
        report.samples[0] = replace(report.samples[0], label=name, answer=name)
        made = page(report)
        assert f"Training run {name}" in made.text
        assert f"True class {name} , answer {name}" in made.text
        assert made.words.count(name) + (" " in name) >= 10  # the command is in words of its own
    assert all(name in made.words for name in hostile)
    assert "<b>bold" not in made.html
    assert "<i>" not in made.html


@pytest.mark.parametrize("name", ['a style="#fe00a', 'a style="}*{}"', 'a d="1.2345"'])
def test_names_are_text_and_no_attributes_of_a_figure(name):
    drawn = figures.confusion("confusion", np.array([[1, 0, 0], [0, 1, 0]]), (name, "b"))
    for svg in (drawn, figures.standalone(drawn)):
        root = ElementTree.fromstring(svg)
        assert name in [text for each in root.iter() if each.tag.endswith("text") for text in each.itertext()]
        assert not any("}*{}" in str(each.text) for each in root.iter() if each.tag.endswith("style"))


def test_letters_that_matplotlib_lacks(page, recwarn):
    assert "犬" in page(synthetic(("犬", "cat\nfish", "", "z" * 80))).text
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_text_that_is_not_unicode_still_gives_a_page(page):
    assert "run-\\udcff" in page(replace(synthetic(samples=0), title="run-\udcff")).text


def test_same_data_same_bytes_whatever_the_users_matplotlib_settings(tmp_path):
    before = dict(matplotlib.rcParams)
    write_run_report(tmp_path / "a.html", synthetic())
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "axes.grid": True}):
        write_run_report(tmp_path / "b.html", synthetic())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_in_files_bring_their_colours():
    report = synthetic()
    for drawn in (figures.confusion("confusion", report.confusion, report.classes), figures.loss("loss", report.history)):
        file = figures.standalone(drawn)
        root = ElementTree.fromstring(file)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = next(element for element in root.iter() if element.tag.endswith("}style")).text
        light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
        used = set(re.findall(r"var\((--\w+)\)", file))
        assert {"--paper", "--ink", "--muted"} <= used
        for palette in (light, dark):
            assert used <= set(re.findall(r"(--\w+): #", palette))
        named = {word for element in root.iter() for word in element.get("class", "").split()}
        assert named == set(re.findall(r"\.(s\d+) \{", style))
        assert len(file) < len(drawn) + 1500


def test_one_epoch(page):
    made = page(synthetic(epochs=1, samples=0))
    assert "chosen epoch 1 of 1" in made.text
    assert ">1<" in figures.loss("loss", synthetic(epochs=1).history)  # the tick is 1, not 1.0


def test_a_loss_that_is_not_finite_is_said_and_not_drawn(page):
    report = synthetic(epochs=4, samples=0)
    for record, loss in zip(report.history, (1.0, float("nan"), float("inf"), float("nan")), strict=True):
        record["train_loss"] = loss
    assert "not a finite number in 3 of 4 epochs, first in epoch 2." in page(report).text
    for record in report.history:
        record["train_loss"] = float("nan")
    assert "nan" not in figures.loss("loss", report.history)


def test_no_validation_split(page):
    report = synthetic(samples=0)
    for record in report.history:
        record["validation_accuracy"] = None
    text = page(replace(report, final={**report.final, "validation_accuracy": None})).text
    assert "with the weights of epoch 4." in text
    assert "its validation accuracy" not in text
    assert "training test chosen epoch (4)" in text


def test_a_test_set_that_was_measured_now_and_then_was_not_measured_once(page):
    report = synthetic(samples=0)
    final = {**report.final, "best_test_accuracy": None, "best_test_epoch": None}
    for record in report.history[::2]:
        record["test_accuracy"] = None
    assert "measured with those weights only" not in page(replace(report, final=final)).text
    for record in report.history:
        record["test_accuracy"] = None
    assert "measured with those weights only" in page(replace(report, final=final)).text


def test_names_of_classes_are_no_markdown(tmp_path):
    report = synthetic(classes=("a|b", "<b>", "[c](d)"), image=False, samples=3)
    text = run.write_run_report(tmp_path / "report.html", report, markdown=True).read_text()
    assert r"True class \<b\>, answer \[c\](d):" in text
    assert r"True class a\|b, answer a\|b:" in text
    assert tables.markdown(["x"], [["a|b"]]).endswith("| a\\|b |\n")


def test_many_classes_and_steps(page):
    made = page(synthetic(tuple(f"class {i}" for i in range(100)), steps=100, image=False))
    assert "of 3600 test samples correctly" in made.text
    assert made.all("img") == []
    assert "Classes are numbered from 0" in made.text
    assert len(made.html) < 2_000_000
    page(synthetic(tuple(map(str, range(300))), per_class=5))


@pytest.mark.parametrize("steps", [1, 13])
def test_odd_numbers_of_steps(steps):
    svg = figures.raster("r", {"output": np.eye(steps, 3, dtype=bool)}, "abc", 0, 1)
    assert f"over {steps} time steps" in svg
    assert "nan" not in svg


def test_long_sequences_are_drawn_in_fewer_dashes():
    spikes = np.zeros((2500, 3), dtype=bool)
    quiet = moves(figures.raster("r", {"output": spikes}, "abc", 0, 1))
    spikes[[0, 2, 3, 2499], 0] = True  # three steps share a dash
    svg = figures.raster("r", {"output": spikes}, "abc", 0, 1)
    assert moves(svg) - quiet == 3
    assert "a dash stands for 3 steps with a spike in them" in svg
    assert "a dash stands for 3 steps with a spike in them" in figures.trains("t", spikes, spikes, 1.0)


def test_pictures_keep_their_pixels(page):
    images = [np.linspace(0, 1, int(np.prod(shape))).reshape(shape) for shape in ((8, 8), (5, 7, 3), (1, 1))]
    report = synthetic()
    shown = page(replace(report, samples=[replace(report.samples[0], image=image) for image in images])).all("img")
    for image, attributes in zip(images, shown, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))).convert("RGB"))
        expected = image if image.ndim == 3 else image[..., None].repeat(3, axis=2)
        assert pixels.shape == (*image.shape[:2], 3)
        assert np.abs(pixels / 255 - expected).max() < 1 / 128


def moves(svg: str) -> int:
    return len(re.findall(r"M [\d.]+ [\d.]+ *\n?L", svg))


def test_every_spike_of_a_small_network_is_drawn_once():
    random = np.random.default_rng(1)
    classes = tuple("abc")
    for true, answer in ((0, 0), (2, 1), (1, None)):
        spikes = {"hidden": random.random((7, 40)) < 0.3, "output": random.random((7, 3)) < 0.4}
        quiet = {name: np.zeros_like(layer) for name, layer in spikes.items()}
        drawn = moves(figures.raster("r", spikes, classes, true, answer)) - moves(
            figures.raster("r", quiet, classes, true, answer)
        )
        assert drawn == sum(int(layer.sum()) for layer in spikes.values())


def test_time_runs_right_and_neurons_run_down():
    def at(step, neuron):
        output = np.zeros((4, 3), dtype=bool)
        output[step, neuron] = True
        svg = figures.raster("r", {"output": output}, "abc", 0, 1)
        quiet = figures.raster("r", {"output": np.zeros((4, 3), dtype=bool)}, "abc", 0, 1)
        (dash,) = set(re.findall(r'd="(M[^"]+)"', svg)) - set(re.findall(r'd="(M[^"]+)"', quiet))
        return tuple(map(float, dash.split()[1:3]))

    assert at(0, 2)[0] < at(1, 2)[0] < at(3, 2)[0]
    assert at(1, 0)[1] < at(1, 1)[1] < at(1, 2)[1]


def test_true_class_is_marked_and_a_wrong_answer_too():
    svg = figures.raster("r", {"output": np.ones((2, 4), dtype=bool)}, ("ant", "bee", "cat", "dog"), 2, 0)
    assert re.search(r"var\(--right\)[^>]*>true\s+cat<", svg)
    assert re.search(r"var\(--wrong\)[^>]*>answer\s+ant<", svg)
    assert re.search(r"var\(--ink\)[^>]*>dog<", svg)


def test_the_neurons_that_vote_for_a_class_are_drawn_in_its_row():
    def drawn(output, color):
        svg = figures.raster("r", {"output": output}, classes, 2, 0)
        return sum(moves(path) for path in re.findall(rf'<path d="[^"]*"[^>]*stroke: var\(--{color}\)', svg))

    for classes in ("abcd", [f"class {i}" for i in range(60)]):  # all neurons are drawn, or some of them
        output = np.ones((5, 3 * len(classes)), dtype=bool)
        quiet, of_class = np.zeros_like(output), np.arange(output.shape[1]) // 3
        for color, number in (("right", 2), ("wrong", 0)):
            assert drawn(output, color) - drawn(quiet, color) == drawn(output * (of_class == number), color) == 15
        assert drawn(output * (of_class == 1), "right") == 0
    svg = figures.raster("r", {"output": np.eye(5, 12, 6, dtype=bool)}, "abcd", 2, 0)
    assert ">output, 3 a class: 5 of 12 neurons fire, activity 8.33 %<" in svg
    place = {name[-1]: float(y) for y, name in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>((?:true  |answer  )?[abcd])<', svg)}
    assert [place[name] - place["a"] for name in "bcd"] == pytest.approx([11.5, 23, 34.5], abs=0.5)


@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_drawn_neurons_fire_and_are_spread_evenly(neurons, rate, seed):
    spikes = np.random.default_rng(seed).random((3, neurons)) < rate
    firing = np.flatnonzero(spikes.any(0))
    drawn = figures.drawn_neurons(spikes)
    assert len(drawn) == min(len(firing), figures.MOST_DRAWN)
    assert spikes[:, drawn].any(0).all()
    if len(firing):
        ranks = np.searchsorted(firing, drawn)
        assert ranks[0] == 0
        assert ranks[-1] == len(firing) - 1
        assert np.ptp(np.diff(ranks)) <= 1 if len(ranks) > 1 else len(firing) == 1


def test_a_large_output_keeps_the_true_class_and_the_answer():
    spikes = np.zeros((2, 500), dtype=bool)
    spikes[:, :200] = True
    drawn = figures.drawn_neurons(spikes, 499, 300)
    assert {300, 499} < set(drawn.tolist())
    assert len(drawn) == figures.MOST_DRAWN + 2


def test_a_report_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def fail(*_):
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(figures, "raster", fail)
        with pytest.raises(RuntimeError, match="boom"):
            write_run_report(path, synthetic())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="cannot write"):
            write_run_report(path, synthetic(samples=0))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "before")]


def test_reports_on_nothing_are_refused():
    report = synthetic()
    with pytest.raises(UserError, match=r"shape \[10, 10\]; 10 classes need \[10, 11\]"):
        replace(report, confusion=report.confusion[:, :10])
    with pytest.raises(UserError, match="no epoch"):
        replace(report, history=[])
    with pytest.raises(UserError, match="no test sample"):
        replace(report, confusion=0 * report.confusion)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.42 s"), (59.4, "59.4 s"), (59.6, "1 min 0 s"), (62, "1 min 2 s"), (3600, "1 h 0 min"), (7890, "2 h 11 min")],
)
def test_durations(seconds, words):
    assert pages._duration(seconds) == words
