"""Test rows for a task that has none: a share of its training rows, the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from sapo.core.errors import DataError
from sapo.core.types import Task
from sapo.tasks.inspection import asked_key
from sapo.tasks.sampling import shares_of

SHARE = 0.2
MOST = 500
# Not the run's: results of runs with different seeds are compared on the same test rows.
_SEED = 0


def hold_out(task: Task) -> Task:
    """Return the task with test rows: its own, or else a fifth of its training rows, at least 1, at most 500.

    Labels keep their shares. Rows with the same history and input, apart from case and white space, stay on one side,
    or the test would ask what was trained; so the held-out rows can be a few less than a fifth, and more where one
    input is the most common.

    Raises:
        DataError: if the training rows have fewer than two different inputs.
    """
    if not isinstance(task, Task):
        raise DataError(f"task = {task!r:.80}: give what sapo.load_task returns")
    if task.test:
        return task
    # Rows that ask the same, by their indices.
    asked: dict[str, list[int]] = {}
    for i, row in enumerate(task.train):
        asked.setdefault(asked_key(row), []).append(i)
    groups = list(asked.values())
    if len(groups) < 2:
        raise DataError(
            f"task {task.name!r} has no test rows, and its training rows have {len(groups)} different inputs: at least "
            "2 are needed to hold some out. Give it test rows (in a configuration, as tasks.NAME.test)."
        )
    held = _held(task, groups)
    return replace(
        task,
        train=tuple(row for i, row in enumerate(task.train) if i not in held),
        test=tuple(row for i, row in enumerate(task.train) if i in held),
        notes=(
            *task.notes,
            f"no test split: {len(held)} of {len(task.train)} training rows are held out for testing, the same ones in "
            "every run",
        ),
    )


def _held(task: Task, groups: Sequence[list[int]]) -> set[int]:
    strata: dict[str, list[list[int]]] = {}
    for group in groups:
        answer = task.train[group[0]].answer
        strata.setdefault(answer if answer in task.labels else "", []).append(group)
    wanted = min(MOST, max(1, round(SHARE * len(task.train))))
    shares = shares_of(wanted, [sum(map(len, stratum)) for stratum in strata.values()])
    rng = Random(_SEED)
    held: set[int] = set()
    for stratum, share in zip(strata.values(), shares, strict=True):
        rng.shuffle(stratum)
        for group in stratum:
            if len(group) <= share:
                held.update(group)
                share -= len(group)
    smallest = min(groups, key=len)
    return held or set(smallest)
