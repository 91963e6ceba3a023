"""Data as they are found, before it is known which columns matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands for a row that could not be read; the reason is one clause."""

    reason: str


Rows = Sequence[dict[str, Any] | Broken]


@dataclass(frozen=True, slots=True)
class Raw:
    """A data set before its columns are known.

    Attributes:
        splits: rows by the split's own name, in the order found; later by what they are used for.
        instruction: a text that the data set as a whole gives as its instruction.
        classes: column -> the names of its classes, where the data declare them.
        notes: what was decided about its files, one sentence each.
        alternatives: whether a list of answers holds answers that are all right, as in Natural-Instructions.
    """

    splits: Mapping[str, Rows]
    instruction: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alternatives: bool = False


class UnusableError(Exception):
    """A row that cannot be used; the text is the reason, one clause. No public function lets it out."""
