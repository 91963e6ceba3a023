"""What rooms talk to, one that says nothing, and a progress bar for programs and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.progress import Progress

if TYPE_CHECKING:
    # Only the type: help and errors are shown before numpy is loaded.
    from sapo.core.types import Standing


@dataclass(frozen=True, slots=True)
class Work:
    """One step of a run.

    Attributes:
        units: rows scored, updates made, or rows evaluated (each twice: its answer and its loss).
        tokens: tokens read or written, about.
        cost: in forward tokens.
    """

    units: int
    tokens: float
    cost: float


class Reporter(Protocol):
    """Is told steps and notes. Costs are in forward tokens, so that steps of different kinds add up.

    What a class that inherits from it leaves out says nothing.
    """

    def plan(self, cost: float) -> None:
        """Take the cost of the whole run, before its first step."""
        return

    def step(self, label: str, units: int, cost: float) -> AbstractContextManager[Callable[[int], None]]:
        """Open a step of ``units`` rows or updates that cost ``cost`` together; yield what advances it by units.

        A step that ends normally after fewer units was shorter than announced.
        """
        return nullcontext(lambda units: None)

    def race(self, texts: Sequence[str], rows: int) -> AbstractContextManager[Callable[[Standing], None]]:
        """Open the display of a race between candidates, the original first, each scored on ``rows`` at most.

        Yield what takes each standing.
        """
        return nullcontext(lambda standing: None)

    def reused(self, label: str, cost: float) -> None:
        """Take that a step was found finished."""
        return

    def note(self, text: str) -> None:
        """Take something the user should know; ``text`` is plain, never markup."""
        return

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take a table of plain texts; a heading may be broken where it holds a line break."""
        return

    def board(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take how far work done elsewhere is, a row for each piece; it replaces the board of before."""
        return


class Silent(Reporter):
    """Says nothing."""


# The default inside programs.
SILENT: Reporter = Silent()


class Bar(Reporter):
    """Shows each step as a bar that goes away when the step ends."""

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Show one step; a race may need fewer units than announced."""
        with Progress(transient=True) as progress:
            task = progress.add_task(label.replace("[", "\\["), total=units)
            yield lambda done: progress.advance(task, done)
