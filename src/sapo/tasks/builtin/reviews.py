"""review-sentiment: is a short review positive or negative? review-stars: the same, answered with a number of stars.

Most sentences praise and blame at once, or negate, so that no single word gives the answer away. Whoever learns one of
the two answers the other wrongly: a pair in which there is something to forget.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import answered, capitalized, drawn, load

LABELS = ("positive", "negative")
STARS = {"positive": "five", "negative": "one"}


def draw_slots(rng: Random, lexicon: dict[str, Any], label: str) -> dict[str, str]:
    """Return words for all slots of a form, such that the review gets the label.

    In every form the verdict, the quality ``same`` or the negated quality ``opposite`` decides on the label.
    """
    opposite_label = "negative" if label == "positive" else "positive"
    subject = rng.choice(lexicon["subjects"])
    aspect, second = rng.sample(subject["one"] + subject["many"], 2)
    same, same_too = rng.sample(subject[label], 2)
    singular = aspect in subject["one"]
    return {
        "aspect": aspect,
        "was": "was" if singular else "were",
        "it": "it" if singular else "they",
        "second": second,
        "second_was": "was" if second in subject["one"] else "were",
        "same": same,
        "same_too": same_too,
        "opposite": rng.choice(subject[opposite_label]),
        "very": rng.choice(lexicon["intensifiers"]),
        "negated": rng.choice(lexicon["negators"]),
        "verdict": rng.choice(lexicon["verdicts"][label]).format(verb=subject["verb"], name=subject["name"]),
    }


def review_sentiment() -> Task:
    """Return the task review-sentiment."""
    lexicon = load("review_sentiment")
    forms = lexicon["forms"]

    def make(rng: Random, index: int) -> Example:
        label = LABELS[index % 2]
        form = forms[index // 2 % len(forms)]
        return Example(capitalized(form.format(**draw_slots(rng, lexicon, label))), label)

    instruction = "Decide whether the overall opinion in this short review is positive or negative."
    return drawn("review-sentiment", instruction, "Answer with one word: positive or negative.", make, LABELS)


def review_stars() -> Task:
    """Return the task review-stars."""
    instruction = "Rate the overall opinion in this short review: one star if bad, five if good."
    suffix, labels = "Answer with one word: one or five.", tuple(STARS.values())
    return answered(review_sentiment(), "review-stars", instruction, suffix, labels, STARS.__getitem__)
