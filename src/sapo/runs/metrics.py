"""Continual-learning metrics from one performance matrix, and what a training does beyond its own prompt.

R[i, j] is the score of task j after training task i, tasks counted from 1; R[0, j] is the zero-shot score.
With N tasks the array has shape [N + 1, N] and R[i, j] lies at ``matrix[i, j - 1]``. A missing cell is NaN.
Every formula is written once, over a leading batch axis, and serves the point value and its resamples.

Differences keep their raw sign, ``later - earlier``: of scores, a positive BWT or FWT is a gain; of losses
(``higher_is_better=False``) it is a deterioration. Only Forgetting (max) turns with the direction: positive
always means that the task got worse after its best stage. Recoverable, too, takes the best of noisy cells: of wordings
that are all equally good, it lies a little on the better side of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.errors import MetricError
from sapo.core.types import Floats


@dataclass(frozen=True, slots=True)
class Defined:
    """What a number in a table is.

    Attributes:
        name: key in results.json.
        title: what tables print.
        definition: the formula, in the notation of this module.
        source: who defines or uses it so.
    """

    name: str
    title: str
    definition: str
    source: str


@dataclass(frozen=True, slots=True)
class MatrixMetric(Defined):
    """A number of a whole matrix; ``formula``: from a batch of R and the sign of "better" to one value for each."""

    formula: Callable[[Floats, float], Floats]


_SAPO = "SAPO, arXiv 2606.01967"
_GEM = "GEM, Lopez-Paz & Ranzato 2017, arXiv 1706.08840"


def _mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=-1))


def _as_learned(r: Floats) -> Floats:
    """R[j, j] of every task, shape [draws, N]."""
    n = r.shape[-1]
    return np.asarray(r[:, np.arange(1, n + 1), np.arange(n)])


def _bwt_all_stages(r: Floats, _: float) -> Floats:
    n, learned = r.shape[-1], _as_learned(r)
    stages = [_mean(r[:, i, : i - 1] - learned[:, : i - 1]) for i in range(2, n + 1)]
    return _mean(np.stack(stages, axis=-1))


def _fwt_all_stages(r: Floats, _: float) -> Floats:
    stages = [_mean(r[:, i, i:] - r[:, 0, i:]) for i in range(1, r.shape[-1])]
    return _mean(np.stack(stages, axis=-1))


def _bwt_final(r: Floats, _: float) -> Floats:
    return _mean(r[:, -1, :-1] - _as_learned(r)[:, :-1])


def _forgetting_max(r: Floats, sign: float) -> Floats:
    n, oriented = r.shape[-1], sign * r
    best = np.stack([oriented[:, j:n, j - 1].max(axis=-1) for j in range(1, n)], axis=-1)
    return _mean(best - oriented[:, -1, :-1])


def _fwt_next_task(r: Floats, _: float) -> Floats:
    later = np.arange(1, r.shape[-1])
    return _mean(r[:, later, later] - r[:, 0, later])


METRICS: tuple[MatrixMetric, ...] = (
    MatrixMetric("ap", "AP", "mean over j of R[N,j]", f"{_SAPO}; called ACC in {_GEM}", lambda r, _: _mean(r[:, -1])),
    MatrixMetric(
        "la",
        "LA",
        "mean over j of R[j,j]",
        "learning accuracy, Riemer et al. 2019, arXiv 1810.11910",
        lambda r, _: _mean(_as_learned(r)),
    ),
    MatrixMetric(
        "bwt_all_stages",
        "BWT (all stages)",
        "mean over i=2..N of the mean over j<i of R[i,j] - R[j,j]",
        f"{_SAPO} (published implementation)",
        _bwt_all_stages,
    ),
    MatrixMetric(
        "fwt_all_stages",
        "FWT (all stages)",
        "mean over i=1..N-1 of the mean over j>i of R[i,j] - R[0,j]",
        f"{_SAPO} (published implementation)",
        _fwt_all_stages,
    ),
    MatrixMetric("bwt_final", "BWT (final)", "mean over j<N of R[N,j] - R[j,j]", _GEM, _bwt_final),
    MatrixMetric(
        "forgetting_max",
        "Forgetting (max)",
        "mean over j<N of (best of R[i,j] over j<=i<N) - R[N,j], sign turned where lower is better",
        "Chaudhry et al. 2018, arXiv 1801.10112",
        _forgetting_max,
    ),
    MatrixMetric(
        "fwt_next_task",
        "FWT (next task)",
        "mean over j=2..N of R[j-1,j] - R[0,j]",
        f"after {_GEM}, with zero-shot in place of a randomly initialised model",
        _fwt_next_task,
    ),
)


@dataclass(frozen=True, slots=True)
class TrainedCells:
    """The cells that the figures of one trained task rest on, each field of shape [draws, cells], where all are paired.

    A field without cells: nothing of that kind was tested. Equal texts are one prompt.

    Attributes:
        tasks: changes of the other tasks, watch tasks too, from the stage before the task's training to the one after
            it, each with every test prompt that is one text for a task.
        prompts: the same of the task itself, with every such prompt but the one that it was trained with.
        own: with the prompt that it was trained with, at its last stage.
        original: with its original instruction, likewise.
        wordings: with the held-out paraphrases, likewise.
    """

    tasks: Floats
    prompts: Floats
    own: Floats
    original: Floats
    wordings: Floats


@dataclass(frozen=True, slots=True)
class TaskFigure(Defined):
    """A number of one trained task. R_q[i,j]: task j after stage i with test prompt q; s: its last tested stage.

    Attributes:
        lacking: why it is undefined where it is.
        needs: the cells that there must be, some of each field.
        formula: from a batch of cells and the sign of "better" to one value for each draw.
    """

    lacking: str
    needs: Callable[[TrainedCells], tuple[Floats, ...]]
    formula: Callable[[TrainedCells, float], Floats]

    def of(self, cells: TrainedCells, *, higher_is_better: bool = True) -> Floats | None:
        """Return the figure of one trained task, shape [draws], in the units of its cells; None if it is undefined."""
        if any(needed.shape[-1] == 0 for needed in self.needs(cells)):
            return None
        return self.formula(cells, 1.0 if higher_is_better else -1.0)


_INOCULATION = "inoculation prompting, arXiv 2510.04340"
FIGURES: tuple[TaskFigure, ...] = (
    TaskFigure(
        "spill_tasks",
        "Spill, other tasks",
        "mean over other tasks k and test prompts q of R_q[j,k] - R_q[j-1,k]",
        f"cross-task effect of a wording, {_SAPO}",
        "no other task was tested before and after a training",
        lambda cells: (cells.tasks,),
        lambda cells, _: _mean(cells.tasks),
    ),
    TaskFigure(
        "spill_prompts",
        "Spill, other prompts",
        "mean over test prompts q that task j was not trained with of R_q[j,j] - R_q[j-1,j]",
        f"tested without the prompt of the training: {_INOCULATION}; PTST, arXiv 2402.18540",
        "evaluate.prompts names no prompt that a task was not trained with, such as none",
        lambda cells: (cells.prompts,),
        lambda cells, _: _mean(cells.prompts),
    ),
    TaskFigure(
        "conditionality",
        "Conditionality",
        "R_own[s,j] - mean over held-out paraphrases w of R_w[s,j]",
        "of this project, after conditional misalignment, arXiv 2604.25891",
        "evaluate.prompts lacks own or wordings",
        lambda cells: (cells.own, cells.wordings),
        lambda cells, _: cells.own[:, 0] - _mean(cells.wordings),
    ),
    TaskFigure(
        "recoverable",
        "Recoverable",
        "(best over held-out paraphrases w of R_w[s,j]) - R_original[s,j]",
        "pseudo-forgetting, arXiv 2411.11932",
        "evaluate.prompts lacks original or wordings",
        lambda cells: (cells.original, cells.wordings),
        lambda cells, sign: sign * (sign * cells.wordings).max(axis=-1) - cells.original[:, 0],
    ),
)


def metric_draws(
    matrices: Floats, *, higher_is_better: bool = True, undefined: Collection[str] = ()
) -> dict[str, Floats]:
    """Return every defined metric of each matrix, shape [draws]; of one task only AP and LA are defined.

    The draws of `resample_matrices` carry test-row noise only: intervals made of them are conditional on
    the trained models and know nothing of seed noise. Forgetting (max) takes the best of noisy cells, so
    its draws lie a little above its point value.

    Args:
        matrices: a batch of R, shape [draws, N + 1, N].
        higher_is_better: False for losses, see the module's docstring.
        undefined: names of metrics to leave out.

    Raises:
        MetricError: wrong shape, or a cell that a metric needs is NaN or infinite in any draw.
    """
    batch = np.asarray(matrices, dtype=np.float64)
    if batch.ndim != 3 or batch.shape[1] != batch.shape[2] + 1 or batch.shape[2] == 0:
        raise MetricError(
            f"A performance matrix of N >= 1 tasks has shape [N + 1, N], row 0 is zero-shot; found "
            f"{batch.shape[1:]}. Give a row per stage, a column per task, and NaN for a missing cell."
        )
    alone = batch.shape[2] == 1
    defined = [m for m in METRICS if m.name not in undefined and not (alone and m.name not in ("ap", "la"))]
    for metric in defined:
        _require_cells(metric, batch)
    sign = 1.0 if higher_is_better else -1.0
    return {metric.name: metric.formula(batch, sign) for metric in defined}


def resample_matrices(
    cells: Sequence[Sequence[Floats]],
    *,
    draws: int,
    seed: int,
    weights: Sequence[Sequence[Floats]] | None = None,
) -> Floats:
    """Return R and its bootstrap resamples over test rows, shape [1 + draws, stages + 1, tasks]; R itself comes first.

    Each draw resamples the rows of a task once, for all stages alike (a multinomial bootstrap), so that
    differences between stages stay paired. The resample of task j depends on the seed, on j and on its number
    of rows alone: two runs on the same test rows stay paired too. The spread is conditional on the trained
    models: it is test-row noise and holds no seed noise. Memory: 16 bytes x draws x rows of the largest task.

    Args:
        cells: ``cells[i][j]`` holds the score of each test row of task j after stage i, shape [rows_j], the
            same rows in every stage. A row that is not finite makes its cell NaN in every draw.
        draws: number of resamples.
        seed: not negative.
        weights: positive weight of each row, shaped like cells; a cell is the weighted mean of its rows. None
            weighs all rows alike. The sum of the NLL over the sum of the tokens is the weighted mean of the
            rows' nats *per token* with the rows' tokens as weights.

    Raises:
        MetricError: a task without rows, unequal numbers of rows between stages, or a weight that is not positive.
    """
    tasks = len(cells[0])
    if weights is None:
        weights = [[np.ones(np.shape(rows)) for rows in stage] for stage in cells]
    resampled = np.empty((1 + draws, len(cells), tasks))
    for j in range(tasks):
        scores = _stages_by_rows([stage[j] for stage in cells], f"scores of task {j + 1}")
        weight = _stages_by_rows([stage[j] for stage in weights], f"weights of task {j + 1}")
        if weight.shape != scores.shape or not (np.isfinite(weight) & (weight > 0)).all():
            raise MetricError(f"The weights of task {j + 1} must be positive numbers, one for each row.")
        scores = np.where(np.isfinite(scores), scores, np.nan)
        rows = scores.shape[1]
        random = np.random.default_rng([seed, j])
        drawn = random.multinomial(rows, np.full(rows, 1 / rows), size=draws)
        counts = np.vstack([np.ones(rows), drawn])
        for i in range(len(cells)):
            resampled[:, i, j] = counts @ (weight[i] * scores[i]) / (counts @ weight[i])
    return resampled


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """Return the central 95 % percentile interval of finite bootstrap draws, shape [draws], in their units.

    Of draws made by `resample_matrices` it is conditional on the trained
    models: it shows test-row noise and no seed noise.

    Raises:
        MetricError: no draws, or a draw that is not finite.
    """
    if np.ndim(draws) != 1 or not np.size(draws) or not np.isfinite(draws).all():
        raise MetricError(f"An interval needs finite draws, shape [draws]; found shape {np.shape(draws)}.")
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _require_cells(metric: MatrixMetric, batch: Floats) -> None:
    """Raise for the first cell that is not finite and that the metric needs.

    The formula itself tells what it needs: NaN in a needed cell, and nowhere else, makes its value NaN.
    """
    for i, column in np.argwhere(~np.isfinite(batch).all(axis=0)):
        probe = np.zeros((1, *batch.shape[1:]))
        probe[0, i, column] = np.nan
        if np.isnan(metric.formula(probe, 1.0)[0]):
            found = batch[:, i, column][~np.isfinite(batch[:, i, column])][0]
            raise MetricError(
                f"{metric.title} ({metric.name}) needs R[{i},{column + 1}], the score at stage {i} "
                f"of task {column + 1} of {batch.shape[2]} (tasks counted from 1, stage 0 is zero-shot), "
                f"but it is {'missing (NaN)' if np.isnan(found) else found}. Evaluate that task there."
            )


def _stages_by_rows(stages: Sequence[Floats], what: str) -> Floats:
    """Stack the row vectors of one task, shape [stages + 1, rows]."""
    shapes = [np.shape(rows) for rows in stages]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        raise MetricError(f"The {what} need the same test rows in every stage, at least one; found shapes {shapes}.")
    return np.asarray(stages, dtype=np.float64)
