"""HTML reports: texts escaped, numbers all there, nothing loaded, always the same; and what the CLI refuses."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from report.test_report import write_run
from report.test_report_sweeps import record
from rich.console import Console
from study_trainings import study, training

from sapo.cli.stages import report_command
from sapo.core.errors import ConfigError, RecordError
from sapo.core.untrusted import plain
from sapo.experiments.study.records import append_study
from sapo.report.changes import Part, changes
from sapo.report.compare import comparison_page
from sapo.report.drawings import Drawing, Heat, Intervals, Lines, Point, Range, Scatter, Series
from sapo.report.html import to_html
from sapo.report.markdown import to_markdown
from sapo.report.plots import draw
from sapo.report.publish import print_report
from sapo.report.run import run_page
from sapo.report.study import study_page
from sapo.report.sweeps import sweep_page
from sapo.report.tables import Changed, Column, Command, Figure, Listing, Note, Page, Section, Table, cells
from sapo.report.terminal import show
from sapo.runs.config.loading import make_config
from sapo.runs.records import append_record

# What would break out of an element, an attribute, a style sheet or a comment; mathematics to some; what a reader must
# not obey; a direction that turns what follows; and a word wider than any screen.
HOSTILE = (
    '<script>window.hacked = 1</script></style></title><img src="http://evil.invalid/x.png" onerror="window.hacked=1">'
    "\" onload='window.hacked=1' $x^2$ $\\frac{1$ {{ 7 * 7 }} {% raw %} <!-- \x1b[31m\x00\u202e\u200f "
    "fill: #a10001 " + "w" * 300
)


def hostile_page() -> Page:
    """A page with every block and drawing, and every text of it hostile."""
    numbers = (Range(HOSTILE, 1.5, 0.5, float("inf"), (0.25, 2.0), HOSTILE, "bad"), Range(HOSTILE, None, tone="dim"))
    drawings = (
        Lines(HOSTILE, (HOSTILE, "1"), HOSTILE, HOSTILE, (Series(HOSTILE, (1.0, None), 0), Series("b", (2.0, 3.0)))),
        Intervals(HOSTILE, HOSTILE, numbers, caption=HOSTILE),
        Intervals(HOSTILE, HOSTILE, (Range("short", 0.0), Range("b", 1.0, 1.0, 1.0)), reference=None),
        Scatter(HOSTILE, HOSTILE, HOSTILE, (Point(1.0, 2.0, HOSTILE, True), Point(1.0, 2.0, "b")), HOSTILE),
    )
    columns = (Column(HOSTILE, numeric=False), Column("number"))
    table = Table(HOSTILE, columns, (cells(HOSTILE, "1.5"), cells("b", "2.5")), (HOSTILE,))
    heat = Table(HOSTILE, columns, table.rows, heat=Heat(((None, 1.5), (None, 2.5)), "lower"), drawings=drawings[:1])
    blocks = (
        table, heat, Figure(Table(HOSTILE, columns, table.rows, drawings=drawings)), Note(HOSTILE, "good"),
        Table(HOSTILE, columns, table.rows, folded=True), Listing(HOSTILE, HOSTILE),
        Listing("long", "\n".join("x" * 40)),
        Changed(HOSTILE, HOSTILE, "the original"), Command(("sapo", HOSTILE), HOSTILE),
    )  # fmt: skip
    return Page(
        HOSTILE, (Section(HOSTILE, blocks), Section("reference", (Note("x"),), True)), (Note(HOSTILE, "strong"),)
    )


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
    hostile = [
        training(c, transition="a>b", text=HOSTILE, effects={"b": -1.0, "a": float(c), HOSTILE: -1.0}) for c in range(6)
    ]
    return {
        "run": run_page(first),
        "comparison": comparison_page([first, other]),
        "sweep": sweep_page(sweep),
        "study": study_page(
            study(np.random.default_rng(4), transitions=("a>b", "a>b>c"), candidates=6, seeds=(1, 2), link=0.8)
        ),
        "hostile study": study_page(hostile),
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
        if tag not in ("meta", "use", "path", "br"):
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


def tables_of(page: Page) -> Iterator[Table]:
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Table | Figure):
                yield block.table if isinstance(block, Figure) else block


# Escaping


def test_hostile_texts_are_text_in_every_element(documents: dict[str, str]) -> None:
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "div", "header", "p", "h1", "h2", "h3", "section", "nav"),
        *(
            "ol",
            "li",
            "a",
            "main",
            "figure",
            "figcaption",
            "svg",
            "g",
            "path",
            "text",
            "use",
            "defs",
            "clippath",
            "rect",
        ),
        *("details", "summary", "table", "thead", "tbody", "tr", "th", "td", "pre", "ins", "del"),
    }
    for name, document in documents.items():
        reader = Reader(document)
        assert {tag for tag, _ in reader.tags} <= allowed, name
        assert not any(attribute.startswith("on") for _, found in reader.tags for attribute in found), name
        assert sum(tag == "style" for tag, _ in reader.tags) == 1, name
        assert "\x1b" not in document and "\x00" not in document and "\u202e" not in document, name
        assert reader.open == [], name


def test_hostile_texts_are_shown_as_they_are(documents: dict[str, str]) -> None:
    reader = Reader(documents["hostile"])
    shown = plain(HOSTILE)
    for tag in ("h1", "h2", "h3", "p", "td", "th", "pre", "figcaption"):
        assert any(text == " ".join(shown.split()) or text == shown for text in reader.of(tag)), tag
    # Neither a template nor mathematics: braces and dollars are themselves, also in the texts of drawings.
    assert "{{ 7 * 7 }}" in documents["hostile"] and "$x^2$" in html.unescape(documents["hostile"])
    assert any(text.startswith("<script>window.hacked") and text.endswith("…") for text in reader.of("text"))


def test_a_colour_in_a_text_is_no_colour() -> None:
    svg = draw(Lines("t", ("0",), "x", "#a10001 fill: #a10002", (Series("$a_1$ #a20001", (1.0,)),)), "salt")
    texts = Reader(svg).of("text")
    assert "#a10001 fill: #a10002" in texts and "$a_1$ #a20001" in texts
    assert not re.search(r"#a[12]000\d", re.sub(r">[^<]*<", "><", svg))


@pytest.mark.parametrize(
    "text",
    ["", "\u5317\u4eac " * 30, "\u0645\u0631\u062d\u0628\u0627 " * 20, "a\nb", "\ud800", "\uffff"],
    ids=["empty", "wide", "right to left", "two lines", "broken", "no character"],
)
def test_any_letters_can_be_drawn(text: str) -> None:
    drawings: tuple[Drawing, ...] = (
        Lines(text, (text,), text, text, (Series(text, (1.0,), 0),)),
        Intervals(text, text, (Range(text, 1.0, note=text),)),
        Scatter(text, text, text, (Point(1.0, 2.0, text),)),
    )
    for drawing in drawings:
        draw(drawing, "salt").encode()


# Numbers


def test_every_figure_has_its_table_with_every_number(pages: dict[str, Page], documents: dict[str, str]) -> None:
    for name, page in pages.items():
        reader = Reader(documents[name])
        drawn = sum(len(table.drawings) for table in tables_of(page))
        assert sum(tag == "svg" for tag, _ in reader.tags) == drawn, name
        found = reader.of("td")
        for table in tables_of(page):
            for row in table.rows:
                for cell in row:
                    assert plain(cell.text) in found or not cell.text, (name, cell)
    for name, least in (("run", 9), ("comparison", 8), ("sweep", 8), ("study", 12)):
        assert sum(len(table.drawings) for table in tables_of(pages[name])) >= least, name


def test_figures_repeat_what_other_tables_hold(pages: dict[str, Page]) -> None:
    """So that a terminal and Markdown, which leave figures out, lack nothing."""
    for name in ("run", "comparison", "sweep"):
        page = pages[name]
        plainly = {
            cell.text
            for section in page.sections
            for block in section.plain
            if isinstance(block, Table)
            for row in block.rows
            for cell in row
        }
        for table in tables_of(page):
            assert {cell.text for row in table.rows for cell in row} <= plainly


def test_the_heat_is_strongest_where_the_value_is_best() -> None:
    columns = (Column("a", numeric=False), Column("x"), Column("y"))
    rows = (cells("r", "1", "2"), cells("s", "3", "–"))
    shades = []
    for better in ("higher", "lower"):
        heat = Heat(((None, 1.0, 2.0), (None, 3.0, None)), better)
        document = to_html(Page("p", (Section("s", (Table("t", columns, rows, heat=heat),)),)))
        shades.append([int(shade) for shade in re.findall(r"--shade: (\d+)%", document)])
    assert shades == [[0, 29, 58], [58, 29, 0]]


def test_a_drawing_holds_its_values_to_scale() -> None:
    svg = draw(Scatter("t", "x", "y", tuple(Point(float(x), float(x), "g") for x in (0, 1, 3))), "salt")
    places = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)][-4:-1]
    (x0, y0), (x1, y1), (x3, y3) = places
    assert (x3 - x0) / (x1 - x0) == pytest.approx(3, abs=1e-3) and (y0 - y3) / (y0 - y1) == pytest.approx(3, abs=1e-3)


def test_the_verdict_is_first_in_files_and_last_on_a_terminal(
    pages: dict[str, Page], documents: dict[str, str]
) -> None:
    for name, page in pages.items():
        said = plain(page.verdict[0].text)
        document = html.unescape(documents[name])
        assert page.verdict and document.index(" ".join(said.split())) < document.index("<nav"), name
        markdown = to_markdown(page).split("\n## ")
        assert markdown[1].startswith("In short\n"), name
        file = io.StringIO()
        show(Console(file=file, width=4000), page)
        sections = re.split(r"\n\n(?=[^\n]* ─)", file.getvalue())
        assert sections[-1].startswith("In short") and said.split()[0] in sections[-1], name


# One file, always the same


def test_nothing_is_loaded_and_nothing_runs(documents: dict[str, str]) -> None:
    for name, document in documents.items():
        for tag, attributes in Reader(document).tags:
            assert tag not in ("script", "link", "img", "iframe", "object", "base"), name
            for attribute in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert attributes.get(attribute, "#").startswith("#"), (name, attributes)
        style = document[document.index("<style>") : document.index("</style>")]
        assert "url(" not in style and "@import" not in style
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html.unescape(document)


def test_a_page_is_always_the_same_and_its_names_are_its_own(pages: dict[str, Page], documents: dict[str, str]) -> None:
    for name in ("run", "hostile"):
        assert to_html(pages[name]) == documents[name]
    for name, document in documents.items():
        names = re.findall(r' id="([^"]*)"', document)
        assert len(names) == len(set(names)), name
        used = set(re.findall(r'href="#([^"]*)"', document)) | set(re.findall(r"url\(#([^)]*)\)", document))
        assert used <= set(names), name


def test_a_big_sweep_stays_small() -> None:
    runs = [
        record(method, policy, seed, values={"ap": 40.0 + seed, "bwt_final": -seed})
        for method in ("seq-lora", "inc-lora", "ewc", "replay", "lwf", "o-lora", "osf", "full")
        for policy in ("original", "sapo", "random", "highest")
        for seed in (1, 2, 3)
    ]
    assert len(to_html(sweep_page(runs)).encode()) < 5_000_000


# Changes


@pytest.mark.parametrize(
    ("original", "text", "parts"),
    [
        ("Say yes.", "Say yes.", [("Say yes.", "Say yes.")]),
        ("Say yes or no.", "Say no or yes, now.", None),
        ("Name the odd word of these.", "Name the strange word here.", None),
        ("a", "completely different words", [("a", "completely different words")]),
        ("", "new", [("", "new")]),
        ("one two three four", "one 2 3 four", [("one ", "one "), ("two three", "2 3"), (" four", " four")]),
        ("x " * 3000, "y " * 3000, [("x " * 3000, "y " * 3000)]),
    ],
)
def test_changes_put_together_are_both_texts(original: str, text: str, parts: list[tuple[str, str]] | None) -> None:
    found = changes(original, text)
    assert "".join(part.removed for part in found) == original and "".join(part.added for part in found) == text
    if parts is not None:
        assert found == tuple(Part(*pair) for pair in parts)


def test_an_instruction_is_shown_as_what_changed() -> None:
    block = Changed("new", "Name the strange word.", "Name the <odd> word.")
    document = to_html(Page("p", (Section("s", (block,)),)))
    assert "Name the <del>&lt;odd&gt;</del><ins>strange</ins> word." in document
    assert [listing.text for listing in block.listings] == [block.text, block.original]


# Made again


def test_a_sweep_page_holds_a_configuration_that_makes_it_again() -> None:
    def run(method: str, policy: str, seed: int) -> object:
        config = {
            "model": {"base": "embedded"},
            "sequence": ["a", "b"],
            "method": method,
            "policy": policy,
            "seed": seed,
        }
        return record(method, policy, seed, config=config | {"ewc": {"weight": 2.0} if method == "ewc" else None})

    runs = [run(m, p, s) for m in ("seq-lora", "ewc") for p in ("original", "sapo") for s in (1, 2)]
    text = listing(sweep_page(runs), "sweep.yaml")  # type: ignore[arg-type]
    config = make_config({**yaml.safe_load(text), "run_dir": "x"})
    assert config.sweep is not None and config.ewc is not None and config.ewc.weight == 2.0
    assert (config.sweep.method, config.sweep.seed) == (("seq-lora", "ewc"), (1, 2))
    one = {"model": {"base": "x"}, "method": "seq-lora", "policy": "original", "seed": 1}
    odd = [record(seed=n, config={**one, "seed": n, "train": {"epochs": n}}) for n in (1, 2)]
    assert "differ in train.epochs too" in to_markdown(sweep_page(odd))


def listing(page: Page, label: str) -> str:
    return next(
        block.text
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Listing) and block.label == label
    )


# Files and the command line


def test_html_is_written_beside_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("a"))
    write_run(Path("b"), policy="original")
    append_record(Path("sweep/records.jsonl"), record())
    append_study(Path("study/study.jsonl"), training())
    for n, paths in enumerate((["a"], ["a", "b"], ["sweep"], ["study"])):
        file = io.StringIO()
        print_report(Console(file=file, width=200), list(map(Path, paths)), Path(f"new/{n}.html"))
        assert file.getvalue().endswith(f"The same with figures, for a browser: new/{n}.html\n")
        assert Path(f"new/{n}.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_kinds_are_not_mixed_and_studies_come_one_by_one(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    append_record(tmp_path / "sweep.jsonl", record())
    append_study(tmp_path / "s/study.jsonl", training())
    for paths, message in (
        (["a", "s"], "s is a study and .*a is none"),
        (["s", "sweep.jsonl"], "s is a study and .*sweep.jsonl is none"),
        (["s", "s/study.jsonl"], "are studies: report them one by one"),
    ):
        with pytest.raises(RecordError, match=message):
            print_report(Console(file=io.StringIO()), [tmp_path / path for path in paths])


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.txt", ".html"])
def test_a_name_that_is_not_html_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"--html .* must end in \.html or \.htm"):
        report_command([tmp_path / "a"], tmp_path / name)
    assert not (tmp_path / "a/report.md").exists()


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for out in ("file/x.html", "folder.html"):
        with pytest.raises(ConfigError, match=r"--html .* cannot be written"):
            report_command([tmp_path / "a"], tmp_path / out)
    assert not (tmp_path / "a/report.md").exists()


def test_the_command_writes_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a")
    report_command([tmp_path / "a"], tmp_path / "deep/er/OUT.HTM")
    assert (tmp_path / "deep/er/OUT.HTM").is_file() and "OUT.HTM" in capsys.readouterr().out
