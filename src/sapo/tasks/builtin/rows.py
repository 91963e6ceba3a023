"""What the built-in tasks share: their word lists and the drawing of three disjoint splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from random import Random
from typing import Any

from sapo.core.types import Example, Task


def load(name: str) -> Any:
    """Return the parsed JSON file ``data/<name>.json`` of this package."""
    return json.loads(files(__package__).joinpath("data", f"{name}.json").read_text(encoding="utf-8"))


def enumerate_words(words: Sequence[str]) -> str:
    """Return the words as English prose: ``"a"``, ``"a and b"``, ``"a, b and c"``."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def capitalized(sentence: str) -> str:
    """Return the sentence with a capital first letter and the rest, such as a later "I", as it is."""
    return sentence[0].upper() + sentence[1:]


def answered(
    task: Task, name: str, instruction: str, suffix: str, labels: tuple[str, ...], answer: Callable[[str], str]
) -> Task:
    """Return a task with the same inputs and other answers, each made from the one of before."""
    train, dev, test = (
        tuple(replace(row, answer=answer(row.answer)) for row in rows) for rows in (task.train, task.dev, task.test)
    )
    return Task(name, instruction, suffix, labels, task.metric, train, dev, test)


def _input_key(row: Example) -> str:
    return " ".join(row.input.casefold().split())


def drawn(
    name: str,
    instruction: str,
    suffix: str,
    make: Callable[[Random, int], Example],
    labels: tuple[str, ...] = (),
    metric: str = "exact_match",
    key: Callable[[Example], str] = _input_key,
) -> Task:
    """Return a task with 400 train, 100 dev and 100 test rows, all of them different; the same on every platform.

    The name seeds the generator, so that a task's rows do not depend on the other tasks. ``make`` draws a row: its
    second argument counts the rows of a split from 0 and is the means to balance answers and sentence forms, as it
    stays the same when a row has to be drawn again. Two rows with the same ``key`` count as the same row; by default
    it is the input, without regard to case and white space.
    """
    # A text seed goes through SHA-512, not through hash(), which differs from process to process.
    rng = Random(f"sapo-{name}")
    seen: set[str] = set()

    def draw(size: int) -> tuple[Example, ...]:
        rows: list[Example] = []
        for index in range(size):
            row = make(rng, index)
            while key(row) in seen:
                row = make(rng, index)
            seen.add(key(row))
            rows.append(row)
        rng.shuffle(rows)
        return tuple(rows)

    train, dev, test = (draw(size) for size in (400, 100, 100))
    return Task(name, instruction, suffix, labels, metric, train, dev, test)
