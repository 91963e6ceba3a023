"""Frames as data: a small template language in which a frame says how it puts the parts of an instruction together.

``{slot}`` stands for a part, ``[...]`` for what is left out where a slot in it is empty, ``[...|...]`` for the first
alternative whose slots are filled. A frame whose other slots are empty does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import regex

_OPTION = regex.compile(r"\[([^\]]*)\]")
_SLOT = regex.compile(r"\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One way to phrase a whole instruction.

    Attributes:
        name: what it is recorded with, unique within a language.
        template: its text, see above.
    """

    name: str
    template: str


@dataclass(frozen=True, slots=True)
class Filled:
    """A filled frame: its text, and the slots that stand in it."""

    text: str
    slots: frozenset[str]


def fill(frame: Frame, slots: Mapping[str, str]) -> Filled | None:
    """Return the frame with its slots filled, or None where it does not apply."""
    parts = _OPTION.split(frame.template)
    # Outside of brackets at even places, inside at odd ones.
    chosen = [part if n % 2 == 0 else _alternative(part, slots) for n, part in enumerate(parts)]
    template = "".join(chosen)
    used = frozenset(_SLOT.findall(template))
    if not all(slots.get(slot) for slot in used):
        return None
    # One pass: what fills a slot is the user's text, which may hold braces and brackets of its own.
    return Filled(_SLOT.sub(lambda match: slots[match.group(1)], template).strip(), used)


def _alternative(option: str, slots: Mapping[str, str]) -> str:
    for part in option.split("|"):
        if all(slots.get(slot) for slot in _SLOT.findall(part)):
            return part
    return ""
