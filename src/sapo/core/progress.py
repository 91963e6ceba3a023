"""What rooms talk to, and the one that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # Only the type: help and mistakes are told before numpy is loaded.
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
    """Hears about steps and notes. Costs are in forward tokens, so that steps of different kinds add up."""

    def plan(self, cost: float) -> None:
        """Be told the cost of the whole run, before its first step."""

    def step(self, label: str, units: int, cost: float) -> AbstractContextManager[Callable[[int], None]]:
        """Open a step of ``units`` rows or updates that cost ``cost`` together; yield what advances it by units.

        A step that ends normally after fewer units was shorter than announced.
        """

    def race(self, texts: Sequence[str], rows: int) -> AbstractContextManager[Callable[[Standing], None]]:
        """Open the display of a race between candidate instructions; yield what is told each standing.

        Args:
            texts: the candidates, the original first.
            rows: selection rows on which a candidate can be scored.
        """

    def reused(self, label: str, cost: float) -> None:
        """Be told that a step was found finished."""

    def note(self, text: str) -> None:
        """Be told something the user should know; ``text`` is plain, never markup."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Be told a table of plain texts; a heading may be broken where it holds a line break."""


class Silent:
    """Says nothing."""

    def plan(self, cost: float) -> None:
        """Say nothing."""

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda n: None

    @contextmanager
    def race(self, texts: Sequence[str], rows: int) -> Iterator[Callable[[Standing], None]]:
        """Say nothing."""
        yield lambda standing: None

    def reused(self, label: str, cost: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Say nothing."""


# The default inside programs.
SILENT: Reporter = Silent()
