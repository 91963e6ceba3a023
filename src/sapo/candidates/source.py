"""The seam of this room: where paraphrases of an instruction come from."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from sapo.core.types import Origin, Task

Rounds = Generator[Sequence[str], None, None]
# Hears how many texts have come in, for progress bars.
Advance = Callable[[int], None]


def unheard(texts: int) -> None:
    """Hear nothing."""


class Source(Protocol):
    """Gives texts that may become candidates; whether they do is not its concern.

    The same source with the same settings gives the same texts for the same instruction. It never changes a
    model's state. A bad reply of a generator is one text less, not an exception.

    Attributes:
        origin: recorded with its candidates.
    """

    origin: Origin

    def cost(self, task: Task, wanted: int) -> str:
        """Return what asking it for ``wanted`` paraphrases takes at most, in words; by default nothing, empty."""
        return ""

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield texts in rounds: about ``wanted`` in the first, then more for those that were rejected.

        It ends where the source has no more to give. A caller that has enough stops asking: later rounds are neither
        computed nor paid for.

        Args:
            task: whose instruction is paraphrased, always the original one; its suffix and labels stay as they are.
            wanted: number of paraphrases wanted.
            advance: takes the number of texts as they come in.

        Raises:
            CandidateError: if it can give nothing at all, for a reason that the user can act on.
        """


class Ready(Source):
    """Gives texts that are there at once: ``texts`` returns a task's; ``parted``, in rounds of those wanted."""

    def __init__(self, origin: Origin, texts: Callable[[Task], Sequence[str]], *, parted: bool = False) -> None:
        self.origin, self._texts, self._parted = origin, texts, parted

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield all of them, or nothing where there are none."""
        texts = self._texts(task)
        size = wanted if self._parted else max(len(texts), 1)
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            advance(len(part))
            yield part
