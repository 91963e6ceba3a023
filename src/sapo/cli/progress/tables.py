"""Tables of plain texts, printed once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sapo.core.untrusted import plain

_NUMBER = re.compile(r"[-+]?[0-9.,]+( %)?|–")


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of untrusted plain texts, columns of numbers aligned right.

    Where the console is too narrow, every row becomes a line "first: heading value, ...".
    """
    heads = [plain(column) for column in columns]
    texts = [[plain(" ".join(cell.split())) for cell in row] for row in rows]
    console.print(Text(plain(title), style="bold", overflow="fold"))
    columned = list(zip(*texts, strict=True)) or [()] * len(heads)
    widths = [max(map(cell_len, [*h.split("\n"), *cells])) for h, cells in zip(heads, columned, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > console.width:
        names = [head.replace("-\n", "").replace("\n", "") for head in heads]
        for first, *others in texts:
            line = ", ".join(f"{name} {cell}" for name, cell in zip(names[1:], others, strict=True))
            console.print(Text(f"{first}: {line}", overflow="fold"))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, cells in zip(heads, columned, strict=True):
        numeric = all(map(_NUMBER.fullmatch, cells))
        table.add_column(Text(head, style="bold"), justify="right" if numeric else "left", no_wrap=True)
    for row in texts:
        table.add_row(*map(Text, row))
    console.print(table)
