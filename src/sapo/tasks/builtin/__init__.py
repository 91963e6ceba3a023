"""Seven small tasks with 20 hand-written paraphrases each: to try and to test things.

Five differ in kind. The other two pull against one of them each: the same inputs, other answers. Whoever learns one of
the two answers the other wrongly: a pair in which there is something to forget.

The rows come from committed word lists and a seed of their own, so that they are the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from sapo.core.types import Example, Task

LABELS = ("positive", "negative")
STARS = {"positive": "five", "negative": "one"}
LISTED = 6  # words in each list of count-letter
COUNTS = 6  # its answers, 0 to 5
# Numbers of foods and of other things in a sentence of extract-items, taken in turn.
MIXES = ((1, 2), (2, 1), (2, 2), (3, 1), (3, 0), (3, 2), (1, 3), (4, 1))
FIRST = date(1950, 1, 1).toordinal()
BEYOND = date(2050, 1, 1).toordinal()


def load(name: str) -> Any:
    """Return the parsed JSON file ``data/<name>.json`` of this package."""
    return json.loads(files(__package__).joinpath("data", f"{name}.json").read_text(encoding="utf-8"))


def review_sentiment() -> Task:
    """Return the task review-sentiment: is a short review positive or negative?

    Most sentences praise and blame at once, or negate, so that no single word gives the answer away.
    """
    lexicon = load("review_sentiment")
    forms = lexicon["forms"]

    def make(rng: Random, index: int) -> Example:
        label = LABELS[index % 2]
        form = forms[index // 2 % len(forms)]
        return Example(capitalized(form.format(**draw_slots(rng, lexicon, label))), label)

    instruction = "Decide whether the overall opinion in this short review is positive or negative."
    return drawn("review-sentiment", instruction, "Answer with one word: positive or negative.", make, LABELS)


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


def review_stars() -> Task:
    """Return the task review-stars: review-sentiment, answered with a number of stars."""
    instruction = "Rate the overall opinion in this short review: one star if bad, five if good."
    suffix, labels = "Answer with one word: one or five.", tuple(STARS.values())
    return answered(review_sentiment(), "review-stars", instruction, suffix, labels, STARS.__getitem__)


def odd_one_out() -> Task:
    """Return the task odd-one-out: which of five words is of another category than the other four?"""
    categories: dict[str, list[str]] = load("odd_one_out")
    names = list(categories)

    def make(rng: Random, index: int) -> Example:
        # 5 positions and 18 categories: the two cycles run independently of each other.
        place, majority = index % 5, names[index // 5 % len(names)]
        minority = rng.choice([other for other in names if other != majority])
        odd = rng.choice(categories[minority])
        words = rng.sample(categories[majority], 4)
        words.insert(place, odd)
        return Example(", ".join(words), odd)

    instruction = "Four of these five words belong to the same category. Find the word that does not."
    return drawn("odd-one-out", instruction, "Answer with that word only.", make)


def count_letter() -> Task:
    """Return the task count-letter: how many words of a list begin with a given letter?

    Its digits are a quantity, not labels that an instruction would have to name.
    """
    by_letter: dict[str, list[str]] = load("count_letter")
    letters = list(by_letter)

    def make(rng: Random, index: int) -> Example:
        count, letter = index % COUNTS, rng.choice(letters)
        rest = [word for other in letters if other != letter for word in by_letter[other]]
        words = rng.sample(by_letter[letter], count) + rng.sample(rest, LISTED - count)
        rng.shuffle(words)
        return Example(f"Letter: {letter}. Words: {', '.join(words)}", str(count))

    instruction = "Count how many of the listed words begin with the given letter."
    return drawn("count-letter", instruction, "Answer with one digit.", make)


def extract_items() -> Task:
    """Return the task extract-items: which of the things that somebody buys or packs are foods?"""
    lexicon: dict[str, list[str]] = load("extract_items")

    def make(rng: Random, index: int) -> Example:
        foods, others = MIXES[index % len(MIXES)]
        items = rng.sample(lexicon["foods"], foods) + rng.sample(lexicon["others"], others)
        rng.shuffle(items)
        cut = rng.randrange(1, len(items))
        form = rng.choice(lexicon["whole"] + lexicon["split"])
        text = form.format(
            who=rng.choice(lexicon["people"]),
            items=enumerate_words(items),
            first=enumerate_words(items[:cut]),
            second=enumerate_words(items[cut:]),
        )
        return Example(capitalized(text), ", ".join(item for item in items if item in lexicon["foods"]))

    instruction = "List all the foods that are mentioned in the following sentence."
    suffix = "Answer with the foods in order of mention, separated by commas."
    return drawn("extract-items", instruction, suffix, make, metric="list_f1")


def date_format() -> Task:
    """Return the task date-format: write a date, given in one of many forms, in ISO format."""
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


def ordinal(day: int) -> str:
    """Return the English ordinal of a day of the month, such as ``"2nd"`` or ``"12th"``."""
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def date_us() -> Task:
    """Return the task date-us: date-format, answered as in the United States."""

    def american(iso: str) -> str:
        year, month, day = iso.split("-")
        return f"{month}/{day}/{year}"

    instruction = "Convert the following date to US format: month, day and year, joined by slashes."
    return answered(date_format(), "date-us", instruction, "Answer with the date as MM/DD/YYYY.", (), american)


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


def enumerate_words(words: Sequence[str]) -> str:
    """Return the words as English prose: ``"a"``, ``"a and b"``, ``"a, b and c"``."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def capitalized(sentence: str) -> str:
    """Return the sentence with a capital first letter and the rest, such as a later "I", unchanged."""
    return sentence[0].upper() + sentence[1:]


def answered(
    task: Task, name: str, instruction: str, suffix: str, labels: tuple[str, ...], answer: Callable[[str], str]
) -> Task:
    """Return a task with the same inputs and other answers, each made from the one of before."""
    train, dev, test = (
        tuple(replace(row, answer=answer(row.answer)) for row in rows) for rows in (task.train, task.dev, task.test)
    )
    return Task(name, instruction, suffix, labels, task.metric, train, dev, test)


def drawn(
    name: str,
    instruction: str,
    suffix: str,
    make: Callable[[Random, int], Example],
    labels: tuple[str, ...] = (),
    metric: str = "exact_match",
    key: Callable[[Example], str] = lambda row: " ".join(row.input.casefold().split()),
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
