"""review-sentiment: is a short review positive or negative?

Most sentences praise and blame at once, or negate, so that no single word gives the answer away.
"""

from __future__ import annotations

from random import Random
from typing import Literal, TypedDict

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import capitalized, draw_splits, load

Label = Literal["positive", "negative"]

LABELS: tuple[Label, Label] = ("positive", "negative")


class Subject(TypedDict):
    """A thing that is reviewed, with its aspects (in singular and plural) and their qualities."""

    name: str
    verb: str
    one: list[str]
    many: list[str]
    positive: list[str]
    negative: list[str]


class Lexicon(TypedDict):
    """The layout of ``data/review_sentiment.json``.

    In every form the verdict, the quality ``same`` or the negated quality ``opposite`` decides on the label.
    """

    intensifiers: list[str]
    negators: list[str]
    forms: list[str]
    subjects: list[Subject]
    verdicts: dict[Label, list[str]]


def draw_slots(rng: Random, lexicon: Lexicon, label: Label) -> dict[str, str]:
    """Return words for all slots of a form, such that the review gets the label."""
    opposite_label: Label = "negative" if label == "positive" else "positive"
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


def task() -> Task:
    """Return the task review-sentiment."""
    name = "review-sentiment"
    lexicon: Lexicon = load("review_sentiment")
    forms = lexicon["forms"]

    def make(rng: Random, index: int) -> Example:
        label = LABELS[index % 2]
        form = forms[index // 2 % len(forms)]
        return Example(capitalized(form.format(**draw_slots(rng, lexicon, label))), label)

    train, dev, test = draw_splits(name, make)
    return Task(
        name=name,
        instruction="Decide whether the overall opinion in this short review is positive or negative.",
        suffix="Answer with one word: positive or negative.",
        labels=LABELS,
        metric="exact_match",
        train=train,
        dev=dev,
        test=test,
    )
