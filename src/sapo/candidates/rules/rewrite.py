"""From an instruction to its rewrites: it is put into frames, in its own words and in others of the same meaning.

A frame is a text with slots. ``[...]`` is left out where a slot in it is empty, ``[...|...]`` is the first alternative
whose slots are filled, and a frame with any other empty slot does not apply. The slots:

    text                      the whole instruction
    lines, paragraphs         its sentences, if there are several; ``numbers`` counts them
    bullets, stars            its sentences as a list, also a single one
    cited, indented           its lines as a quotation, or two spaces further in
    given, Given              what the input is said to be, small or with a capital
    ask, Ask, bare            the rest of the instruction: from the verb on; as a sentence; where it says what is given
    first, First, rest        its first sentence, in Chinese without its mark, and all others; ``rest*``, and ``rules*``
                              where none of them leans on the first, are lists of the latter
    choices, and with , / *   the labels, where the instruction names all of them: "A or B", or a list
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import regex
from rapidfuzz import fuzz

from sapo.candidates.checks import NEAR
from sapo.candidates.language import language
from sapo.candidates.named import keeps
from sapo.candidates.rules.sentences import brittle, fixed, sentences
from sapo.core.errors import CandidateError
from sapo.core.untrusted import folded

# By language: "whole" are frames for any instruction, "parts" those for an instruction of which it is plain what is
# given or asked; neighbours differ in style and length. "phrases" mean the same wherever instructions use them,
# "openings" at the beginning of a sentence, in English with each of the words in place of "{}"; "verbs" begin commands.
LANGUAGES: Mapping[str, Any] = json.loads(
    files("sapo.candidates.rules").joinpath("languages.json").read_text(encoding="utf-8")
)
_EN, _ZH = LANGUAGES["en"], LANGUAGES["zh"]
_KNOWN: Mapping[str, Mapping[str, list[str]]] = {
    kind: {
        phrase.format(word): [other.format(word) for other in others]
        for group in _EN[kind]
        for word in group["words"]
        for phrase, others in group["phrases"].items()
    }
    for kind in ("openings", "phrases")
}
_VERBS = _EN["verbs"].replace(" ", "|")

# Rewrites of one frame, and of all of them, at most.
_EACH, _MOST = 3, 60
# Number of wordings of one instruction, the original's own among them; in the first ones every known phrase changes.
_WORDINGS, _THOROUGH = 18, 3
# Comparing two texts takes time with the square of their length. From so many characters on, where a frame adds too
# little to tell two rewrites apart, few frames and wordings are tried; of more than the last number, none.
_LONG, _FEW_FRAMES, _FEW_WORDINGS, _LONGEST = 4000, 8, 4, 50_000
# Labels that a frame may list.
_LISTED = 12

_OPTION, _SLOT = regex.compile(r"\[([^\]]*)\]"), regex.compile(r"\{([^}]*)\}")
_TASK = (
    r"(?:(?:in this task,? |here, )?(?:(?:your|the) (?:task|job|goal) is|you(?:'re| are) (?:asked|expected)"
    r"|you (?:have|need)) to |please |)"
)
_GIVEN = regex.compile(
    r"(?:in this task,? )?you(?:'re| are| will be|'ll be) (?:given|presented with|provided with|shown) "
    r"(?P<given>[^.;:\n]+)\. (?P<ask>.+)"
    rf"|given (?P<given>[^.;:\n]+?), (?P<ask>(?:{_VERBS}) .+)",
    regex.I,
)
_ASK = regex.compile(rf"{_TASK}(?P<ask>(?:{_VERBS})\b(?!:).+)", regex.I)
_ORDERED = regex.compile(r"\b(?:have to|must|need to|asked|task)\b", regex.I)
_LEANS = regex.compile(
    r"(?:however|but|otherwise|then|therefore|so|this|these|they|it|its|such|those|that|and|or|if|in|there|now|first"
    r"|next|finally|also)\b",
    regex.I,
)
_MARKED = regex.compile(r"((?:\p{L}|\d+)\s?[.．、:：)）]\s?\p{Han}+)")


def rewrites(instruction: str, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Return rewrites of an instruction, most varied first: every frame once, then every frame again.

    No two of them, nor one and the original, are nearly alike, and all keep the labels that the original names. The
    same instruction gives the same rewrites; one without letters and digits gives none.

    Raises:
        CandidateError: if the instruction is too long to be rewritten in reasonable time.
    """
    text = instruction.strip()
    if not any(character.isalnum() for character in text):
        return ()
    found, seen, tried = list[str](), [folded(text)], {text}
    if len(text) > _LONGEST:
        raise CandidateError(
            f"the instruction has {len(text)} characters, and rules rewrite at most {_LONGEST}: shorten it, or leave "
            "the source rules out and give candidates of your own"
        )
    long = len(text) >= _LONG
    wordings = _FEW_WORDINGS if long else _WORDINGS
    for frames, variants in _ways(text, labels, wordings):
        for rounds in range(_EACH):
            for place, frame in enumerate(frames[:_FEW_FRAMES] if long else frames):
                # The wording moves on with the place, so that neighbours differ in words as well as in form.
                for n in range(wordings if len(found) < _MOST else 0):
                    new = fill(frame, variants[(place + rounds + n) % len(variants)])
                    if new is None or new in tried:
                        continue
                    tried.add(new)
                    ours = folded(new)
                    near = any(fuzz.ratio(ours, other, score_cutoff=NEAR) >= NEAR for other in seen)
                    if not near and all(keeps(label, text, new) for label in labels):
                        seen.append(ours)
                        found.append(new)
                        break
    return tuple(found)


