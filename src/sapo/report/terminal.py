"""Pages on a terminal: what fits on one screen, or all of it; nothing in a text is taken as markup."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sapo.core.untrusted import one_line, plain
from sapo.report.blocks import Block, Command, Listing, Note, Page, Style, Table

_STYLES: dict[Style, str] = {"": "", "strong": "bold", "dim": "dim"}
# Columns of texts are readable down to this width. Blanks between two columns.
_NARROW, _GAP = 12, 2


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
    elif isinstance(block, Command):
        purpose, words = _text(block.purpose), Text(f"  {shlex.join(map(plain, block.words))}", style="cyan")
        together = purpose.cell_len + words.cell_len <= console.width
        # A command is copied: it must not hold breaks that a shell would obey.
        console.print(purpose, end="" if together else "\n")
        console.print(words, soft_wrap=True)


def _text(content: str, style: Style = "") -> Text:
    return Text(plain(content), style=_STYLES[style], overflow="fold")


def _show_table(console: Console, table: Table) -> None:
    if table.title:
        console.print()
        console.print(_text(table.title, "strong"))
    for group in _groups(table, console.width):
        rich = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for i in group:
            numeric = table.numeric(i)
            rich.add_column(
                _text(table.columns[i], "strong"),
                justify="right" if numeric else "left", no_wrap=numeric, overflow="fold",
            )  # fmt: skip
        room = console.width - sum(_GAP + _width(table, i) for i in group[:-1])
        for n, row in enumerate(table.rows):
            cells = [one_line(row[i]) for i in group]
            if table.clipped and group[-1] == len(table.columns) - 1:
                cells[-1] = one_line(row[-1], max(room, _NARROW))
            rich.add_row(*(_text(cell, "strong" if n in table.bold else "") for cell in cells))
        console.print(rich)
    for sentence in table.legend:
        console.print(_text(sentence, "dim"))


def _groups(table: Table, width: int) -> Iterator[list[int]]:
    """Yield columns that fit the width together, each time after those that rows begin with: no number is cut."""
    columns = range(len(table.columns))
    whole = [_width(table, i) for i in columns]
    widths = [_GAP + (whole[i] if table.numeric(i) else min(whole[i], _NARROW)) for i in columns]
    first = next((i for i in columns[1:] if table.numeric(i)), len(columns))
    group = list(columns[:first])
    for i in columns[first:]:
        if len(group) > first and sum(widths[j] for j in (*group, i)) > width:
            yield group
            group = list(columns[:first])
        group.append(i)
    yield group


def _width(table: Table, column: int) -> int:
    """Return how wide a column is if no cell of it is broken; a heading may be."""
    texts = [*table.columns[column].split("\n"), *(one_line(row[column]) for row in table.rows)]
    return max(cell_len(plain(text)) for text in texts)
