"""All that a study's records say of the method's claims, arm by arm, in words that never go beyond their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sapo.experiments.study.blocks import Block, blocks_of
from sapo.experiments.study.bound import Bound, bounds
from sapo.experiments.study.components import Spread, spread
from sapo.experiments.study.correlation import Agreement, agreements
from sapo.experiments.study.decision import Gain, gains
from sapo.experiments.study.prediction import PRIMARY, Association, adjusted, mediations, predictions
from sapo.experiments.study.records import Measure, StudyRecord
from sapo.experiments.study.resampling import ALPHA, Detectable, Measured, Sampling, detectable

Verdict = Literal["in line with the claim", "against the claim", "undecided"]
# The optimiser that people train with, whose test is the primary one.
_MAIN_ARM = "adamw"


@dataclass(frozen=True, slots=True)
class Arm:
    """What the trainings of one optimiser say.

    Attributes:
        name: the optimiser.
        blocks: its transitions; what is listed by transition is in their order.
        spreads: claim 1, of losses, and of scores where there are any.
        agreements: claim 2, for all pairs of tasks first.
        predictions: claim 3, every indicator against forgetting and generalisation, p-values corrected for one
            another over all arms; but for the primary test.
        mediations: by mediator, pre-update loss against it and it against forgetting.
        bounds: "path" and "forgetting".
    """

    name: str
    blocks: tuple[Block, ...]
    spreads: tuple[Spread, ...]
    agreements: tuple[Agreement, ...]
    predictions: tuple[Association, ...]
    mediations: tuple[tuple[Association, Association], ...]
    gains: tuple[Gain, ...]
    bounds: Mapping[str, Bound]


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a study found.

    Attributes:
        arms: the main one first.
        primary: the one test that was fixed before: pre-update loss against forgetting, in the main arm.
        detectable: what that test could find at its size.
        secondary: number of the tests that were corrected for one another.
    """

    arms: tuple[Arm, ...]
    primary: Association
    detectable: Detectable
    secondary: int
    sampling: Sampling


def analyse(records: Iterable[StudyRecord], *, sampling: Sampling | None = None) -> Analysis:
    """Return what a study's records say; their order does not matter. Errors are those of `blocks_of`."""
    sampling = sampling or Sampling()
    blocks = blocks_of(records)
    names = sorted({block.arm for block in blocks}, key=lambda name: (name != _MAIN_ARM, name))
    arms = [_arm([block for block in blocks if block.arm == name], sampling) for name in names]
    primary = next(one for one in arms[0].predictions if (one.x, one.y) == (PRIMARY, "forgetting"))
    secondary = adjusted([one for arm in arms for one in arm.predictions if one is not primary])
    left = iter(secondary)
    return Analysis(
        arms=tuple(
            replace(arm, predictions=tuple(one if one is primary else next(left) for one in arm.predictions))
            for arm in arms
        ),
        primary=primary,
        detectable=detectable(primary.candidates),
        secondary=sum(one.adjusted is not None for one in secondary),
        sampling=sampling,
    )


def _arm(blocks: Sequence[Block], sampling: Sampling) -> Arm:
    records = [record for block in blocks for row in block.records for record in row]
    measures: tuple[Measure, ...] = ("nll", "score") if any(record.scores for record in records) else ("nll",)
    return Arm(
        name=blocks[0].arm,
        blocks=tuple(blocks),
        spreads=tuple(spread(blocks, measure, sampling) for measure in measures),
        agreements=agreements(blocks, sampling),
        predictions=predictions(blocks, sampling),
        mediations=mediations(blocks, sampling),
        gains=gains(blocks),
        bounds=bounds(blocks),
    )


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
