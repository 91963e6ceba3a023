"""Paraphrases by rules: nothing is loaded, asked for or paid for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import zip_longest

from sapo.candidates.rules.rewrite import rewrites
from sapo.candidates.source import Ranking
from sapo.core.types import Origin, Task


class Rules:
    """The source whose texts are rewrites of the instruction; see `sapo.candidates.source.Source`."""

    @property
    def origin(self) -> Origin:
        """What its candidates are recorded with."""
        return "rules"

    def cost(self, task: Task, wanted: int) -> str:
        """Return nothing: rewriting takes a moment."""
        return ""

    def paraphrases(
        self,
        task: Task,
        wanted: int,
        advance: Callable[[int], None] = lambda texts: None,
        ranking: Ranking | None = None,
    ) -> Generator[Sequence[str], None, None]:
        """Yield all rewrites there are, most varied first; in a search, descendants of the best."""
        if ranking is None:
            texts = [rewrite.text for rewrite in rewrites(task.instruction, task.labels)]
        else:
            texts = _descendants(task, ranking)
        for start in range(0, len(texts), wanted):
            part = texts[start : start + wanted]
            advance(len(part))
            yield part


def _descendants(task: Task, ranking: Ranking) -> list[str]:
    """Return the best texts mutated and recombined, those of all of them in turn.

    A mutation takes a text's words into another frame; a recombination keeps its frame and takes other words.
    """
    known = rewrites(task.instruction, task.labels)
    frames = {rewrite.text: rewrite.frame for rewrite in known}
    families = [
        [
            *(other.text for other in known if other.frame == frames.get(text)),
            *(rewrite.text for rewrite in rewrites(text, task.labels)),
        ]
        for text in ranking.best
    ]
    turns = (text for turn in zip_longest(*families) for text in turn if text is not None)
    return list(dict.fromkeys(turns))
