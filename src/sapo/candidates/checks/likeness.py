"""Whether a text is too much like another one: a candidate there is already, the suffix, or the data."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import regex
from rapidfuzz import fuzz

from sapo.core.types import Task

# In percent of equal characters (rapidfuzz's ratio). Among 460 hand-written paraphrases the most alike have 78.
NEAR = 92
# Hand-written paraphrases share at most 80 percent with a suffix of this length or more.
_REPEATED, _TELLING = 88, 20
# Shorter answers stand in an instruction by chance.
_LEAKED_WORDS, _LEAKED_CHARACTERS = 3, 16
_WORDS = regex.compile(r"[\p{L}\p{N}]+")


def folded(text: str) -> str:
    """Return the text without differences of case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def duplicate(text: str, seen: Mapping[str, str]) -> str | None:
    """Return why a text adds nothing to the ones seen (folded, with what to call them), or None."""
    ours = folded(text)
    if ours in seen:
        return f"same as {seen[ours]}"
    near = next((name for other, name in seen.items() if fuzz.ratio(ours, other, score_cutoff=NEAR) >= NEAR), None)
    return None if near is None else f"almost the same as {near}"


def repeats_suffix(original: str, suffix: str, text: str) -> str | None:
    """Return why a text takes the suffix's place, or None; what the original repeats is no reason."""
    fixed = folded(suffix)
    if len(fixed) < _TELLING:
        return None
    repeated = fuzz.partial_ratio(fixed, folded(text)) >= _REPEATED > fuzz.partial_ratio(fixed, folded(original))
    return "repeats the suffix" if repeated else None


def leak(task: Task, text: str) -> str | None:
    """Return which answer or input of the data a text gives away, or None."""
    ours, known = _spaced(text), _spaced(f"{task.instruction}\n{task.suffix}")
    for example in (*task.train, *task.dev, *task.test):
        for kind, value in (("an answer", example.answer), ("an input", example.input)):
            if (
                value not in task.labels
                and _telling(value, text)
                and (found := _spaced(value)) in ours
                and found not in known
            ):
                return f"holds {kind} of the data: {value.strip()[:60]!r}"
    return None


def _telling(value: str, text: str) -> bool:
    """Whether a value is short enough to stand in a text, and long enough not to stand there by chance."""
    return len(value) <= 2 * len(text) and (len(value) >= _LEAKED_CHARACTERS or len(value.split()) >= _LEAKED_WORDS)


def _spaced(text: str) -> str:
    """Return the words of a text, folded, each between spaces, so that only whole words are found in it."""
    return f" {' '.join(_WORDS.findall(folded(text)))} "
