"""Choose by consequence: the leading candidates are tried, and what a few updates do to all tasks decides.

Each candidate c is trained with for K real updates, all from the same weights, with the same rows, order and seeds:

    objective(c) = 1 / S * sum over tasks s of L_s(theta_c)        [nats per supervised token]

theta_c is the model after them. Tasks are the new one (held-out rows, prompted with c itself, so that an instruction
with which nothing is learned cannot win) and earlier or watched ones (stored rows, with the instructions that they were
trained with). The learning rate is at its peak: so few updates of a warm-up would change next to nothing. After half of
the updates only the better half stays, the original always with it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from sapo.core.errors import DataError, ModelError
from sapo.core.processes import ALONE, Processes
from sapo.core.progress import SILENT, Reporter, Work
from sapo.core.types import Encoded, Example, Losses, Task
from sapo.models.ability import general_rows
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.selection.differences import TIE, choose, compare
from sapo.selection.selection import Selection, Trial, Tried
from sapo.selection.settings import TrialSettings
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.methods.objective import Objective, put_back, trainable
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Checkpoints, Extras

# Forward tokens that training on a token costs: forward, and twice that backward.
TRAINED = 3.0


def extent(settings: TrialSettings, candidates: int, update: float, read: float, whole: float) -> tuple[int, int, Work]:
    """Return how many candidates are tried, how many of them stay after half of the updates, and the work.

    A budget lets fewer candidates be tried, but two in any case. Costs are in forward tokens: that of an update, that
    of measuring once, and that of the whole training.
    """
    half, most = settings.updates // 2, min(settings.leading, candidates)
    for leading in range(most, 1, -1):
        staying = max(2, leading - leading // 2)
        steps = leading * half + staying * (settings.updates - half)
        cost = steps * update + (leading + staying) * read
        if settings.budget is None or cost <= settings.budget * whole:
            break
    return leading, staying, Work(steps, cost, cost)


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
    where an error is raised. ``others`` are stored rows of other tasks by name; some of the ``task``'s training rows
    are held out of the trial, to be measured. ``train`` is the training that is tried, ``objective`` what it minimises
    in place of the NLL; ``seed`` is that of rows, order, dropout and bootstrap.

    Raises:
        DataError: if the task has a single training row.
        ModelError: if nothing of the model is trainable.
        TrainError: if a loss or a weight is not finite during a trial.
    """
    if len(selection.candidates) == 1:
        return selection
    if len(task.train) < 2:
        raise DataError(f"task {task.name!r} has one training row: rule trial trains on some and measures others")
    if not trainable(model):
        raise ModelError("rule trial: no parameter of the model requires a gradient. Give it as it is trained")
    began = time.perf_counter()
    leaders = [0, *(i for i in selection.ranked if i)][: settings.leading]
    held, taken = _split(task, settings, train.batch_size, seed)
    own, training = (
        {i: renderer.encode(selection.candidates[i].instruction.text, task.suffix, rows) for i in leaders}
        for rows in (held, taken)
    )
    length = sum(len(e.ids) for rows in training.values() for e in rows) / len(leaders) / len(taken)
    update = TRAINED * length * min(train.batch_size, len(taken))
    read = sum(len(e.ids) for rows in (own[0], *others.values()) for e in rows)
    whole = TRAINED * length * len(task.train) * train.epochs
    count, staying, work = extent(settings, len(leaders), update, read, whole)
    leaders, half, label = leaders[:count], settings.updates // 2, f"{task.name}: trying {count} candidates"

    with (
        _restored(model) as restore,
        tempfile.TemporaryDirectory() as scratch,
        progress.step(label, count + staying, work.cost) as advance,
    ):
        directory = Path(processes.once(lambda: scratch))

        def after(candidate: int, updates: int) -> dict[str, Losses]:
            """Train on up to so many updates, from the candidate's checkpoint where there is one, and measure."""
            restore()
            # Half an update less, for rounding up must not add one.
            epochs = (updates - 0.5) / ceil(len(taken) / train.batch_size)
            finetune(
                model, training[candidate], train.model_copy(update={"epochs": epochs}), seed, processes=processes,
                checkpoints=Checkpoints(directory / str(candidate), half), extras=Extras(objective), constant=True,
            )  # fmt: skip
            now = scorer.on(model)
            measured = {task.name: now(own[candidate])} | {name: now(rows) for name, rows in others.items()}
            advance(1)
            return measured

        halfway = {i: after(i, half) for i in leaders}
        best = sorted(leaders[1:], key=lambda i: sum(one.per_token for one in halfway[i].values()))
        final = {i: after(i, settings.updates) for i in (0, *best[: staying - 1])}

    ends = halfway | final
    deltas, intervals = differences([*ends.values()], [(final if i in final else halfway)[0] for i in ends], seed)
    allowed = [interval if i in final else None for i, interval in zip(ends, intervals, strict=True)]
    tried = tuple(
        Tried(i, settings.updates if i in final else half, {k: v.per_token for k, v in now.items()}, delta, interval)
        for (i, now), delta, interval in zip(ends.items(), deltas, intervals, strict=True)
    )
    trial = Trial(tried, round(work.cost), time.perf_counter() - began)
    return selection.decided_by(trial, leaders[choose(deltas, allowed, "confident", TIE)])


def differences(
    losses: Sequence[Mapping[str, Losses]], originals: Sequence[Mapping[str, Losses]], seed: int
) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return by how much the mean over tasks of each one's losses exceeds the original's, with simultaneous intervals.

    `compare` speaks of sums over rows. So rows are weighted such that all tasks count the same, d_i / (S T_s) with T_s
    the tokens of task s, and then shifted by their task's deviation from the mean over tasks: that sums to zero, and
    what spread is left is the spread of rows within tasks, since which tasks are measured is no matter of chance.

    ``losses`` are of each candidate by task, the original first, and ``originals`` those of the original after as many
    updates as each candidate.
    """
    # Per row of all tasks, its share of the mean over tasks of sums over tokens.
    shares = {name: one.tokens / one.tokens.sum() / len(losses[0]) for name, one in losses[0].items()}
    rows = []
    for now, then in zip(losses, originals, strict=True):
        rises = {name: now[name].per_token - then[name].per_token for name in shares}
        mean = sum(rises.values()) / len(rises)
        parts = (
            share * ((now[name].nll - then[name].nll) / now[name].tokens - rises[name] + mean)
            for name, share in shares.items()
        )
        rows.append(np.concatenate([*parts]))
    return compare(np.stack(rows), np.concatenate([*shares.values()]), seed)


def _split(task: Task, settings: TrialSettings, batch: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Return training rows to measure, at most half of them, and others, as many as the updates take."""
    # Of another seed than the rows that candidates were scored on, or the same ones would be measured again.
    held = set(selection_rows(task, min(settings.rows, len(task.train) // 2), "stratified", seed + 1))
    rest = replace(task, train=tuple(row for i, row in enumerate(task.train) if i not in held))
    taken = selection_rows(rest, settings.updates * batch, "stratified", seed)
    return [task.train[i] for i in sorted(held)], [rest.train[i] for i in taken]


@contextmanager
def _restored(model: Any) -> Iterator[Callable[[], None]]:
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
