"""Rounds of candidates: score a few, make new ones of the best, score these, until a round brings nothing.

Each round is a race of the original, the leader so far and new candidates on the same selection rows. A search fits
these rows more the longer it goes on, and drifts toward texts that give labels away; so what it found is also
measured on training rows that no round has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sapo.candidates.gather import Gathered
from sapo.candidates.source import Ranking
from sapo.core.types import CandidateLoss, Instruction, Search, SearchRound, Selection, Unseen

# Of the candidates so far: parents of new ones, and warnings.
_BEST, _WORST = 4, 2


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How long a search goes on.

    Attributes:
        rounds: at most, after the first selection.
        count: new candidates of a round.
        budget: forward tokens that first selection and search may cost together; None for no limit.
    """

    rounds: int
    count: int
    budget: float | None


def search(
    first: Selection,
    settings: SearchSettings,
    propose: Callable[[Ranking, Sequence[Instruction]], Gathered],
    measure: Callable[[Sequence[Instruction], float | None], Selection],
    unseen: Callable[[Sequence[Instruction]], Selection | None],
) -> Selection:
    """Return a selection among all candidates of all rounds.

    Args:
        first: what the search sets out from.
        settings: how long it goes on.
        propose: returns the original and new candidates, given the ranking and all candidates so far.
        measure: returns the selection among candidates, the original first, on the same rows as ``first``; told what
            it may cost.
        unseen: returns a selection among candidates on rows that no other has seen; None where there are none.
    """
    found, rounds = first, list[SearchRound]()
    for number in range(1, settings.rounds + 1):
        left = None if settings.budget is None else settings.budget - found.tokens
        if left is not None and left <= 0:
            break
        known = [c.instruction for c in found.candidates]
        new = propose(_ranking(found, number), known)
        found = replace(found, rejected=(*found.rejected, *new.rejected))
        if len(new.candidates) == 1:
            break
        leader = [] if found.chosen == 0 else [found.instruction]
        selection = measure([known[0], *leader, *new.candidates[1:]], left)
        found = _joined(found, selection)
        rounds.append(
            SearchRound(
                len(new.candidates) - 1, found.instruction.text, found.candidates[found.chosen].loss, selection.tokens
            )
        )
        if found.instruction in known:
            break
    judged = unseen([first.candidates[0].instruction, first.instruction, found.instruction])
    before = first.candidates[first.chosen].loss
    if judged is None:
        return replace(found, search=Search(before, tuple(rounds), None))
    return replace(
        found,
        search=Search(before, tuple(rounds), Unseen(len(judged.rows), *(c.loss for c in judged.candidates))),
        seconds=found.seconds + judged.seconds,
        tokens=found.tokens + judged.tokens,
    )


def _ranking(found: Selection, number: int) -> Ranking:
    texts = [found.candidates[i].instruction.text for i in found.ranked]
    return Ranking(tuple(texts[:_BEST]), tuple(texts[: -_WORST - 1 : -1]), number)


def _joined(before: Selection, now: Selection) -> Selection:
    """Return one selection of the candidates of two; where both know a candidate, the later one speaks.

    What only the earlier one knows keeps its loss, but no bounds: those were to another leader.
    """
    later = {c.instruction.text for c in now.candidates}
    base = now.candidates[0].loss
    old = tuple(
        replace(c, delta=c.loss - base, status="dropped" if c.status == "chosen" else c.status, gap=None)
        for c in before.candidates
        if c.instruction.text not in later
    )
    original, *others = now.candidates
    candidates: tuple[CandidateLoss, ...] = (original, *old, *others)
    chosen = now.candidates[now.chosen]
    return replace(
        now,
        candidates=candidates,
        chosen=candidates.index(chosen),
        rejected=before.rejected,
        seconds=before.seconds + now.seconds,
        tokens=before.tokens + now.tokens,
        cached=before.cached + now.cached,
    )
