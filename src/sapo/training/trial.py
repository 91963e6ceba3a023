"""Choose by consequence: the leading candidates are tried, and what a few updates do to all tasks decides.

Each candidate c is trained with for the first K updates of the training itself (its rows, its order, its seeds), all
from the same weights:

    objective(c) = 1 / S * sum over tasks s of L_s(theta_c)        [nats per supervised token]

theta_c is the model after them. Tasks are the new one (rows that come later, prompted with c itself, so that an
instruction with which nothing is learned cannot win) and earlier or watched ones (stored rows, with the instructions
that they were trained with). The learning rate is at its peak: so few updates of a warm-up would change next to
nothing. Other rows or another order would tell less, as what is forgotten depends on them as much as on the wording.
All make all updates: half of them rank the end far worse, and in one of three transitions would drop the best (LOG.md,
2026-11-30).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from sapo.core.errors import ModelError
from sapo.core.processes import ALONE, Processes
from sapo.core.progress import SILENT, Reporter, Work
from sapo.core.types import Encoded, Example, Losses, Task
from sapo.models.ability import general_rows
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.selection.differences import TIE, choose, compare
from sapo.selection.selection import Selection, Trial, Tried
from sapo.selection.settings import TrialSettings
from sapo.tasks.sampling import selection_rows, without_shown
from sapo.training.finetune import finetune
from sapo.training.objective import Objective, put_back, trainable
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Extras, row_order

# Forward tokens that training on a token costs: forward, and twice that backward.
TRAINED = 3.0
# Where fewer rows of the task come later than the trial, others are measured too: a few tell nothing.
_FEW = 8


def extent(
    settings: TrialSettings, train: TrainSettings, rows: int, length: float, candidates: int, read: float
) -> tuple[int, int, Work]:
    """Return how many candidates are tried, for how many updates, and the work, in forward tokens.

    A budget lets fewer candidates be tried, but two in any case. The training has so many ``rows``, of mean ``length``
    in tokens; ``read``: tokens of measuring once.
    """
    updates = min(settings.updates, ceil(train.epochs * ceil(rows / train.batch_size)))
    trained = updates * length * min(train.batch_size, rows)
    cost, whole = TRAINED * trained + read, TRAINED * length * rows * train.epochs
    leading = min(settings.leading, candidates)
    while leading > 2 and settings.budget is not None and leading * cost > settings.budget * whole:
        leading -= 1
    return leading, updates, Work(leading * updates, leading * (trained + read), leading * cost)


def other_rows(
    tasks: Mapping[str, tuple[Task, str, Encoder]], settings: TrialSettings, seed: int, general: Renderer, longest: int
) -> dict[str, list[Encoded]]:
    """Return stored training rows of other tasks by name, each with its instruction and the encoder of its prompts.

    Where there are no tasks, general text of at most ``longest`` tokens, by the renderer ``general``, stands in.
    """
    if not tasks:
        return {"general text": general_rows(general, longest)}
    rows = {name: selection_rows(task, settings.rows, "stratified", seed) for name, (task, _, _) in tasks.items()}
    return {
        name: encoder.encode(text, task.suffix, [task.train[i] for i in rows[name]])
        for name, (task, text, encoder) in tasks.items()
    }


def try_leading(
    selection: Selection,
    model: Any,
    scorer: Scorer,
    renderer: Encoder,
    task: Task,
    others: Mapping[str, Sequence[Encoded]],
    settings: TrialSettings,
    train: TrainSettings,
    *,
    seed: int,
    objective: Objective | None = None,
    processes: Processes = ALONE,
    progress: Reporter = SILENT,
) -> Selection:
    """Return a selection with the choice by a trial; unchanged where there is no candidate besides the original.

    The original is left only for a candidate whose interval lies below zero. ``model`` is as it is trained, with
    requires_grad where it is; its weights, gradients and modes, and random states, are then as before to the bit, also
    where an error is raised. ``others`` are stored rows of other tasks by name. ``train`` is the training that is
    tried, on the ``task``'s training rows, ``objective`` what it minimises in place of the NLL; ``seed`` is that of
    rows, order, dropout and bootstrap.

    Raises:
        ModelError: if nothing of the model is trainable.
        TrainError: if a loss or a weight is not finite during a trial.
    """
    if len(selection.candidates) == 1:
        return selection
    demand_trainable(model)
    task = without_shown(task, [candidate.instruction for candidate in selection.candidates])
    began = time.perf_counter()
    leaders = [0, *(i for i in selection.ranked if i)][: settings.leading]
    begun = row_order(len(task.train), seed, 0)[: settings.updates * train.batch_size]
    own, taken = (
        {i: renderer.encode(selection.candidates[i].instruction.text, task.suffix, rows) for i in leaders}
        for rows in (_measured(task, begun, settings.rows, seed), [task.train[place] for place in begun])
    )
    length = sum(len(e.ids) for rows in taken.values() for e in rows) / len(leaders) / len(begun)
    read = sum(len(e.ids) for rows in (own[0], *others.values()) for e in rows)
    count, updates, work = extent(settings, train, len(task.train), length, len(leaders), read)
    notes = selection.notes
    if count < len(leaders):
        most = f"selection.trial.budget {settings.budget:g}"
        fewer = f"{task.name}: {most} lets {count} of {len(leaders)} candidates be tried"
        progress.note(fewer)
        notes = (*notes, fewer)
    ends: dict[int, dict[str, Losses]] = {}
    with (
        restored(model) as restore,
        progress.step(f"{task.name}: trying {count} candidates", count, work.cost) as advance,
    ):
        for i in leaders[:count]:
            restore()
            # In the places of rows that no trial comes to stands any other one.
            known = dict(zip(begun, taken[i], strict=True))
            rows = [known.get(place, taken[i][0]) for place in range(len(task.train))]
            finetune(model, rows, train, seed, processes=processes, extras=Extras(objective), first=updates)
            now = scorer.on(model)
            ends[i] = {task.name: now(own[i])} | {name: now(rows) for name, rows in others.items()}
            advance(1)
    deltas, intervals = differences([*ends.values()], seed)
    tried = tuple(
        Tried(i, {name: losses.per_token for name, losses in found.items()}, delta, interval)
        for (i, found), delta, interval in zip(ends.items(), deltas, intervals, strict=True)
    )
    trial = Trial(updates, tried, round(work.cost), time.perf_counter() - began)
    best = choose(deltas, intervals, "confident", TIE)
    progress.note(_outcome(tried[best], count))
    return replace(selection.decided_by(trial, leaders[best]), notes=notes)


def demand_trainable(model: Any) -> None:
    """Refuse a model nothing of which is trained."""
    if not trainable(model):
        raise ModelError("rule trial: no parameter of the model requires a gradient. Give it as it is trained")


def _outcome(chosen: Tried, count: int) -> str:
    """Return what a trial led to, as a line like those of a race."""
    if chosen.interval is None:
        return f"trial of {count} candidates: the original stays, as no other's mean loss over tasks is clearly lower"
    found = "{:+.4f} [{:+.4f}, {:+.4f}] nats per token".format(chosen.delta, *chosen.interval)
    return f"trial of {count} candidates: candidate {chosen.candidate} is chosen, mean loss over tasks {found}"


def differences(
    losses: Sequence[Mapping[str, Losses]], seed: int
) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return by how much the mean over tasks of each one's losses exceeds the original's, with simultaneous intervals.

    `compare` speaks of sums over rows. So rows are weighted such that all tasks count the same, d_i / (S T_s) with T_s
    the tokens of task s, and then shifted by their task's deviation from the mean over tasks: that sums to zero, and
    what spread is left is the spread of rows within tasks, since which tasks are measured is no matter of chance.

    ``losses`` are of each candidate by task, the original first.
    """
    # Per row of all tasks, its share of the mean over tasks of sums over tokens.
    shares = {name: one.tokens / one.tokens.sum() / len(losses[0]) for name, one in losses[0].items()}
    rows, then = [], losses[0]
    for now in losses:
        rises = {name: now[name].per_token - then[name].per_token for name in shares}
        mean = sum(rises.values()) / len(rises)
        parts = (
            share * ((now[name].nll - then[name].nll) / now[name].tokens - rises[name] + mean)
            for name, share in shares.items()
        )
        rows.append(np.concatenate([*parts]))
    return compare(np.stack(rows), np.concatenate([*shares.values()]), seed)


def _measured(task: Task, begun: Sequence[int], count: int, seed: int) -> list[Example]:
    """Return training rows to measure: of those with which no trial has ``begun``, or of all where these are few."""
    places = {*begun}
    later = tuple(row for i, row in enumerate(task.train) if i not in places)
    source = replace(task, train=later) if len(later) >= _FEW else task
    # Of another seed than the rows that candidates were scored on, or the same ones would be measured again.
    return [source.train[i] for i in sorted(selection_rows(source, count, "stratified", seed + 1))]


@contextmanager
def restored(model: Any) -> Iterator[Callable[[], None]]:
    """Yield what takes trained weights back to the present ones; in the end gradients and modes are put back too."""
    weights = {name: p.detach().to("cpu", copy=True) for name, p in trainable(model).items()}
    gradients = {name: p.grad for name, p in trainable(model).items()}
    modes = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        put_back(model, weights)
        for parameter in trainable(model).values():
            parameter.grad = None

    try:
        yield restore
    finally:
        restore()
        for name, parameter in trainable(model).items():
            parameter.grad = gradients[name]
        for module, training in modes:
            module.training = training
