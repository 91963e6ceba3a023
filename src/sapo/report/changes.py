"""What differs between two texts, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Texts of more pieces are not compared: that would take long, and nobody could follow it.
_MOST = 4000
# Texts that have less in common than this are shown one after the other: between scraps nobody could read either.
_ALIKE = 0.35


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of two texts: what only the original has, and what only the new text has. Equal where they are one."""

    removed: str
    added: str

    @property
    def kept(self) -> bool:
        """Whether both texts have it."""
        return self.removed == self.added


def changes(original: str, text: str) -> tuple[Part, ...]:
    """Return both texts in pieces: the removed ones joined are the original, the added ones the text."""
    before, after = _WORDS.findall(original), _WORDS.findall(text)
    if len(before) + len(after) > _MOST:
        return (Part(original, text),)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < _ALIKE and original != text:
        return (Part(original, text),)
    found = [Part("".join(before[i:j]), "".join(after[k:m])) for _, i, j, k, m in matcher.get_opcodes()]
    return tuple(_joined(found))


def _joined(parts: list[Part]) -> Iterator[Part]:
    """Yield the parts, with changes joined that only blanks or signs keep apart."""
    waiting: Part | None = None
    for n, part in enumerate(parts):
        between = part.kept and 0 < n < len(parts) - 1 and not re.search(r"\w", part.added)
        if part.kept and not between:
            if waiting is not None:
                yield waiting
            waiting = None
            yield part
        else:
            held = waiting or Part("", "")
            waiting = Part(held.removed + part.removed, held.added + part.added)
    if waiting is not None:
        yield waiting
