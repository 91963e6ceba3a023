"""Seven small tasks with 20 hand-written paraphrases each: to try and to test things.

Five differ in kind. The other two pull against one of them each: the same inputs, other answers.

The rows come from committed word lists and a seed of their own, so that they are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from sapo.core.types import Task
from sapo.tasks.builtin.count_letter import count_letter
from sapo.tasks.builtin.dates import date_format, date_us
from sapo.tasks.builtin.extract_items import extract_items
from sapo.tasks.builtin.odd_one_out import odd_one_out
from sapo.tasks.builtin.reviews import review_sentiment, review_stars
from sapo.tasks.builtin.rows import load

_MAKERS: Mapping[str, Callable[[], Task]] = {
    "review-sentiment": review_sentiment,
    "odd-one-out": odd_one_out,
    "count-letter": count_letter,
    "extract-items": extract_items,
    "date-format": date_format,
    "review-stars": review_stars,
    "date-us": date_us,
}

BUILTIN: tuple[str, ...] = tuple(_MAKERS)


@cache
def builtin_task(name: str) -> Task:
    """Return one of `BUILTIN`: 400 train, 100 dev and 100 test rows, the same in every process."""
    return _MAKERS[name]()


@cache
def builtin_paraphrases(name: str) -> tuple[str, ...]:
    """Return the 20 hand-written paraphrases of a built-in task's instruction, without the original."""
    return tuple(load("paraphrases")[name])
