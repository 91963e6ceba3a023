"""date-format: write a date, given in one of many forms, in ISO format. date-us: the same as in the United States.

Whoever learns one of the two answers the other wrongly: a pair in which there is something to forget.
"""

from __future__ import annotations

from datetime import date
from random import Random

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import answered, capitalized, drawn, load

FIRST = date(1950, 1, 1).toordinal()
BEYOND = date(2050, 1, 1).toordinal()


def ordinal(day: int) -> str:
    """Return the English ordinal of a day of the month, such as ``"2nd"`` or ``"12th"``."""
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def date_format() -> Task:
    """Return the task date-format."""
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

    instruction = "Convert the following date to ISO format: year, month and day, joined by hyphens."
    suffix = "Answer with the date as YYYY-MM-DD."
    # A date must not come back in another layout: dev and test would then hold answers seen in training.
    return drawn("date-format", instruction, suffix, make, key=lambda row: row.answer)


def date_us() -> Task:
    """Return the task date-us."""

    def american(iso: str) -> str:
        year, month, day = iso.split("-")
        return f"{month}/{day}/{year}"

    instruction = "Convert the following date to US format: month, day and year, joined by slashes."
    return answered(date_format(), "date-us", instruction, "Answer with the date as MM/DD/YYYY.", (), american)
