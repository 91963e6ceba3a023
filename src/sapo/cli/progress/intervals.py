"""Intervals around differences, drawn with characters on one scale.

-0.1     0               0.3
     ────●───
         │   ─────●──────
         │        ──────●──>
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from sapo.cli.progress.racing import DECIMALS, Runner

# A scale ends at so many times the median of what it must show: one huge interval would squash the others ...
_FAR = 3.0
# ... and at so many times what those who are still racing need, as it is between them that things happen.
_OUT = 2.5
# The shortest scale, in nats per token: the last decimal that is shown.
_LEAST = 10.0**-DECIMALS
# Relative size of rounding errors.
_DIGIT = 1e-9
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """From where to where intervals are drawn, in nats per token, over how many characters; 0 lies on it."""

    low: float
    high: float
    width: int

    def place(self, value: float) -> int:
        """Return the character for a value, which may be infinite: outside of the scale, it is -1 or ``width``."""
        share = (value - self.low) / (self.high - self.low)
        # Ends that are rounded away from 0 may miss what they were made for by the last digit.
        if not -_DIGIT <= share <= 1 + _DIGIT:
            return -1 if share < 0 else self.width
        return round(share * (self.width - 1))

    @property
    def heading(self) -> str:
        """The ends and 0, as far as there is room, each at its place."""
        left, right = (f"{end:g}" for end in (self.low, self.high))
        zero = self.place(0.0)
        text = "0".rjust(zero + 1)
        if self.low < 0 and len(left) < zero:
            text = left + text[len(left) :]
        free = self.width - len(text)
        return text + (right.rjust(free) if len(right) < free else " " * free)

    def draw(self, runner: Runner) -> str:
        """Return the interval of a candidate with a mark at the estimate; "<" and ">" say that it goes on."""
        first, last = self.place(runner.low), self.place(runner.high)
        cells = [" "] * self.width
        for i in range(max(first, 0), min(last, self.width - 1) + 1):
            cells[i] = "─"
        zero = self.place(0.0)
        cells[zero] = "┼" if cells[zero] == "─" else "│"
        mark = self.place(runner.gap)
        if 0 <= mark < self.width:
            cells[mark] = "●"
        if first < 0:
            cells[0] = "<"
        if last >= self.width:
            cells[-1] = ">"
        return "".join(cells)


def scale_of(runners: Sequence[Runner], width: int) -> Scale:
    """Return the scale for all candidates of a race."""
    rivals = [runner for runner in runners if not runner.leads]
    reach = _reach(rivals)
    if racing := _reach(runner for runner in rivals if runner.racing):
        reach = min(reach, _OUT * racing)
    left, right = (
        min(max(filter(math.isfinite, ends), default=0.0), reach)
        for ends in ([-runner.low for runner in rivals], [runner.high for runner in rivals])
    )
    if max(left, right) < _LEAST:
        right = _LEAST
    return Scale(-_rounded(left), _rounded(right), width)


def _reach(runners: Iterable[Runner]) -> float:
    """Return how far from 0 intervals reach, without the odd huge one; 0 where none reaches anywhere."""
    ends = [max((abs(x) for x in (r.low, r.high) if math.isfinite(x)), default=0.0) for r in runners]
    far = [end for end in ends if end > 0]
    return min(max(far), _FAR * median(far)) if far else 0.0


def _rounded(value: float) -> float:
    """Return the next larger number that is easy to read, so that a scale changes seldom from round to round."""
    if value < _DIGIT:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(s for s in _STEPS if value <= s * unit * (1 + _DIGIT)) * unit:.3g}")
