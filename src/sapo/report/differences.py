"""How far one thing lies from another and what can be said of it: two runs on the same test rows, settings by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sapo.experiments.study.resampling import student
from sapo.report.numbers import SCALES, Better, Figure
from sapo.report.runs import Run
from sapo.runs.metrics import FIGURES, METRICS, Defined, percentile_interval
from sapo.runs.prompts import Prompt
from sapo.runs.results import NLL

Verdict = Literal[
    "better", "worse", "higher", "lower", "the same", "too small to decide", "not paired", "not comparable",
    "one unit: no interval", "no pair",
]  # fmt: skip
# What tables call metrics, and figures of the trained tasks.
NUMBERS: tuple[Defined, ...] = (*METRICS, *FIGURES)
TITLES = {one.name: one.title for one in NUMBERS}
_FIGURES = {figure.name for figure in FIGURES}
# Those among them that rest on held-out paraphrases.
_OF_WORDINGS = {"conditionality", "recoverable"}
# Means over tasks that are the same differ by so much, whatever the unit.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Difference(Figure):
    """A metric minus that of a baseline, in the metric's units; of several units, paired by unit.

    Attributes:
        verdict: what can be said of it.
        either: how many units have a value for at least one of the two.
    """

    verdict: Verdict = "no pair"
    either: int = 1


def direction(measure: str, name: str = "ap") -> Better | None:
    """Return which values of a metric are good; of a figure none is."""
    if name in _FIGURES:
        return None
    return "lower" if name == "forgetting_max" else SCALES[measure].better


def signed(metric: str) -> bool:
    """Whether a metric is a difference of cells."""
    return metric not in ("ap", "la")


def verdict(bounds: tuple[float, float], better: Better | None) -> Verdict:
    """Return what the interval of a difference says, where ``better`` values of the metric lie in that direction.

    Without one, no value is better than another. "The same": no draw of the rows, or no unit, differs at all. Another
    interval without width decides nothing: a coarse measure, or too few rows or units, often differ by one amount.
    """
    low, high = bounds
    if flat(bounds) and abs(low) <= _ROUNDING:
        return "the same"
    if (low <= _ROUNDING and high >= -_ROUNDING) or flat(bounds):
        return "too small to decide"
    if better is None:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == (better == "higher") else "worse"


def flat(bounds: tuple[float, float]) -> bool:
    """Whether an interval has no width."""
    return bounds[1] - bounds[0] <= _ROUNDING


def pairable(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return the names without the figures that rest on prompts or watch tasks in which the runs differ."""
    # Watch tasks with their data, where these are recorded.
    watched = [{task: run.result.task_data.get(task) for task in run.result.watch} for run in runs]
    prompts = {frozenset(run.result.matrices[NLL]) for run in runs}
    alike = len(prompts) <= 1 and all(one == watched[0] for one in watched)
    held_out = [{task: one.texts for task, one in (run.result.robustness or {}).items()} for run in runs]
    differing = set() if alike else _FIGURES
    if any(texts != held_out[0] for texts in held_out):
        differing = differing | _OF_WORDINGS
    return [name for name in names if name not in differing]


def run_differences(
    first: Run, other: Run, measure: str, prompt: Prompt, names: Sequence[str] = tuple(TITLES)
) -> dict[str, Difference]:
    """Return by name how far metrics and figures of a run lie from those of the first one; undefined ones are left out.

    Both runs are resampled with the first run's seed. `resample_matrices` then draws the same rows for both, so
    that what makes a row hard for both cancels out.
    """
    runs, values = (first, other), dict[str, float]()
    for name in pairable(runs, names):
        mine, theirs = (run.metric(measure, prompt, name).value for run in runs)
        if mine is not None and theirs is not None:
            values[name] = theirs - mine
    obstacle = _obstacle(first, other, measure, prompt)
    if obstacle is not None:
        return {name: Difference(value, None, verdict=obstacle) for name, value in values.items()}
    before, after = (run.draws(measure, prompt, first.result.seed, values) for run in runs)
    found = {}
    for name, value in values.items():
        bounds = percentile_interval((after[name] - before[name])[1:])
        found[name] = Difference(value, bounds, verdict=verdict(bounds, direction(measure, name)))
    return found


def _obstacle(first: Run, other: Run, measure: str, prompt: Prompt) -> Verdict | None:
    """Return why two runs have no paired difference, if so."""
    mine, theirs = first.result, other.result
    if measure != NLL and any(mine.primary_metrics[name] != theirs.primary_metrics[name] for name in mine.tasks):
        return "not comparable"
    if mine.test_data != theirs.test_data:
        return "not paired"
    if measure != NLL:
        return None
    # Models that split the answers differently have another unit: nats per another kind of token.
    weights = [[cell[1] for cell in run.test_rows(NLL, prompt)[0] if cell] for run in (first, other)]
    return None if all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)) else "not comparable"


def spread(points: Sequence[float | None]) -> Figure:
    """Return the mean of the values with its Student t interval."""
    known = [point for point in points if point is not None]
    mean, interval = student(known) if known else (None, None)
    return Figure(mean, interval, tuple(points))


def unit_difference(
    points: Sequence[float | None], baseline: Sequence[float | None], better: Better | None
) -> Difference:
    """Return points minus baseline, paired by unit; units that lack one of the two have no difference."""
    pairs = list(zip(points, baseline, strict=True))
    found = spread([None if a is None or b is None else a - b for a, b in pairs])
    said: Verdict = "one unit: no interval" if found.count else "no pair"
    if found.interval is not None:
        said = verdict(found.interval, better)
    either = sum(a is not None or b is not None for a, b in pairs)
    return Difference(found.value, found.interval, found.points, said, either)
