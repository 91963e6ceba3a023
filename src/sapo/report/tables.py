"""What a page consists of: frozen values that a terminal and a Markdown file can show alike.

Every string in them is plain text from anywhere (data, models, users) and never markup; who shows it escapes
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """Rows under headings, and sentences that say what the columns mean."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    legend: tuple[str, ...] = ()


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
class Command:
    """What to type next, as words to be quoted for a shell, and what it is for."""

    words: tuple[str, ...]
    purpose: str


Block = Table | Note | Listing | Command


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]


def cells(*texts: str, style: Style = "") -> tuple[Cell, ...]:
    """Return a row of cells in one style."""
    return tuple(Cell(text, style) for text in texts)


def one_line(text: str, most: int | None = None) -> str:
    """Return the text with white space collapsed, and with "..." for its end if it is longer than ``most``."""
    line = " ".join(text.split())
    return line if most is None or len(line) <= most else line[: most - 3].rstrip() + "..."