def fill(frame: str, slots: Mapping[str, str]) -> str | None:
    """Return a frame with its slots filled, or None where it does not apply."""

    def alternative(option: regex.Match[str]) -> str:
        parts = option.group(1).split("|")
        return next((part for part in parts if all(slots.get(slot) for slot in _SLOT.findall(part))), "")

    template = _OPTION.sub(alternative, frame)
    if not all(slots.get(slot) for slot in _SLOT.findall(template)):
        return None
    # One pass: what fills a slot is the user's text, which may hold braces and brackets of its own.
    return str(_SLOT.sub(lambda match: slots[match.group(1)], template)).strip()


def exchanged(text: str, wording: int, labels: Sequence[str]) -> str:
    """Return an English text in which known phrases are exchanged for others; wording 0 is the text itself."""
    pieces = fixed(text, labels)
    for n in range(0, len(pieces) if wording else 0, 2):
        pieces[n] = _PHRASE.sub(_Exchange(wording), pieces[n])
    return "".join(pieces)


class _Exchange:
    """Says what stands in a phrase's place, in one wording."""

    def __init__(self, wording: int) -> None:
        self._wording, self._count = wording, 0

    def __call__(self, match: regex.Match[str]) -> str:
        found = match["phrase"] or match["opening"]
        # Small letters would stand out in a text in capitals.
        if found.isupper():
            return str(match.group())
        self._count += 1
        choices = _KNOWN["phrases" if match["phrase"] else "openings"][found.casefold()]
        # Later wordings let phrases go different ways, and leave some as they are.
        place = self._wording - 1 if self._wording <= _THOROUGH else self._wording * (len(found) % 3 + 1) + self._count
        number = place % (len(choices) + (self._wording > _THOROUGH))
        if number == len(choices):
            return str(match.group())
        new = choices[number][:1].upper() + choices[number][1:] if found[0].isupper() else choices[number]
        article = match["article"] or ""
        return article[:1] + ("n " if new[0].lower() in "aeiou" else " ") + new if article else new


def _either(phrases: Mapping[str, object]) -> str:
    return "|".join(map(regex.escape, sorted(phrases, key=len, reverse=True)))


# Not a part of a longer word; nor before an adverb that would come to split an infinitive; a given name is a name.
_PHRASE = regex.compile(
    rf"(?:(?:^|(?<=[.!?]\s))(?P<opening>{_either(_KNOWN['openings'])})|\b(?P<article>an? )?(?<![-/’'])(?P<phrase>"
    rf"{_either(_KNOWN['phrases'])}))\b(?![-/’']| (?:never|nevertheless|always|also|still|names?)\b)",
    regex.I,
)


# Not a part of what kinds of questions are called, nor of a limit: behind a number or a unit, 以下 is "at most".
_PHRASE_ZH = regex.compile(rf"(?!(?<=[\d字词句个人岁元分条行])以下)(?:{_either(_ZH['phrases'])})(?!题)")


