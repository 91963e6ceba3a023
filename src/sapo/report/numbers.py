"""How numbers look: scores with one decimal, losses with three or four, differences with their sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sapo.core.untrusted import one_line
from sapo.experiments.study.resampling import Measured
from sapo.report.blocks import NOTHING
from sapo.runs.prompts import NAMED, Prompt, short
from sapo.runs.results import NLL, PRIMARY, Estimate

Better = Literal["higher", "lower"]
SCORE = 1
NLL_DECIMALS = 3
LOSS = 4
# Characters of a test prompt's text.
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Scale:
    """How a measure is written.

    Attributes:
        short: in a column or a sentence.
        title: over a table.
        unit: of differences.
        decimals: that are shown.
        better: which values are good.
    """

    short: str
    title: str
    unit: str
    decimals: int
    better: Better


SCALES = {
    PRIMARY: Scale("score", "Score (0 to 100, higher is better)", "points", SCORE, "higher"),
    NLL: Scale("NLL", "NLL (nats per token, lower is better)", "nats per token", NLL_DECIMALS, "lower"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of one run, or of several units.

    Attributes:
        value: of one run; the mean over the units that have one; None without any.
        interval: 95 %, over test rows for one run, else the Student t interval of the mean; None without one.
        points: one value for each unit, None where it has none; empty for one run.
    """

    value: float | None
    interval: tuple[float, float] | None
    points: tuple[float | None, ...] = ()

    @classmethod
    def of(cls, found: Estimate | None) -> Figure:
        """Return what a result holds; a figure without a value where it holds nothing."""
        bounds = found["interval"] if found else None
        return cls(found["value"] if found else None, None if bounds is None else (bounds[0], bounds[1]))

    @property
    def count(self) -> int:
        """How many units have a value."""
        return sum(point is not None for point in self.points)


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """Return a number with so many decimals; with ``sign``, "+" stands before a positive one."""
    if value is None:
        return NOTHING
    # Adding 0.0 turns a negative zero, which rounding makes of a tiny loss, into 0.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}" if sign and rounded else f"{rounded:.{decimals}f}"


def prompt_name(prompt: Prompt) -> str:
    """Return what to call a test prompt: its name, or its text in quotes; of a long one the beginning and the file."""
    shown = one_line(prompt, _SHOWN)
    return prompt if prompt in NAMED else f'"{shown}"' + ("" if shown == prompt else f" ({short(prompt)})")


def interval(bounds: Sequence[float] | None, decimals: int, *, sign: bool = False) -> str:
    """Return both ends of an interval in brackets; an end may be infinite."""
    if bounds is None:
        return NOTHING
    low, high = ("no limit" if math.isinf(bound) else number(bound, decimals, sign=sign) for bound in bounds)
    return f"[{low}, {high}]"


def estimate(found: Figure | Measured, decimals: int, *, sign: bool = False) -> str:
    """Return a number, followed by its interval where there is one."""
    text = number(found.value, decimals, sign=sign)
    return text if found.interval is None else f"{text} {interval(found.interval, decimals, sign=sign)}"


def listed(values: Sequence[float | None], decimals: int, *, sign: bool = True) -> str:
    """Return values as one text."""
    return ", ".join(number(value, decimals, sign=sign) for value in values)


def count(number_of: int, word: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{number_of} {word}{'' if number_of == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a wall time for people: seconds up to two minutes, then minutes, then hours."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def tokens(count: float) -> str:
    """Return a number of tokens, thousands and millions shortened."""
    if count < 9950:
        return f"{count:.0f}"
    return f"{count / 1e3:.0f} thousand" if count < 999_500 else f"{count / 1e6:.1f} million"
