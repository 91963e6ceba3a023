"""A sequence as a list of trainings: one task after the other, all at once, or each for itself.

Which cells of the performance matrix there are follows from it, and so which metrics are defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sapo.core.types import Encoded, Task
from sapo.selection.selection import Choice
from sapo.training.guard import Alarm

Order = Literal["sequence", "joint", "apart"]


@dataclass(frozen=True, slots=True)
class Training:
    """One pass of learning.

    Attributes:
        stage: number of the stage after it, from 1.
        stages: number of tasks in the sequence.
        name: of the stage after it.
        tasks: what is trained, all at once.
        apart: whether it begins at stage 0 instead of at the stage before.
        tested: the tasks that are tested after it.
        final: those of them for which this is the last stage.
        seed: of whatever a method draws.
        batch_size: rows of an update.
        rows: the training rows, with the instructions that they are trained with; known when it begins.
        before: directory of the stage that it begins at; None for stage 0.
    """

    stage: int
    stages: int
    name: str
    tasks: tuple[Task, ...]
    apart: bool
    tested: tuple[Task, ...]
    final: tuple[Task, ...]
    seed: int
    batch_size: int
    rows: Sequence[Encoded] = ()
    before: Path | None = None

    def begins_at(self, start: Stage, last: Stage) -> Stage:
        """Return the stage that it begins at: stage 0, or the one that was trained last."""
        return start if self.apart else last


@dataclass(frozen=True, slots=True)
class Stage:
    """The model after a training; stage 0 is the model that the sequence starts from.

    Attributes:
        fingerprint: of its weights: equal ones mean equal weights.
        history: hash of all that it was trained from; methods may remember more than weights.
        choices: the tasks that it was trained on, in order, each with its instruction.
        alarms: what the forgetting guard saw in the training that led to it.
        seconds: wall time of that training.
    """

    number: int
    name: str
    fingerprint: str
    history: str = ""
    choices: tuple[Choice, ...] = field(default=(), compare=False)
    alarms: tuple[Alarm, ...] = field(default=(), compare=False)
    seconds: float = field(default=0.0, compare=False)


def schedule(order: Order, tasks: Sequence[Task], seed: int, batch_size: int) -> tuple[Training, ...]:
    """Return the trainings of a sequence in order."""
    whole, last = tuple(tasks), len(tasks)

    def training(number: int, name: str, trained: tuple[Task, ...], tested: tuple[Task, ...]) -> Training:
        apart = order == "apart"
        final = tested if apart or number == last else ()
        return Training(number, last, f"{number}-{name}", trained, apart, tested, final, seed, batch_size)

    if order == "joint":
        return (training(last, "all", whole, whole),)
    return tuple(
        training(n, task.name, (task,), (task,) if order == "apart" else whole) for n, task in enumerate(tasks, start=1)
    )
