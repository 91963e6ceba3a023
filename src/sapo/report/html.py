"""Pages as one HTML file that needs nothing else: no network, no script; the template escapes every text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sapo.core.untrusted import plain
from sapo.report.changes import changes
from sapo.report.drawings import Drawing, Heat
from sapo.report.plots import draw
from sapo.report.tables import SHORT, Block, Command, Figure, Note, Page, Section, Table, one_line

# Rows of a table, and lines of a text, from which it is folded.
_LONG = 24
# Rows of a table up to which it is seen although it could be folded.
_SHORT = 6
# Characters of a text up to which it is not wrapped.
_WORDS = 28
# Columns of a table from which it stands in a line of its own.
_WIDE = 5
# Percent of a colour in the best cell; with more of it its number could not be read.
_STRONGEST = 58


def to_html(page: Page) -> str:
    """Return a page as an HTML document, always the same for the same page."""
    environment = Environment(
        loader=PackageLoader("sapo.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "line": lambda text: one_line(plain(text))}
    number = count(1)

    def drawn(drawing: Drawing) -> Markup:
        return Markup(draw(drawing, f"drawing {next(number)}"))

    return environment.get_template("report.html").render(
        page=page,
        short=SHORT,
        groups=_groups,
        kind=lambda block: type(block).__name__,
        drawn=drawn,
        shades=_shades,
        changes=changes,
        words=_words,
        long=_LONG,
        short_table=_SHORT,
        words_from=_WORDS,
        wide=_WIDE,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Blocks of a section that are shown alike.

    Attributes:
        shown: "beside": side by side, where there is room; "folded": behind one summary; or "below" each other.
        blocks: at least one.
    """

    shown: Literal["beside", "folded", "below"]
    blocks: Sequence[Block]


def _groups(section: Section) -> Iterator[_Group]:
    """Yield a section's blocks; a plain note that follows a drawing stands beside it."""
    blocks: list[Block] = []
    last: Literal["beside", "folded", "below"] = "below"
    for block in section.blocks:
        shown: Literal["beside", "folded", "below"] = "below"
        if _is_drawn(block) or (isinstance(block, Note) and not block.style and blocks and _is_drawn(blocks[-1])):
            shown = "beside"
        elif isinstance(block, Table) and block.folded:
            shown = "folded"
        if blocks and shown != last:
            yield _Group(last, blocks)
            blocks = []
        last = shown
        blocks.append(block)
    if blocks:
        yield _Group(last, blocks)


def _is_drawn(block: Block) -> bool:
    return isinstance(block, Figure) or (isinstance(block, Table) and bool(block.heat or block.drawings))


def _shades(heat: Heat) -> list[list[int | None]]:
    """Return for each cell how strong its colour is, in percent: the better, the stronger."""
    known = [value for row in heat.values for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = (high - low) or 1.0

    def shade(value: float | None) -> int | None:
        if value is None:
            return None
        share = (value - low) / span
        return round(_STRONGEST * (share if heat.better == "higher" else 1 - share))

    return [[shade(value) for value in row] for row in heat.values]


def _words(command: Command) -> str:
    return shlex.join(map(plain, command.words))
