"""How figures with their uncertainty look: value, interval, p-value, and why one of them is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sapo.experiments.study.resampling import Measured
from sapo.report.numbers import number
from sapo.report.tables import NOTHING

_P = 3


class Reasons:
    """Makes texts of figures, and remembers why some have no value or interval."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def figure(self, found: Measured, digits: int, *, sign: bool = False) -> tuple[str, str]:
        """Return value and interval."""
        if found.reason:
            self._found[found.reason] = None
        return number(found.value, digits, sign=sign), bounds(found.interval, digits, sign=sign)

    def legend(self) -> tuple[str, ...]:
        """Return one sentence with all reasons, or nothing."""
        return (f"{NOTHING}: {'; or '.join(self._found)}.",) if self._found else ()


def bounds(ends: tuple[float, float] | None, digits: int, *, sign: bool = False) -> str:
    """Return both ends of an interval in brackets; an end may be infinite."""
    if ends is None:
        return NOTHING
    texts = ("no limit" if math.isinf(end) else number(end, digits, sign=sign) for end in ends)
    return f"[{', '.join(texts)}]"


def in_words(found: Measured, digits: int, *, sign: bool = True) -> str:
    """Return a figure with its interval, or why it has none, within a sentence."""
    if found.value is None:
        return f"(not known: {found.reason})"
    text = number(found.value, digits, sign=sign)
    if found.interval is None:
        return f"{text} (no interval: {found.reason})"
    return f"{text} {bounds(found.interval, digits, sign=sign)}"


def listed(values: Sequence[float | None], digits: int, *, sign: bool = True) -> str:
    """Return values as one text."""
    return ", ".join(number(value, digits, sign=sign) for value in values)


def p_value(p: float | None) -> str:
    """Return a p-value."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else number(p, _P)
