"""From evaluated cells to matrices and metrics: what `results.json` holds.

Every cell is (stage, task, test prompt). Seen tasks are tested with the instruction they were trained with
("selected") or with the original one; unseen tasks always with the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from sapo.core.types import Floats, Task
from sapo.models.answers import Evaluation
from sapo.models.text_metrics import TEXT_METRICS
from sapo.runs.metrics import METRICS, matrix_metrics, metric_draws, percentile_interval, resample_matrices
from sapo.training.methods.objective import Order

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
    def matrix(self) -> list[list[float | None]]:
        """The primary performance matrix: row 0 is zero-shot, rows are stages, columns tasks; None: not defined."""
        rows: list[list[float | None]] = self.data["matrix"]
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


def value(cell: Evaluation, metric: str, task: Task) -> float:
    """Return a cell's value: the mean over its test rows, of losses over its tokens."""
    scores, weights = per_row(cell, metric, task)
    return float(np.average(scores, weights=weights))


def tabulate(
    cells: Cells,
    tasks: Sequence[Task],
    watch: Sequence[Task],
    prompts: Sequence[Prompt],
    seed: int,
    undefined: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return matrices, metrics with intervals, and watch rows, for every metric and test prompt.

    Intervals come from resampling test rows: they hold for these trained models and say nothing of other
    seeds. A cell that was not evaluated is None; ``undefined`` are the metrics that would need one, with the reason.
    """
    names = (PRIMARY, *TEXT_METRICS, NLL)
    stages = range(len(tasks) + 1)
    matrices: dict[str, dict[str, list[list[float | None]]]] = {}
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        matrices[name], metrics[name] = {}, {}
        for prompt in prompts:
            rows = [[_rows(cells, i, task, prompt, name) for task in tasks] for i in stages]
            matrices[name][prompt] = [[_value(cell) for cell in row] for row in rows]
            metrics[name][prompt] = _metrics(rows, seed, undefined, higher_is_better=name != NLL)
    return {
        "matrices": matrices,
        "metrics_all": metrics,
        "watch": {
            task.name: {
                name: {prompt: [_value(_rows(cells, i, task, prompt, name)) for i in stages] for prompt in prompts}
                for name in names
            }
            for task in watch
        },
    }


def _rows(cells: Cells, stage: int, task: Task, prompt: Prompt, metric: str) -> tuple[Floats, Floats] | None:
    cell = cells.get((stage, task.name, prompt))
    return None if cell is None else per_row(cell, metric, task)


def fill(rows: Sequence[Sequence[tuple[Floats, Floats] | None]]) -> tuple[list[list[Floats]], list[list[Floats]]]:
    """Return scores and weights of all cells, those that were not evaluated as NaN: row 0 tells how many rows."""
    complete = [
        [cell or (np.full_like(zero[0], np.nan), zero[1]) for cell, zero in zip(row, rows[0], strict=True) if zero]
        for row in rows
    ]
    return [[scores for scores, _ in row] for row in complete], [[weights for _, weights in row] for row in complete]


def _metrics(
    rows: Sequence[Sequence[tuple[Floats, Floats] | None]],
    seed: int,
    undefined: Mapping[str, str],
    *,
    higher_is_better: bool,
) -> dict[str, Any]:
    matrix = np.array([[_value(cell) for cell in row] for row in rows], dtype=np.float64)
    values = matrix_metrics(matrix, higher_is_better=higher_is_better, undefined=undefined)
    scores, weights = fill(rows)
    resampled = resample_matrices(scores, weights=weights, draws=DRAWS, seed=seed)
    draws = metric_draws(resampled, higher_is_better=higher_is_better, undefined=undefined)
    return {
        metric.name: {
            "value": values[metric.name].value,
            "interval": list(percentile_interval(draws[metric.name])) if metric.name in draws else None,
            "reason": values[metric.name].reason,
        }
        for metric in METRICS
    }


def _value(cell: tuple[Floats, Floats] | None) -> float | None:
    return None if cell is None else float(np.average(cell[0], weights=cell[1]))


def undefined(order: Order) -> Mapping[str, str]:
    """Return the metrics that lack their cells, by name, with the reason."""
    defined, reason = {
        "sequence": ({metric.name for metric in METRICS}, ""),
        "joint": ({"ap"}, "all tasks were trained at once: only the final row is defined"),
        "apart": ({"la"}, "each task was trained alone: only the diagonal is defined"),
    }[order]
    return {metric.name: reason for metric in METRICS if metric.name not in defined}
