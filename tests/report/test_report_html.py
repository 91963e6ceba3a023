"""HTML reports: texts escaped, numbers all there, nothing loaded, always the same; and what the CLI refuses."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report.making import HOSTILE, printed, record, report, sweep_page, write_run
from study_trainings import study, training

from sapo.cli.stages import report_command
from sapo.core.errors import ConfigError, RecordError
from sapo.core.untrusted import one_line, plain
from sapo.experiments.study.records import append_study
from sapo.report.blocks import Command, Listing, Note, Page, Plot, Section, Table
from sapo.report.html import to_html
from sapo.report.numbers import Figure
from sapo.report.page import results_page
from sapo.report.plots import Range, curves, ranges, scatter, to_svg
from sapo.report.publish import read_report
from sapo.report.study import study_page
from sapo.runs.records import append_record


def hostile_page() -> Page:
    """A page with every block and figure, and every text of it hostile."""
    drawn = [
        Range(HOSTILE, Figure(1.5, (0.5, float("inf"))), (0.25, 2.0), HOSTILE), Range(HOSTILE, Figure(None, None)),
    ]  # fmt: skip
    blocks = (
        curves(HOSTILE, (HOSTILE, "1"), HOSTILE, HOSTILE, {HOSTILE: (1.0, None), "b": (2.0, 3.0)}),
        ranges(HOSTILE, drawn, HOSTILE, 0.0, HOSTILE), ranges(HOSTILE, [Range("b", Figure(1.0, (1.0, 1.0)))], "x"),
        scatter(HOSTILE, {HOSTILE: [(1.0, 2.0)], "b": [(1.0, 2.0)]}, HOSTILE, HOSTILE),
        Table((HOSTILE, "number"), ((HOSTILE, "1.5"), ("b", "2.5")), HOSTILE, (HOSTILE,), bold=frozenset({0})),
        Table((HOSTILE, "number"), ((HOSTILE, "1.5"),) * 40, HOSTILE), Note(HOSTILE, "bold"), Note(HOSTILE, "dim"),
        Listing(HOSTILE, HOSTILE, "the original"), Command(("sapo", HOSTILE), HOSTILE),
    )  # fmt: skip
    sections = (Section(HOSTILE, blocks), Section("reference", (Note("x"),), "reference"))
    return Page(HOSTILE, sections, (Note(HOSTILE, "bold"),))


def every_page(directory: Path) -> dict[str, Page]:
    """Pages of a run, a comparison, a sweep and a study, with some hostile texts; runs lie in the directory."""
    texts = ["Say <b>yes</b> or no.", f"{HOSTILE} 2", "Answer with one word."]
    first = write_run(directory / "a", texts=texts)
    other = write_run(directory / "b", policy="original", better=15)
    sweep = [
        record(method, policy, seed, sequence="demo <script>", values={"ap": 50.0 + 3 * seed, "bwt_final": -2.0 * seed})
        for method in ("seq-lora", "ewc")
        for policy in ("original", "sapo")
        for seed in (1, 2, 3)
    ]
    return {
        "run": results_page([first]),
        "comparison": results_page([first, other]),
        "sweep": sweep_page(sweep),
        "study": study_page(
            study(np.random.default_rng(4), transitions=("a>b", "a>b>c"), candidates=6, arms=("sgd",), seeds=(1, 2))
        ),
        "hostile": hostile_page(),
    }


class Reader(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "use", "path", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    return every_page(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def documents(pages: dict[str, Page]) -> dict[str, str]:
    return {name: to_html(page) for name, page in pages.items()}


# Escaping


def test_hostile_texts_are_text_in_every_element(documents: dict[str, str]) -> None:
    allowed = (
        "html head meta title style body div p h1 h2 h3 section nav ul li a main figure figcaption svg g path text use "
        "defs clippath rect metadata details summary table thead tbody tr th td pre code s strong tspan"
    )
    for name, document in documents.items():
        reader = Reader(document)
        found = {tag for tag, _ in reader.tags if ":" not in tag}
        assert found <= {*allowed.split(" ")}, name
        assert not any(attribute.startswith("on") for _, given in reader.tags for attribute in given), name
        assert "\x1b" not in document and "\x00" not in document and "\u202e" not in document, name
        assert reader.open == [], name


def test_hostile_texts_are_shown_as_they_are(documents: dict[str, str]) -> None:
    reader, line = Reader(documents["hostile"]), one_line(plain(HOSTILE))
    for tag in ("title", "h1", "h2", "h3", "p", "td", "th", "li", "code", "figcaption", "a", "summary", "strong"):
        assert any(line in one_line(text) for text in reader.of(tag)), tag
    # Neither a template nor mathematics: braces and dollars are themselves, also in the texts of figures.
    assert any(text.startswith("[bold red]x[/] | `c` *b* <script>") for text in reader.of("text"))


def test_any_letters_can_be_drawn() -> None:
    wide, leftward = "\u5317\u4eac " * 30, "\u0645\u0631\u062d\u0628\u0627 " * 20
    texts = ("", wide, leftward, "a\nb", "\ud800", "\uffff", "$x_1$")
    whole = " ".join(texts)
    for plot in (
        curves(whole, texts, whole, whole, {text: (1.0,) * len(texts) for text in texts}),
        ranges(whole, [Range(text, Figure(1.0, None), note=text) for text in texts], whole),
        scatter(whole, {text: [(1.0, 2.0)] for text in texts}, whole, whole),
    ):
        drawn = Reader(to_svg(plot, "salt"))
        assert drawn.tags[0][0] == "svg" and drawn.tags[0][1]["aria-label"] == one_line(plain(whole))
        for text in texts:
            assert any(one_line(plain(text), 44) in words for words in drawn.of("text")), text


# Numbers


def test_every_number_of_a_table_is_in_the_document(pages: dict[str, Page], documents: dict[str, str]) -> None:
    for name, page in pages.items():
        reader = Reader(documents[name])
        found = {one_line(text) for text in reader.of("td", "strong")}
        blocks = [block for section in page.sections for block in section.blocks]
        for block in blocks:
            if isinstance(block, Table):
                assert {one_line(plain(cell)) for row in block.rows for cell in row} - {""} <= found, name
        assert sum(tag == "svg" for tag, _ in reader.tags) == sum(isinstance(b, Plot) for b in blocks) >= 2, name


def test_a_figure_holds_its_values_to_scale() -> None:
    svg = to_svg(scatter("t", {"g": [(float(x), float(x)) for x in (0, 1, 3)]}, "x", "y"), "salt")
    places = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)]
    (x0, y0), (x1, y1), (x3, y3) = places[places.index(next(p for p in places if places.count(p) > 1)) :][:3]
    assert (x3 - x0) / (x1 - x0) == pytest.approx(3, abs=1e-3) and (y0 - y3) / (y0 - y1) == pytest.approx(3, abs=1e-3)


# One file, always the same


def test_nothing_is_loaded_and_nothing_runs(documents: dict[str, str]) -> None:
    for name, document in documents.items():
        for tag, attributes in Reader(document).tags:
            assert tag not in ("script", "link", "img", "iframe", "object", "base"), name
            for attribute in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert attributes.get(attribute, "#").startswith("#"), (name, attributes)
        # Figures take the colour of the page.
        assert "currentColor" in document and "#010203" not in document and "#000000" not in document
        style = document[document.index("<style>") : document.index("</style>")]
        assert "url(" not in style and "@import" not in style
        assert "default-src 'none'; style-src 'unsafe-inline'" in html.unescape(document)


def test_a_page_is_always_the_same_and_its_names_are_its_own(pages: dict[str, Page], documents: dict[str, str]) -> None:
    # It holds blocks and figures of every kind.
    assert to_html(pages["hostile"]) == documents["hostile"]
    for name, document in documents.items():
        names = re.findall(r' id="([^"]*)"', document)
        assert len(names) == len(set(names)), name
        used = set(re.findall(r'href="#([^"]*)"', document)) | set(re.findall(r"url\(#([^)]*)\)", document))
        assert used <= set(names), name


@pytest.mark.parametrize("width", [80, 120])
def test_every_page_fits_a_terminal_and_breaks_no_number_and_no_word(pages: dict[str, Page], width: int) -> None:
    for name in ("run", "comparison", "sweep", "study"):
        text = printed(pages[name], width)
        # A command is never broken, so that it can be copied.
        lines = [line for line in text.split("\n") if not line.startswith("  sapo ")]
        assert max(map(len, lines)) <= width and "…" not in text and "\x1b" not in text, name
        shown = [b for s in pages[name].sections if s.depth != "reference" for b in s.blocks if isinstance(b, Table)]
        for table in shown:
            words = [(table.numeric(i), word) for row in table.rows for i in range(len(row)) for word in row[i].split()]
            # Words that are longer than any column must be may be broken, and a clipped text is cut.
            assert all(word in text for number, word in words if number or (len(word) <= 26 and not table.clipped)), (
                name,
                table.title,
            )


# Files and the command line


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take long to draw, and other tests look at them."""
    monkeypatch.setattr("sapo.report.html.to_svg", lambda plot, salt: "<svg></svg>")


