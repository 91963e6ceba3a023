"""Losses side by side: differences to the original with joint intervals, and the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapo.core.types import Floats, Ints, Rule
from sapo.selection.standings import quantile, standard_error

# Two exact routes in float32 differ by less; half precision measures its own.
TIE = 1e-5
DRAWS = 2000
LEVEL = 0.95
# Measured (LOG.md, 2026-11-23): joint coverage 94 to 99 % from 4 examples on; no effect from 12 on.
_LEAST_SPREAD = 0.2


def choose(
    losses: Sequence[float], intervals: Sequence[tuple[float, float] | None], rule: Rule, tolerance: float
) -> int:
    """Return the index of the chosen candidate; index 0 is the original.

    Ties (within ``tolerance`` of the lowest) go to the original, then to the earlier candidate.
    """
    allowed: list[int] = list(range(len(losses)))
    if rule == "confident":
        allowed = [0] + [i for i, ci in enumerate(intervals) if ci is not None and ci[1] < 0]
    lowest = min(losses[i] for i in allowed)
    return next(i for i in allowed if losses[i] <= lowest + tolerance)


def compare(nll: Floats, tokens: Ints | Floats, seed: int) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return each candidate's loss difference to the first one, and its simultaneous 95 % interval.

    Bootstrap over examples of sum(d) / sum(tokens), studentised, with the quantile of the largest |t| over
    all candidates (max-t; Romano & Wolf 2005), so that all intervals hold together. Deltas are in nats per token. There
    is no interval for the first candidate, and none at all for fewer than two examples; one of candidates whose
    differences do not vary has no width.

    ``nll`` is in nats, shape [candidates, examples]; ``tokens`` are the supervised ones, shape [examples].
    """
    candidates, n = nll.shape
    d = (nll - nll[0]).T
    t = tokens.astype(np.float64)
    delta = d.sum(axis=0) / t.sum()
    if n < 2 or candidates < 2:
        return delta.tolist(), [None] * candidates
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    error = _ratio_error(np.ones((1, n)), d, t, delta[None])[0]
    drawn = (weights @ d) / (weights @ t)[:, None]
    drawn_error = _ratio_error(weights, d, t, drawn)
    # A resample of few distinct examples has hardly any spread of its own and would count for almost everything.
    drawn_error = np.maximum(drawn_error, _LEAST_SPREAD * error)
    varies = error > 1e-12
    ratio = np.abs(drawn - delta)[:, varies] / drawn_error[:, varies]
    q = float(np.quantile(ratio.max(axis=1), LEVEL)) if varies.any() else 0.0
    pairs = [(float(x - q * e), float(x + q * e)) for x, e in zip(delta, error, strict=True)]
    return delta.tolist(), [None, *pairs[1:]]


def _ratio_error(weights: Floats, d: Floats, t: Floats, ratio: Floats) -> Floats:
    """Standard error of sum(d) / sum(t) by linearisation, for every row of weights [draws, n] -> [draws, c]."""
    residual = weights @ d**2 - 2 * ratio * (weights @ (d * t[:, None])) + ratio**2 * (weights @ t**2)[:, None]
    error: Floats = np.sqrt(np.maximum(residual, 0)) / (weights @ t)[:, None]
    return error


def intervals_after_race(
    deltas: Sequence[float], nll: Sequence[Floats], tokens: Ints
) -> list[tuple[float, float] | None]:
    """Return simultaneous 95 % intervals of differences to the first candidate, after a race.

    Student's t with Bonferroni's correction; spreads from the rows that both candidates were scored on. (The
    bootstrap of `compare` needs the same rows for all.)

    ``nll`` is per candidate on its own number of rows, the same first ones; ``tokens`` are those of all rows.
    """
    intervals: list[tuple[float, float] | None] = [None]
    for delta, losses in zip(deltas[1:], nll[1:], strict=True):
        k = min(len(losses), len(nll[0]))
        if k < 2:
            intervals.append(None)
            continue
        error = standard_error(losses[:k] - nll[0][:k], tokens[:k])
        width = quantile((1 - LEVEL) / 2 / (len(nll) - 1), k - 1) * error
        intervals.append((delta - width, delta + width))
    return intervals
