"""Quantiles of Student's t without tables, by the transformation to a normal variate of Wallace (1959).

With nu degrees of freedom, u = sqrt(nu * log(1 + t^2 / nu)) * (8 nu + 1) / (8 nu + 3) is nearly standard normal. At
7 degrees of freedom a tail probability of 1e-3 is off by 2 % of itself, at more by less.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from sapo.core.types import Floats


def quantile(tail: float, freedom: Floats) -> Floats:
    """Return the t that is exceeded with probability ``tail``, at most 0.5, for each number of degrees of freedom."""
    z = NormalDist().inv_cdf(1 - tail)
    scale = (8 * freedom + 1) / (8 * freedom + 3)
    t: Floats = np.sqrt(freedom * np.expm1((z / scale) ** 2 / freedom))
    return t
