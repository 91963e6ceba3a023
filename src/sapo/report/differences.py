"""How far one thing lies from another, and what can be said of it: two runs on the same test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sapo.report.runs import Run
from sapo.runs.metrics import METRICS, metric_draws, percentile_interval
from sapo.runs.results import NLL, Prompt

Verdict = Literal[
    "better", "worse", "too small to decide", "not paired", "not comparable", "one unit: no interval", "no pair"
]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric minus that of a baseline, in the metric's units.

    Attributes:
        value: the difference; over several units, the mean of theirs; None without any.
        interval: its 95 % interval: over test rows for two runs, over units for several; None without one.
        verdict: what can be said of it.
        points: by unit, None where a unit lacks one of the two; empty for two runs.
        either: how many units have a value for at least one of the two.
    """

    value: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    points: tuple[float | None, ...] = ()
    either: int = 1

    @property
    def count(self) -> int:
        """How many units have a difference."""
        return sum(point is not None for point in self.points)


def direction(measure: str, metric: str = "ap") -> Literal["higher", "lower"]:
    """Return which values of a metric are good: "higher" or "lower"."""
    return "lower" if measure == NLL or metric == "forgetting_max" else "higher"


def verdict(bounds: tuple[float, float], better: Literal["higher", "lower"]) -> Verdict:
    """Return what the interval of a difference says, where ``better`` values of the metric lie in that direction."""
    low, high = bounds
    if low <= 0 <= high:
        return "too small to decide"
    return "better" if (low > 0) == (better == "higher") else "worse"


def run_differences(first: Run, other: Run, measure: str, prompt: Prompt) -> dict[str, Difference]:
    """Return by metric how far a run lies from the first one; undefined metrics are left out.

    Both runs are resampled with the first run's seed. `resample_matrices` then draws the same rows for both, so
    that what makes a row hard for both cancels out.
    """
    values = {}
    for metric in METRICS:
        mine, theirs = (run.result.estimate(measure, prompt, metric.name)["value"] for run in (first, other))
        if mine is not None and theirs is not None:
            values[metric.name] = theirs - mine
    obstacle = _obstacle(first, other, measure, prompt)
    if obstacle is not None:
        return {name: Difference(value, None, obstacle) for name, value in values.items()}
    before, after = (
        metric_draws(
            run.resampled(measure, prompt, first.result.seed),
            higher_is_better=direction(measure) == "higher",
            undefined=run.undefined(measure, prompt),
        )
        for run in (first, other)
    )
    found = {}
    for name, value in values.items():
        bounds = percentile_interval(after[name] - before[name])
        found[name] = Difference(value, bounds, verdict(bounds, direction(measure, name)))
    return found


def _obstacle(first: Run, other: Run, measure: str, prompt: Prompt) -> Verdict | None:
    """Return why two runs have no paired difference, if so."""
    mine, theirs = first.result, other.result
    if measure != NLL and any(mine.primary_metrics[t] != theirs.primary_metrics[t] for t in mine.tasks):
        return "not comparable"
    if mine.test_data != theirs.test_data:
        return "not paired"
    if measure == NLL:
        # Models that split the answers differently have another unit: nats per another kind of token.
        weights = [run.test_rows(NLL, prompt)[1][0] for run in (first, other)]
        if not all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)):
            return "not comparable"
    return None
