"""Which candidate wins, and when to stop looking: numbers in, numbers out, no model.

All candidates are scored on a few rows, then only those that may still win on more, in rounds of growing size.

Target of inference. The winner that exhaustive scoring would find on the same n selection rows: with NLL_ir the
loss sum of candidate i on row r, and T the known number of supervised tokens of all n rows,

    D_i = sum_r NLL_ir / T = n * mean_r(NLL_ir) / T        [nats per supervised token]

Rows are scored in one random order for all candidates, so the rows scored so far are a simple random sample
without replacement of the n, paired across candidates. The difference of two candidates is predicted from the rows
that both were scored on; its error is 0 when those are all rows. What is known of every row in advance (its label,
its number of supervised tokens) sharpens the prediction.

Stopping. After each round every candidate's difference to the leader has bounds. A candidate whose lower bound is
above -epsilon cannot be better by more than epsilon, and is not scored further; the race ends when no other is left,
and the original wins where the same holds of all differences to it. Nothing is final before: should the leader
change, the differences are those to the new one, and a candidate dropped before is scored again where it may win.

Guarantee. The probability that the winner's loss exceeds that of the exhaustive winner w by more than epsilon is at
most delta, whenever the race ends by itself: for each candidate that is worse than w by more than epsilon, w falls
out in its favour only if the bound of their difference errs at one of the looks, which has the probability
delta / (candidates - 1) by the boundary for repeated looks (`sapo.selection.boundary`). It is asymptotic: differences
are taken as normal, with estimated variances. Ended by the budget, a race states the epsilon for which it holds.

Coverage measured (benchmarks/racing.py, LOG.md): on eight real matrices at most 0.2 % of races miss by more than
epsilon = 0.01 at delta = 0.05, with their gaps shrunk to 0.3 at most 2.3 %, with heavy-tailed differences 0.7 %. Where
a difference hangs on one row in a hundred, which a sample cannot show in time, up to a tenth do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats, Ints, Standing
from sapo.selection.boundary import nominal_level
from sapo.selection.prediction import Rows
from sapo.selection.selection import RaceEnd
from sapo.selection.standings import standing

# Rows of the first round, and the growth of the number of rows from round to round.
FIRST = 8
GROWTH = 1.3

# Losses that a round asks for: candidates, and their rows by the places in race order.
Measure = Callable[[Mapping[int, range]], Sequence[Floats]]


@dataclass(frozen=True, slots=True)
class Finish:
    """How a race ended.

    Attributes:
        nll: per candidate, in race order, as many as were scored.
        end: see `sapo.selection.selection.Race`.
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
    *,
    delta: float,
    epsilon: float,
    budget: float | None = None,
    confirm: Callable[[Sequence[int], int], Sequence[Floats]] | None = None,
    watch: Callable[[Standing], None] = lambda standing: None,
) -> Finish:
    """Score candidates in rounds until the winner is known well enough.

    Args:
        measure: returns the NLL sums of candidates on rows, given by their places in race order.
        sizes: rows that candidates have been scored on after each round, see `round_sizes`.
        costs: what one row of each candidate costs.
        tokens: supervised tokens of each row, in race order, which must be random.
        groups: the label of each row, as a number; rows of one label have losses alike.
        delta: bound on the probability that the winner is worse than the best by more than ``epsilon``.
        epsilon: tolerance, in nats per token.
        budget: most that scoring may cost, in the unit of ``costs``; None for no limit. The first round is always
            completed: without it nothing is known.
        confirm: where losses are noisy, returns those of two candidates on the first rows in the same batches; before
            a race ends, the leader and the runner-up must be as they are by these too.
        watch: called with each standing.
    """
    rows = Rows(tokens, groups)
    # Whoever is best may be missed in favour of any other candidate, at any look.
    level = nominal_level(tuple(sizes), rows.count, delta / max(len(costs) - 1, 1))
    nll: list[Floats] = [np.zeros(0)] * len(costs)
    standings: list[Standing] = []
    racing: Sequence[int] = range(len(costs))
    size, spent = sizes[0], 0.0
    while True:
        wanted = {i: range(len(nll[i]), size) for i in racing if len(nll[i]) < size}
        for (i, places), found in zip(wanted.items(), measure(wanted), strict=True):
            nll[i] = np.concatenate([nll[i], found])
            spent += costs[i] * len(places)
        now = standing(len(standings) + 1, rows, nll, level, epsilon)
        if not now.racing and confirm is not None and len(nll) > 1:
            second = min((i for i in range(len(nll)) if i != now.leader), key=now.gap.__getitem__)
            both = min(len(nll[now.leader]), len(nll[second]))
            for i, found in zip((now.leader, second), confirm((now.leader, second), both), strict=True):
                nll[i] = np.concatenate([found, nll[i][both:]])
            now = standing(len(standings) + 1, rows, nll, level, epsilon)
        standings.append(now)
        watch(now)
        racing = now.racing
        if not racing:
            to_the_end = len(nll[now.leader]) == rows.count
            return Finish(tuple(standings), tuple(nll), "all rows" if to_the_end else "decided")
        size = next((s for s in sizes if s > size), rows.count)
        if budget is not None:
            counts = [len(x) for x in nll]
            size = _affordable(size, racing, costs, counts, budget - spent)
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
