"""The forgetting guard: while a task is trained, losses on stored rows of other tasks are watched.

A rise counts when the whole 95 % interval of the paired increase lies above the limit. The interval is for one look
at one task; of many looks some show a rise by chance, which the limit is there to absorb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from sapo.core.types import Encoded, Losses, Task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.selection.differences import LEVEL
from sapo.selection.standings import quantile, standard_error
from sapo.tasks.sampling import selection_rows
from sapo.training.objective import copies, put_back
from sapo.training.settings import GuardSettings


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rise that counted.

    Attributes:
        task: the training, NUMBER-TASK.
        step: updates made when it was seen.
        back_to: updates after which the weights are those that were kept; None where training continued.
        watched: the task whose loss rose most.
        increase: of its loss, in nats per token; None where the loss is no longer a finite number.
        low: lower end of the 95 % interval of that.
        updates: that the training was to have.
    """

    task: str
    step: int
    back_to: int | None
    watched: str
    increase: float | None
    low: float | None
    updates: int


def increase(before: Losses, now: Losses) -> tuple[float, float]:
    """Return by how much a loss rose, in nats per token, and the lower end of its 95 % interval.

    The loss is a ratio of sums, NLL over tokens; the standard error of the paired difference is that of its
    linearisation, with Student's t over rows.
    """
    risen = now.nll - before.nll
    mean = float(risen.sum() / now.tokens.sum())
    spread = standard_error(risen, now.tokens)
    return mean, float(mean - quantile((1 - LEVEL) / 2, len(risen) - 1) * spread)


@dataclass(slots=True)
class Guard:
    """Watches the losses of other tasks during one training; see `sapo.training.trainer.Watcher`.

    It looks every so many updates, and at the last one. A rise of more than ``limit`` nats per token counts; with
    ``stops`` it ends the training, with the weights of the last look at which there was none. ``watched`` holds at
    least two rows of each task, as they are to be prompted.
    """

    task: str
    scorer: Scorer
    watched: Mapping[str, Sequence[Encoded]]
    every: int
    limit: float
    updates: int
    stops: bool
    tell: Callable[[str], None]
    alarms: list[Alarm] = field(default_factory=list, init=False)
    _before: list[Losses] = field(default_factory=list, init=False)
    _good: tuple[int, dict[str, torch.Tensor]] = field(default=(0, {}), init=False)

    def begin(self, model: Any) -> None:
        """Measure what is to be compared with."""
        scorer = self.scorer.on(model)
        self._before = [scorer(rows) for rows in self.watched.values()]
        self._keep(model, 0)

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Look, where it is time to, and take the weights back where they must be."""
        if step % self.every and not last:
            return False
        scorer = self.scorer.on(model)
        now = [scorer(rows) for rows in self.watched.values()]
        risen = [increase(*pair) for pair in zip(self._before, now, strict=True)]
        # A loss that is no longer a number has risen most of all.
        worst = max(range(len(risen)), key=lambda i: risen[i][1] if np.isfinite(risen[i][1]) else np.inf)
        mean, low = risen[worst]
        if np.isfinite(low) and low <= self.limit:
            self._keep(model, step)
            return False
        rise, end = (mean, low) if np.isfinite(low) else (None, None)
        back = self._good[0] if self.stops else None
        alarm = Alarm(self.task, step, back, [*self.watched][worst], rise, end, self.updates)
        self.alarms.append(alarm)
        self.tell(sentence(alarm, self.limit))
        if self.stops:
            put_back(model, self._good[1])
        return self.stops

    def state(self) -> Any:
        """Return what rose so far."""
        return {"alarms": [asdict(alarm) for alarm in self.alarms], "good": self._good[0]}

    def restore(self, model: Any, state: Any) -> None:
        """Resume from a checkpoint, which holds weights that were looked at."""
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        self._keep(model, int(state["good"]))

    def _keep(self, model: Any, step: int) -> None:
        if self.stops:
            self._good = step, copies(model)


def guard_over(
    name: str,
    tasks: Sequence[tuple[Task, str]],
    settings: GuardSettings,
    scorer: Scorer,
    renderer: Renderer,
    updates: int,
    seed: int,
    tell: Callable[[str], None],
) -> Guard | None:
    """Return the guard of a training, named NUMBER-TASK, over stored rows of tasks, each with its instruction.

    None where there is nothing to watch.
    """
    if not tasks:
        tell("forgetting guard: nothing to look at, as nothing was trained before and there are no watch tasks")
    watched = {}
    for task, instruction in tasks:
        # Training rows: what is decided on must not be what is tested on.
        rows = selection_rows(task, settings.rows, "stratified", seed)
        if len(rows) > 1:
            watched[task.name] = renderer.encode(instruction, task.suffix, [task.train[i] for i in rows])
        else:
            # Of one row, no interval can be made.
            tell(f"forgetting guard: {task.name} is not watched: it has a single training row")
    stops = settings.action == "stop"
    return Guard(name, scorer, watched, settings.every, settings.limit, updates, stops, tell) if watched else None


def stopped(alarms: Sequence[Alarm]) -> tuple[int, int] | None:
    """Return how many updates of how many were kept, where the last alarm ended the training."""
    return (alarms[-1].back_to, alarms[-1].updates) if alarms and alarms[-1].back_to is not None else None


def sentence(alarm: Alarm, limit: float) -> str:
    """Return what a user should know of a rise."""
    rise = "is no longer a finite number"
    if alarm.increase is not None and alarm.low is not None:
        rise = (
            f"is {alarm.increase:+.3f} nats per token above that before this task (95 % interval from "
            f"{alarm.low:+.3f}; limit {limit:g})"
        )
    rise = f"after update {alarm.step} of {alarm.updates} the loss on {alarm.watched} {rise}"
    if alarm.back_to is None:
        return f"forgetting guard: {rise}; training continues (guard.action: warn)"
    return f"forgetting guard: {rise}; {ended(alarm.back_to, alarm.updates)}"


def ended(back_to: int, updates: int) -> str:
    """Return what a rollback means for the task that was trained."""
    if back_to == 0:
        return "training stopped and rolled back to before this task: nothing was learned"
    return f"training stopped and rolled back to update {back_to} of {updates}: nothing after it was learned"
