"""How long work tells what it is doing, without the rooms knowing about terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


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


class Terminal:
    """One bar for the whole run, with the time that remains, and notes above it.

    Where the output is no terminal, steps are printed as lines instead.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
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
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()

    def plan(self, cost: float) -> None:
        """Set the length of the bar."""
        self._bar.update(self._task, total=cost)

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Show the step beside the bar and move the bar by its cost."""
        self._bar.update(self._task, description=_escape(label))
        if not self._console.is_terminal:
            self.note(label)
        each = cost / max(units, 1)
        yield lambda n: self._bar.advance(self._task, n * each)

    def reused(self, label: str, cost: float) -> None:
        """Shorten the bar: what was finished before costs nothing now and must not flatter the estimate."""
        task = self._bar.tasks[0]
        if task.total is not None:
            self._bar.update(self._task, total=task.total - cost)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
