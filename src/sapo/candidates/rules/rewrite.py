"""From an instruction to its rewrites: parts, wordings, frames, and of the texts those that differ enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import regex
from rapidfuzz import fuzz

from sapo.candidates.checks.labels import keeps
from sapo.candidates.checks.likeness import NEAR, folded
from sapo.candidates.language import language
from sapo.candidates.rules.brittle import brittle
from sapo.candidates.rules.chinese import CHINESE, CHINESE_WHOLE, chinese_slots
from sapo.candidates.rules.frames import ENGLISH, ENGLISH_WHOLE
from sapo.candidates.rules.neutral import neutral_frames, neutral_slots
from sapo.candidates.rules.parts import Parts, parts_of
from sapo.candidates.rules.sentences import without_footnotes
from sapo.candidates.rules.slots import complete, persona_of, slots_of
from sapo.candidates.rules.template import Frame, fill
from sapo.candidates.rules.wording import WORDINGS, exchanged, reworded

# Rewrites of one frame, and of all of them, at most.
_EACH, _MOST = 3, 60
# Labels that a frame may list.
_LISTED = 12
# Comparing two texts takes time with the square of their length: from so many characters on, few are compared.
_LONG, _FEW = 4000, 2

_ENGLISH_WORDS = regex.compile(r"\b(?:the|of|and|with|is|are|sentence|input|output|your?)\b", regex.I)

# A frame in one of the wordings: its text, or None where the frame does not apply.
Render = Callable[[Frame, int], str | None]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Another text for an instruction.

    Attributes:
        text: the instruction in other words or another form.
        frame: name of the way in which it is phrased.
    """

    text: str
    frame: str


def rewrites(instruction: str, labels: Sequence[str] = ()) -> tuple[Rewrite, ...]:
    """Return rewrites of an instruction, most varied first: every frame once, then every frame again.

    No two of them, nor one and the original, are nearly alike, and all keep the labels that the original names. The
    same instruction gives the same rewrites; one without letters and digits gives none.
    """
    text = instruction.strip()
    found: list[Rewrite] = []
    if not any(character.isalnum() for character in text):
        return ()
    wordings = WORDINGS if len(text) < _LONG else _FEW
    seen, tried = [folded(text)], {text}
    for frames, render in _ways(text, labels):
        for rounds in range(_EACH):
            for place, frame in enumerate(frames):
                # The wording moves on with the place, so that neighbours differ in words as well as in form.
                for n in range(wordings if len(found) < _MOST else 0):
                    new = render(frame, (place + rounds + n) % WORDINGS)
                    if new is None or new in tried:
                        continue
                    tried.add(new)
                    if _differs(new, seen) and all(keeps(label, text, new) for label in labels):
                        seen.append(folded(new))
                        found.append(Rewrite(new, frame.name))
                        break
    return tuple(found)


def _ways(text: str, labels: Sequence[str]) -> Iterator[tuple[Sequence[Frame], Render]]:
    """Yield frames with what renders them, the best way first."""
    spoken = language(text)
    if spoken is None and _ENGLISH_WORDS.search(text):
        spoken = "en"
    if brittle(text):
        yield from _untouched(text, spoken, labels)
        return
    if spoken == "zh":
        render = partial(_filled, [chinese_slots(text, n, labels) for n in range(WORDINGS)])
        yield CHINESE, render
        yield CHINESE_WHOLE, render
        return
    text = without_footnotes(text) if spoken == "en" else text
    # A short text in an uncertain language is English where it begins like an English instruction.
    parts = parts_of(text) if spoken in ("en", None) else None
    if parts is not None:
        persona = persona_of(parts)
        variants = [reworded(parts, n, labels) for n in range(WORDINGS)]
        answers = _answers(text, labels)
        yield ENGLISH, partial(_composed, [(variant, slots_of(variant, persona, answers)) for variant in variants])
    if parts is not None or spoken == "en":
        yield (
            ENGLISH_WHOLE,
            partial(_filled, [neutral_slots(exchanged(text, n, labels), labels) for n in range(WORDINGS)]),
        )
    else:
        yield neutral_frames(spoken), partial(_filled, [neutral_slots(text, labels)] * WORDINGS)


def _untouched(text: str, spoken: str | None, labels: Sequence[str]) -> Iterator[tuple[Sequence[Frame], Render]]:
    """Yield frames around a text that stays as it is, in its lines and in its words."""
    every = {"en": ENGLISH_WHOLE, "zh": CHINESE_WHOLE}.get(spoken or "", neutral_frames(spoken))
    frames = [frame for frame in every if "{text}" in frame.template or "{indented}" in frame.template]
    yield frames, partial(_filled, [neutral_slots(text, labels)] * WORDINGS)


def _answers(text: str, labels: Sequence[str]) -> Sequence[str]:
    """Return the labels where a text names all of them and they are few enough to be listed."""
    return labels if 1 < len(labels) <= _LISTED and not any(keeps(label, text, "") for label in labels) else ()


def _composed(variants: Sequence[tuple[Parts, Mapping[str, str]]], frame: Frame, wording: int) -> str | None:
    """Return the parts in one wording put together, None where the frame would lose one of them."""
    parts, slots = variants[wording]
    filled = fill(frame, slots)
    if filled is None or not complete(filled, parts):
        return None
    if not parts.role or "role" in filled.slots:
        return filled.text
    return f"You are {parts.role}." + ("\n" if "\n" in filled.text else " ") + filled.text


def _filled(variants: Sequence[Mapping[str, str]], frame: Frame, wording: int) -> str | None:
    filled = fill(frame, variants[wording])
    return None if filled is None else filled.text


def _differs(text: str, seen: Sequence[str]) -> bool:
    ours = folded(text)
    return all(fuzz.ratio(ours, other, score_cutoff=NEAR) < NEAR for other in seen)
