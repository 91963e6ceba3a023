"""Pages on a terminal: rich tables that fit its width, with nothing in the text taken as markup."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sapo.core.untrusted import plain
from sapo.report.tables import SHORT, Command, Listing, Note, Page, Section, Style, Table, one_line

_STYLES: dict[Style, str] = {"": "", "strong": "bold", "dim": "dim", "good": "bold green", "bad": "bold red"}
# A column of texts is readable down to this width, if its words are; words longer than a name are broken.
_NARROW = 10
_NAME = 24
# Blanks between two columns.
_GAP = 2


def show(console: Console, page: Page) -> None:
    """Print a page. Tables too wide for the console are split into several, numbers are never cut."""
    console.print(Text(one_line(plain(page.title)), style="bold", overflow="fold"))
    # The verdict comes last: the end of a page is what stays in sight.
    for section in (*page.sections, *([Section(SHORT, page.verdict)] if page.verdict else [])):
        if section.reference:
            continue
        console.print()
        console.rule(Text(one_line(plain(section.title)), style="bold"), align="left", style="dim")
        for n, block in enumerate(section.plain):
            if isinstance(block, Table):
                if n:
                    console.print()
                _show_table(console, block)
            elif isinstance(block, Note):
                console.print(_text(block.text, block.style))
            elif isinstance(block, Listing):
                console.print(_text(block.label))
                console.print(Padding(_text(block.text), (0, 0, 0, 4)))
            else:
                _show_command(console, block)


def _text(content: str, style: Style = "") -> Text:
    return Text(plain(content), style=_STYLES[style], overflow="fold")


def _show_table(console: Console, table: Table) -> None:
    if table.title:
        console.print(_text(table.title, "strong"))
    ranges = _ranges(table, [c.title for c in table.columns])
    if _total(low for low, _ in ranges) > console.width:
        ranges = _ranges(table, titles := [c.short or c.title for c in table.columns])
    else:
        titles = [c.title for c in table.columns]
    for group in _split(table, ranges, console.width):
        rich = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for i, width in zip(group, _fit([ranges[i] for i in group], console.width), strict=True):
            numeric = table.columns[i].numeric
            justify: Literal["left", "right"] = "right" if numeric else "left"
            rich.add_column(_text(titles[i], "strong"), justify=justify, no_wrap=numeric, overflow="fold", width=width)
        for row in table.rows:
            rich.add_row(*(_text(row[i].text, row[i].style) for i in group))
        console.print(rich)
    for sentence in table.legend:
        console.print(_text(sentence, "dim"))


def _ranges(table: Table, titles: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each column the least width at which it can be read, and the width that it would like."""
    ranges = []
    for i, column in enumerate(table.columns):
        texts = [titles[i], *(plain(row[i].text) for row in table.rows)]
        natural = max(cell_len(line) for text in texts for line in text.split("\n"))
        word = max((cell_len(word) for text in texts for word in text.split()), default=0)
        ranges.append((natural if column.numeric else min(natural, max(_NARROW, min(word, _NAME))), natural))
    return ranges


def _split(table: Table, ranges: Sequence[tuple[int, int]], width: int) -> Iterator[list[int]]:
    """Yield groups of columns that fit the width, each with the texts that the rows begin with."""
    keys = list(range(next((i for i, c in enumerate(table.columns) if c.numeric), 0)))
    group = list(keys)
    for i in range(len(keys), len(ranges)):
        if len(group) > len(keys) and _total(ranges[k][0] for k in [*group, i]) > width:
            yield group
            group = list(keys)
        group.append(i)
    yield group


def _fit(ranges: Sequence[tuple[int, int]], width: int) -> list[int]:
    """Return column widths: the widest columns give way first, none below its least width."""
    widths = [natural for _, natural in ranges]
    while _total(widths) > width:
        spare = [i for i, (low, _) in enumerate(ranges) if widths[i] > low]
        if not spare:
            break
        widths[max(spare, key=lambda i: widths[i])] -= 1
    return widths


def _total(widths: Iterable[int]) -> int:
    columns = list(widths)
    return sum(columns) + _GAP * (len(columns) - 1)


def _show_command(console: Console, command: Command) -> None:
    """Print a command so that it can be copied: wrapped between words only, lines continued as shells do."""
    console.print(_text(command.purpose))
    lines = ["  "]
    for word in map(shlex.quote, map(plain, command.words)):
        if len(lines[-1]) + len(word) + 3 > console.width and lines[-1].strip():
            lines.append("    ")
        lines[-1] += ("" if lines[-1].isspace() else " ") + word
    for n, line in enumerate(lines):
        ending = " \\" if n + 1 < len(lines) else ""
        console.print(Text(line + ending, style="cyan"), soft_wrap=True)
