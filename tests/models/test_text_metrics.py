"""Text scores against rouge_score's default on ASCII text, and by hand elsewhere."""

import random
import string
from collections.abc import Callable

import pytest
from rouge_score.rouge_scorer import RougeScorer

from sapo.models.text_metrics import TEXT_METRICS, exact_match, list_f1, rouge_l


def default_rouge(prediction: str, answer: str) -> float:
    score = RougeScorer(["rougeL"], use_stemmer=True).score(answer, prediction)
    return 100.0 * float(score["rougeL"].fmeasure)


def test_rouge_of_random_ascii_is_the_stemmed_default() -> None:
    draw = random.Random(0)
    stems = ["relat", "happi", "runn", "a", "x1", "general", "the", "flies", "die"]
    ends = ["", "ing", "ed", "s", "ational", "ness", "ly", "IES"]

    def text() -> str:
        return "the general " + "".join(
            draw.choice(stems) + draw.choice(ends) + draw.choice(string.punctuation + " \n\t") for _ in range(12)
        )

    for prediction, answer in (("", "answer"), ("answer", "?!"), ("the the the", "the"), ("1,000 X9", "1000 x9")):
        assert rouge_l(prediction, answer) == default_rouge(prediction, answer)
    scores = []
    for _ in range(100):
        prediction, answer = text(), text()
        scores.append(rouge_l(prediction, answer))
        assert scores[-1] == default_rouge(prediction, answer)
    assert len(set(scores)) > 2


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        # LCS 我爱京 of 4 and 5 characters: 2 * 3 / 9.
        ("我爱东京", "我爱北京城", 100 * 2 * 3 / 9),
        # Words and characters mixed: run, 年 of 4 and 2 tokens.
        ("running 2024年底", "runs 年", 100 * 2 * 2 / 6),
        # コ ー of コ ー ヒ ー and コ ー ト, the long-vowel mark being a character like the others.
        ("コーヒー", "コート", 100 * 2 * 2 / 7),
        # The mark stays alone before a Latin letter too.
        ("サーバーa", "サーバーb", 80.0),
        # Vowel signs are part of a Hindi word.
        ("हिन्दी भाषा", "हिन्दी फ़िल्म", 50.0),
        # A Thai character keeps its tone mark: ดี of two tokens is not ด.
        ("ดีมา", "ดมา", 100 * 2 * 2 / 6),
        # Cyrillic and Hangul are words: one of two, no credit for shared letters.
        ("хороший фильм", "хороший день", 50.0),
        ("한국어 문장", "한국인 문장", 50.0),
        # An accent is part of its word.
        ("café noir", "caf noir", 50.0),
        # Full-width and composed forms are folded.
        ("ＡＢ１２", "ab12", 100.0),
        ("cafe\u0301", "CAFÉ", 100.0),
        # No word in either text: characters. A word in one only: nothing in common.
        ("+ -", "+-*", 100 * 2 * 2 / 5),
        ("plus", "+", 0.0),
        ("☺ a", "☺", 0.0),
    ],
)
def test_rouge_by_hand(prediction: str, answer: str, expected: float) -> None:
    assert rouge_l(prediction, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("Yes", "yes", 100.0), (" very \t good\n", "Very good.", 100.0), ("true。", "true .", 100.0),
        ("Ｙｅｓ．", "yes", 100.0), ("STRASSE", "straße", 100.0), ("cafe\u0301", "café", 100.0), ("yes..", "yes", 0.0),
        ("yes!", "yes", 0.0), ("verygood", "very good", 0.0), ("yes, it is", "yes", 0.0), ("cafe", "café", 0.0),
        (".", "", 0.0), ("", "yes", 0.0), ("1e3", "1,000.0", 100.0), ("1e99999999999999999999", "1e3", 0.0),
    ],
)  # fmt: skip
def test_exact_match(prediction: str, answer: str, expected: float) -> None:
    assert exact_match(prediction, answer) == expected
    assert exact_match(answer, prediction) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("red, green, blue", "Blue,red , GREEN.", 100.0),
        ("red, green", "red, blue, black", 100 * 2 * 1 / 5),
        ("red, red, red", "red", 100 * 2 * 1 / 4),  # a multiset: repeating pays nothing
        ("red, red", "red, red, blue", 100 * 2 * 2 / 5), ("北京，上海", "上海, 北京", 100.0), ("red,, ,", "red", 100.0),
        ("dark red", "red", 0.0), ("", "red", 0.0), ("red", " , ", 0.0), (" , ", "", 100.0),
    ],
)  # fmt: skip
def test_list_f1(prediction: str, answer: str, expected: float) -> None:
    assert list_f1(prediction, answer) == pytest.approx(expected)
    assert list_f1(answer, prediction) == pytest.approx(expected)


@pytest.mark.parametrize("metric", TEXT_METRICS.values(), ids=TEXT_METRICS.keys())
def test_the_empty_answer(metric: Callable[[str, str], float]) -> None:
    assert metric("", "") == metric(" \n", "\t") == 100.0
    assert metric("", "yes") == metric("yes", " ") == 0.0
