"""The race: measure, stand, measure those that may still win."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.race.boundary import nominal_level
from sapo.race.prediction import Rows
from sapo.race.standings import Standing, standing
from sapo.types import Floats, Ints, RaceEnd

# Rows of the first round, and the growth of the number of rows from round to round.
FIRST = 8
GROWTH = 1.3

Measure = Callable[[int, range], Floats]


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """What a race promises and what it may spend.

    Attributes:
        delta: bound on the probability that the winner is worse than the best by more than ``epsilon``.
        epsilon: tolerance, in nats per token.
        budget: most that scoring may cost, in the unit of the costs given to `race`; None for no limit. The first
            round is made in any case.
    """

    delta: float
    epsilon: float
    budget: float | None


@dataclass(frozen=True, slots=True)
class Finish:
    """How a race ended.

    Attributes:
        standings: one for each round.
        nll: per candidate, in race order, as many as were scored.
        end: "decided" when nobody could be better by more than epsilon any more, "all rows" when that took every
            row for those who raced to the end, "budget" when that was spent.
    """

    standings: tuple[Standing, ...]
    nll: tuple[Floats, ...]
    end: RaceEnd

    @property
    def last(self) -> Standing:
        """The final standing."""
        return self.standings[-1]


def race(
    measure: Measure,
    sizes: Sequence[int],
    costs: Sequence[float],
    tokens: Ints,
    groups: Ints,
    settings: RaceSettings,
    watch: Callable[[Standing], None] = lambda standing: None,
) -> Finish:
    """Score candidates in rounds until the winner is known well enough.

    Args:
        measure: returns the NLL sums of a candidate on rows, given by their places in race order.
        sizes: rows that candidates have been scored on after each round, see `round_sizes`.
        costs: what one row of each candidate costs.
        tokens: supervised tokens of each row, in race order, which must be random.
        groups: the label of each row, as numbers from 0; rows of one label have losses alike.
        settings: see `RaceSettings`. The first round is always completed: without it nothing is known.
        watch: is told each standing.
    """
    rows = Rows(tokens, groups)
    # Whoever is best may be missed in favour of any other candidate, at any look.
    level = nominal_level(tuple(sizes), rows.count, settings.delta / max(len(costs) - 1, 1))
    nll: list[Floats] = [np.zeros(0)] * len(costs)
    standings: list[Standing] = []
    racing: Sequence[int] = range(len(costs))
    size, spent = sizes[0], 0.0
    while True:
        for i in (i for i in racing if len(nll[i]) < size):
            places = range(len(nll[i]), size)
            nll[i] = np.concatenate([nll[i], measure(i, places)])
            spent += costs[i] * len(places)
        now = standing(len(standings) + 1, rows, nll, level, settings.epsilon)
        standings.append(now)
        watch(now)
        racing = now.racing
        if not racing:
            to_the_end = len(nll[now.leader]) == rows.count
            return Finish(tuple(standings), tuple(nll), "all rows" if to_the_end else "decided")
        size = next((s for s in sizes if s > size), rows.count)
        if settings.budget is not None:
            counts = [len(x) for x in nll]
            size = _affordable(size, racing, costs, counts, settings.budget - spent)
            # Whoever comes back is brought up to the leader, or nothing is gained.
            if size < max(counts) or all(counts[i] >= size for i in racing):
                return Finish(tuple(standings), tuple(nll), "budget")


def round_sizes(rows: int) -> list[int]:
    """Return how many rows a candidate that stays in has been scored on after each round.

    A last step of a few rows is taken together with the one before it.
    """
    sizes = [min(FIRST, rows)]
    while sizes[-1] < rows:
        sizes.append(min(rows, math.ceil(sizes[-1] * GROWTH)))
    if len(sizes) > 2 and rows < sizes[-2] * (1 + (GROWTH - 1) / 2):
        sizes.pop(-2)
    return sizes


def _affordable(size: int, racing: Sequence[int], costs: Sequence[float], counts: Sequence[int], left: float) -> int:
    """Return the largest number of rows up to ``size`` that the racing candidates can be brought to."""
    while size > 0 and sum(costs[i] * max(size - counts[i], 0) for i in racing) > left:
        size -= 1
    return size
