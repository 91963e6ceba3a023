"""Paraphrases by rules: nothing is loaded, asked for or paid for."""

from __future__ import annotations

from sapo.candidates.rules.rewrite import rewrites
from sapo.candidates.source import Advance, Rounds, Source, unheard
from sapo.core.types import Origin, Task


class Rules(Source):
    """The source whose texts are rewrites of the instruction."""

    origin: Origin = "rules"

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield all rewrites there are, most varied first."""
        texts = rewrites(task.instruction, task.labels)
        for start in range(0, len(texts), wanted):
            part = texts[start : start + wanted]
            advance(len(part))
            yield part
