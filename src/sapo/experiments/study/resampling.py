"""What a figure of few transitions and few candidates is worth: bootstrap intervals.

They resample transitions and, within each, candidates, with replacement (two-stage bootstrap; Davison & Hinkley
1997, section 3.8), never the pairs or trainings that candidates are part of. In a simulation with one to five
transitions of nine candidates 95 % intervals of a mean rank correlation made so held the true one in 94 to 99 % of
cases, in 90 % and more where transitions truly differ; resampling transitions alone, as of three only ten different
resamples exist, in 75 %. Intervals of standard deviations over nine candidates held the true one in 90 to 99 % of
cases with three or five transitions, in 85 % with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats, Ints

LEVEL = 0.95
# Degrees of freedom below which a bootstrap of candidates repeats the same few values.
_LEAST = 4
# Share of the resamples that must define a figure.
_DEFINED = 0.9
_FEW = "too few candidates for an interval, or they hardly differ"


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its uncertainty.

    Attributes:
        value: None where it is not defined.
        interval: 95 % interval, whose upper end may be infinite; None where there is none.
        reason: why value or interval are missing.
    """

    value: float | None
    interval: tuple[float, float] | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How figures get their uncertainty; results depend on these alone.

    Attributes:
        draws: of a bootstrap.
        permutations: random ones of a test that has more than these in all.
        seed: of both.
    """

    draws: int = 2000
    permutations: int = 10_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One transition's share in figures that are weighted means over transitions.

    Attributes:
        size: number of candidates.
        weight: of this transition.
        statistic: from indices of resampled candidates, shape [m, size], to k figures, shape [m, k]; NaN where one is
            not defined.
        scale: what figures of a resample are multiplied by. (A variance of n resampled candidates is smaller than
            that of the sampled ones, by (n - 1) / n.)
    """

    size: int
    weight: float
    statistic: Callable[[Ints], Floats]
    scale: float = 1.0

    def value(self) -> Floats:
        """Return the figures of the candidates as they are, shape [k]."""
        return np.asarray(self.statistic(np.arange(self.size)[None])[0])


def point(parts: Sequence[Part]) -> Floats:
    """Return the weighted means, shape [k]."""
    return _weighted(np.stack([part.value() for part in parts]), np.array([[part.weight] for part in parts]))


def bootstrap(parts: Sequence[Part], sampling: Sampling) -> Floats:
    """Return resamples of the weighted means, shape [draws, k]; all figures of a draw are of the same resample."""
    random = np.random.default_rng(sampling.seed)
    picked = random.integers(len(parts), size=(len(parts), sampling.draws))
    values = np.empty((*picked.shape, len(parts[0].value())))
    weights = np.empty(picked.shape)
    for slot, which in enumerate(picked):
        for number, part in enumerate(parts):
            here = np.flatnonzero(which == number)
            if len(here):
                index = random.integers(part.size, size=(len(here), part.size))
                values[slot, here] = part.scale * part.statistic(index)
                weights[slot, here] = part.weight
    return _weighted(values, weights[..., None])


def estimates(
    parts: Sequence[Part],
    sampling: Sampling,
    undefined: str,
    of: Callable[[Floats], Floats] = lambda means: means,
) -> tuple[Measured, ...]:
    """Return figures with their percentile intervals, from the transitions that define all of them.

    Args:
        parts: of all transitions, at least one.
        sampling: of the intervals.
        undefined: why a figure is not defined, if it is not.
        of: from weighted means, shape [m, k], to the figures, shape [m, j]; they may be infinite, or NaN where not
            defined.
    """
    defined = [part for part in parts if not np.isnan(part.value()).any()]
    if not defined:
        return (Measured(None, None, undefined),) * len(of(parts[0].value()[None])[0])
    values, draws = of(point(defined)[None])[0], of(bootstrap(defined, sampling))
    return tuple(_measured(float(v), d, defined, undefined) for v, d in zip(values, draws.T, strict=True))


def _measured(value: float, draws: Floats, parts: Sequence[Part], undefined: str) -> Measured:
    if math.isnan(value):
        return Measured(None, None, undefined)
    known = draws[~np.isnan(draws)]
    if sum(part.size - 1 for part in parts) < _LEAST or len(known) < _DEFINED * len(draws):
        return Measured(value, None, _FEW)
    # An interpolated quantile beside infinity is not defined.
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Measured(value, (float(low), float(high)))


def _weighted(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean over the first axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    total = (weights * known).sum(axis=0)
    sums = (weights * np.where(known, values, 0.0)).sum(axis=0)
    return np.asarray(np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0))
