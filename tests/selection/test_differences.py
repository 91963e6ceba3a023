"""The choice by its rules, and intervals of differences against a slow loop and by their coverage."""

import math

import numpy as np
import pytest

from sapo.core.types import Floats, Ints
from sapo.selection.differences import choose, compare


@pytest.mark.parametrize(
    ("losses", "tolerance", "winner"),
    [
        ([3.0, 1.0, 2.0], 0.0, 1), ([1.0, 2.0, 3.0], 0.0, 0), ([2.0, 2.0, 2.0], 0.0, 0), ([3.0, 1.0, 1.0], 0.0, 1),
        ([1.00001, 1.0, 2.0], 1e-4, 0), ([1.001, 1.0, 2.0], 1e-4, 1), ([3.0, 1.00001, 1.0], 1e-4, 1),
        ([3.0, 1.001, 1.0], 1e-4, 2),
    ],
)  # fmt: skip
def test_the_lowest_loss_wins_and_ties_go_to_the_original_then_to_the_earlier(
    losses: list[float], tolerance: float, winner: int
) -> None:
    assert choose(losses, [None, *[(-1.0, 1.0)] * 2], "lowest", tolerance) == winner


@pytest.mark.parametrize(
    ("losses", "intervals", "winner"),
    [
        ([3.0, 1.0, 2.0], [(-3.0, 0.5), (-2.0, -0.5)], 2), ([3.0, 1.0, 2.0], [(-3.0, -1.0), (-2.0, -0.5)], 1),
        ([3.0, 1.0, 2.0], [(-3.0, 0.0), (-2.0, 0.1)], 0), ([3.0, 4.0, 5.0], [(0.5, 1.5), (1.0, 3.0)], 0),
        ([3.0, 1.0, 2.0], [None, None], 0),
    ],
)  # fmt: skip
def test_the_confident_rule_leaves_the_original_only_below_zero(
    losses: list[float], intervals: list[tuple[float, float] | None], winner: int
) -> None:
    assert choose(losses, [None, *intervals], "confident", 0.0) == winner


def simulated(
    rng: np.random.Generator, n: int, truth: Floats, *, spread: float = 1.0, shared: float = 1.0
) -> tuple[Floats, Ints]:
    """Losses whose expected differences to the first candidate are truth x tokens; answers of 1 to 6 tokens."""
    tokens = rng.integers(1, 7, n)
    base = rng.gamma(2, 1, n) * tokens
    example = rng.normal(0, shared, n)
    noise = rng.normal(0, spread, (len(truth), n)) + example
    return np.vstack([base, base + truth[:, None] * tokens + noise * np.sqrt(tokens)]), tokens


def by_loop(nll: Floats, tokens: Ints, seed: int, draws: int) -> list[tuple[float, float]]:
    """Studentised max-t bootstrap as plain loops over resampled examples."""
    candidates, n = nll.shape

    def ratio_and_error(c: int, rows: list[int]) -> tuple[float, float]:
        d = [float(nll[c, i] - nll[0, i]) for i in rows]
        t = [int(tokens[i]) for i in rows]
        ratio = sum(d) / sum(t)
        return ratio, math.sqrt(sum((x - ratio * y) ** 2 for x, y in zip(d, t, strict=True))) / sum(t)

    whole = [ratio_and_error(c, list(range(n))) for c in range(candidates)]
    counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)
    largest = []
    for row in counts:
        rows = [i for i, times in enumerate(row) for _ in range(times)]
        ts = []
        for c in range(1, candidates):
            ratio, error = ratio_and_error(c, rows)
            # A resample's spread counts for at least a fifth of the sample's.
            ts.append(abs(ratio - whole[c][0]) / max(error, whole[c][1] / 5))
        largest.append(max(ts))
    largest.sort()
    # The 95 % point, by linear interpolation between order statistics.
    place = 0.95 * (draws - 1)
    low = math.floor(place)
    q = largest[low] + (place - low) * (largest[min(low + 1, draws - 1)] - largest[low])
    return [(ratio - q * error, ratio + q * error) for ratio, error in whole[1:]]


@pytest.mark.parametrize(("n", "candidates", "seed"), [(12, 4, 0), (12, 1, 1), (3, 2, 2), (25, 3, 3)])
def test_intervals_equal_those_of_a_slow_loop(
    n: int, candidates: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.selection.differences.DRAWS", 150)
    nll, tokens = simulated(np.random.default_rng(seed), n, np.linspace(-0.5, 0.5, candidates))
    _, intervals = compare(nll, tokens, seed)
    assert intervals[0] is None
    assert np.allclose(np.array(intervals[1:]), np.array(by_loop(nll, tokens, seed, 150)), rtol=1e-7)


@pytest.mark.parametrize(("shared", "truth"), [(0.0, [0.0] * 5), (2.0, [0.0] * 5), (1.0, [-0.8, -0.2, 0.0, 0.3, 2.0])])
def test_all_intervals_hold_together_in_about_95_of_100_data_sets(
    shared: float, truth: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.selection.differences.DRAWS", 200)
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(100):
        nll, tokens = simulated(rng, 60, np.array(truth), shared=shared)
        _, intervals = compare(nll, tokens, seed)
        held += all(ci is not None and ci[0] <= x <= ci[1] for ci, x in zip(intervals[1:], truth, strict=True))
    # The standard error of a coverage of 0.95 over 100 data sets is 0.022.
    assert 0.89 <= held / 100 <= 0.99


def test_one_example_and_the_original_alone_give_no_interval() -> None:
    assert compare(np.array([[3.0], [1.0]]), np.array([2]), 0) == ([0.0, -1.0], [None, None])
    assert compare(np.array([[3.0, 2.0]]), np.array([2, 1]), 0) == ([0.0], [None])


def test_a_candidate_that_differs_by_the_same_on_every_token_has_no_width_and_leaves_the_others_alone() -> None:
    nll, tokens = simulated(np.random.default_rng(3), 30, np.array([-0.3, 0.4]))
    _, without = compare(nll, tokens, 0)
    delta, intervals = compare(np.vstack([nll, nll[0]]), tokens, 0)
    assert delta[3] == 0.0 and intervals[3] == (0.0, 0.0)
    assert intervals[:3] == without
    assert compare(np.vstack([nll[0], nll[0]]), tokens, 0) == ([0.0, 0.0], [None, (0.0, 0.0)])
    _, intervals = compare(np.vstack([nll, nll[0] - 0.7 * tokens]), tokens, 0)
    assert intervals[3] == pytest.approx((-0.7, -0.7), abs=1e-6)
    assert np.allclose(np.array(intervals[1:3]), np.array(without[1:]))
