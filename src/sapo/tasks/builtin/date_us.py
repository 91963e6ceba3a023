"""date-us: the dates of date-format, but written as in the United States.

Whoever learns one of the two answers the other wrongly: a pair in which there is something to forget.
"""

from __future__ import annotations

from dataclasses import replace

from sapo.core.types import Task
from sapo.tasks.builtin import date_format
from sapo.tasks.builtin.rows import answered


def american(iso: str) -> str:
    """Return an ISO date as month, day and year."""
    year, month, day = iso.split("-")
    return f"{month}/{day}/{year}"


def task() -> Task:
    """Return the task date-us."""
    return replace(
        answered(date_format.task(), american),
        name="date-us",
        instruction="Convert the following date to US format: month, day and year, joined by slashes.",
        suffix="Answer with the date as MM/DD/YYYY.",
    )
