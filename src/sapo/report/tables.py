"""What a page consists of: frozen values that a terminal, a Markdown file and an HTML file can show alike.

Every string in them is plain text from anywhere (data, models, users) and never markup; who shows it escapes
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sapo.report.drawings import Drawing, Heat

Style = Literal["", "strong", "dim", "good", "bad"]
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table. Its style only repeats what its text says: colour may be missing."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        numeric: whether it holds numbers, which are aligned right and never wrapped; texts wrap.
        short: a shorter heading for where there is no room for the title.
    """

    title: str
    numeric: bool = True
    short: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings, and sentences that say what the columns mean.

    Attributes:
        title: its heading, may be empty.
        columns: the headings of its columns.
        rows: its cells.
        legend: what the columns mean.
        heat: values to colour the cells by, where colours can be shown.
        drawings: of the same numbers, where any can be shown.
        folded: whether it is looked up rather than read.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    legend: tuple[str, ...] = ()
    heat: Heat | None = None
    drawings: tuple[Drawing, ...] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Drawings with their table, whose numbers stand in other tables of the page too.

    It is left out where nothing can be drawn: there it would only say everything twice.
    """

    table: Table


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A text shown as it is, under a label."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Changed:
    """An instruction that replaces another one.

    Attributes:
        label: what it is.
        text: the new text.
        original: the one that it replaces.
        told: whether the page shows that one elsewhere, so that it need not be repeated beside the new one.
    """

    label: str
    text: str
    original: str
    told: bool = False

    @property
    def listings(self) -> tuple[Listing, ...]:
        """Both texts, for where their difference cannot be shown."""
        replaced = () if self.told else (Listing("  instead of the original", self.original),)
        return (Listing(self.label, self.text), *replaced)


@dataclass(frozen=True, slots=True)
class Command:
    """What to type next, as words to be quoted for a shell, and what it is for."""

    words: tuple[str, ...]
    purpose: str


Plain = Table | Note | Listing | Command
Block = Plain | Figure | Changed


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it.

    Attributes:
        title: the heading.
        blocks: what stands under it.
        reference: whether it is kept for later and others; a terminal, which has the files at hand, leaves it out.
    """

    title: str
    blocks: tuple[Block, ...]
    reference: bool = False

    @property
    def plain(self) -> Iterator[Plain]:
        """Its blocks for where nothing can be drawn."""
        for block in self.blocks:
            if isinstance(block, Changed):
                yield from block.listings
            elif not isinstance(block, Figure):
                yield block


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report.

    Attributes:
        title: what it is about.
        sections: its parts.
        verdict: what it says in short, with its uncertainty. A file begins with it, a terminal ends with it.
    """

    title: str
    sections: tuple[Section, ...]
    verdict: tuple[Note, ...] = ()


# Heading of the verdict.
SHORT = "In short"


def cells(*texts: str, style: Style = "") -> tuple[Cell, ...]:
    """Return a row of cells in one style."""
    return tuple(Cell(text, style) for text in texts)


def one_line(text: str, most: int | None = None) -> str:
    """Return the text with white space collapsed, and with "..." for its end if it is longer than ``most``."""
    line = " ".join(text.split())
    return line if most is None or len(line) <= most else line[: most - 3].rstrip() + "..."
