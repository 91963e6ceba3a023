"""review-stars: the reviews of review-sentiment, but answered with a number of stars.

Whoever learns one of the two answers the other wrongly: a pair in which there is something to forget.
"""

from __future__ import annotations

from dataclasses import replace

from sapo.core.types import Task
from sapo.tasks.builtin import review_sentiment
from sapo.tasks.builtin.rows import answered

STARS: dict[str, str] = {"positive": "five", "negative": "one"}


def task() -> Task:
    """Return the task review-stars."""
    return replace(
        answered(review_sentiment.task(), STARS.__getitem__),
        name="review-stars",
        instruction="Rate the overall opinion in this short review: one star if bad, five if good.",
        suffix="Answer with one word: one or five.",
        labels=tuple(STARS.values()),
    )
