"""Seven small tasks with 20 hand-written paraphrases each: to try and to test things.

Five differ in kind. The other two pull against one of them each: the same inputs, other answers.

The rows come from committed word lists and a seed of their own, so that they are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from sapo.core.errors import DataError, nearest
from sapo.core.types import Task
from sapo.tasks.builtin import (
    count_letter,
    date_format,
    date_us,
    extract_items,
    odd_one_out,
    review_sentiment,
    review_stars,
)
from sapo.tasks.builtin.rows import load

_MAKERS: Mapping[str, Callable[[], Task]] = {
    "review-sentiment": review_sentiment.task,
    "odd-one-out": odd_one_out.task,
    "count-letter": count_letter.task,
    "extract-items": extract_items.task,
    "date-format": date_format.task,
    "review-stars": review_stars.task,
    "date-us": date_us.task,
}

BUILTIN: tuple[str, ...] = tuple(_MAKERS)


def _check(name: str) -> None:
    if name not in _MAKERS:
        raise DataError(
            f"There is no built-in task {name!r}.{nearest(name, BUILTIN)} "
            f"Use one of these: {', '.join(BUILTIN)}; or load a task of your own from a file."
        )


@cache
def builtin_task(name: str) -> Task:
    """Return a built-in task: 400 train, 100 dev and 100 test rows, the same in every process.

    Raises:
        DataError: there is no built-in task of this name.
    """
    _check(name)
    return _MAKERS[name]()


@cache
def builtin_paraphrases(name: str) -> tuple[str, ...]:
    """Return the 20 hand-written paraphrases of a built-in task's instruction, without the original.

    Raises:
        DataError: there is no built-in task of this name.
    """
    _check(name)
    return tuple(load("paraphrases")[name])
