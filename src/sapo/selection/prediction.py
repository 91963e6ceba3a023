"""From values on the first rows to their mean over all rows, with what is known of every row in advance.

A row's label and its number of supervised tokens are known before any loss is, and losses depend on them. In the
model d_r = mu + x_r b + e_r, with x_r the row's label and tokens (centred over all rows), effects b ~ N(0, s^2 / L)
and e_r ~ N(0, s^2), the best linear predictor of the mean over all n rows fills in the rows not seen yet (Royall
1970); its error is that of the rows filled in. L, how strongly effects are held towards none, is the one that makes
the values seen so far likeliest: with few rows and no effects this is the plain mean, with effects of labels it is a
mean stratified afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats, Ints

# How strongly effects are held towards none, from hardly any effect to almost free ones.
_HOLDS = (1e6, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
# Variances from few rows are unreliable just where a candidate looks calm because a rare bad row has not come up
# yet: each is moderated by the mean variance of all, which counts as so many rows (the estimator of Smyth 2004 with a
# fixed weight, and without its gain in degrees of freedom).
_PRIOR_ROWS = 8.0
# Added to sums of squares before their logarithm: values that are all equal have none.
_NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted means over all rows, shape [values], with standard errors, which are 0 once all rows were seen.

    ``freedom`` are the errors' degrees of freedom.
    """

    mean: Floats
    error: Floats
    freedom: float


class Rows:
    """The rows of a race: what is known of them before any loss is.

    ``tokens`` are the supervised tokens of each row, in race order; ``groups`` its label, as a number.
    """

    def __init__(self, tokens: Ints, groups: Ints) -> None:
        self.count = len(tokens)
        # NLL sums times this are losses per token, so that their mean over all rows is the loss D.
        self._scale = self.count / float(tokens.sum())
        known = [np.ones(self.count)]
        if np.ptp(tokens) > 0:
            known.append((tokens - tokens.mean()) / tokens.std())
        if np.ptp(groups) > 0:
            known += [(groups == g) - (groups == g).mean() for g in np.unique(groups)]
        self._known = np.stack(known, axis=1)

    def predict(self, nll: Floats) -> Prediction:
        """Return predictions in nats per token from NLL sums, or differences of them, [values, k] on the first rows."""
        values, k = self._scale * nll, nll.shape[1]
        seen, unseen = self._known[:k], self._known[k:].sum(axis=0)
        inverse, squares = self._likeliest(values, seen)
        mean: Floats = (values.sum(axis=1) + values @ seen @ inverse @ unseen) / self.count
        freedom = max(k - 1, 1)
        own = squares / freedom
        variance = (freedom * own + _PRIOR_ROWS * own.mean()) / (freedom + _PRIOR_ROWS)
        # Of the sum over the rows not seen: their own spread, and the uncertainty of what they are filled in with.
        spread = (float(unseen @ inverse @ unseen) + self.count - k) / self.count**2 if k < self.count else 0.0
        return Prediction(mean, np.sqrt(variance * spread), float(freedom))

    def _likeliest(self, values: Floats, seen: Floats) -> tuple[Floats, Floats]:
        """Return, for the likeliest hold, the inverse of the normal equations, and each value's residual squares."""
        k, effects = seen.shape[0], seen.shape[1] - 1
        equations, products = seen.T @ seen, values @ seen
        totals = (values**2).sum(axis=1)
        best = -math.inf
        found: tuple[Floats, Floats] = (np.zeros((0, 0)), np.zeros(0))
        for hold in _HOLDS if effects else (0.0,):
            held = equations + np.diag([0.0] + [hold] * effects)
            inverse: Floats = np.asarray(np.linalg.inv(held), dtype=np.float64)
            squares = np.maximum(totals - np.einsum("vi,ij,vj->v", products, inverse, products), 0.0)
            # Restricted log-likelihood of all values together, but for what does not depend on the hold.
            determinant = float(np.linalg.slogdet(held)[1]) - effects * math.log(hold or 1.0)
            likelihood = -(k - 1) / 2 * float(np.log(squares + _NOTHING).sum()) - len(values) / 2 * determinant
            if likelihood > best:
                best, found = likelihood, (inverse, squares)
        return found
