"""What a task's rows hold, counted before anything is trained on them.

Repeated and contradicting training rows, test inputs that are also trained on, the labels of the selection rows
against those of all training rows, lengths in tokens, and the rows that cannot be used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from sapo.core.errors import DataError, RenderError
from sapo.core.storage import Stored, fingerprint
from sapo.core.types import Encoded, Example, Split, Task, Unused
from sapo.core.untrusted import folded
from sapo.models.layout import TAKEN_OUT
from sapo.models.render import Renderer

# Unused rows and reasons that are kept one by one; all are counted.
KEPT = 100
_FIRST = 5
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many training, selection and test rows have a label as their answer."""

    label: str
    train: int
    selection: int
    test: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows cannot be used: how many of a split, and the numbers of the first ones, from 1."""

    split: Split
    reason: str
    rows: int
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnusedRows:
    """The rows that cannot be used: their number, why, the commonest first, and the first ones, both at most `KEPT`."""

    rows: int
    reasons: tuple[Reason, ...]
    first: tuple[Unused, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows in tokens, with the original instruction and after cutting.

    Attributes:
        tokens: of all training rows, prompt and answer.
        longest: tokens of the longest training row.
        cut: training inputs longer than max_length, cut in the middle.
        cut_test: test inputs likewise.
    """

    tokens: int
    longest: int
    cut: int
    cut_test: int


@dataclass(frozen=True, slots=True)
class Inspection(Stored):
    """What a task's rows hold.

    Attributes:
        task: its name.
        rows: number of rows per split, as used.
        selected: number of selection rows, 0 where no losses are needed.
        duplicates: training rows equal to an earlier one in history, input and answer.
        conflicts: training rows whose input also occurs with an answer that is not one of their own right ones.
        overlap: test rows whose input is also a training input.
        dropped: training rows left out because of data.drop_overlap.
        labels: in the task's order; empty for free text.
        unused: the rows that cannot be used.
        lengths: None where there is no model to count tokens for.
    """

    task: str
    rows: Mapping[Split, int]
    selected: int
    duplicates: int
    conflicts: int
    overlap: int
    dropped: int
    labels: tuple[LabelCount, ...]
    unused: UnusedRows
    lengths: Lengths | None = None

    @property
    def outside(self) -> LabelCount:
        """Rows whose answer is not a label, with "" as their label; 0 of each for free text."""
        if not self.labels:
            return LabelCount("", 0, 0, 0)
        return LabelCount(
            "",
            self.rows["train"] - sum(x.train for x in self.labels),
            self.selected - sum(x.selection for x in self.labels),
            self.rows["test"] - sum(x.test for x in self.labels),
        )

    @property
    def skew(self) -> float | None:
        """Total variation distance between the labels of selection rows and of training rows, 0 to 1.

        It is the share of selection rows that would need another label; answers outside the labels count as one
        label. None without labels or without selection rows.
        """
        total = self.rows["train"]
        if not self.labels or not self.selected or not total:
            return None
        return sum(abs(x.selection / self.selected - x.train / total) for x in (*self.labels, self.outside)) / 2

    def to_json(self) -> dict[str, Any]:
        """Return the inspection as JSON values; of the unused rows only the first ones stand one by one."""
        return {**Stored.to_json(self), "skew": self.skew}


def inspect_rows(
    task: Task, selection_rows: Sequence[int] = (), dropped: int = 0, lengths: Lengths | None = None
) -> Inspection:
    """Return what the rows of a task hold.

    The task has the rows that a run uses: one that is only tested comes without training rows. ``selection_rows`` are
    indices among them, ``dropped`` is how many of them `drop_overlap` has left out, and ``lengths`` is what
    `lengths_of` returns.
    """
    keys = [asked_key(row) for row in task.train]
    trained = set(keys)
    duplicates, conflicts = _repeats(task.train, keys)
    return Inspection(
        task=task.name,
        rows={"train": len(task.train), "dev": len(task.dev), "test": len(task.test)},
        selected=len(selection_rows),
        duplicates=duplicates,
        conflicts=conflicts,
        overlap=sum(asked_key(row) in trained for row in task.test),
        dropped=dropped,
        labels=_labels(task, selection_rows),
        unused=UnusedRows(len(task.unused), _reasons(task.unused), task.unused[:KEPT]),
        lengths=lengths,
    )


def drop_overlap(task: Task) -> tuple[Task, int]:
    """Return the task without the training rows whose input is also a test input, and how many they were.

    Raises:
        DataError: if no training row would be left.
    """
    tested = {asked_key(row) for row in task.test}
    kept = tuple(row for row in task.train if asked_key(row) not in tested)
    if task.train and not kept:
        raise DataError(
            f"task {task.name!r}: data.drop_overlap would leave out all {len(task.train)} training rows, as every "
            "input is also a test input: give other test rows, or set data.drop_overlap: false"
        )
    return replace(task, train=kept), len(task.train) - len(kept)


def lengths_of(task: Task, renderer: Renderer) -> Lengths:
    """Return how long the rows of a task are with its instruction, in tokens."""
    total = longest = cut = 0
    for encoded in _encoded(task, renderer, "train", task.train):
        total += len(encoded.ids)
        longest = max(longest, len(encoded.ids))
        cut += encoded.cut > 0
    cut_test = sum(encoded.cut > 0 for encoded in _encoded(task, renderer, "test", task.test))
    return Lengths(total, longest, cut, cut_test)


def _encoded(task: Task, renderer: Renderer, split: Split, rows: Sequence[Example]) -> Iterator[Encoded]:
    for start in range(0, len(rows), _CHUNK):
        try:
            yield from renderer.encode(task.instruction, task.suffix, rows[start : start + _CHUNK])
        except RenderError as error:
            raise RenderError(f"task {task.name!r}, {split} rows, with its instruction: {error}") from error


def _repeats(rows: Sequence[Example], keys: Sequence[str]) -> tuple[int, int]:
    """Return the number of duplicates and of conflicts among training rows."""
    answers: dict[str, set[str]] = {}
    for row, key in zip(rows, keys, strict=True):
        answers.setdefault(key, set()).add(row.answer.strip())
    conflicts = sum(
        bool(answers[key] - {text.strip() for text in (row.answer, *row.references)})
        for row, key in zip(rows, keys, strict=True)
    )
    return len(rows) - sum(map(len, answers.values())), conflicts


def _labels(task: Task, selection_rows: Sequence[int]) -> tuple[LabelCount, ...]:
    if not task.labels:
        return ()
    train = Counter(row.answer for row in task.train)
    selection = Counter(task.train[i].answer for i in selection_rows)
    test = Counter(row.answer for row in task.test)
    return tuple(LabelCount(x, train[x], selection[x], test[x]) for x in dict.fromkeys(task.labels))


def _reasons(unused: Sequence[Unused]) -> tuple[Reason, ...]:
    numbers: dict[tuple[Split, str], list[int]] = {}
    for row in unused:
        numbers.setdefault((row.split, row.reason), []).append(row.row)
    commonest = sorted(numbers.items(), key=lambda kind: -len(kind[1]))[:KEPT]
    return tuple(Reason(*kind, len(rows), tuple(rows[:_FIRST])) for kind, rows in commonest)


def asked_key(row: Example) -> str:
    """Return a hash that is equal for equal history and input, apart from case and white space."""
    # A row of a layout of its own holds its answer beside what it asks.
    asked = json.dumps(json.loads(row.input)[0], ensure_ascii=False) if TAKEN_OUT in row.input else row.input
    return fingerprint([folded(text) for text in (*chain.from_iterable(row.history), asked)])
