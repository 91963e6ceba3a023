"""Why a text is not a valid candidate."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

from sapo.types import Instruction, Origin, Rejection, Task

# Rejected texts that an error names, and characters of each.
_NAMED, _SHOWN = 5, 60


def admit(
    task: Task, texts: Sequence[str], origin: Origin, count: int | None = None
) -> tuple[tuple[Instruction, ...], tuple[Rejection, ...]]:
    """Return the original followed by the valid texts, and the rejected ones with reasons.

    Args:
        task: the task whose instruction is the original.
        texts: paraphrases, in order of preference.
        origin: where they come from.
        count: take at most this many, the original not counted; None takes all.
    """
    kept = [Instruction(task.instruction, "original")]
    seen = {_folded(task.instruction): "the original instruction"}
    rejected = []
    for number, raw in enumerate(texts, start=1):
        if count is not None and len(kept) > count:
            break
        text = raw.strip()
        reason = _reason(text, task, seen)
        if reason is None:
            kept.append(Instruction(text, origin))
            seen[_folded(text)] = f"candidate {number}"
        else:
            rejected.append(Rejection(raw, reason))
    return tuple(kept), tuple(rejected)


def why_none(rejected: Sequence[Rejection]) -> str:
    """Return in a few words why no text became a candidate: the first ones with their reasons."""
    if not rejected:
        return "none were given"
    shown = [f"{r.text[:_SHOWN]!r}: {r.reason}" for r in rejected[:_NAMED]]
    more = len(rejected) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _reason(text: str, task: Task, seen: dict[str, str]) -> str | None:
    if not text:
        return "empty"
    kinds = {unicodedata.category(c) for c in text if c not in "\n\t"}
    if "Cc" in kinds:
        return "contains control characters"
    if "Cs" in kinds:
        return "contains half a character (a lone surrogate)"
    if _folded(text) in seen:
        return f"same as {seen[_folded(text)]}"
    missing = [label for label in task.labels if not keeps(label, task.instruction, text)]
    if missing:
        return f"lacks the label {', '.join(map(repr, missing))} that the original instruction names"
    return None


# Letters and digits that continue a word; Han, kana and Thai are written without spaces, so there any
# neighbour is a boundary.
_WORD = r"[[\p{L}\p{N}_]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"
# "A. dovish", "1) positive", "1: poor": a short label before a mark and the first word of what it marks.
_SPACED = regex.compile(_WORD, regex.VERSION1)
_MARK = regex.compile(r"[.):、．]\s*(\p{L}+)")
_EXPLAINS = regex.compile(r"\p{L}\s*\($")
_MARK_LENGTH = 2


def keeps(label: str, original: str, text: str) -> bool:
    """Whether ``text`` names ``label`` to the letter, as a whole word, wherever ``original`` does.

    A short label that only enumerates ("1) Read the text") is not named; one that enumerates the same thing
    as in the original ("A. dovish") is.
    """
    theirs, ours = _mentions(original, label), _mentions(text, label)
    return not theirs or any(not o or any(_same_mark(o, t) for t in theirs if t) for o in ours)


def _same_mark(one: str, other: str) -> bool:
    """Whether two marked texts begin with the same word; without spaces, one may be the beginning of the other."""
    one, other = one.casefold(), other.casefold()
    return one == other or (not _SPACED.match(one) and (one.startswith(other) or other.startswith(one)))


def _mentions(text: str, label: str) -> set[str]:
    """Return "" for a plain mention of ``label``, and the word that it enumerates for one used as a mark."""
    word = regex.compile(rf"(?<!{_WORD}){regex.escape(label)}(?!{_WORD})", regex.VERSION1)
    found = set()
    for mention in word.finditer(text):
        after = _MARK.match(text, mention.end()) if len(label) <= _MARK_LENGTH else None
        # "good (4) or": in parentheses behind a word, a label explains that word and enumerates nothing.
        explains = _EXPLAINS.search(text[: mention.start()])
        found.add(after.group(1) if after and not explains else "")
    return found


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
