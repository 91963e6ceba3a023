"""What figures say of a claim, in words that never go beyond their intervals."""

from __future__ import annotations

from typing import Literal

from sapo.experiments.study.prediction import Association
from sapo.experiments.study.ranks import ALPHA
from sapo.experiments.study.resampling import Measured

Verdict = Literal["in line with the claim", "against the claim", "undecided"]


def compared(found: Measured, number: float, claimed: Literal["above", "below"]) -> Verdict:
    """Return what an interval says of the claim that the true figure lies above, or below, a number."""
    if found.interval is None or found.interval[0] <= number <= found.interval[1]:
        return "undecided"
    above = found.interval[0] > number
    return "in line with the claim" if above == (claimed == "above") else "against the claim"


def predicted(test: Association) -> Verdict:
    """Return what a test says of the claim that a lower x goes with a better y; p-value and interval must agree.

    Of tests that are corrected for one another the corrected p-value counts.
    """
    p = test.p if test.adjusted is None else test.adjusted
    return compared(test.rho, 0.0, "below") if p is not None and p < ALPHA else "undecided"
