"""Which rows of a task are used: to score candidates on, to train, to test, to choose again on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sapo.core.errors import ConfigError, DataError
from sapo.core.types import Example, Instruction, Sample, Task

# How an instruction shows a row as an example: its input, this, and its answer.
_ANSWER = "\nAnswer:"
# Every run is tested on the same rows, whatever its seed.
_TEST_SEED = 0


def selection_rows(task: Task, examples: int, sample: Sample, seed: int) -> tuple[int, ...]:
    """Return the indices of the selection rows among the training rows, ascending.

    "first" takes the first ones. "stratified" draws without replacement, so that every label has its share of
    the training rows (largest remainders); answers outside the labels, and tasks without labels, form one
    stratum.
    """
    total = len(task.train)
    if total == 0:
        raise DataError(f"task {task.name!r} has no training rows to score on")
    examples = min(examples, total)
    if sample == "first":
        return tuple(range(examples))
    strata: dict[str, list[int]] = {}
    for i, row in enumerate(task.train):
        strata.setdefault(row.answer if row.answer in task.labels else "", []).append(i)
    names = sorted(strata)
    shares = shares_of(examples, [len(strata[name]) for name in names])
    rng = np.random.default_rng(seed)
    picked = [i for name, k in zip(names, shares, strict=True) for i in rng.permutation(strata[name])[:k]]
    return tuple(sorted(int(i) for i in picked))


def shares_of(wanted: int, sizes: Sequence[int]) -> list[int]:
    """Return how many of ``wanted`` rows each stratum gives: its share of all rows, by largest remainders."""
    exact = [wanted * size / sum(sizes) for size in sizes]
    shares = [int(x) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (shares[k] - exact[k], k))
    for k in by_remainder[: wanted - sum(shares)]:
        shares[k] += 1
    return shares


def as_example(row: Example) -> str:
    """Return a row as an instruction shows it; by that it is found again, see `shown_rows`."""
    return f"{_asked(row)} {row.answer}"


def shown_rows(task: Task, candidates: Sequence[Instruction]) -> frozenset[int]:
    """Return the indices of the training rows whose input a candidate shows as an example."""
    texts = [candidate.text for candidate in candidates if _ANSWER in candidate.text]
    if not texts:
        return frozenset()
    return frozenset(i for i, row in enumerate(task.train) if any(_asked(row) in text for text in texts))


def _asked(row: Example) -> str:
    return f"Text: {row.input}{_ANSWER}"


def without_shown(task: Task, candidates: Sequence[Instruction]) -> Task:
    """Return the task without the training rows that its candidates show: they are neither scored nor trained on.

    Raises:
        DataError: if no row is left.
    """
    shown = shown_rows(task, candidates)
    if not shown:
        return task
    kept = tuple(row for i, row in enumerate(task.train) if i not in shown)
    note = f"neither scored nor trained on, as candidates show them as examples: {len(shown)} training rows"
    if not kept:
        raise DataError(f"task {task.name!r}: {note}, and no row is left. Give more rows, or other candidates")
    return replace(task, train=kept, notes=(*task.notes, note))


def used_rows(task: Task, train_rows: int | None, test_rows: int | None, seed: int) -> Task:
    """Return the task with only the rows that are used, in the file's order."""
    picked = selection_rows(task, train_rows or len(task.train), "stratified", seed)
    tested = replace(task, train=task.test)
    shown = selection_rows(tested, test_rows or len(task.test), "stratified", _TEST_SEED)
    return replace(task, train=tuple(task.train[i] for i in picked), test=tuple(task.test[i] for i in shown))


def held_rows_of(task: Task, train_rows: int | None, held_rows: int, seed: int) -> tuple[Example, ...]:
    """Return rows of a task that are neither trained on nor tested: its dev rows, or training rows that are not used.

    Raises:
        ConfigError: if there are none.
    """
    used = set(selection_rows(task, train_rows or len(task.train), "stratified", seed))
    rows = task.dev or tuple(row for i, row in enumerate(task.train) if i not in used)
    if not rows:
        raise ConfigError(
            f"policy reselect scores on rows that are not trained on, but {task.name} has no dev rows and all its "
            f"{len(task.train)} training rows are used: set train.rows to fewer, or give dev rows"
        )
    there = replace(task, train=rows)
    return tuple(rows[i] for i in selection_rows(there, held_rows, "stratified", seed))
