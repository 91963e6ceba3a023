"""From the losses scored so far to estimates, joint bounds and risks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapo.race.student import quantile, upper_tail
from sapo.types import Floats, Ints

# Share of delta that candidates at rest may hold; the others race on until what is left of it suffices for them.
_AT_REST = 0.6
# Variances from few rows are unreliable just where a candidate looks calm because a rare bad row has not come up
# yet: each is moderated by the mean variance of all differences, which counts as so many rows (the estimator of
# Smyth 2004 with a fixed weight, and without its gain in degrees of freedom).
_PRIOR_ROWS = 8.0
# Rows needed for each control variate: with fewer, the regression costs more than it gains.
_ROWS_PER_FEATURE = 6


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the race stands after a round; arrays are per candidate.

    Attributes:
        round: number of rounds so far.
        counts: rows scored, the first ones in race order.
        loss: estimate of the loss on all selection rows, in nats per token.
        gap: estimate of the loss minus the leader's.
        low: lower bound of ``gap``; all bounds together hold with probability 1 - delta.
        high: upper bound of ``gap``.
        risk: probability that the loss is below the leader's by more than epsilon.
        leader: the candidate that wins if the race ends now.
        racing: the candidates that are scored further, the leader first; empty when the race is decided.
        tolerance: the smallest epsilon for which delta would hold now, in nats per token.
    """

    round: int
    counts: Ints
    loss: Floats
    gap: Floats
    low: Floats
    high: Floats
    risk: Floats
    leader: int
    racing: tuple[int, ...]
    tolerance: float


class Rows:
    """The rows of a race: what is known of them before any loss is.

    Args:
        tokens: supervised tokens of each row, in race order.
        groups: the label of each row, as numbers from 0.
    """

    def __init__(self, tokens: Ints, groups: Ints) -> None:
        self.count = len(tokens)
        # NLL sums times this are losses per token, so that their mean over all rows is the loss D.
        self._scale = self.count / float(tokens.sum())
        known = [np.ones(self.count)]
        if np.ptp(tokens) > 0:
            known.append(tokens.astype(np.float64))
        known += [(groups == g).astype(np.float64) for g in range(1, int(groups.max(initial=0)) + 1)]
        self._known = np.stack(known, axis=1)

    def standing(self, number: int, nll: Sequence[Floats], delta: float, epsilon: float) -> Standing:
        """Return the standing after round ``number``.

        Args:
            number: from 1.
            nll: per candidate, on the first rows in race order; the original first.
            delta: see `sapo.race`.
            epsilon: see `sapo.race`.
        """
        counts = np.array([len(x) for x in nll], dtype=np.int64)
        furthest = int(counts.max())
        front = np.flatnonzero(counts == furthest)
        losses = self._estimate(np.stack([nll[i] for i in front.tolist()])).mean
        leader = int(front[np.argmin(losses)])
        contrasts = self._against(leader, nll, counts)
        if 0 in front and leader != 0:
            # The original wins where it is certified to be as good as the best within the tolerance.
            original = self._against(0, nll, counts)
            if original.risks(epsilon).sum() <= delta:
                leader, contrasts = 0, original
        risk = contrasts.risks(epsilon)
        width = contrasts.error * quantile(delta / max(2 * (len(nll) - 1), 1), contrasts.freedom)
        return Standing(
            round=number,
            counts=counts,
            loss=losses[front == leader] + contrasts.mean,
            gap=contrasts.mean,
            low=contrasts.mean - width,
            high=contrasts.mean + width,
            risk=risk,
            leader=leader,
            racing=self._racing(risk, counts, leader, delta),
            tolerance=contrasts.tolerance(delta),
        )

    def _racing(self, risk: Floats, counts: Ints, leader: int, delta: float) -> tuple[int, ...]:
        """Return who is scored further: the leader, and the largest risks until those of the others are negligible."""
        if risk.sum() <= delta:
            return ()
        order = np.argsort(risk, kind="stable")
        at_rest = np.cumsum(risk[order]) <= _AT_REST * delta
        rivals = [int(i) for i in order[~at_rest][::-1] if i != leader and counts[i] < self.count]
        return (leader, *rivals) if rivals else ()

    def _against(self, rival: int, nll: Sequence[Floats], counts: Ints) -> _Contrasts:
        """Return the differences of all candidates to ``rival``, which has the most rows, on each one's rows."""
        mean, error, freedom = np.zeros(len(nll)), np.zeros(len(nll)), np.ones(len(nll))
        for k in np.unique(counts):
            # Candidates with more rows, cut to k, also tell how much differences vary.
            others = np.flatnonzero((counts >= k) & (np.arange(len(nll)) != rival))
            if not others.size:
                continue
            fit = self._estimate(np.stack([nll[i][:k] - nll[rival][:k] for i in others.tolist()]))
            variance = (fit.freedom * fit.variance + _PRIOR_ROWS * fit.variance.mean()) / (fit.freedom + _PRIOR_ROWS)
            now = counts[others] == k
            mean[others[now]] = fit.mean[now]
            error[others[now]] = np.sqrt(variance[now] * fit.leverage)
            freedom[others[now]] = fit.freedom
        return _Contrasts(rival, mean, error, freedom)

    def _estimate(self, nll: Floats) -> _Estimate:
        """Regress NLL sums [candidates, k] of the first k rows on what is known of rows, and predict all rows' mean."""
        k = nll.shape[1]
        known = self._known if k >= _ROWS_PER_FEATURE * self._known.shape[1] else self._known[:, :1]
        sample, target = known[:k], known.mean(axis=0)
        inverse = np.linalg.pinv(sample.T @ sample)
        slopes = self._scale * nll @ sample @ inverse
        residual = self._scale * nll - slopes @ sample.T
        freedom = max(k - int(np.linalg.matrix_rank(sample)), 1)
        # Without control variates this is 1/k - 1/n.
        leverage = max(float(target @ inverse @ target) - 1 / self.count, 0.0) if k < self.count else 0.0
        return _Estimate(slopes @ target, (residual**2).sum(axis=1) / freedom, leverage, float(freedom))


