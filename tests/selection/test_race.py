"""The race without a model: tables, a Monte Carlo of its boundary, a second implementation, real losses replayed."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from sapo.core.types import Floats, Ints, Standing
from sapo.selection.boundary import crossing_probability, nominal_level
from sapo.selection.prediction import Rows
from sapo.selection.race import FIRST, GROWTH, race, round_sizes
from sapo.selection.standings import quantile, standing

MATRICES = Path(__file__).parents[2] / "benchmarks" / "matrices"
N = 250


# Quantiles and the boundary.


@pytest.mark.parametrize(
    ("freedom", "table", "accuracy"),
    [
        (7, {0.05: 1.895, 0.025: 2.365, 0.01: 2.998, 0.005: 3.499, 0.001: 4.785, 0.0005: 5.408}, 0.01),
        (10, {0.05: 1.812, 0.025: 2.228, 0.001: 4.144}, 0.003),
        (25, {0.05: 1.708, 0.025: 2.060, 0.001: 3.450}, 0.001),
        (100, {0.05: 1.660, 0.025: 1.984, 0.001: 3.174}, 0.0005),
        (1e9, {0.5: 0.0, 0.05: 1.645, 0.025: 1.960, 0.001: 3.090}, 0.0005),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom: float, table: dict[float, float], accuracy: float) -> None:
    for tail, expected in table.items():
        assert quantile(tail, freedom) == pytest.approx(expected, rel=accuracy, abs=1e-9)


@pytest.mark.parametrize(("looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)])
def test_equally_spaced_looks_cross_pocock_s_constants_with_the_published_probability(
    looks: int, constant: float
) -> None:
    # Two-sided 0.05; both sides at once have a probability of nothing.
    assert crossing_probability(constant, range(1, looks + 1)) == pytest.approx(0.025, abs=1e-4)


def test_looks_at_a_sample_without_replacement_err_with_the_wanted_probability() -> None:
    looks = tuple(round_sizes(N)[:-1])
    rng = np.random.default_rng(5)
    rows = rng.standard_normal(N)
    rows = (rows - rows.mean()) / rows.std(ddof=1)
    spread = np.sqrt([1 / k - 1 / N for k in looks])
    highest, paths = [], 20_000
    for _ in range(10):
        order = rng.random((paths // 10, N)).argsort(axis=1)
        means = rows[order].cumsum(axis=1)[:, [k - 1 for k in looks]] / np.array(looks)
        highest.append((means / spread).max(axis=1))
    for probability in (0.2, 0.05, 0.0025):
        boundary = NormalDist().inv_cdf(1 - nominal_level(looks, N, probability))
        crossed = float((np.concatenate(highest) > boundary).mean())
        assert abs(crossed - probability) < 4 * math.sqrt(probability / paths)


@pytest.mark.parametrize("probability", [0.5, 0.05, 0.0025])
def test_the_level_lies_between_bonferroni_s_and_no_correction_and_a_look_at_all_rows_is_free(
    probability: float,
) -> None:
    looks = tuple(round_sizes(N)[:-1])
    level = nominal_level(looks, N, probability)
    assert probability / len(looks) < level < probability
    assert nominal_level((*looks, N), N, probability) == level > nominal_level((*looks, 240), N, probability)
    crossed = crossing_probability(NormalDist().inv_cdf(1 - level), [k * N / (N - k) for k in looks])
    assert crossed == pytest.approx(probability, rel=0.003)
    for one in ((8,), (8, N), (N,)):
        assert nominal_level(one, N, probability) == probability


# Predictions.


def mixed_model(values: Floats, known: Floats, hold: float) -> tuple[Floats, Floats, float]:
    """Means over all rows, their errors and the restricted log-likelihood from full covariance matrices.

    Known of all rows: columns without the intercept; values [values, k] of the first rows, in the unit of the means.
    """
    n, k = len(known), values.shape[1]
    covariance = np.eye(n) + known @ known.T / hold
    inverse = np.linalg.inv(covariance[:k, :k])
    ones, across = np.ones(k), covariance[k:, :k] @ inverse
    total = float(ones @ inverse @ ones)
    centre = values @ inverse @ ones / total
    residual = values - centre[:, None]
    filled = centre[:, None] + residual @ across.T
    means: Floats = (values.sum(axis=1) + filled.sum(axis=1)) / n
    unseen, lost = np.ones(n - k), float((np.ones(n - k) - across @ ones).sum())
    spread = float(unseen @ (covariance[k:, k:] - across @ covariance[:k, k:]) @ unseen) + lost**2 / total
    squares = np.einsum("vi,ij,vj->v", residual, inverse, residual)
    likelihood = -(k - 1) / 2 * float(np.log(squares).sum()) - len(values) / 2 * (
        float(np.linalg.slogdet(covariance[:k, :k])[1]) + math.log(total)
    )
    errors: Floats = np.sqrt(moderated(squares / (k - 1), k) * spread) / n
    return means, errors, likelihood


def moderated(variances: Floats, k: int) -> Floats:
    """Each variance together with the mean of all, which counts as 8 rows."""
    shared = float(np.mean(variances))
    return np.array([((k - 1) * float(v) + 8 * shared) / (k - 1 + 8) for v in variances])


def rows_of_three_labels(n: int, effect: float) -> tuple[Ints, Ints, Floats]:
    """Tokens, labels and losses per token [2, n] that differ between labels and a little with the tokens."""
    rng = np.random.default_rng(4)
    tokens, groups = rng.integers(2, 9, n), rng.integers(0, 3, n)
    per_token = 1 + effect * np.array([0.0, 1.0, -2.0])[groups] + 0.05 * effect * tokens
    return tokens, groups, per_token + rng.standard_normal((2, n)) * np.array([[1.0], [0.5]])


def known_of(tokens: Ints, groups: Ints) -> Floats:
    shares = [(groups == g) - float((groups == g).mean()) for g in range(3)]
    return np.stack([(tokens - tokens.mean()) / tokens.std(), *shares], axis=1)


@pytest.mark.parametrize("hold", [1e6, 10.0, 0.3])
@pytest.mark.parametrize("k", [4, 25])
def test_predictions_are_those_of_the_mixed_model_by_its_full_covariances(
    hold: float, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.selection.prediction._HOLDS", (hold,))
    tokens, groups, losses = rows_of_three_labels(60, 1.0)
    found = Rows(tokens, groups).predict((losses * tokens)[:, :k])
    scaled = losses * tokens * 60 / tokens.sum()
    means, errors, _ = mixed_model(scaled[:, :k], known_of(tokens, groups), hold)
    assert found.mean == pytest.approx(means, rel=1e-6) and found.error == pytest.approx(errors, rel=1e-6)


@pytest.mark.parametrize(("effect", "expected"), [(0.0, 30.0), (0.5, 3.0), (3.0, 0.1)])
def test_the_hold_is_the_likeliest(effect: float, expected: float) -> None:
    tokens, groups, losses = rows_of_three_labels(60, effect)
    tokens = np.where(np.arange(60) % 2, 3, 4)
    scaled = (losses * tokens * 60 / tokens.sum())[:, :25]
    holds = (1e6, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
    by_hold = {hold: mixed_model(scaled, known_of(tokens, groups), hold) for hold in holds}
    best = max(holds, key=lambda hold: by_hold[hold][2])
    assert best == expected
    found = Rows(tokens, groups).predict((losses * tokens)[:, :25])
    assert found.mean == pytest.approx(by_hold[best][0], rel=1e-6)
    assert found.error == pytest.approx(by_hold[best][1], rel=1e-6)


# Standings and sizes.


def stand(nll: Floats, count: int = 8, tokens: Ints | None = None, epsilon: float = 0.01) -> Standing:
    """The standing after so many rows, all of one label."""
    n = nll.shape[1]
    rows = Rows(np.ones(n, dtype=np.int64) if tokens is None else tokens, np.zeros(n, dtype=np.int64))
    return standing(1, rows, [x[:count] for x in nll], 0.001, epsilon)


@pytest.mark.parametrize(("behind", "winner"), [(0.0, 0), (0.005, 0), (0.0099, 0), (0.0101, 1), (0.5, 1), (-0.5, 0)])
def test_the_original_wins_within_the_tolerance_and_not_beyond(behind: float, winner: int) -> None:
    found = stand(np.full((3, N), 2.0) + np.array([[behind], [0.0], [1.0]]))
    assert (found.leader, found.racing) == (winner, ())
    assert found.tolerance == pytest.approx(max(behind, 0) if winner == 0 else 0, abs=1e-6)
    assert found.gap[1 - winner] == pytest.approx(behind if winner else -behind)
    assert found.loss == pytest.approx([2 + behind, 2, 3])


@pytest.mark.parametrize("n", [1, 2, 7, 8, 30])
def test_all_rows_make_a_standing_exact(n: int) -> None:
    nll, tokens = np.random.default_rng(n).gamma(2, 1, (5, n)), np.arange(1, n + 1)
    found, losses = stand(nll, n, tokens, 0.0), nll.sum(axis=1) / tokens.sum()
    assert (found.leader, found.racing, found.tolerance) == (losses.argmin(), (), 0)
    gaps = pytest.approx(losses - losses.min(), abs=1e-12)
    assert found.low == gaps and found.high == gaps and found.loss == pytest.approx(losses)


def test_rounds_begin_with_few_rows_grow_by_a_factor_and_end_with_all() -> None:
    assert round_sizes(N) == [8, 11, 15, 20, 26, 34, 45, 59, 77, 101, 132, 172, 250]
    assert [round_sizes(n) for n in (1, 8, 9, 12, 30)] == [[1], [8], [8, 9], [8, 12], [8, 11, 15, 20, 26, 30]]
    for n in range(9, 400):
        sizes = round_sizes(n)
        assert sizes[0] == FIRST and sizes[-1] == n and sizes == sorted(set(sizes))
        assert sizes[-1] <= math.ceil(sizes[-2] * GROWTH) * (1 + (GROWTH - 1) / 2)


# The promise, on losses of real models and on made ones.


def cut_to(nll: Floats, wanted: Mapping[int, range]) -> list[Floats]:
    return [nll[i, places.start : places.stop] for i, places in wanted.items()]


def replayed(nll: Floats, tokens: Ints, groups: Ints, trials: int) -> tuple[float, float, float]:
    """Shares of trials that miss by more than epsilon and that find the very best, and of evaluations spent."""
    losses = nll.sum(axis=1) / tokens.sum()
    regret, spent = [], 0
    for seed in range(trials):
        order = np.random.default_rng(seed).permutation(N)
        finish = race(
            partial(cut_to, nll[:, order]), round_sizes(N), [1.0] * len(nll), tokens[order], groups[order],
            delta=0.05, epsilon=0.01,
        )  # fmt: skip
        regret.append(float(losses[finish.last.leader] - losses.min()))
        spent += sum(map(len, finish.nll))
    missed, best = np.mean([x > 0.01 for x in regret]), np.mean([x == 0 for x in regret])
    return float(missed), float(best), spent / nll.size / trials


def recorded(name: str) -> tuple[Floats, Ints, Ints]:
    """Losses of a real model, tokens and labels."""
    stored = np.load(MATRICES / f"{name}.npz")
    return stored["nll"].astype(np.float64), stored["tokens"], stored["stratum"]


# Of 0.05 plus two standard errors over 30 races.
MOST_MISSED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 30)


@pytest.mark.parametrize("name", ["task141.base", "task363.after-task141"])
def test_races_on_real_losses_find_the_winner_with_a_small_share_of_the_evaluations(name: str) -> None:
    missed, best, spent = replayed(*recorded(name), 15)
    # All others are worse by far more than epsilon.
    assert missed == 0 and best == 1 and spent < 0.15


@pytest.mark.parametrize("name", ["task141.base", "task363.after-task141"])
def test_losses_of_another_exact_route_change_no_decision(name: str) -> None:
    nll, tokens, groups = recorded(name)
    noise = np.random.default_rng(3).uniform(-1e-5, 1e-5, nll.shape)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(N)
        one, other = (
            race(
                partial(cut_to, losses[:, order]), round_sizes(N), [1.0] * len(nll), tokens[order], groups[order],
                delta=0.05, epsilon=0.01,
            )
            for losses in (nll, nll + noise)
        )  # fmt: skip
        assert [s.racing for s in one.standings] == [s.racing for s in other.standings]
        assert one.last.leader == other.last.leader == int(nll.sum(axis=1).argmin())


def test_the_promise_holds_where_real_gaps_are_shrunk_to_a_third() -> None:
    nll, tokens, groups = recorded("task1510.base")
    gaps = nll.sum(axis=1) / tokens.sum()
    gaps -= gaps.min()
    missed, _, spent = replayed(nll - 0.7 * gaps[:, None] * tokens, tokens, groups, 30)
    assert missed <= MOST_MISSED and spent < 0.5


@pytest.mark.parametrize("spread", [0.1, 0.03])
def test_the_promise_holds_among_twenty_candidates_that_are_just_too_bad(spread: float) -> None:
    noise = np.random.default_rng(1).standard_normal((21, N))
    nll = 1.0105 + spread * (noise - noise.mean(axis=1, keepdims=True))
    nll[7] -= 0.0105
    missed, _, spent = replayed(nll, np.ones(N, dtype=np.int64), np.zeros(N, dtype=np.int64), 30)
    assert missed <= MOST_MISSED and spent < 0.95