def _ways(
    text: str, labels: Sequence[str], wordings: int
) -> Iterator[tuple[Sequence[str], Sequence[Mapping[str, str]]]]:
    """Yield frames with the slots of each wording, the best way first."""
    tongue = language(text)
    named = 1 < len(labels) <= _LISTED and not any(keeps(label, text, "") for label in labels)
    choices = _choices(labels) if named else {}
    whole = LANGUAGES.get(tongue or "", {"whole": []})["whole"]
    if tongue not in ("en", "zh"):
        whole = [*whole, *LANGUAGES["other"]["whole"]]
    if brittle(text):
        yield [f for f in whole if "{text}" in f or "{indented}" in f], [choices | _whole(text)]
    elif tongue == "zh":
        texts = [_exchanged_chinese(text, n, labels) for n in range(wordings)]
        yield _ZH["parts"], [_chinese(one) for one in texts]
        yield whole, [_whole(one) for one in texts]
    elif tongue == "en":
        given, ask = _parts(text)
        if ask:
            parts = [[exchanged(part, n, labels) for part in (given, ask)] for n in range(wordings)]
            yield _EN["parts"], [choices | _english(given, ask) for given, ask in parts]
        yield whole, [choices | _whole(exchanged(text, n, labels)) for n in range(wordings)]
    else:
        yield whole, [choices | _whole(text)]


def _parts(text: str) -> tuple[str, str]:
    """Return what an English instruction says is given, and all the rest; both empty where that is not plain.

    The rest begins with a small letter where it begins with the verb of a command.
    """
    found = _GIVEN.fullmatch(text)
    given, ask = (found["given"], found["ask"]) if found else ("", text)
    command = _ASK.fullmatch(ask)
    if "\n" in text or _ORDERED.search(given) or not (given or command):
        return "", ""
    return given, command["ask"][:1].lower() + command["ask"][1:] if command else ask


def _english(given: str, ask: str) -> dict[str, str]:
    ask += "" if ask.rstrip("\"'”’)").endswith((".", "?", "!", ":", "…")) else "."
    first, *rest = sentences(ask)
    lines = "\n".join(f"- {sentence}" for sentence in rest)
    return {
        "first": first if ask[0].islower() else "",
        "First": first[:1].upper() + first[1:],
        "rest": " ".join(rest),
        "rest*": lines,
        # Ahead of what is asked: only what does not point back to it.
        "rules*": "" if any(map(_LEANS.match, rest)) else lines,
        "given": given,
        "Given": given[:1].upper() + given[1:],
        "ask": ask if ask[0].islower() else "",
        "Ask": ask[:1].upper() + ask[1:],
        # What is given need not be said again where every word of it comes back.
        "bare": ask[:1].upper() + ask[1:] if _stems(given) <= _stems(ask) else "",
    }


def _stems(text: str) -> set[str]:
    words = regex.findall(r"\p{L}{4,}|\d+", text.casefold())
    return {word[:5] for word in words if word not in ("from", "with", "that", "this")}


def _whole(text: str) -> dict[str, str]:
    found = sentences(text)
    several = len(found) > 1
    return {
        "text": text,
        "lines": "\n".join(found) if several else "",
        "paragraphs": "\n\n".join(found) if several else "",
        "numbers": "\n".join(f"{n}. {sentence}" for n, sentence in enumerate(found, start=1)) if several else "",
        "bullets": "\n".join(f"- {sentence}" for sentence in found),
        "stars": "\n".join(f"* {sentence}" for sentence in found),
        "cited": "\n".join(f"> {line}" for line in text.splitlines()),
        "indented": "\n".join(f"  {line}" for line in text.splitlines()),
    }


def _choices(labels: Sequence[str]) -> dict[str, str]:
    either = " or ".join((", ".join(labels[:-1]), labels[-1]))
    return {
        "choices": either,
        "choices,": ", ".join(labels),
        "choices/": " / ".join(labels),
        "choices*": "\n".join(f"- {label}" for label in labels),
    }


def _chinese(text: str) -> dict[str, str]:
    first, *rest = sentences(text)
    first = regex.sub(r"^(?:请你?|麻烦你?|请您)", "", first.rstrip("。．. "))
    whole = "\n" in first or first.endswith(("？", "?", "！", "!", "：", ":", "”", "」"))
    return _whole(text) | {
        "first": "" if whole else first,
        "ask": first if not whole and first.startswith(tuple(_ZH["verbs"].split())) else "",
        "rest": "".join(rest),
    }


def _exchanged_chinese(text: str, wording: int, labels: Sequence[str]) -> str:
    def other(match: regex.Match[str]) -> str:
        choices = _ZH["phrases"][match.group()]
        return str(choices[wording % len(choices)]) if wording <= _THOROUGH or wording % 3 else match.group()

    pieces = fixed(text, labels)
    for n in range(0, len(pieces) if wording else 0, 2):
        # "A.支持": what a mark stands in front of is an answer's text.
        kept = _MARKED.split(pieces[n])
        pieces[n] = "".join(_PHRASE_ZH.sub(other, piece) if k % 2 == 0 else piece for k, piece in enumerate(kept))
    return "".join(pieces)