def standard_errors(differences: Floats, tokens: Ints) -> Floats:
    """Return the standard error of sum(d) / sum(tokens) for each row of differences [candidates, k].

    For rows drawn from a large population, by linearisation of the ratio; needs two rows.
    """
    k, total = differences.shape[1], float(tokens.sum())
    ratio = differences.sum(axis=1, keepdims=True) / total
    error: Floats = np.sqrt(((differences - ratio * tokens) ** 2).sum(axis=1) * k / (k - 1)) / total
    return error


@dataclass(frozen=True, slots=True)
class _Estimate:
    """Means over all rows and residual variances; the variance of a mean is ``variance * leverage``."""

    mean: Floats
    variance: Floats
    leverage: float
    freedom: float


@dataclass(frozen=True, slots=True)
class _Contrasts:
    """Differences of all candidates to one of them, with standard errors and degrees of freedom."""

    rival: int
    mean: Floats
    error: Floats
    freedom: Floats

    def risks(self, epsilon: float) -> Floats:
        """Return the probabilities that a candidate is better than the rival by more than epsilon; 0 for itself."""
        certain = np.where(self.mean < -epsilon, 1.0, 0.0)
        error = np.where(self.error > 0, self.error, 1.0)
        risks = np.where(self.error > 0, upper_tail((self.mean + epsilon) / error, self.freedom), certain)
        risks[self.rival] = 0.0
        return risks

    def tolerance(self, delta: float) -> float:
        """Return the smallest epsilon at which the risks add up to at most ``delta``, to 1e-6 of it."""
        low, high = 0.0, 1e-3
        if self.risks(low).sum() <= delta:
            return 0.0
        while self.risks(high).sum() > delta:
            low, high = high, 2 * high
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.risks(middle).sum() <= delta else (middle, high)
        return high
