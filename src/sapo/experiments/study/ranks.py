"""Rank correlations within transitions: their permutation test, and what it could find at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations as orders

import numpy as np
from scipy.stats import norm, rankdata, t

from sapo.core.types import Floats
from sapo.experiments.study.resampling import Sampling

ALPHA = 0.05
POWER = 0.8
# Equal statistics of different orders differ by rounding.
_EQUAL = 1e-9
_DECIMALS = 12
# Variance of Spearman's correlation on Fisher's scale, times n - 3 (Fieller, Hartley & Pearson 1957).
_FISHER = 1.06


@dataclass(frozen=True, slots=True)
class Permuted:
    """A two-sided permutation test of a weighted mean of rank correlations.

    Attributes:
        p: share of the orders whose statistic is at least as far from 0.
        critical: least absolute value with p < 0.05; None where even the farthest one does not reach it.
        exact: whether all orders were enumerated.
    """

    p: float
    critical: float | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Detectable:
    """What a pooled rank correlation of so many candidates can show.

    Attributes:
        critical: absolute value from which on p < 0.05, by Student's t approximation; None for too few candidates.
        powered: true absolute correlation that is found in four of five such studies, approximately.
    """

    critical: float | None
    powered: float | None


def rank_correlation(x: Floats, y: Floats) -> Floats:
    """Return Spearman's correlation along the last axis, mean ranks for ties; NaN where one side is constant."""
    return np.asarray((_standard_ranks(x) * _standard_ranks(y)).sum(axis=-1).clip(-1, 1))


def standardised(values: Floats) -> Floats:
    """Return values with mean 0 and length 1 along the last axis, whose products are correlations; NaN if constant."""
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    # Equal values leave a rest of rounding.
    varies = length > 1e-12 * np.abs(values).max(axis=-1, keepdims=True)
    return np.asarray(np.divide(centred, length, out=np.full_like(centred, np.nan), where=varies))


def permutation_test(
    pairs: Sequence[tuple[Floats, Floats]], weights: Sequence[float], sampling: Sampling
) -> Permuted | None:
    """Return the test of no association within any transition; candidates are permuted within transitions.

    p = (b + 1) / (m + 1) with b of m orders other than the observed one at least as far from 0: never 0, and exact
    where all orders are enumerated (Phipson & Smyth 2010, arXiv 1603.05766).

    Args:
        pairs: for each transition, two variables of its candidates, neither constant.
        weights: of the transitions.
        sampling: number of random orders, and seed.
    """
    if not pairs:
        return None
    ranks = [(_standard_ranks(x), _standard_ranks(y)) for x, y in pairs]
    share = np.array(weights) / sum(weights)
    observed = sum(w * float(x @ y) for w, (x, y) in zip(share, ranks, strict=True))
    exact = math.prod(math.factorial(len(x)) for x, _ in ranks) <= sampling.permutations
    random = np.random.default_rng(sampling.seed)
    null = np.zeros(1 if exact else sampling.permutations)
    for weight, (x, y) in zip(share, ranks, strict=True):
        if exact:
            null = (null[:, None] + weight * (np.array(list(orders(y))) @ x)).ravel()
        else:
            null = null + weight * (random.permuted(np.tile(y, (len(null), 1)), axis=1) @ x)
    values = np.sort(np.abs(null))
    # Of all orders the observed one is one; to random ones it is added.
    own = 0 if exact else 1

    def p(value: Floats | float) -> Floats:
        return np.asarray((len(values) - np.searchsorted(values, value - _EQUAL) + own) / (len(values) + own))

    reached = values[p(values) < ALPHA]
    return Permuted(float(p(abs(observed))), float(reached[0]) if len(reached) else None, exact)


def detectable(sizes: Sequence[int]) -> Detectable:
    """Return what the mean of rank correlations, weighted by candidates - 1, can show.

    Without any association a rank correlation of n candidates has the variance 1 / (n - 1), so the mean has that of
    1 + sum(n - 1) candidates in one transition, and Student's t approximation for as many is used.

    Args:
        sizes: number of candidates of each transition.
    """
    freedom, fisher = sum(n - 1 for n in sizes) - 1, sum(n - 3 for n in sizes)
    if freedom < 1:
        return Detectable(None, None)
    quantile = float(t.ppf(1 - ALPHA / 2, freedom))
    critical = quantile / math.sqrt(freedom + quantile**2)
    if fisher < 1:
        return Detectable(critical, None)
    return Detectable(critical, math.tanh(math.atanh(critical) + float(norm.ppf(POWER)) * math.sqrt(_FISHER / fisher)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that the chance of any false finding among all stays below the level (Holm 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def _standard_ranks(values: Floats) -> Floats:
    # Equal effects that were added up differently differ by rounding.
    return standardised(np.asarray(rankdata(values.round(_DECIMALS), axis=-1), dtype=np.float64))
