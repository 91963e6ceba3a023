"""Matrix metrics against hand derivations, plain loops and invariants; the bootstrap against theory."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sapo.core.types import Floats
from sapo.runs.metrics import METRICS, Table, metric_draws, percentile_interval, resample_matrices

NAN = math.nan

# Three tasks; rows are zero-shot and the stages after tasks 1, 2, 3.
EXAMPLE = np.array([[10.0, 20.0, 30.0], [50.0, 26.0, 34.0], [44.0, 60.0, 40.0], [48.0, 52.0, 80.0]])


def values(matrix: Floats, **options: Any) -> dict[str, float]:
    """The metrics of one matrix."""
    return {name: float(value[0]) for name, value in metric_draws(matrix[None], **options).items()}


def by_hand(matrix: Floats, better: Callable[[float, float], bool]) -> dict[str, float]:
    """The seven definitions as plain loops over 1-based stages and tasks."""
    n = matrix.shape[1]

    def score(i: int, j: int) -> float:
        return float(matrix[i, j - 1])

    def mean(terms: list[float]) -> float:
        return sum(terms) / len(terms)

    forgotten = []
    for j in range(1, n):
        best = score(j, j)
        for i in range(j + 1, n):
            if better(score(i, j), best):
                best = score(i, j)
        drop = best - score(n, j)
        forgotten.append(drop if better(1.0, 0.0) else -drop)
    backward, forward = [], []
    for i in range(2, n + 1):
        backward.append(mean([score(i, j) - score(j, j) for j in range(1, i)]))
    for i in range(1, n):
        forward.append(mean([score(i, j) - score(0, j) for j in range(i + 1, n + 1)]))
    return {
        "ap": mean([score(n, j) for j in range(1, n + 1)]),
        "la": mean([score(j, j) for j in range(1, n + 1)]),
        "bwt_all_stages": mean(backward),
        "fwt_all_stages": mean(forward),
        "bwt_final": mean([score(n, j) - score(j, j) for j in range(1, n)]),
        "forgetting_max": mean(forgotten),
        "fwt_next_task": mean([score(j - 1, j) - score(0, j) for j in range(2, n + 1)]),
    }


def test_every_metric_of_the_example_by_hand() -> None:
    assert values(EXAMPLE) == pytest.approx(
        {
            "ap": (48 + 52 + 80) / 3,
            "la": (50 + 60 + 80) / 3,
            "bwt_all_stages": ((44 - 50) + ((48 - 50) + (52 - 60)) / 2) / 2,  # -5.5
            "fwt_all_stages": (((26 - 20) + (34 - 30)) / 2 + (40 - 30)) / 2,  # 7.5
            "bwt_final": ((48 - 50) + (52 - 60)) / 2,  # -5
            "forgetting_max": ((50 - 48) + (60 - 52)) / 2,  # 5
            "fwt_next_task": ((26 - 20) + (40 - 30)) / 2,  # 8
        }
    )


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_agrees_with_plain_loops(tasks: int, higher_is_better: bool) -> None:
    random = np.random.default_rng(tasks)
    matrices = random.uniform(0, 100, size=(20, tasks + 1, tasks))
    draws = metric_draws(matrices, higher_is_better=higher_is_better)
    for k, matrix in enumerate(matrices):
        expected = by_hand(matrix, (lambda a, b: a > b) if higher_is_better else (lambda a, b: a < b))
        assert values(matrix, higher_is_better=higher_is_better) == pytest.approx(expected)
        assert {name: column[k] for name, column in draws.items()} == pytest.approx(expected)


def test_one_task_defines_ap_and_la_alone() -> None:
    assert values(np.array([[10.0], [70.0]])) == {"ap": 70.0, "la": 70.0}


def test_results_follow_the_catalogue() -> None:
    names = [metric.name for metric in METRICS]
    assert list(values(EXAMPLE)) == names
    assert len({metric.title for metric in METRICS}) == len(set(names)) == 7
    assert all(metric.definition and "arXiv" in metric.source for metric in METRICS)


def test_a_cell_that_no_metric_needs_may_be_missing() -> None:
    matrix = EXAMPLE.copy()
    matrix[0, 0] = NAN  # the zero-shot score of the first task enters no metric
    assert values(matrix) == values(EXAMPLE)


def test_a_metric_that_is_left_out_needs_no_cells() -> None:
    final = np.full((4, 3), NAN)
    final[3] = EXAMPLE[3]
    diagonal = np.full((4, 3), NAN)
    diagonal[[1, 2, 3], [0, 1, 2]] = 50.0, 60.0, 80.0
    for matrix, name, expected in ((final, "ap", (48 + 52 + 80) / 3), (diagonal, "la", (50 + 60 + 80) / 3)):
        undefined = {metric.name: f"not {metric.name}" for metric in METRICS if metric.name != name}
        assert values(matrix, undefined=undefined) == {name: pytest.approx(expected)}
        assert [name for name, value in values(matrix).items() if not math.isnan(value)] == [name]


def rows_of(seed: int, stages: int, rows: list[int]) -> list[list[tuple[Floats, Floats]]]:
    """Cells whose rows weigh alike."""
    random = np.random.default_rng(seed)
    return [[(random.uniform(0, 100, size=n), np.ones(n)) for n in rows] for _ in range(stages)]


def test_resamples_are_paired_across_stages() -> None:
    cells = rows_of(0, 3, [40, 30])
    cells[2][0] = (cells[1][0][0] + 5.0, np.ones(40))
    draws = resample_matrices(cells, draws=50, seed=1)
    assert draws.shape == (51, 3, 2)
    assert draws[0] == pytest.approx(np.array([[rows.mean() for rows, _ in stage] for stage in cells]))
    assert draws[:, 2, 0] - draws[:, 1, 0] == pytest.approx(np.full(51, 5.0))
    assert draws[:, 1, 0].std() > 1.0
    assert np.abs(draws[:, 1, 1] - draws[:, 2, 1]).max() > 1.0


def test_resamples_are_paired_across_runs_and_independent_across_tasks() -> None:
    cells = rows_of(0, 1, [40, 40])
    cells[0][1] = cells[0][0]
    first = resample_matrices(cells, draws=50, seed=1)
    assert np.abs(first[:, 0, 0] - first[:, 0, 1]).max() > 1.0
    other_run = [
        [(np.zeros(25), np.ones(25)), (2 * cells[0][1][0], np.ones(40))]
    ]  # task 1 has other rows, task 2 the same ones
    assert resample_matrices(other_run, draws=50, seed=1)[:, 0, 1] == pytest.approx(2 * first[:, 0, 1])
    assert np.abs(resample_matrices(cells, draws=50, seed=2) - first).max() > 1.0


def test_bootstrap_spread_is_the_standard_error_of_the_mean() -> None:
    cells = rows_of(3, 1, [200])
    draws = resample_matrices(cells, draws=4000, seed=0)[1:, 0, 0]
    rows = cells[0][0][0]
    # The sd of 4000 draws has a relative error of about 1 / sqrt(8000), 1.1 %.
    assert draws.std() == pytest.approx(rows.std() / math.sqrt(200), rel=0.05)
    assert draws.mean() == pytest.approx(rows.mean(), abs=4 * rows.std() / math.sqrt(200 * 4000))
    low, high = percentile_interval(draws)
    assert (high - low) / 2 == pytest.approx(1.96 * rows.std() / math.sqrt(200), rel=0.08)


def test_weighted_cells_are_ratios_of_sums() -> None:
    random = np.random.default_rng(5)
    tokens = random.integers(1, 20, size=6).astype(np.float64)
    nll = random.uniform(1, 9, size=6) * tokens
    draws = resample_matrices([[(nll / tokens, tokens), (np.ones(1), np.ones(1))]], draws=20, seed=4)
    # Scores that are powers of a large base spell out how often each row was drawn.
    digits = resample_matrices([[(np.power(7.0, np.arange(6.0)), np.ones(6))]], draws=20, seed=4)[:, 0, 0] * 6
    counts = np.array([[round(total) // 7**k % 7 for k in range(6)] for total in digits])
    assert (counts.sum(axis=1) == 6).all()
    assert draws[:, 0, 0] == pytest.approx([(c * nll).sum() / (c * tokens).sum() for c in counts])
    assert (draws[:, 0, 1] == 1.0).all()


def test_a_cell_without_a_test_is_missing_in_every_draw_and_changes_no_other() -> None:
    cells: Table = rows_of(0, 3, [8, 8])
    draws = resample_matrices([[None, cells[0][1]], *cells[1:]], draws=30, seed=0)
    assert np.isnan(draws[:, 0, 0]).all()
    draws[:, 0, 0] = (whole := resample_matrices(cells, draws=30, seed=0))[:, 0, 0]
    assert (draws == whole).all()


def test_percentile_interval_by_hand() -> None:
    draws = np.random.default_rng(0).permutation(101).astype(np.float64)
    assert percentile_interval(draws) == pytest.approx((2.5, 97.5))
