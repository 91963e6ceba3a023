"""A sequence as a list of trainings: task after task, all tasks at once, or each for itself.

Which cells of the performance matrix there are follows from it, and so which metrics are defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sapo.core.types import Task
from sapo.training.methods.assignment import Order


@dataclass(frozen=True, slots=True)
class Lesson:
    """One training.

    Attributes:
        stage: of the state after it, from 1.
        name: of that stage.
        tasks: what is trained, all at once.
        apart: whether it begins at the start instead of at the stage before.
        tested: the tasks that are tested after it.
        final: those of them for which this is the last state.
    """

    stage: int
    name: str
    tasks: tuple[Task, ...]
    apart: bool
    tested: tuple[Task, ...]
    final: tuple[Task, ...]


def lessons(order: Order, tasks: Sequence[Task]) -> tuple[Lesson, ...]:
    """Return the trainings of a sequence in order."""
    whole, last = tuple(tasks), len(tasks)
    if order == "joint":
        return (Lesson(last, f"{last}-all", whole, False, whole, whole),)
    if order == "apart":
        return tuple(
            Lesson(n, f"{n}-{task.name}", (task,), True, (task,), (task,)) for n, task in enumerate(tasks, start=1)
        )
    return tuple(
        Lesson(n, f"{n}-{task.name}", (task,), False, whole, whole if n == last else ())
        for n, task in enumerate(tasks, start=1)
    )
