"""One bar for the whole run, notes above it, and stops where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from sapo.cli.progress.board import Board
from sapo.cli.progress.racing import Follower
from sapo.cli.progress.tables import print_table
from sapo.core.untrusted import plain

if TYPE_CHECKING:
    from sapo.core.types import Standing


class Stopped(KeyboardInterrupt):
    """The user, or whoever manages the machine, asked the work to stop, and it did so at a safe point.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class _Bar(Progress):
    """The bar, with room above it for what changes while a step goes on."""

    above: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        above = self.above
        if above is not None:
            yield above
        yield from super().get_renderables()

    def show(self, above: RenderableType | None) -> None:
        """Show something above the bar, or no longer, with the next refresh at the latest."""
        self.above = above
        self.refresh()


class Terminal:
    """One bar for the whole run, with the time that remains, and notes above it.

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
            TextColumn("{task.description}"),
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
        """Show the step beside the bar and move the bar by its cost; shorten it by the units that were not needed."""
        self._safe_point()
        self._bar.update(self._task, description=_escape(label))
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
        """Show each standing as a table above the bar, which goes with the block, or as a line."""
        self._safe_point()
        follower = Follower(texts, rows)

        def watch(standing: Standing) -> None:
            self._safe_point()
            follower.follow(standing)
            if self._console.is_interactive:
                self._bar.show(Board(follower.picture))
            else:
                self.note(follower.picture.line)

        try:
            yield watch
        finally:
            self._bar.show(None)
        if follower.undecided and not self._console.is_interactive:
            self.note(follower.picture.last_line)

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
        # A log has one line a note, however long.
        lines = not self._console.is_interactive
        self._console.print(Text(plain(text), overflow="ignore" if lines else "fold"), soft_wrap=lines)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table above the bar; where it is too wide, every row as a line."""
        print_table(self._console, title, columns, rows)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
