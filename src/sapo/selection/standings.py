"""From the losses scored so far to differences with bounds, and the candidates that may still win."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from sapo.core.types import Floats, Ints, Standing
from sapo.selection.prediction import Rows


def standing(number: int, rows: Rows, nll: Sequence[Floats], level: float, epsilon: float) -> Standing:
    """Return the standing after a round.

    ``nll`` is per candidate, on the first rows in race order, the original first; ``level`` is the one-sided error
    probability of each bound. Candidates that are better by less than ``epsilon`` (nats per token) do not matter.
    """
    counts = np.array([len(x) for x in nll], dtype=np.int64)
    front = np.flatnonzero(counts == counts.max())
    losses = rows.predict(np.stack([nll[i] for i in front.tolist()])).mean
    leader = int(front[np.argmin(losses)])
    gap, reach = _against(leader, rows, nll, counts, level)
    if 0 in front and leader != 0:
        original = _against(0, rows, nll, counts, level)
        # The original wins where no candidate can be better by more than the tolerance.
        if _shortfall(*original) <= epsilon:
            leader, (gap, reach) = 0, original
    low = gap - reach
    rivals = [int(i) for i in np.argsort(low, kind="stable") if low[i] < -epsilon and counts[i] < rows.count]
    if not rivals and counts[0] < counts[leader] and low[0] <= epsilon:
        # It may be as good as the leader: on as many rows it will show, and then it wins.
        rivals = [0]
    return Standing(
        round=number,
        counts=counts,
        loss=losses[front == leader] + gap,
        gap=gap,
        low=low,
        high=gap + reach,
        leader=leader,
        racing=(leader, *rivals) if rivals else (),
        tolerance=_shortfall(gap, reach),
    )


def _shortfall(gap: Floats, reach: Floats) -> float:
    """Return by how much the best candidate may be better than the leader."""
    return max(float((reach - gap).max()), 0.0)


def _against(rival: int, rows: Rows, nll: Sequence[Floats], counts: Ints, level: float) -> tuple[Floats, Floats]:
    """Return each candidate's estimated difference to ``rival``, which has the most rows, and its error bound."""
    gap, reach = np.zeros(len(nll)), np.zeros(len(nll))
    for k in np.unique(counts):
        # Candidates with more rows, cut to k, also tell how much differences vary.
        others = np.flatnonzero((counts >= k) & (np.arange(len(nll)) != rival))
        if not others.size:
            continue
        found = rows.predict(np.stack([nll[i][:k] - nll[rival][:k] for i in others.tolist()]))
        now = counts[others] == k
        gap[others[now]] = found.mean[now]
        reach[others[now]] = quantile(level, found.freedom) * found.error[now]
    return gap, reach


def quantile(tail: float, freedom: float) -> float:
    """Return the t of Student that is exceeded with probability ``tail`` for degrees of freedom."""
    return -float(stdtrit(freedom, tail))


def standard_error(differences: Floats, tokens: Ints) -> float:
    """Return the standard error of sum(d) / sum(tokens), for rows drawn from a large population.

    By linearisation of the ratio; needs two rows.
    """
    k, total = len(differences), float(tokens.sum())
    residuals = differences - differences.sum() / total * tokens
    return math.sqrt(float((residuals**2).sum()) * k / (k - 1)) / total
