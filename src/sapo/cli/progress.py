"""What the command shows while it works: one bar for the whole run, notes above it; and safe stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table as RichTable
from rich.text import Text

from sapo.core.untrusted import plain
from sapo.report.blocks import Table
from sapo.report.terminal import show_block

if TYPE_CHECKING:
    from sapo.core.types import Standing

# Lines of the terminal that a table above the bar does not get: around it, the bar, and what was printed before.
_OTHER_LINES = 8


class Stopped(KeyboardInterrupt):
    """The user, or whoever manages the machine, asked the work to stop, and it did so at a safe point.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class _Bar(Progress):
    """The bar, with room above it for a table."""

    above: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from filter(None, (self.above,))
        yield from super().get_renderables()

    def show(self, above: RenderableType) -> None:
        self.above = above
        self.refresh()


class Terminal:
    """A `sapo.core.progress.Reporter`: one bar for the whole run, with the time that remains, and notes above it.

    Where the output is no terminal, steps and rounds are printed as lines instead. While it is entered, Ctrl-C
    (SIGINT) and SIGTERM stop the work after the batch that is being computed; a second one, or the first if it is to
    stop at once, does not wait.

    Raises:
        Stopped: from whatever the work tells its progress to, after a signal.
    """

    def __init__(self, console: Console, *, stops_at_once: bool = False) -> None:
        self._console = console
        self._at_once = stops_at_once
        self._asked: int | None = None
        self._before: dict[int, Any] = {}
        self._bar = _Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            Remaining(),
            TextColumn("left"),
            console=console,
            transient=True,
            # Not where a terminal cannot move its cursor, either.
            disable=not console.is_interactive,
            # Scoring, training and generation run at different speeds: an estimate over a short window jumps.
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._seen: set[tuple[str, ...]] = set()

    def __enter__(self) -> Self:
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
            os.write(2, b"\nstopping after the current batch; send the signal again to stop at once\n")

    def _safe_point(self) -> None:
        if self._asked is not None:
            raise Stopped(self._asked)

    def plan(self, cost: float) -> None:
        """Set the length of the bar."""
        self._safe_point()
        self._bar.update(self._task, total=cost)

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Show the step next to the bar and move the bar by its cost; shorten it by the units that were not needed."""
        self._safe_point()
        self._bar.update(self._task, description=plain(label))
        if not self._console.is_interactive:
            self.note(label)
        each = cost / max(units, 1)
        left = units

        def advance(done: int) -> None:
            nonlocal left
            left -= done
            self._bar.advance(self._task, done * each)
            self._safe_point()

        yield advance
        if left > 0:
            self._shorten(left * each)

    @contextmanager
    def race(self, texts: Sequence[str], rows: int) -> Iterator[Callable[[Standing], None]]:
        """Show each standing next to the bar, or as a line where there is no terminal; one line at the end."""
        self._safe_point()
        last: Standing | None = None

        def watch(standing: Standing) -> None:
            nonlocal last
            self._safe_point()
            last, racing = standing, len({standing.leader, *standing.racing})
            if self._console.is_interactive:
                short = f"round {standing.round}: {racing} of {len(texts)} candidates, {_leader(standing)} leads"
                self._bar.update(self._task, description=short)
            elif standing.racing:
                self.note(
                    f"round {standing.round}: {racing} of {len(texts)} candidates still racing, up to "
                    f"{standing.counts.max()} of {rows} rows; {_doubt(standing)}; {_leader(standing)} leads"
                )

        yield watch
        if last is not None:
            # Not a safe point: the race is over, and what it found is about to be saved.
            self._print(_end_line(rows, last))

    def reused(self, label: str, cost: float) -> None:
        """Shorten the bar: what was finished before costs nothing now and must not flatter the estimate."""
        self._shorten(cost)

    def _shorten(self, cost: float) -> None:
        task = self._bar.tasks[0]
        if task.total is not None:
            self._bar.update(self._task, total=task.total - cost)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._safe_point()
        self._print(text)

    def _print(self, text: str) -> None:
        # A log has one line a note, however long.
        lines = not self._console.is_interactive
        self._console.print(Text(plain(text), overflow="ignore" if lines else "fold"), soft_wrap=lines)

    def board(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show the board above the bar, what is at work first; where there is no terminal, a line for each change."""
        self._safe_point()
        if self._console.is_interactive:
            shown = sorted(rows, key=lambda row: row[1] != "at work")[: max(self._console.height - _OTHER_LINES, 1)]
            table = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
            for n, head in enumerate(columns):
                table.add_column(head, justify="left" if n < 2 else "right", no_wrap=True)
            for row in shown:
                table.add_row(*(Text(plain(cell)) for cell in row), style="bold" if row[1] == "at work" else "dim")
            more = f"... and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
            self._bar.show(Group(table, Text(more)))
            return
        for name, state, *counts in rows:
            # Tests are many: they alone are not worth a line.
            if state != "waiting" and (name, state, *counts[:-1]) not in self._seen:
                self._seen.add((name, state, *counts[:-1]))
                found = ", ".join(f"{what} {count}" for count, what in zip(counts, columns[2:], strict=True))
                self._print(f"{name}: {state}, {found}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of untrusted texts above the bar, of which the first column are names."""
        show_block(self._console, Table(tuple(columns), tuple(map(tuple, rows)), title))


def _end_line(rows: int, last: Standing) -> str:
    effort = f"after {last.round} round{'s' * (last.round > 1)}, {last.counts.max()} of {rows} rows"
    if last.racing:
        return f"ended undecided {effort}: {_leader(last)} leads; {_doubt(last)}"
    return f"decided {effort}: {_leader(last)} wins the race; {_doubt(last)}"


def _leader(standing: Standing) -> str:
    return f"candidate {standing.leader}" if standing.leader else "the original"


def _doubt(standing: Standing) -> str:
    size = f"{standing.tolerance:.4f}" if standing.tolerance >= 1e-4 else "less than 0.0001"
    return f"the choice could be off by {f'{size} nats per token' if isfinite(standing.tolerance) else 'any amount'}"
