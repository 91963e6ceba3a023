"""What the built-in tasks share: their word lists and the drawing of three disjoint splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

from sapo.core.types import Example, Task

SIZES = (400, 100, 100)


class Splits(NamedTuple):
    """The rows of a task, in the order of its fields."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


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


def answered(task: Task, answer: Callable[[str], str]) -> Task:
    """Return the task with the same inputs and other answers, each made from the one of before."""
    train, dev, test = (
        tuple(replace(row, answer=answer(row.answer)) for row in rows) for rows in (task.train, task.dev, task.test)
    )
    return replace(task, train=train, dev=dev, test=test)


def _input_key(row: Example) -> str:
    return " ".join(row.input.casefold().split())


def draw_splits(
    name: str, make: Callable[[Random, int], Example], key: Callable[[Example], str] = _input_key
) -> Splits:
    """Draw 400 train, 100 dev and 100 test rows, all of them different.

    Args:
        name: seeds the generator, so that a task's rows do not depend on the other tasks.
        make: draws a row. Its second argument counts the rows of a split from 0 and is the means to balance
            answers and sentence forms: it stays the same when a row has to be drawn again.
        key: two rows with the same key count as the same row; by default the input, without regard to case
            and white space.

    Returns:
        The splits, each shuffled; the same on every platform.
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

    train, dev, test = SIZES
    return Splits(train=draw(train), dev=draw(dev), test=draw(test))
