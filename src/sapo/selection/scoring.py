"""Candidates scored on rows, all of them or in a race, and the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.progress import SILENT, Reporter, Work
from sapo.core.types import (
    CandidateLoss,
    Instruction,
    Losses,
    Race,
    Rejection,
    Selection,
    Status,
    Task,
)
from sapo.models.losses import Scorer
from sapo.models.memory import peak_memory
from sapo.models.render import Encoder
from sapo.selection.cache import LossCache
from sapo.selection.differences import choose, compare, intervals_after_race
from sapo.selection.measuring import Measuring
from sapo.selection.race import Finish, RaceSettings, race, round_sizes
from sapo.selection.rows import label_groups, race_order
from sapo.selection.settings import SelectionSettings


def score_candidates(
    scorer: Scorer,
    renderer: Encoder,
    task: Task,
    candidates: Sequence[Instruction],
    rows: Sequence[int],
    settings: SelectionSettings,
    *,
    seed: int,
    budget: float | None = None,
    rejected: Sequence[Rejection] = (),
    cache: LossCache | None = None,
    progress: Reporter = SILENT,
    label: str = "",
    work: Work | None = None,
) -> Selection:
    """Score candidates, the original first, on the given training rows and choose by the rule.

    ``rows`` are indices of training rows. ``seed`` is that of the race's order and of the bootstrap; ``budget`` the
    most that a race may cost, in forward tokens, None for no limit. Losses that ``cache`` knows are taken from there.
    The step that ``progress`` hears of has this ``label`` and ``work``; by default one that names the task, and the
    number of losses.

    Raises:
        ScoreError: if a loss is not finite, or a row does not fit the memory.
        RenderError: if a prompt does not fit.
    """
    raced = settings.races
    order = race_order(tuple(rows), seed) if raced else tuple(rows)
    total = len(order) * len(candidates)
    work = work or Work(total, total, total)
    with (
        progress.step(label or f"{task.name}: scoring {len(candidates)} candidates", work.units, work.cost) as advance,
        progress.race([c.text for c in candidates], len(order)) as watch,
    ):
        found = Measuring(scorer, renderer, task, candidates, order, cache, advance)
        costs, beginnings = found.costs()
        try:
            finish = race(
                found.measure,
                round_sizes(len(order)) if raced else [len(order)],
                costs,
                found.tokens,
                label_groups(task, order),
                RaceSettings(
                    settings.delta, settings.epsilon, budget - beginnings if raced and budget is not None else None
                ),
                watch if raced else lambda standing: None,
            )
        finally:
            found.release()
    losses = found.losses(finish.nll)
    outcome = _raced(losses, finish, found.tie, settings) if raced else _exhaustive(losses, found.tie, settings, seed)
    return Selection(
        task=task.name, rule=settings.rule, sample=settings.sample, rows=order, rejected=tuple(rejected),
        candidates=_together(candidates, losses, outcome, finish if raced else None),
        chosen=outcome.chosen, tolerance=outcome.tolerance, race=_facts(finish, settings, budget) if raced else None,
        seconds=found.seconds, tokens=found.spent, route=" and ".join(sorted(found.routes)), cached=found.cached,
        peak_memory=peak_memory(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The choice, and per candidate what it rests on."""

    chosen: int
    tolerance: float
    values: Sequence[float]
    deltas: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]


def _exhaustive(losses: Sequence[Losses], tie: float, settings: SelectionSettings, seed: int) -> _Outcome:
    values = [x.per_token for x in losses]
    deltas, intervals = compare(np.stack([x.nll for x in losses]), losses[0].tokens, seed)
    return _Outcome(choose(values, intervals, settings.rule, tie), tie, values, deltas, intervals)


def _raced(losses: Sequence[Losses], finish: Finish, tie: float, settings: SelectionSettings) -> _Outcome:
    values = finish.last.loss.tolist()
    deltas = [x - values[0] for x in values]
    most = max((x.tokens for x in losses), key=len)
    intervals = intervals_after_race(deltas, [x.nll for x in losses], most)
    return _Outcome(finish.last.leader, max(tie, settings.epsilon), values, deltas, intervals)


def _together(
    candidates: Sequence[Instruction], losses: Sequence[Losses], outcome: _Outcome, finish: Finish | None
) -> tuple[CandidateLoss, ...]:
    most = max(len(x.nll) for x in losses)
    found = []
    for i, candidate in enumerate(candidates):
        # Ended by the budget, a race may leave some behind who were still in it.
        racing = finish is not None and i in finish.last.racing
        dropped = len(losses[i].nll) < most and i != outcome.chosen and not racing
        status: Status = "chosen" if i == outcome.chosen else "dropped" if dropped else "scored"
        last, gap = None, None
        if finish is not None:
            # The last round in which it was scored.
            last = next(s.round for s in finish.standings if s.counts[i] == len(losses[i].nll)) if dropped else None
            gap = float(finish.last.low[i]), float(finish.last.high[i])
        values = outcome.values[i], outcome.deltas[i], outcome.intervals[i]
        found.append(CandidateLoss(candidate, losses[i], *values, status, last, gap))
    return tuple(found)


def _facts(finish: Finish, settings: SelectionSettings, budget: float | None) -> Race:
    return Race(
        delta=settings.delta,
        epsilon=settings.epsilon,
        tolerance=finish.last.tolerance,
        rounds=len(finish.standings),
        end=finish.end,
        budget=budget,
    )