@pytest.mark.usefixtures("no_figures")
def test_html_is_written_next_to_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("a"))
    write_run(Path("b"), policy="original")
    append_record(Path("sweep/records.jsonl"), record())
    append_study(Path("study/study.jsonl"), training())
    for n, paths in enumerate((["a"], ["a", "b"], ["sweep"], ["study"])):
        assert f"Everything with figures, for a browser: new/{n}.html" in report(*paths, html=f"new/{n}.html")
        assert Path(f"new/{n}.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for paths, message in (
        (["a", "study"], "study is a study, but a is a run"),
        (["a", "sweep"], "sweep is a sweep, but a is a run"),
        (["study", "sweep/records.jsonl"], "study is a study, but .*records.jsonl is a sweep"),
        (["study", "study/study.jsonl"], "are studies: report them one by one"),
    ):
        with pytest.raises(RecordError, match=message):
            read_report([Path(path) for path in paths])


@pytest.mark.usefixtures("no_figures")
def test_a_name_or_place_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for out, message in (
        *((name, r"must end in \.html or \.htm") for name in ("report", "report.pdf", "report.html.txt", ".html")),
        *((name, "cannot be written") for name in ("file/x.html", "folder.html")),
    ):
        with pytest.raises(ConfigError, match=rf"--html .* {message}"):
            report_command([tmp_path / "a"], tmp_path / out)
    assert not (tmp_path / "a/report.md").exists()
    report_command([tmp_path / "a"], tmp_path / "deep/er/OUT.HTM")
    assert (tmp_path / "deep/er/OUT.HTM").is_file() and "OUT.HTM" in capsys.readouterr().out
