"""What a page consists of: plain frozen values, which Markdown and a terminal show alike.

Every string in them is plain text from anywhere (data, models, users) and never markup; renderers escape it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# As a terminal knows them.
Style = Literal["", "bold", "dim"]
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: the headings.
        rows: the cells, one text each.
        title: of the table, may be empty.
        legend: sentences that say what the columns mean.
        text: places of the columns that hold texts, from either end; all others hold numbers and are aligned right.
        bold: places of the rows that stand out.
        clipped: whether a terminal shows as much of the last column as one line holds.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    legend: tuple[str, ...] = ()
    text: tuple[int, ...] = (0,)
    bold: frozenset[int] = frozenset()
    clipped: bool = False

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return column not in self.text and column - len(self.columns) not in self.text


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A text shown unchanged under a label, and the one that it replaces."""

    label: str
    text: str
    original: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What to type next, as words to be quoted for a shell, and what it is for."""

    words: tuple[str, ...]
    purpose: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, shown in HTML alone: every number in it stands in a table of the page.

    Attributes:
        title: what is seen.
        draw: draws it.
        caption: what is marked, may be empty.
        height: in inches; figures are 6.4 inches wide.
    """

    title: str
    draw: Callable[[Axes], None] = field(compare=False)
    caption: str = ""
    height: float = 3.4


Block = Table | Note | Listing | Command | Plot
# Who sees a section: everybody; readers who ask for all of it; or readers of files, who may need it later.
Depth = Literal["screen", "details", "reference"]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]
    depth: Depth = "details"


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report: what it says in short, with the uncertainty, and then its parts."""

    title: str
    sections: tuple[Section, ...]
    verdict: tuple[Note, ...] = ()

    @property
    def parts(self) -> tuple[Section, ...]:
        """All sections, the verdict first, where there is one."""
        return (*([Section("In short", self.verdict, "screen")] if self.verdict else []), *self.sections)
