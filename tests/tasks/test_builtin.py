"""The built-in tasks: their answers are derived again from the inputs, without the generators."""

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from difflib import SequenceMatcher
from importlib.resources import files
from typing import Any

import pytest

from sapo.core.types import Example, Task
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases, builtin_task

every_task = pytest.mark.parametrize("name", BUILTIN)


def data(name: str) -> Any:
    """Read one of the committed word lists."""
    return json.loads(files("sapo.tasks.builtin").joinpath("data", f"{name}.json").read_text(encoding="utf-8"))


def rows_of(task: Task) -> list[Example]:
    """All rows of a task."""
    return [*task.train, *task.dev, *task.test]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; hyphens and apostrophes belong to a word."""
    return re.findall(r"[\w'-]+", text.casefold())


# All tasks.


@every_task
def test_texts_are_clean_short_and_never_twice_within_or_across_splits(name: str) -> None:
    task = builtin_task(name)
    assert (len(task.train), len(task.dev), len(task.test)) == (400, 100, 100)
    for text in [task.instruction, task.suffix, *(text for row in rows_of(task) for text in (row.input, row.answer))]:
        assert text and text.isascii() and text == " ".join(text.split())
        assert "{" not in text and "}" not in text
    assert len({row.input.casefold() for row in rows_of(task)}) == 600
    longest = max(len(row.input.split()) for row in rows_of(task))
    assert len(task.instruction.split()) + longest + len(task.suffix.split()) <= 41


@pytest.mark.parametrize(
    ("name", "metric", "digest"),
    [
        ("review-sentiment", "exact_match", "889d245678a1731d"), ("odd-one-out", "exact_match", "190b4d105741b587"),
        ("count-letter", "exact_match", "d3b763f679731f6f"), ("extract-items", "list_f1", "5d7d5c8c63952ec9"),
        ("date-format", "exact_match", "f45051aa864ab6ad"), ("review-stars", "exact_match", "56ca1676e6fbf6ae"),
        ("date-us", "exact_match", "d33ac91e66884bf7"),
    ],
)  # fmt: skip
def test_rows_never_change_whatever_the_global_random_state(name: str, metric: str, digest: str) -> None:
    """Published figures refer to exactly these rows, in this order."""
    random.seed(7)
    before = random.getstate()
    builtin_task.cache_clear()
    task = builtin_task(name)
    assert random.getstate() == before
    splits = [[[row.input, row.answer] for row in split] for split in (task.train, task.dev, task.test)]
    text = json.dumps([task.instruction, task.suffix, splits])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
    labels = {"review-sentiment": ("positive", "negative"), "review-stars": ("five", "one")}
    assert (task.name, task.metric, task.labels) == (name, metric, labels.get(name, ()))


# Review-sentiment.


def judge(review: str, lexicon: Any) -> str:
    """The label of a review: its verdict counts, else its last quality, reversed by a negator before it."""
    text = review.casefold()
    for subject, label in itertools.product(lexicon["subjects"], ("positive", "negative")):
        for verdict in lexicon["verdicts"][label]:
            if verdict.format(verb=subject["verb"], name=subject["name"]).casefold() in text:
                return label
    polarity = {word: label for s in lexicon["subjects"] for label in ("positive", "negative") for word in s[label]}
    last = [word for word in words_of(text) if word in polarity][-1]
    negated = any(f"{negator} {last}" in text for negator in lexicon["negators"])
    return {"positive": "negative", "negative": "positive"}[polarity[last]] if negated else polarity[last]


def test_review_labels_follow_from_the_text() -> None:
    lexicon = data("review_sentiment")
    positive = {word for subject in lexicon["subjects"] for word in subject["positive"]}
    assert positive.isdisjoint(word for subject in lexicon["subjects"] for word in subject["negative"])
    assert [row for row in rows_of(builtin_task("review-sentiment")) if judge(row.input, lexicon) != row.answer] == []


def test_no_single_word_gives_the_sentiment_away() -> None:
    rows = rows_of(builtin_task("review-sentiment"))
    agree: Counter[str] = Counter()
    for row in rows:
        for word in set(words_of(row.input)):
            agree[word] += 1 if row.answer == "positive" else -1
    # A word that tells the labels apart in n rows more than it misleads is right in half of all rows + n / 2.
    assert max(abs(surplus) for surplus in agree.values()) / 2 / len(rows) < 0.1


# Odd-one-out.


def test_exactly_one_word_is_of_another_category() -> None:
    categories = data("odd_one_out")
    category = {word: name for name, words in categories.items() for word in words}
    assert len(category) == sum(map(len, categories.values())), "no word is in two categories"
    for row in rows_of(builtin_task("odd-one-out")):
        words = row.input.split(", ")
        sizes = Counter(category[word] for word in words)
        assert len(set(words)) == 5 and sorted(sizes.values()) == [1, 4]
        assert [word for word in words if sizes[category[word]] == 1] == [row.answer]


# Count-letter.


def test_counts_are_right() -> None:
    for row in rows_of(builtin_task("count-letter")):
        match = re.fullmatch(r"Letter: ([a-z])\. Words: (.+)", row.input)
        assert match
        letter, words = match[1], match[2].split(", ")
        assert len(set(words)) == 6
        assert row.answer == str(len([word for word in words if word.startswith(letter)]))


# Extract-items.


def test_answers_are_the_foods_in_order_of_mention() -> None:
    lexicon = data("extract_items")
    foods = set(lexicon["foods"])
    frames = {word for part in ("people", "whole", "split") for text in lexicon[part] for word in words_of(text)}
    assert foods.isdisjoint(set(lexicon["others"]) | frames)
    for row in rows_of(builtin_task("extract-items")):
        assert row.answer == ", ".join(word for word in words_of(row.input) if word in foods)
        assert len(set(row.answer.split(", "))) == row.answer.count(",") + 1


# Date-format.

# The surface forms after ordinals have lost their ending and "the", "of" and commas are gone.
PATTERNS = ("%B %d %Y", "%d %B %Y", "%b %d %Y", "%d %b %Y", "%A %B %d %Y", "%A %d %B %Y", "%d-%b-%Y", "%Y %B %d")


def readings(text: str) -> set[datetime]:
    """All dates that a text can be read as."""
    plain = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", text)
    plain = " ".join(re.sub(r"\b(?:the|of)\b|,", " ", plain, flags=re.IGNORECASE).split())
    found = set()
    for pattern in PATTERNS:
        try:
            found.add(datetime.strptime(plain, pattern))
        except ValueError:
            continue
    return found


def test_dates_have_one_reading_and_it_is_the_answer() -> None:
    for row in rows_of(builtin_task("date-format")):
        assert [moment.strftime("%Y-%m-%d") for moment in readings(row.input)] == [row.answer], row.input


def test_weekdays_and_ordinals_are_right() -> None:
    endings = {1: "st", 21: "st", 31: "st", 2: "nd", 22: "nd", 3: "rd", 23: "rd"}
    weekdays = ordinals = 0
    for row in rows_of(builtin_task("date-format")):
        moment = datetime.fromisoformat(row.answer)
        for weekday in re.findall(r"[A-Z][a-z]+day\b", row.input):
            weekdays += 1
            assert weekday == moment.strftime("%A")
        for day, ending in re.findall(r"\b(\d+)(st|nd|rd|th)\b", row.input):
            ordinals += 1
            assert ending == endings.get(int(day), "th")
    assert (weekdays, ordinals) == (147, 199)


# Tasks that pull against another one.


def test_rivals_ask_the_same_and_answer_otherwise_in_every_row() -> None:
    answers: dict[tuple[str, str], Callable[[str], str]] = {
        ("review-sentiment", "review-stars"): lambda label: {"positive": "five", "negative": "one"}[label],
        ("date-format", "date-us"): lambda iso: datetime.fromisoformat(iso).strftime("%m/%d/%Y"),
    }
    for (one, other), answer in answers.items():
        for a, b in zip(rows_of(builtin_task(one)), rows_of(builtin_task(other)), strict=True):
            assert a.input == b.input and a.answer != b.answer == answer(a.answer)


# Paraphrases.


MATTERS = {
    "review-sentiment": r"(?=.*\bpositive\b).*\bnegative\b", "odd-one-out": r"word|term|card|noun",
    "count-letter": r"letter", "extract-items": r"food|edible|eat", "date-format": r"date",
    "review-stars": r"(?=.*\bone\b).*\bfive\b", "date-us": r"(?=.*date)",
}  # fmt: skip


@every_task
def test_twenty_paraphrases_name_the_matter_without_near_duplicates(name: str) -> None:
    texts = [*builtin_paraphrases(name), builtin_task(name).instruction]
    matter = re.compile(MATTERS[name], re.IGNORECASE | re.DOTALL)
    assert all(matter.search(text) for text in texts[:-1])
    assert len(texts) == 21
    assert all(text == text.strip() and text.isascii() and "{" not in text for text in texts)
    lengths = [len(text.split()) for text in texts]
    assert 3 <= min(lengths) <= 8 and 45 <= max(lengths) <= 60
    for one, two in itertools.combinations([" ".join(words_of(text)) for text in texts], 2):
        match = SequenceMatcher(None, one, two, autojunk=False)
        # The first is quick, and an upper bound of the second.
        assert match.quick_ratio() < 0.8 or match.ratio() < 0.8, (one, two)
