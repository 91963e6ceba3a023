"""Other words for the same: phrases are exchanged outside of quotations and labels, notes introduced in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import regex

from sapo.candidates.rules.order import turned
from sapo.candidates.rules.parts import Parts
from sapo.candidates.rules.phrases import ADVERBIAL, LOWERED, PHRASES
from sapo.candidates.rules.sentences import fixed
from sapo.candidates.rules.slots import capital, ended, noted
from sapo.candidates.rules.verbs import commands

# Number of wordings of one instruction, the original's own among them.
WORDINGS = 18
_THOROUGH = 3
# Part of a longer word; or an adverb that would come to split an infinitive.
_GOES_ON = r"(?![-/’']| (?:never|nevertheless|always|also|still)\b)"
_OPTIONS = regex.compile(r"(?:A|1|a|\(A\)|\(1\)|\(a\))[.):] ?\S.*(?:B|2|b)[.):]")
_OPTION_LEADS = ("The options are ", "The choices are ", "The possible answers are ", "The alternatives are ")
_NOTE_LEADS = ("Note that ", "Keep in mind that ", "Please note that ", "Bear in mind that ", "Be aware that ", "")
_COMMAND_LEADS = ("", "Please ", "You should ", "Be sure to ", "", "Remember to ")
_STATEMENT_LEADS = ("", "", "Keep in mind that ", "", "Note that ", "", "Bear in mind that ")


def reworded(parts: Parts, wording: int, labels: Sequence[str]) -> Parts:
    """Return the parts in one of the wordings; number 0 has the original's own words."""
    # What follows a question speaks of its answer.
    after = turned(parts.after, wording) if wording and not parts.question else parts.after

    def exchange(text: str) -> str:
        return exchanged(text, wording, labels)

    return replace(
        parts,
        given=exchange(parts.given),
        ask=exchange(parts.ask),
        question=exchange(parts.question),
        before=tuple(map(exchange, parts.before)),
        after=tuple(_introduced(exchange(s), wording + n, labels, bool(wording)) for n, s in enumerate(after)),
    )


def exchanged(text: str, wording: int, labels: Sequence[str]) -> str:
    """Return an English text in which every known phrase is exchanged for one that means the same."""
    if not wording:
        return text
    pieces = list(fixed(text, labels))
    pattern, numbers = _phrases()
    count = 0

    def other(match: regex.Match[str]) -> str:
        nonlocal count
        # Small letters would stand out in a text in capitals.
        if match["phrase"].isupper():
            return str(match.group())
        count += 1
        phrase = match["phrase"].casefold()
        choices = PHRASES[phrase]
        number = numbers[phrase]
        # The first wordings change everything; in the later ones phrases go different ways, some as they were.
        if wording <= _THOROUGH:
            choice = choices[(wording - 1) % len(choices)]
        else:
            place = (wording * (number % 3 + 1) + number + count) % (len(choices) + 1)
            if place == len(choices):
                return str(match.group())
            choice = choices[place]
        new = capital(choice) if match["phrase"][0].isupper() else choice
        article = match["article"]
        if not article:
            return new
        return str(article)[0] + ("n " if new[0].lower() in "aeiou" else " ") + new

    for n in range(0, len(pieces), 2):
        pieces[n] = pattern.sub(other, pieces[n])
    return "".join(pieces)


@cache
def _phrases() -> tuple[regex.Pattern[str], dict[str, int]]:
    phrases = sorted(PHRASES, key=len, reverse=True)
    either = "|".join(map(regex.escape, phrases))
    pattern = regex.compile(rf"\b(?:(?P<article>an? ))?(?<![-/’'])(?P<phrase>{either})\b{_GOES_ON}", regex.I)
    return pattern, {phrase: number for number, phrase in enumerate(PHRASES)}


def _introduced(sentence: str, number: int, labels: Sequence[str], change: bool) -> str:
    """Return a sentence introduced as the note, demand, list of options or statement that it is."""
    if "\n" in sentence:
        return sentence
    if _OPTIONS.match(sentence):
        return _lead(_OPTION_LEADS, number) + ended(sentence)
    if not change:
        return ended(sentence)
    note = noted(sentence)
    if note != sentence:
        lead = _lead(_NOTE_LEADS, number)
        return ended(lead + _lowered(note, labels)) if lead and _lowered(note, labels) != note else ended(note)
    bare = _polite(sentence)
    if commands(bare) and not bare.casefold().startswith("do not "):
        lead = _lead(_COMMAND_LEADS, number)
        return ended(lead + bare[:1].lower() + bare[1:] if lead else capital(bare))
    lead, lowered = _lead(_STATEMENT_LEADS, number), _lowered(sentence, labels)
    # "If so, choose ...", "in your answer, use ...": commands as well, though they begin with something else.
    states = not sentence.endswith("?") and sentence.split(" ", 1)[0].casefold() not in ADVERBIAL
    return ended(lead + lowered if lead and states and lowered != sentence else sentence)


def _polite(part: str) -> str:
    return str(regex.sub(r"^(?:please|kindly),? ", "", part, flags=regex.I))


def _lead(leads: Sequence[str], number: int) -> str:
    return leads[number % len(leads)]


def _lowered(sentence: str, labels: Sequence[str]) -> str:
    """Return a sentence with a small first letter where its first word is certainly no name."""
    word = sentence.split(" ", 1)[0].strip(",")
    return sentence[:1].lower() + sentence[1:] if word.casefold() in LOWERED and word not in labels else sentence
