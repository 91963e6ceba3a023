"""How strict each look must be, so that all looks together keep the promise.

Sums of differences over the first k of n rows, drawn without replacement, behave like Brownian motion in the
information k n / (n - k): looking again at k' > k rows, the standardised estimates correlate as sqrt(I_k / I_k').
The constant boundary (Pocock 1977) is crossed at any of the looks with the wanted probability; that probability is
integrated from look to look (Armitage, McPherson & Rowe 1969).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from sapo.core.types import Floats

# Points of the integrals, from where a standard normal density is negligible.
_POINTS, _LEAST = 256, -7.0
# Relative accuracy of the level.
_CLOSE = 1e-3


@lru_cache(maxsize=64)
def nominal_level(looks: tuple[int, ...], rows: int, probability: float) -> float:
    """Return the one-sided level for each look at which a true difference of 0 is rejected with ``probability`` at all.

    ``looks`` are the rows seen at each, ascending; a look at all ``rows`` makes no error and does not count. The
    probability of an error at any look is above 0 and at most 0.5.
    """
    information = [k * rows / (rows - k) for k in looks if k < rows]
    if len(information) < 2:
        return probability
    # Bonferroni's level errs too seldom, the wanted probability itself as a level too often.
    low, high = probability / len(information), probability
    while high - low > _CLOSE * low:
        middle = math.sqrt(low * high)
        too_often = crossing_probability(NormalDist().inv_cdf(1 - middle), information) > probability
        low, high = (low, middle) if too_often else (middle, high)
    return low


def crossing_probability(boundary: float, information: Sequence[float]) -> float:
    """Return the probability that a standardised Brownian motion exceeds the boundary at one of these times."""
    grid = np.linspace(_LEAST, boundary, _POINTS)
    # Trapezoids.
    weights = np.full(_POINTS, grid[1] - grid[0])
    weights[[0, -1]] /= 2
    # Densities of the standardised process, of paths that have stayed below.
    density: Floats = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for before, now in pairwise(information):
        kept, spread = math.sqrt(before / now), math.sqrt(1 - before / now)
        step = np.exp(-(((grid[:, None] - kept * grid[None, :]) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
        density = step @ (weights * density)
    return 1 - float(weights @ density)
