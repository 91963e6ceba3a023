"""Pages on a terminal: what fits on one screen, or all of it; nothing in a text is taken as markup."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sapo.core.untrusted import one_line, plain
from sapo.report.blocks import Block, Command, Listing, Note, Page, Style, Table

# Columns of texts are readable down to this width. Longer words may be broken. Blanks between two columns.
_NARROW, _WORD, _GAP = 12, 26, 2


def show(console: Console, page: Page, *, full: bool = True) -> None:
    """Print a page: all that is not kept for files, or what fits on one screen."""
    console.print(Text(one_line(plain(page.title)), style="bold", overflow="fold"))
    for note in page.verdict:
        show_block(console, note)
    for section in page.sections:
        if section.depth == "screen" or (full and section.depth == "details"):
            console.print()
            console.rule(Text(one_line(plain(section.title)), style="bold"), align="left", style="dim")
            for block in section.blocks:
                show_block(console, block)


def show_block(console: Console, block: Block) -> None:
    """Print one block; a figure has nothing to print."""
    if isinstance(block, Table):
        _show_table(console, block)
    elif isinstance(block, Note):
        console.print(_text(block.text, block.style))
    elif isinstance(block, Listing):
        console.print(_text(block.label))
        console.print(Padding(_text(block.text), (0, 0, 0, 4)))
        if block.original is not None:
            console.print("It replaces:")
            console.print(Padding(_text(block.original), (0, 0, 0, 4)))
    elif isinstance(block, Command):
        purpose, words = _text(block.purpose), Text(f"  {shlex.join(map(plain, block.words))}", style="cyan")
        together = purpose.cell_len + words.cell_len <= console.width
        # A command is copied: it must not hold breaks that a shell would obey.
        console.print(purpose, end="" if together else "\n")
        console.print(words, soft_wrap=True)


def _text(content: str, style: Style = "") -> Text:
    return Text(plain(content), style=style, overflow="fold")


def _show_table(console: Console, table: Table) -> None:
    if table.title:
        console.print()
        console.print(_text(table.title, "bold"))
    whole = [_width(table, i) for i in range(len(table.columns))]
    least = _least(table, whole, console.width)
    for group in _groups(table, least, console.width):
        widths = _widths(group, whole, least, console.width)
        rich = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for i, width in zip(group, widths, strict=True):
            rich.add_column(
                _text(table.columns[i], "bold"),
                justify="right" if table.numeric(i) else "left", width=width, no_wrap=table.numeric(i), overflow="fold",
            )  # fmt: skip
        for n, row in enumerate(table.rows):
            cells = [one_line(row[i]) for i in group]
            if table.clipped and group[-1] == len(table.columns) - 1:
                cells[-1] = _clipped(row[-1], widths[-1])
            rich.add_row(*(_text(cell, "bold" if n in table.bold else "") for cell in cells))
        console.print(rich)
    for sentence in table.legend:
        console.print(_text(sentence, "dim"))


def _clipped(text: str, width: int) -> str:
    """Return as much of a text as one line holds."""
    line = one_line(plain(text))
    return line if cell_len(line) <= width else set_cell_size(line, max(width - 3, 0)).rstrip() + "..."[:width]


def _least(table: Table, whole: Sequence[int], width: int) -> list[int]:
    """Return how narrow columns may be: numbers stay whole, and so do the words of texts where there is room."""
    first, last = _first(table), len(whole) - 1
    # Of a text that is clipped a few words say nothing.
    words = [whole[i] if table.clipped and i == last else _width(table, i, words=True) for i in range(len(whole))]
    for longest in (_WORD, _NARROW):
        least = [
            whole[i] if table.numeric(i) else min(whole[i], max(_NARROW, min(longest, words[i])))
            for i in range(len(whole))
        ]
        if sum(_GAP + one for one in least[:first]) + max(least[first:], default=-_GAP) <= width:
            break
    return least


def _first(table: Table) -> int:
    """Return the place of the column that ends what rows begin with: the first one of numbers behind another one."""
    return next((i for i in range(1, len(table.columns)) if table.numeric(i)), len(table.columns))


def _groups(table: Table, least: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yield columns that fit the width together, each time after those that rows begin with: no number is cut."""
    first = _first(table)
    group = list(range(first))
    for i in range(first, len(least)):
        if len(group) > first and _together([least[j] for j in (*group, i)]) > width:
            yield group
            group = list(range(first))
        group.append(i)
    yield group


def _widths(group: Sequence[int], whole: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return how wide columns are: those that are not whole get an equal share, and the last one what is left."""
    shared = ([min(whole[i], max(least[i], share)) for i in group] for share in range(width, 0, -1))
    widths = next((found for found in shared if _together(found) <= width), [least[i] for i in group])
    left = max(0, width - _together(widths))
    return [*widths[:-1], min(whole[group[-1]], widths[-1] + left)]


def _together(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _width(table: Table, column: int, *, words: bool = False) -> int:
    """Return how wide a column is if no cell of it is broken, or no word; a heading may be broken where it is."""
    texts = [*table.columns[column].split("\n"), *(one_line(row[column]) for row in table.rows)]
    parts = (part for text in texts for part in (text.split() if words else [text]))
    return max((cell_len(plain(part)) for part in parts), default=0)
