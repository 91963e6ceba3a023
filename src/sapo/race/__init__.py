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
delta / (candidates - 1) by the boundary for repeated looks (`sapo.race.boundary`). It is asymptotic: differences are
taken as normal, with estimated variances. Ended by the budget, a race states the epsilon for which it holds.

Coverage measured (benchmarks/racing.py, LOG.md): on eight real matrices at most 0.2 % of races miss by more than
epsilon = 0.01 at delta = 0.05, with their gaps shrunk to 0.3 at most 2.3 %, with heavy-tailed differences 0.7 %. Where
a difference hangs on one row in a hundred, which a sample cannot show in time, up to a tenth do.

    student     quantiles of Student's t
    boundary    how strict each look must be
    prediction  values on some rows -> means over all rows
    standings   losses so far -> differences, bounds, who may still win
    rounds      the race
"""

from sapo.race.rounds import FIRST, Finish, RaceSettings, race, round_sizes
from sapo.race.standings import Standing, standard_errors
from sapo.race.student import quantile

__all__ = ["FIRST", "Finish", "RaceSettings", "Standing", "quantile", "race", "round_sizes", "standard_errors"]
