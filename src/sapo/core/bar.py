"""A progress bar for programs and notebooks; the command has one of its own, `sapo.cli.progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from sapo.core.progress import Reporter


class Bar(Reporter):
    """Shows each step as a bar that goes away when the step ends."""

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        """Show one step; a race may need fewer units than announced."""
        with Progress(transient=True) as progress:
            task = progress.add_task(label.replace("[", "\\["), total=units)
            yield lambda done: progress.advance(task, done)
