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
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapo.core.errors import DataError, ModelError
from sapo.core.processes import ALONE, Processes
from sapo.core.progress import SILENT, Reporter
from sapo.core.types import Encoded, Example, Losses, Task
from sapo.models.ability import general_rows
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.selection.differences import TIE, choose, compare
from sapo.selection.selection import Selection, Trial, Tried, mean_loss
from sapo.selection.settings import TrialSettings
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.methods.objective import Objective, trainable
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Checkpoints, Extras

# Forward tokens that training on a token costs: forward, and twice that backward.
TRAINED = 3.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a trial goes: ``leading`` candidates, of which those that stay are trained for ``updates``."""

    updates: int
    leading: int

    @property
    def half(self) -> int:
        """Updates after which candidates are dropped."""
        return self.updates // 2

    @property
    def staying(self) -> int:
        """Candidates that are not, the original among them."""
        return max(2, self.leading - self.leading // 2)

    @property
    def steps(self) -> int:
        """Updates of all candidates together."""
        return self.leading * self.half + self.staying * (self.updates - self.half)

    def cost(self, update: float, measured: float) -> float:
        """Return it in forward tokens: ``update`` are those of an update, ``measured`` those of all measured rows."""
        return self.steps * update + (self.leading + self.staying) * measured


def extent(settings: TrialSettings, candidates: int, update: float, measured: float, budget: float | None) -> Extent:
    """Return what the budget allows: fewer candidates first, then fewer updates; two of each in any case."""
    fewer = [Extent(settings.updates, k) for k in range(min(settings.leading, candidates), 2, -1)]
    shorter = [Extent(updates, 2) for updates in range(settings.updates, 1, -1)]
    fits = (one for one in (*fewer, *shorter) if budget is None or one.cost(update, measured) <= budget)
    return next(fits, shorter[-1])


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


def tried(
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
    budget = None if settings.budget is None else settings.budget * TRAINED * length * len(task.train) * train.epochs
    whole = extent(settings, len(leaders), update, read, budget)
    leaders, cost = leaders[: whole.leading], whole.cost(update, read)
    label = f"{task.name}: trying {len(leaders)} candidates"

    with (
        _restored(model) as restore,
        tempfile.TemporaryDirectory() as scratch,
        progress.step(label, whole.leading + whole.staying, cost) as advance,
    ):
        directory = Path(processes.once(lambda: scratch))

        def after(candidate: int, updates: int) -> dict[str, Losses]:
            """Train on up to so many updates, from the candidate's checkpoint where there is one, and measure."""
            restore()
            # Half an update less, for rounding up must not add one.
            epochs = (updates - 0.5) / ceil(len(taken) / train.batch_size)
            finetune(
                model, training[candidate], train.model_copy(update={"epochs": epochs}), seed, processes=processes,
                checkpoints=Checkpoints(directory / str(candidate), whole.half), extras=Extras(objective),
                constant=True,
            )  # fmt: skip
            now = scorer.on(model)
            measured = {task.name: now(own[candidate])} | {name: now(rows) for name, rows in others.items()}
            advance(1)
            return measured

        halfway = {i: after(i, whole.half) for i in leaders}
        staying = [0, *sorted(leaders[1:], key=lambda i: mean_loss(halfway[i]))[: whole.staying - 1]]
        final = {i: after(i, whole.updates) for i in staying}

    ends = {i: final.get(i, halfway[i]) for i in leaders}
    deltas, intervals = differences([*ends.values()], [(final if i in final else halfway)[0] for i in leaders], seed)
    allowed = [interval if i in final else None for i, interval in zip(leaders, intervals, strict=True)]
    chosen = leaders[choose(deltas, allowed, "confident", TIE)]
    found = tuple(
        Tried(i, whole.updates if i in final else whole.half, ends[i], delta, interval)
        for i, delta, interval in zip(leaders, deltas, intervals, strict=True)
    )
    return selection.decided_by(Trial(found, round(cost), budget, time.perf_counter() - began), chosen)


def differences(
    losses: Sequence[Mapping[str, Losses]], originals: Sequence[Mapping[str, Losses]], seed: int
) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return by how much the mean over tasks of each one's losses exceeds the original's, with simultaneous intervals.

    `compare` speaks of sums over rows. So rows are weighted such that all tasks count the same, d_i / (S T_s) with T_s
    the tokens of task s, and then shifted by their task's deviation from the mean over tasks: that sums to zero, and
    what spread is left is the spread of rows within tasks, since which tasks are measured is no matter of chance.

    Args:
        losses: of each candidate by task, the original first.
        originals: those of the original after as many updates as each candidate.
        seed: of the resampling.
    """
    names, rows = list(losses[0]), []
    tokens = {name: losses[0][name].tokens / losses[0][name].tokens.sum() / len(names) for name in names}
    for now, then in zip(losses, originals, strict=True):
        rises = {name: now[name].per_token - then[name].per_token for name in names}
        mean = sum(rises.values()) / len(names)
        parts = []
        for name in names:
            weighted = (now[name].nll - then[name].nll) / now[name].tokens.sum() / len(names)
            parts.append(weighted - (rises[name] - mean) * tokens[name])
        rows.append(np.concatenate(parts))
    return compare(np.stack(rows), np.concatenate([*tokens.values()]), seed)


def _split(task: Task, settings: TrialSettings, batch: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Return training rows to measure, at most half of them, and others, as many as the updates take."""
    # Of another seed than the rows that candidates were scored on, or the same ones would be measured again.
    held = selection_rows(task, min(settings.rows, len(task.train) // 2), "stratified", seed + 1)
    rest = replace(task, train=tuple(row for i, row in enumerate(task.train) if i not in set(held)))
    taken = selection_rows(rest, settings.updates * batch, "stratified", seed)
    return [task.train[i] for i in held], [rest.train[i] for i in taken]


@contextmanager
def _restored(model: Any) -> Iterator[Callable[[], None]]:
    """Yield what takes trained weights back to the present ones; in the end gradients and modes are put back too."""
    weights = {name: p.detach().to("cpu", copy=True) for name, p in trainable(model).items()}
    gradients = {name: p.grad for name, p in trainable(model).items()}
    modes = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(weights[name])
                parameter.grad = None

    try:
        yield restore
    finally:
        restore()
        for name, parameter in trainable(model).items():
            parameter.grad = gradients[name]
        for module, training in modes:
            module.training = training
