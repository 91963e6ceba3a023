"""What an instruction names: labels and numbers that a text must name too."""

from __future__ import annotations

from collections.abc import Sequence

import regex

# Letters and digits that continue a word; Han, kana and Thai are written without spaces, so there any
# neighbour is a boundary.
_LETTER = r"[[\p{L}\p{N}_]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"
# "A. dovish", "1) positive", "1: poor": a short label before a mark and the first word of what it marks.
_SPACED = regex.compile(_LETTER, regex.VERSION1)
_MARK = regex.compile(r"[.):、．]\s*(\p{L}+)")
_EXPLAINS = regex.compile(r"(?<=\p{L}\s*\()")
_BEHIND_A_WORD = regex.compile(r"(?<=\p{L}\s+)")
_MARK_LENGTH = 2

# A number by itself, not the mark of an enumeration ("1)", "2.", "3:" where a line or sentence begins), not a stray
# footnote mark before the capital that begins a sentence ("1 In short"), not part of a word.
_NUMBER = regex.compile(
    rf"(?<!{_LETTER}|\d[.,])(\d++(?:[.,]\d++)*+)"
    rf"(?!{_LETTER}|(?<=(?:^|\n|[.:;!?]\s)\(?\d{{1,2}})(?:[):、．]|\.\s)|\s+\p{{Lu}}\p{{Ll}})",
    regex.VERSION1,
)
_THOUSANDS = regex.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
# Characters before a number that tell what it counts.
_LOOK_BACK = 80
# A small number may only describe the input ("4 options") and go with that description. It bears on the task as an end
# of a scale, behind a bound, or before a unit of what is to be written.
_SCALE = regex.compile(r"[-–—~]\s*$|\b(?:to|through|and|bis|a|à|to the)\s+$|[到至]\s*$")
_SCALED = regex.compile(r"^\s*[-–—~]\s*\d|^\s+(?:to|through)\s+\d|^\s*[到至]\s*\d")
_BOUND = regex.compile(
    r"\b(?:most|least|than|exactly|maximum|minimum|to|within|only|under|over|of)\s+$|[多少过]$", regex.I
)
_UNIT = regex.compile(
    r"^[\s-]+(?:\w+[\s-]+)?(?:words?|sentences?|paragraphs?|lines?|bullets?|points?|characters?|letters?|items?"
    r"|keywords?|examples?|percent|tokens?)\b|^\s*[个句字段行%]",
    regex.IGNORECASE,
)


def named(labels: Sequence[str], original: str) -> tuple[str, ...]:
    """Return the labels that an instruction may name: single letters only where it names all of them to the letter.

    Elsewhere "a" and "I" are words of a sentence, as in "a small conversation" above the options A to D.
    """
    letters = [label for label in labels if len(label) == 1 and label.lower() != label.upper()]
    if all(not keeps(letter, original, "") for letter in letters):
        return tuple(labels)
    return tuple(label for label in labels if label not in letters)


def keeps(label: str, original: str, text: str) -> bool:
    """Whether ``text`` names ``label`` to the letter, as a whole word, wherever ``original`` does.

    A short label that only enumerates ("1) Read the text") is not named; one that enumerates the same thing
    as in the original ("A. dovish") is.
    """
    theirs, ours = _mentions(original, label), _mentions(text, label)
    return not theirs or any(not o or any(_same_mark(o, t) for t in theirs if t) for o in ours)


def missing_numbers(labels: Sequence[str], original: str, text: str) -> tuple[str, ...]:
    """Return the numbers that bear on the task and are missing in the text, where up to twelve may stand in words.

    Labels that are numbers are not counted here.
    """
    wanted = dict.fromkeys(
        found.group(1)
        for found in _NUMBER.finditer(original)
        if found.group(1) not in labels
        and _bears(
            found.group(1), original[max(0, found.start() - _LOOK_BACK) : found.start()], original[found.end() :]
        )
    )
    # As a mark of an enumeration, too, a number is named.
    there = {_THOUSANDS.sub("", number) for number in regex.findall(r"\d+(?:[.,]\d+)*", text)}
    there |= {str(_DIGITS.index(word)) for word in regex.findall(r"\p{L}+", text.casefold()) if word in _DIGITS}
    return tuple(n for n in wanted if _THOUSANDS.sub("", n) not in there)


def _bears(number: str, before: str, after: str) -> bool:
    """Whether a number between two texts says something about the task, and not only about the input."""
    if not number.isdecimal() or int(number) >= len(_DIGITS):
        return True
    scale = _SCALED.match(after) or (_SCALE.search(before) and regex.search(r"\d\W*(?:\w+\s+)?$", before))
    return bool(scale or _BOUND.search(before) or _UNIT.match(after))


def _same_mark(one: str, other: str) -> bool:
    """Whether two marked texts begin with the same word; without spaces, one may be the beginning of the other."""
    one, other = one.casefold(), other.casefold()
    return one == other or (not _SPACED.match(one) and (one.startswith(other) or other.startswith(one)))


def _mentions(text: str, label: str) -> set[str]:
    """Return "" for a plain mention of ``label``, and the word that it enumerates for one used as a mark."""
    word = regex.compile(rf"(?<!{_LETTER}){regex.escape(label)}(?!{_LETTER})", regex.VERSION1)
    found = set()
    for mention in word.finditer(text):
        after = _MARK.match(text, mention.end()) if len(label) <= _MARK_LENGTH else None
        # "good (4) or": in parentheses behind a word, a label explains that word and enumerates nothing.
        explains = _EXPLAINS.match(text, mention.start())
        found.add(after.group(1) if after and not explains else "")
        # "yes or no. Read": behind a word, it may also end a sentence.
        if after and _BEHIND_A_WORD.match(text, mention.start()):
            found.add("")
    return found
