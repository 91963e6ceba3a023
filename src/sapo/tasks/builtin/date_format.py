"""date-format: write a date, given in one of many forms, in ISO format."""

from __future__ import annotations

from datetime import date
from random import Random

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import capitalized, draw_splits, load

FIRST = date(1950, 1, 1).toordinal()
BEYOND = date(2050, 1, 1).toordinal()


def ordinal(day: int) -> str:
    """Return the English ordinal of a day of the month, such as ``"2nd"`` or ``"12th"``."""
    if day in (11, 12, 13):
        return f"{day}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def task() -> Task:
    """Return the task date-format."""
    name = "date-format"
    lexicon: dict[str, list[str]] = load("date_format")

    def make(rng: Random, index: int) -> Example:
        moment = date.fromordinal(rng.randrange(FIRST, BEYOND))
        # Not strftime: its names follow the locale of the process.
        month = lexicon["months"][moment.month - 1]
        text = lexicon["layouts"][index % len(lexicon["layouts"])].format(
            weekday=lexicon["weekdays"][moment.weekday()],
            day=moment.day,
            ordinal=ordinal(moment.day),
            month=month,
            mon=month[:3],
            year=moment.year,
        )
        return Example(capitalized(text), moment.isoformat())

    # A date must not come back in another layout: dev and test would then hold answers seen in training.
    train, dev, test = draw_splits(name, make, key=lambda row: row.answer)
    return Task(
        name=name,
        instruction="Convert the following date to ISO format: year, month and day, joined by hyphens.",
        suffix="Answer with the date as YYYY-MM-DD.",
        labels=(),
        metric="exact_match",
        train=train,
        dev=dev,
        test=test,
    )
