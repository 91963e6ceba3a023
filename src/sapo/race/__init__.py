"""Which candidate wins, and when to stop looking: numbers in, numbers out, no model.

All candidates are scored on a few rows, then only those that may still win on more, in rounds of growing size.

Target of inference. The winner that exhaustive scoring would find on the same n selection rows: with NLL_ir the
loss sum of candidate i on row r, and T the known number of supervised tokens of all n rows,

    D_i = sum_r NLL_ir / T = n * mean_r(NLL_ir) / T        [nats per supervised token]

Rows are scored in one random order for all candidates, so the rows scored so far are a simple random sample
without replacement of the n, paired across candidates. The difference of two candidates is estimated on the
rows that both were scored on; its variance carries the factor 1/k - 1/n and is 0 when all rows are scored.
What is known of every row in advance (its number of supervised tokens, its label) serves as control variates: the
estimate is the regression's prediction for the n rows.

Stopping. The risk of candidate i is the one-sided p-value of "D_i < D_leader - epsilon" on the common rows.
A candidate whose risk is negligible is not scored further; the race ends when all risks, also those of candidates
dropped in any earlier round, add up to at most delta. Nothing is final before: should the leader change, the risks
are those against the new one, and a candidate dropped before is scored again where its risk calls for it.

Guarantee (asymptotic: normal differences with estimated variances; flat prior). At whatever round the race is
decided, the probability that the winner's loss exceeds that of the exhaustive winner by more than epsilon is at most
delta: the p-values are posterior tail probabilities, which hold whenever one looks, and their sum bounds the
probability for all candidates at once. When all rows are scored, the winner is exact.

The rate over repeated samples is not reached yet on every matrix measured: where labels are many and differences
depend on them, 14 % of races missed by more than epsilon at delta = 0.05 (LOG.md). Scoring is exhaustive by default.

    student     tail probabilities
    standings   losses so far -> estimates, bounds, risks
    rounds      the race
"""

from sapo.race.rounds import Finish, RaceSettings, race, round_sizes
from sapo.race.standings import Standing, standard_errors
from sapo.race.student import quantile

__all__ = ["Finish", "RaceSettings", "Standing", "quantile", "race", "round_sizes", "standard_errors"]
