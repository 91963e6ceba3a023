"""Candidates for a task: sources asked in order, what they give checked, the most different kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from sapo.candidates.checks.pool import Pool
from sapo.candidates.diversity import most_different
from sapo.candidates.source import Ranking, Source
from sapo.core.types import Instruction, Rejection, Task

# Paraphrases wanted where there is no limit.
_PLENTY = 20
# Valid texts asked for in place of each one that is kept, so that there are some to choose from.
_SPARE = 1.5


@dataclass(frozen=True, slots=True)
class Gathered:
    """What became of a task's instruction.

    Attributes:
        candidates: the original, then its paraphrases, those of earlier sources first.
        rejected: texts that are no candidates, with reasons.
        spare: valid paraphrases beyond the number wanted, less different from the others than those kept.
        notes: what the user should know, one sentence each.
    """

    candidates: tuple[Instruction, ...]
    rejected: tuple[Rejection, ...]
    spare: tuple[Instruction, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what was gathered as JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gathered:
        """Return what `to_json` took apart."""
        candidates, spare = (tuple(Instruction(**one) for one in value[key]) for key in ("candidates", "spare"))
        return cls(candidates, tuple(Rejection(**one) for one in value["rejected"]), spare, tuple(value["notes"]))


def with_spare(missing: int) -> int:
    """Return how many valid texts a source is asked for where so many are missing."""
    return ceil(_SPARE * missing)


def gather(
    task: Task,
    sources: Sequence[Source],
    count: int | None,
    advance: Callable[[int], None] = lambda texts: None,
) -> Gathered:
    """Return the original followed by at most ``count`` paraphrases of it.

    A source is asked only for what those before it lack. Where it gives more valid texts than that, those are kept
    that differ most from each other and from what there is.

    Args:
        task: whose instruction is the original.
        sources: in order of preference.
        count: the original not counted; None takes everything.
        advance: told the number of texts as they come in, valid or not.

    Raises:
        CandidateError: if a source can give nothing, for a reason that the user can act on.
    """
    pool = Pool(task)
    kept, spare = pool.kept[:1], list[Instruction]()
    for source in sources:
        missing = None if count is None else count + 1 - len(kept)
        if missing == 0:
            break
        valid = _asked(source, task, pool, None if missing is None else with_spare(missing), advance)
        if missing is None:
            kept += valid
            continue
        picked = most_different([c.text for c in kept], [c.text for c in valid], missing)
        kept += [valid[i] for i in picked]
        spare += [c for i, c in enumerate(valid) if i not in picked]
    return Gathered(tuple(kept), tuple(pool.rejected), tuple(spare), _notes(task, pool, len(kept) - 1, count))


def descendants(
    task: Task,
    sources: Sequence[Source],
    count: int,
    ranking: Ranking,
    known: Sequence[Instruction],
    advance: Callable[[int], None] = lambda texts: None,
) -> Gathered:
    """Return the original followed by at most ``count`` new texts that take after the best of a ranking.

    Args:
        task: as in `gather`, also for what follows.
        sources: those that cannot learn give nothing.
        count: new texts at most; the first valid ones are kept, as likeness is wanted now.
        ranking: what did best and worst.
        known: candidates that need not come again.
        advance: as in `gather`.
    """
    pool = Pool(task, known=known)
    kept = pool.kept[:1]
    for source in sources:
        missing = count + 1 - len(kept)
        if missing > 0:
            kept += _asked(source, task, pool, missing, advance, ranking)[:missing]
    return Gathered(tuple(kept), tuple(pool.rejected))


def _asked(
    source: Source,
    task: Task,
    pool: Pool,
    wanted: int | None,
    advance: Callable[[int], None],
    ranking: Ranking | None = None,
) -> list[Instruction]:
    """Return the valid texts of a source, asked until there are as many as wanted; None asks for everything."""
    before = len(pool.kept)
    rounds = source.paraphrases(task, wanted or _PLENTY, advance, ranking)
    with closing(rounds):
        for texts in rounds:
            pool.add(texts, source.origin)
            if wanted is not None and len(pool.kept) - before >= wanted:
                break
    return pool.kept[before:]


def _notes(task: Task, pool: Pool, found: int, count: int | None) -> tuple[str, ...]:
    few = []
    if found == 0:
        few.append(f"{task.name}: no valid paraphrase, so there is only the original instruction")
    elif count is not None and found < count:
        few.append(f"{task.name}: {found} of {count} paraphrases that were asked for")
    if pool.rejected and few:
        texts = "1 text was" if len(pool.rejected) == 1 else f"{len(pool.rejected)} texts were"
        few = [f"{few[0]}; {texts} turned away"]
    return (*few, *([pool.note] if pool.note else []))
