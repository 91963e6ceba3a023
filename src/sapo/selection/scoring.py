"""Candidates scored on rows, all of them or in a race, and the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapo.core.errors import DataError
from sapo.core.progress import SILENT, Reporter, Work
from sapo.core.types import Instruction, Rejection, Task
from sapo.models.losses import Scorer
from sapo.models.memory import peak_memory, reset_peak_memory
from sapo.models.render import Encoder
from sapo.selection.cache import LossCache
from sapo.selection.differences import TIE, choose, compare, intervals_after_race
from sapo.selection.measuring import SAMPLED, Measuring, row_costs
from sapo.selection.race import Finish, race, round_sizes
from sapo.selection.selection import CandidateLoss, Race, Selection, Status
from sapo.selection.settings import SelectionSettings
from sapo.tasks.sampling import shown_rows


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

    ``rows`` are indices of training rows; those that a candidate shows as an example are left out. ``seed`` is that of
    the race's order and of the bootstrap; ``budget`` the most that a race may cost, in forward tokens, None for no
    limit. Losses that ``cache`` knows are taken from there.
    The step that ``progress`` is told has this ``label`` and ``work``; by default one that names the task, and the
    number of losses.

    Raises:
        ScoreError: if a loss is not finite, or a row does not fit the memory.
        RenderError: if a prompt does not fit.
        DataError: if candidates show all rows.
    """
    rows = _unseen(task, candidates, rows, progress)
    raced = settings.races
    # In random order, the first k rows are a simple random sample of all.
    order = tuple(np.random.default_rng(seed).permutation(rows).tolist()) if raced else rows
    total = len(order) * len(candidates)
    work = work or Work(total, total, total)
    # Answers outside the labels are 0, as are all of a task without labels.
    numbers = {label: n for n, label in enumerate(task.labels, start=1)}
    with (
        progress.step(label or f"{task.name}: scoring {len(candidates)} candidates", work.units, work.cost) as advance,
        progress.race([c.text for c in candidates], len(order)) as watch,
    ):
        reset_peak_memory()
        found = Measuring(scorer, renderer, task, candidates, order, cache, advance)
        costs, beginnings = row_costs(renderer, task, candidates, [task.train[i] for i in order[:SAMPLED]])
        try:
            noise = found.noise()
            epsilon = settings.epsilon + noise
            finish = race(
                found.measure,
                round_sizes(len(order)) if raced else [len(order)],
                costs,
                found.tokens,
                np.array([numbers.get(task.train[i].answer, 0) for i in order]),
                delta=settings.delta,
                epsilon=epsilon,
                confirm=found.confirm if raced and noise else None,
                budget=budget - beginnings if raced and budget is not None else None,
                watch=watch if raced else lambda standing: None,
            )
        finally:
            found.release()
    losses, last, tolerance = found.losses(finish.nll), finish.last, max(TIE, noise)
    if raced:
        chosen, tolerance, values = last.leader, max(TIE, epsilon), last.loss.tolist()
        deltas = [x - values[0] for x in values]
        most = max((x.tokens for x in losses), key=len)
        intervals = intervals_after_race(deltas, [x.nll for x in losses], most)
    else:
        values = [x.per_token for x in losses]
        deltas, intervals = compare(np.stack([x.nll for x in losses]), losses[0].tokens, seed)
        chosen = choose(values, intervals, settings.rule, tolerance)
    told = []
    for i, candidate in enumerate(candidates):
        status, left = _status(i, chosen, finish)
        gap = (float(last.low[i]), float(last.high[i])) if raced else None
        told.append(CandidateLoss(candidate, losses[i], values[i], deltas[i], intervals[i], status, left, gap))
    facts = Race(settings.delta, epsilon, last.tolerance, len(finish.standings), finish.end, budget)
    return Selection(
        task=task.name, rule=settings.rule, sample=settings.sample, rows=order, rejected=tuple(rejected),
        candidates=tuple(told), chosen=chosen, tolerance=tolerance, race=facts if raced else None,
        seconds=found.seconds, tokens=found.spent, route=" and ".join(sorted(found.routes)), cached=found.cached,
        peak_memory=peak_memory(),
    )  # fmt: skip


def _unseen(task: Task, candidates: Sequence[Instruction], rows: Sequence[int], progress: Reporter) -> tuple[int, ...]:
    """Return the rows that no candidate shows: an answer that stands in the prompt says nothing about the others."""
    shown = shown_rows(task, candidates)
    kept = tuple(row for row in rows if row not in shown)
    if not kept:
        raise DataError(
            f"task {task.name!r}: candidates show all {len(rows)} selection rows as examples; give more rows"
        )
    if len(kept) < len(rows):
        progress.note(f"{task.name}: not scored, as candidates show them as examples: {len(rows) - len(kept)} rows")
    return kept


def _status(i: int, chosen: int, finish: Finish) -> tuple[Status, int | None]:
    """Return what became of a candidate, and the last round in which it was scored where it was dropped."""
    if i == chosen:
        return "chosen", None
    rows, last = len(finish.nll[i]), finish.last
    # Ended by the budget, a race may leave some behind that were still in it.
    if rows == last.counts.max() or i in last.racing:
        return "scored", None
    return "dropped", next(s.round for s in finish.standings if s.counts[i] == rows)
