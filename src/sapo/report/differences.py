"""How far a later run lies from the first one, and what can be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sapo.report.matrices import direction
from sapo.report.runs import Run
from sapo.runs.metrics import metric_draws, percentile_interval
from sapo.runs.results import NLL, Prompt

Verdict = Literal["better", "worse", "too small to decide", "not paired", "not comparable"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of a later run minus the first run's, in the metric's units.

    Attributes:
        value: the difference.
        interval: paired 95 % interval over test rows; None where the runs cannot be paired.
        verdict: what can be said of it.
    """

    value: float
    interval: tuple[float, float] | None
    verdict: Verdict


def verdict(bounds: tuple[float, float], better: Literal["higher", "lower"]) -> Verdict:
    """Return what the interval of a difference says, where ``better`` values of the metric lie in that direction."""
    low, high = bounds
    if low <= 0 <= high:
        return "too small to decide"
    return "better" if (low > 0) == (better == "higher") else "worse"


def differences(first: Run, other: Run, measure: str, prompt: Prompt) -> dict[str, Difference]:
    """Return by metric how far a run lies from the first one; undefined metrics are left out.

    Both runs are resampled with the first run's seed. `resample_matrices` then draws the same rows for both, so
    that what makes a row hard for both cancels out.
    """
    values = {
        name: float(found["value"]) - float(first.metrics(measure, prompt)[name]["value"])
        for name, found in other.metrics(measure, prompt).items()
        if found["value"] is not None and first.metrics(measure, prompt)[name]["value"] is not None
    }
    obstacle = _obstacle(first, other, measure, prompt)
    if obstacle is not None:
        return {name: Difference(value, None, obstacle) for name, value in values.items()}
    seed, higher = int(first.config["seed"]), direction(measure) == "higher"
    before, after = (
        metric_draws(
            run.resampled(measure, prompt, seed), higher_is_better=higher, undefined=run.undefined(measure, prompt)
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
    if measure != NLL and any(
        first.data["primary_metrics"][task] != other.data["primary_metrics"][task] for task in first.tasks
    ):
        return "not comparable"
    if first.test_data() != other.test_data():
        return "not paired"
    if measure == NLL:
        # Models that split the answers differently have another unit: nats per another kind of token.
        mine, theirs = (run.test_rows(NLL, prompt)[1][0] for run in (first, other))
        if not all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)):
            return "not comparable"
    return None
