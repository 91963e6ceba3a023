"""How long work tells what it is doing, without the rooms knowing about terminals."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table
from rich.text import Text

from sapo.untrusted import plain

_NUMBER = re.compile(r"[-+]?[0-9.,]+( %)?|–")


class Reporter(Protocol):
    """Hears about steps and notes. Costs are in forward tokens, so that steps of different kinds add up."""

    def plan(self, cost: float) -> None:
        """Be told the cost of the whole run, before its first step."""

    def step(self, label: str, units: int, cost: float) -> AbstractContextManager[Callable[[int], None]]:
        """Open a step of ``units`` rows or updates that cost ``cost`` together; yield what advances it by units."""

    def reused(self, label: str, cost: float) -> None:
        """Be told that a step was found finished."""

    def note(self, text: str) -> None:
        """Be told something the user should know; ``text`` is plain, never markup."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Be told a table of plain texts; a heading may be broken where it holds a line break."""


class Silent:
    """The default inside programs: says nothing."""

    def plan(self, cost: float) -> None:
        """Say nothing."""

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda n: None

    def reused(self, label: str, cost: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Say nothing."""


class Stopped(KeyboardInterrupt):
    """The user, or whoever manages the machine, asked the work to stop, and it did so at a safe point.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class Terminal:
    """One bar for the whole run, with the time that remains, and notes above it.

    Where the output is no terminal, steps are printed as lines instead. While it is entered, Ctrl-C (SIGINT)
    and SIGTERM stop the work after the batch that is being computed; a second one, or the first if it is to stop
    at once, does not wait.

    Raises:
        Stopped: from whatever the work tells its progress to, after a signal.
    """

    def __init__(self, console: Console, *, stops_at_once: bool = False) -> None:
        self._console = console
        self._at_once = stops_at_once
        self._asked: int | None = None
        self._before: dict[int, Any] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            Remaining(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # Scoring, training and generation run at different speeds: an estimate over a short window jumps.
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Terminal:
        # Signals can be handled in the main thread only; elsewhere they stay whoever's they were.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._asked is not None or self._at_once:
            raise Stopped(number)
        self._asked = number
        # Printing from a handler could wait for a lock that the interrupted code holds; writing does not.
        with suppress(OSError):
            os.write(2, b"\nstopping after what is being computed; a second signal stops at once\n")

    def _safe_point(self) -> None:
        if self._asked is not None:
            raise Stopped(self._asked)

    def plan(self, cost: float) -> None:
        """Set the length of the bar."""
        self._safe_point()
        self._bar.update(self._task, total=cost)

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Show the step beside the bar and move the bar by its cost."""
        self._safe_point()
        self._bar.update(self._task, description=_escape(label))
        if not self._console.is_terminal:
            self.note(label)
        each = cost / max(units, 1)

        def advance(done: int) -> None:
            self._bar.advance(self._task, done * each)
            self._safe_point()

        yield advance

    def reused(self, label: str, cost: float) -> None:
        """Shorten the bar: what was finished before costs nothing now and must not flatter the estimate."""
        task = self._bar.tasks[0]
        if task.total is not None:
            self._bar.update(self._task, total=task.total - cost)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._safe_point()
        self._console.print(Text(plain(text), overflow="fold"))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table above the bar; where it is too wide, every row as a line."""
        _print_table(self._console, title, columns, rows)


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
