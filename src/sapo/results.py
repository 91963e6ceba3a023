"""From evaluated cells to matrices and metrics: what `results.json` holds.

Every cell is (stage, task, test prompt). Seen tasks are tested with the instruction they were trained with
("selected") or with the original one; unseen tasks always with the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sapo.evaluate import Evaluation
from sapo.metrics import METRICS, matrix_metrics, metric_draws, percentile_interval, resample_matrices
from sapo.text_metrics import TEXT_METRICS
from sapo.types import Floats, Task

NLL = "nll"
PRIMARY = "primary"
DRAWS = 2000
Prompt = Literal["selected", "original"]
# (stage, task name, test prompt) -> evaluation
Cells = Mapping[tuple[int, str, Prompt], Evaluation]


@dataclass(frozen=True, slots=True)
class Results:
    """What a run found.

    Attributes:
        data: exactly what `results.json` holds.
    """

    data: Mapping[str, Any]

    @property
    def matrix(self) -> list[list[float]]:
        """The primary performance matrix: row 0 is zero-shot, rows are stages, columns tasks."""
        rows: list[list[float]] = self.data["matrix"]
        return rows

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The continual-learning metrics of `matrix`, each with value, interval and reason."""
        values: Mapping[str, Any] = self.data["metrics"]
        return values


def per_row(cell: Evaluation, metric: str, task: Task) -> tuple[Floats, Floats]:
    """Return scores and weights of the test rows, whose weighted mean is the cell's value.

    A loss is the mean over tokens, so each row's NLL per token weighs as much as it has tokens.
    """
    if metric == NLL:
        return cell.losses.nll / cell.losses.tokens, cell.losses.tokens.astype(np.float64)
    scores = cell.scores[task.metric if metric == PRIMARY else metric]
    return scores, np.ones(len(scores))


def tabulate(
    cells: Cells, tasks: Sequence[Task], watch: Sequence[Task], prompts: Sequence[Prompt], seed: int
) -> dict[str, Any]:
    """Return matrices, metrics with intervals, and watch rows, for every metric and test prompt.

    Intervals come from resampling test rows: they hold for these trained models and say nothing of other
    seeds.
    """
    names = (PRIMARY, *TEXT_METRICS, NLL)
    stages = range(len(tasks) + 1)
    matrices: dict[str, dict[str, list[list[float]]]] = {}
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        matrices[name], metrics[name] = {}, {}
        for prompt in prompts:
            rows = [[per_row(cells[i, task.name, prompt], name, task) for task in tasks] for i in stages]
            matrices[name][prompt] = [[float(np.average(s, weights=w)) for s, w in row] for row in rows]
            metrics[name][prompt] = _metrics(rows, seed, higher_is_better=name != NLL)
    return {
        "matrices": matrices,
        "metrics_all": metrics,
        "watch": {
            task.name: {
                name: {
                    prompt: [_value(per_row(cells[i, task.name, prompt], name, task)) for i in stages]
                    for prompt in prompts
                }
                for name in names
            }
            for task in watch
        },
    }


def _metrics(rows: Sequence[Sequence[tuple[Floats, Floats]]], seed: int, *, higher_is_better: bool) -> dict[str, Any]:
    matrix = np.array([[_value(cell) for cell in row] for row in rows])
    values = matrix_metrics(matrix, higher_is_better=higher_is_better)
    resampled = resample_matrices(
        [[scores for scores, _ in row] for row in rows],
        weights=[[weights for _, weights in row] for row in rows],
        draws=DRAWS,
        seed=seed,
    )
    draws = metric_draws(resampled, higher_is_better=higher_is_better)
    return {
        metric.name: {
            "value": values[metric.name].value,
            "interval": list(percentile_interval(draws[metric.name])) if metric.name in draws else None,
            "reason": values[metric.name].reason,
        }
        for metric in METRICS
    }


def _value(cell: tuple[Floats, Floats]) -> float:
    return float(np.average(cell[0], weights=cell[1]))
