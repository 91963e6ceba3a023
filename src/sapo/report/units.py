"""Runs of a sweep arranged by unit (sequence x seed), and what can be said of means and differences over units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.stats import t

from sapo.core.errors import RecordError
from sapo.report.differences import Difference, Verdict, verdict
from sapo.runs.results import RunResult
from sapo.training.settings import MethodName, Policy

Unit = tuple[str, int]
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of units and their mean, in the values' units.

    Attributes:
        points: one value for each unit, None where it has none.
        mean: of the values that there are; None without any.
        interval: 95 % Student t interval of the mean; None with fewer than two values.
    """

    points: tuple[float | None, ...]
    mean: float | None
    interval: tuple[float, float] | None

    @property
    def count(self) -> int:
        """How many units have a value."""
        return sum(point is not None for point in self.points)


def quantile(n: int) -> float:
    """Return how many standard errors a 95 % Student t interval of n >= 2 values reaches to either side."""
    return float(t.ppf((1 + _LEVEL) / 2, n - 1))


def spread(points: Sequence[float | None]) -> Spread:
    """Return the mean of the values with its interval: mean ± t(0.975, n - 1) * s / sqrt(n), s with n - 1."""
    values = np.array([point for point in points if point is not None], dtype=np.float64)
    n = len(values)
    if n == 0:
        return Spread(tuple(points), None, None)
    mean = float(values.mean())
    if n == 1:
        return Spread(tuple(points), mean, None)
    # Of equal values the standard deviation is 0; rounding would make it a little more.
    deviation = float(values.std(ddof=1)) if np.ptp(values) else 0.0
    half = quantile(n) * deviation / n**0.5
    return Spread(tuple(points), mean, (mean - half, mean + half))


def unit_difference(
    points: Sequence[float | None], baseline: Sequence[float | None], better: Literal["higher", "lower"]
) -> Difference:
    """Return points minus baseline, paired by unit; units that lack one of the two have no difference."""
    pairs = list(zip(points, baseline, strict=True))
    found = spread([None if a is None or b is None else a - b for a, b in pairs])
    either = sum(a is not None or b is not None for a, b in pairs)
    said: Verdict = "one unit: no interval" if found.count else "no pair"
    if found.interval is not None:
        low, high = found.interval
        # Units that all differ by the same amount show no spread; that is a coarse measure, not certainty.
        said = verdict(found.interval, better) if low < high else "too small to decide"
    return Difference(found.mean, found.interval, said, found.points, either)


@dataclass(frozen=True, slots=True)
class Grid:
    """The runs of a sweep, all comparable.

    Attributes:
        runs: by (method, policy, unit).
        methods: the baseline first.
        policies: the baseline first.
        units: (sequence, seed), sorted.
    """

    runs: Mapping[tuple[str, str, Unit], RunResult]
    methods: tuple[str, ...]
    policies: tuple[str, ...]
    units: tuple[Unit, ...]

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """The (method, policy) that have runs."""
        found = {(method, policy) for method, policy, _ in self.runs}
        return tuple((m, p) for m in self.methods for p in self.policies if (m, p) in found)

    @property
    def sequences(self) -> tuple[str, ...]:
        """The names of the sequences."""
        return tuple(dict.fromkeys(sequence for sequence, _ in self.units))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(sorted({seed for _, seed in self.units}))

    @property
    def records(self) -> tuple[RunResult, ...]:
        """All runs, by unit, method and policy."""
        found = (self.runs.get((m, p, unit)) for unit in self.units for m, p in self.settings)
        return tuple(record for record in found if record is not None)

    def of(self, method: str, policy: str) -> tuple[RunResult | None, ...]:
        """Return the runs of one setting, one for each unit; None where there is none."""
        return tuple(self.runs.get((method, policy, unit)) for unit in self.units)


def grid_of(records: Iterable[RunResult]) -> Grid:
    """Return the runs arranged; their order does not matter.

    Raises:
        RecordError: if two of them cannot be compared, naming both.
    """
    runs: dict[tuple[str, str, Unit], RunResult] = {}
    for record in records:
        key = (record.method, record.policy, (record.sequence, record.seed))
        known = runs.setdefault(key, record)
        if known != record:
            raise RecordError(
                f"two different runs, {known.name} and {record.name}, have the same sequence, method, policy and seed: "
                "report the sweeps one by one"
            )
    if not runs:
        raise RecordError("there is no finished run yet: start the sweep, or wait for its first run to end")
    ordered = [runs[key] for key in sorted(runs)]
    first = {record.sequence: record for record in reversed(ordered)}
    for record in ordered:
        for other, why in (
            (ordered[0], "" if record.model == ordered[0].model else "have different models"),
            (first[record.sequence], _obstacle(first[record.sequence], record)),
        ):
            if why:
                raise RecordError(f"{other.name} and {record.name} {why}: they cannot be compared on one page")
    return Grid(
        runs,
        _sorted({method for method, _, _ in runs}, get_args(MethodName), "seq-lora"),
        _sorted({policy for _, policy, _ in runs}, get_args(Policy), "original"),
        tuple(sorted({unit for _, _, unit in runs})),
    )


def _obstacle(first: RunResult, other: RunResult) -> str:
    """Return why two runs of the same sequence cannot be compared, or nothing."""
    if first.tasks != other.tasks:
        return f"have different tasks ({', '.join(first.tasks)}; {', '.join(other.tasks)})"
    for task in first.tasks:
        metrics = (first.primary_metrics[task], other.primary_metrics[task])
        if metrics[0] != metrics[1]:
            return f"score task {task} with different metrics ({metrics[0]}; {metrics[1]})"
        if first.test_data[task] != other.test_data[task]:
            return f"were tested on different rows of task {task}"
    return ""


def _sorted(found: Collection[str], known: Sequence[str], baseline: str) -> tuple[str, ...]:
    places = {name: place for place, name in enumerate(known)}
    return tuple(sorted(found, key=lambda name: (name != baseline, places.get(name, len(places)), name)))
