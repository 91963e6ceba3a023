"""Which of many valid paraphrases to keep: those that differ most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz, process

from sapo.candidates.checks.likeness import folded


def most_different(given: Sequence[str], texts: Sequence[str], count: int) -> list[int]:
    """Return indices of ``count`` texts, in the order of ``texts``, that differ most from those given and each other.

    One by one, the text farthest from its nearest neighbour among those taken so far (the greedy solution of the
    max-min dispersion problem, which reaches at least half of the largest possible distance); ties go to the earlier
    one. Distance is the share of characters that would have to change (rapidfuzz's ratio).

    Args:
        given: texts that are kept in any case, at least one.
        texts: those to choose from.
        count: how many; all of them where there are not more.
    """
    if len(texts) <= count:
        return list(range(len(texts)))
    everything = [folded(text) for text in (*given, *texts)]
    alike = process.cdist(everything, everything, scorer=fuzz.ratio).astype(np.float64)[len(given) :]
    nearest, taken = alike[:, : len(given)].max(axis=1), list[int]()
    for _ in range(count):
        # One that is taken is nobody's next.
        nearest[taken] = np.inf
        taken.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, alike[:, len(given) + taken[-1]])
    return sorted(taken)
