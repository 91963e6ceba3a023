"""The data section of pages and the live table: hand-made inspections, narrow consoles, hostile texts."""

import io
from dataclasses import replace

from report.making import HOSTILE, printed
from report.making import page_of as made
from report.making import rows as texts
from rich.console import Console

from sapo.cli.progress import Terminal
from sapo.core.types import Example, Unused
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.report.blocks import Note, Page, Table
from sapo.report.data import data_blocks
from sapo.report.tasks import task_page
from sapo.tasks.inspection import Inspection, LabelCount, Lengths, Reason, UnusedRows, inspect_rows, lengths_of

INSPECTION = Inspection(
    task="review-sentiment", rows={"train": 400, "dev": 0, "test": 100}, selected=40, duplicates=12, conflicts=3,
    overlap=5, dropped=0, labels=(LabelCount("yes", 100, 20, 25), LabelCount("no", 298, 20, 75)),
    unused=UnusedRows(
        9, (Reason("train", "the answer is empty", 7, (3, 8, 9, 12, 20)), Reason("test", "no text", 1, (4,))), ()
    ), lengths=Lengths(10_000, 91, 4, 2),
)  # fmt: skip


def page_of(*inspections: Inspection) -> Page:
    return made(*data_blocks(inspections))


def tables(*inspections: Inspection) -> list[Table]:
    return [block for block in data_blocks(inspections) if isinstance(block, Table)]


def test_the_section_shows_counts_shares_and_reasons() -> None:
    counts, shares, unused = tables(INSPECTION)
    assert list(counts.columns) == [
        "task", "train", "test", "tokens/row", "longest", "cut", "duplicates", "overlap", "skew", "unused",
    ]  # fmt: skip
    # Selection 50 and 50 %, training 25, 74.5 and 0.5 %.
    assert texts(counts) == [["review-sentiment", "400", "100", "25", "91", "6", "12", "5", "0.25", "9"]]
    assert texts(shares) == [
        ["'no'", "74.5 %", "50.0 %", "75.0 %"],
        ["'yes'", "25.0 %", "50.0 %", "25.0 %"],
        ["not a label", "0.5 %", "0.0 %", "0.0 %"],
    ]
    assert shares.legend == ("Percent of all 400 train, 40 selection, 100 test rows.",)
    assert texts(unused) == [
        ["review-sentiment", "train", "the answer is empty", "7", "3, 8, 9, 12, 20, ..."],
        ["review-sentiment", "test", "no text", "1", "4"],
    ]
    assert unused.legend[1:] == ("1 more rows, for less common reasons, are not shown.",)


def test_every_column_is_explained() -> None:
    (legend,) = tables(INSPECTION)[0].legend
    for column in tables(INSPECTION)[0].columns[1:]:
        assert f"{column}: " in legend, column
    (short,) = tables(inspect_rows(toy_task()))[0].legend
    assert "cut: " not in short and "overlap: " in short


def test_what_deserves_attention_is_said_and_so_is_that_nothing_does() -> None:
    notes = [block.text for block in data_blocks([INSPECTION]) if isinstance(block, Note)]
    assert len(notes) == 8 and all(note.startswith("review-sentiment: ") for note in notes)
    assert any("data.drop_overlap: true to leave those training rows out." in note for note in notes)
    sound = inspect_rows(toy_task(), range(4), lengths=lengths_of(toy_task(), Renderer(tiny_tokenizer(), 512)))
    notes = [block.text for block in data_blocks([sound]) if isinstance(block, Note)]
    assert notes == ["No warnings."]


def test_many_labels_and_reasons_are_summed_up() -> None:
    labels = tuple(LabelCount(f"label {n}", n, 0, 0) for n in range(1, 31))
    reasons = tuple(Reason("train", f"reason {n}", 2, (n, n + 1)) for n in range(15))
    many = replace(
        INSPECTION,
        rows={"train": 465, "dev": 0, "test": 0},
        selected=0,
        labels=labels,
        unused=UnusedRows(30, reasons, ()),
    )
    counts, shares, unused = tables(many)
    assert list(shares.columns) == ["label", "train"]
    assert len(shares.rows) == 21 and texts(shares)[0] == ["'label 30'", f"{3000 / 465:.1f} %"]
    assert texts(shares)[-1] == ["10 other labels", f"{5500 / 465:.1f} %"]
    assert len(unused.rows) == 10 and unused.legend[1].startswith("10 more rows")
    assert texts(counts)[0][8] == "–"


def test_a_task_without_rows_still_has_a_page() -> None:
    nothing = replace(toy_task(), train=(), dev=(), test=(), unused=(Unused("train", 1, "no text"),))
    assert "no text" in printed(task_page(nothing))
    assert "–" in printed(page_of(inspect_rows(nothing)))


def test_the_page_of_a_task_shows_its_rows_and_notes() -> None:
    task = toy_task()
    task = replace(
        task,
        train=(*task.train, task.train[0], replace(task.test[0], answer="maybe")),
        unused=(Unused("test", 4, "the answer is empty"),),
        notes=("The column 'x' is taken as the input [b]here[/b]",),
        labels=("yes", "no"),
    )
    text = " ".join(printed(task_page(task), 200).split())
    assert "The column 'x' is taken as the input [b]here[/b]" in text
    assert "toy 18 8 1 1 – 1" in text
    for sentence in (
        "1 of 8 test rows have inputs that are also trained on", "1 of 18 training rows repeat",
        "1 of 18 training answers are not among", "the answer is empty", "not a label 5.6 % 0.0 %",
    ):  # fmt: skip
        assert sentence in text, sentence
    assert "longest" not in text


def test_the_first_example_of_a_conversation_is_shown_with_its_turns() -> None:
    row = Example("And now?", "Late.", (("What time?", "Early."),), ("It is late.",))
    text = printed(task_page(replace(toy_task(), train=(row,), labels=())))
    places = [text.index(part) for part in ("What time?", "Early.", "And now?", "Late.", "It is late.")]
    assert places == sorted(places)


def test_a_live_table_is_one_of_a_page_with_broken_headings_and_no_markup() -> None:
    def live(width: int, *rows: tuple[str, ...]) -> list[str]:
        file = io.StringIO()
        with Terminal(Console(file=file, width=width, color_system=None)) as progress:
            progress.table(HOSTILE, ("task", "dupli-\ncates", "skew"), rows)
        assert "\x1b" not in file.getvalue() and "\u202e" not in file.getvalue() and "…" not in file.getvalue()
        return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]

    title, above, below, _, one, two = live(300, ("a", "7", "–"), (HOSTILE, "1200", "0.25"))
    assert title.startswith("[bold red]x[/] | `c`") and two.startswith("[bold red]x[/] | `c`")
    assert (above.split(), below.split()) == (["dupli-"], ["task", "cates", "skew"])
    # Numbers are aligned right.
    assert one.split() == ["a", "7", "–"] and len(one) == len(two) and one.index("7") == two.index("1200") + 3
    rows = [line.split() for line in live(19, ("review", "1200", "0.25"), ("b", "3", "–"))]
    assert ["review", "1200"] in rows and rows[-2:] == [["review", "0.25"], ["b", "–"]]
