"""Scores of one generated answer against the true one, in percent (0 to 100), higher is better.

Every metric takes ``(prediction, answer)``. Two empty texts (white space only) score 100, as the prediction
is the answer; one empty text against a non-empty one scores 0.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache, lru_cache
from types import MappingProxyType, SimpleNamespace
from typing import Any

import regex

# Scripts written without spaces between words: one token for each character, with its combining marks.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*"
    rf"|[[\p{{L}}\p{{N}}]--[{_UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]*",
    regex.VERSION1,
)
_NUMBER = regex.compile(
    r"(?P<before>[$€£¥])?\s*(?P<sign>[-+]?)\s*"
    r"(?P<digits>(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(e[-+]?\d{1,9})?|\.\d+)\s*(?P<after>[%$€£¥])?",
    regex.IGNORECASE | regex.ASCII,
)


def exact_match(prediction: str, answer: str) -> float:
    """Return 100 where both texts are the same after normalisation, or the same number, else 0.

    Normalised: Unicode NFKC, case folded, white space collapsed and stripped, one trailing full stop dropped. Numbers
    are compared by value: 3.80 and 3.8, 1,000 and 1000, and with the same currency or percent sign or none.
    """
    found, wanted = _normalise(prediction), _normalise(answer)
    return 100.0 * (found == wanted or (as_number(found) is not None and as_number(found) == as_number(wanted)))


def as_number(text: str) -> tuple[str, Decimal] | None:
    """Return a text that is a number and nothing else as its unit and value; None for any other text."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    return match["before"] or match["after"] or "", Decimal(match["sign"] + match["digits"].replace(",", ""))


def rouge_l(prediction: str, answer: str) -> float:
    """Return the ROUGE-L F-measure over stemmed words.

    Longest common subsequence of tokens (Lin 2004), computed by rouge_score. Its own tokenizer knows only a-z
    and 0-9 and scores every other script as 0, so ours replaces it. ASCII texts score as with rouge_score's
    stemmed default, except where neither has a letter or digit: those are compared character by character.
    """
    if not prediction.strip() and not answer.strip():
        return 100.0
    return 100.0 * float(_scorer().score(answer, prediction)["rougeL"].fmeasure)


def list_f1(prediction: str, answer: str) -> float:
    """Return the F1 of comma-separated items, whatever their order.

    Items are normalised as in `exact_match` and compared as multisets: a repeated item counts as often as it
    appears. Empty items are left out.
    """
    predicted, expected = _items(prediction), _items(answer)
    if not predicted and not expected:
        return 100.0
    return 100.0 * 2 * (predicted & expected).total() / (predicted.total() + expected.total())


TEXT_METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {"exact_match": exact_match, "rouge_l": rouge_l, "list_f1": list_f1}
)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _normalise(text: str) -> str:
    words = " ".join(_fold(text).split())
    # A text that is nothing but a full stop keeps it, or it would equal an empty one.
    return words[:-1].rstrip() or words if words.endswith((".", "。")) else words


def _items(text: str) -> Counter[str]:
    return Counter(item for part in _fold(text).split(",") if (item := _normalise(part)))


def words_of(text: str) -> list[str]:
    """Return the words of any script; of one without spaces, its characters. Numbers are words too."""
    return list(_WORD.findall(text))


def _tokens(text: str) -> list[str]:
    """Return folded words, the ASCII ones stemmed; where there is no word, the non-space characters."""
    folded = _fold(text)
    words = [_stem(word) if word.isascii() else word for word in words_of(folded)]
    return words or [character for character in folded if not character.isspace()]


# rouge_score brings in nltk, which is slow to import: only those who ask for ROUGE pay for it.
@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=_tokens))


@cache
def _ascii_tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """Stem a lower-case ASCII word by rouge_score's own rule; cached, as it costs most of a short text."""
    return "".join(_ascii_tokenizer().tokenize(word))
