"""Paraphrases by rules: nothing is loaded, asked for or paid for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from sapo.candidates.rules.rewrite import rewrites
from sapo.candidates.source import Source
from sapo.core.types import Origin, Task


class Rules(Source):
    """The source whose texts are rewrites of the instruction."""

    origin: Origin = "rules"

    def paraphrases(
        self, task: Task, wanted: int, advance: Callable[[int], None] = lambda texts: None
    ) -> Generator[Sequence[str], None, None]:
        """Yield all rewrites there are, most varied first."""
        texts = rewrites(task.instruction, task.labels)
        for start in range(0, len(texts), wanted):
            part = texts[start : start + wanted]
            advance(len(part))
            yield part
