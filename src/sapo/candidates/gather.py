"""Candidates for a task: sources asked in order, what they give checked, the most different kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from math import ceil

import numpy as np
from rapidfuzz import fuzz, process

from sapo.candidates.checks import Judge, Pool
from sapo.candidates.source import Advance, Source, unheard
from sapo.core.storage import Stored
from sapo.core.types import Instruction, Rejection, Task
from sapo.core.untrusted import folded

# Paraphrases wanted where there is no limit.
_PLENTY = 20
# Valid texts asked for in place of each one that is kept, so that there are some to choose from.
_SPARE = 1.5


@dataclass(frozen=True, slots=True)
class Gathered(Stored):
    """What became of a task's instruction.

    Attributes:
        candidates: the original, then its paraphrases, those of earlier sources first.
        rejected: the texts that did not pass, with reasons.
        spare: valid paraphrases beyond the number wanted, less different from the others than those kept.
        notes: what the user should know, one sentence each.
    """

    candidates: tuple[Instruction, ...]
    rejected: tuple[Rejection, ...]
    spare: tuple[Instruction, ...] = ()
    notes: tuple[str, ...] = ()


def with_spare(missing: int) -> int:
    """Return how many valid texts a source is asked for where so many are missing."""
    return ceil(_SPARE * missing)


def gather(
    task: Task,
    sources: Sequence[Source],
    count: int | None,
    advance: Advance = unheard,
    judge: Judge | None = None,
) -> Gathered:
    """Return the original followed by at most ``count`` paraphrases of it.

    A source is asked only for what those before it lack. Of more valid texts than that, the ones are kept that differ
    most from each other and from what there is.

    Args:
        task: whose instruction is paraphrased.
        sources: in order of preference.
        count: the original not counted; None takes everything.
        advance: takes the number of texts as they come in, valid or not.
        judge: asked last about each text, unless it comes with the library; None for no such check.

    Raises:
        CandidateError: if a source can give nothing, for a reason that the user can act on.
    """
    pool = Pool(task, judge)
    kept, spare = pool.kept[:1], list[Instruction]()
    unread = ""
    for source in sources:
        missing = None if count is None else count + 1 - len(kept)
        if missing == 0:
            if source.origin in ("file", "unchecked"):
                unread = f"{task.name}: the file of candidates was not needed: sources before it gave all {count}"
            continue
        before, wanted = len(pool.kept), None if missing is None else with_spare(missing)
        with closing(source.paraphrases(task, wanted or _PLENTY, advance)) as rounds:
            for texts in rounds:
                pool.add(texts, source.origin)
                if wanted is not None and len(pool.kept) - before >= wanted:
                    break
        valid = pool.kept[before:]
        if missing is None:
            kept += valid
            continue
        picked = most_different([c.text for c in kept], [c.text for c in valid], missing)
        kept += [valid[i] for i in picked]
        spare += [c for i, c in enumerate(valid) if i not in picked]
    notes = (*_notes(task, pool, len(kept) - 1, count), *filter(None, (unread,)))
    return Gathered(tuple(kept), tuple(pool.rejected), tuple(spare), notes)


def most_different(given: Sequence[str], texts: Sequence[str], count: int) -> list[int]:
    """Return indices of ``count`` texts, in the order of ``texts``, that differ most from those given and each other.

    One by one, the text farthest from its nearest neighbour among those taken so far (the greedy solution of the
    max-min dispersion problem, which reaches at least half of the largest possible distance); ties go to the earlier
    one. Distance is the share of characters that would have to change (rapidfuzz's ratio). At least one text is given;
    where there are not more than ``count``, all are taken.
    """
    if len(texts) <= count:
        return list(range(len(texts)))
    everything = [folded(text) for text in (*given, *texts)]
    alike = process.cdist(everything, everything, scorer=fuzz.ratio).astype(np.float64)[len(given) :]
    nearest, taken = alike[:, : len(given)].max(axis=1), list[int]()
    for _ in range(count):
        # A text is taken once.
        nearest[taken] = np.inf
        taken.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, alike[:, len(given) + taken[-1]])
    return sorted(taken)


def _notes(task: Task, pool: Pool, found: int, count: int | None) -> tuple[str, ...]:
    rejected = f" ({len(pool.rejected)} rejected)" if pool.rejected else ""
    if found == 0:
        return (f"{task.name}: no valid paraphrase, so there is only the original instruction{rejected}", *pool.notes)
    if count is not None and found < count:
        return (f"{task.name}: only {found} of {count} paraphrases are usable{rejected}", *pool.notes)
    return pool.notes
