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

from sapo.core.types import Floats

# Resamples of the test rows that intervals are made of.
DRAWS = 2000
# By stage and task: scores and weights of the test rows; None where there was no test.
Table = Sequence[Sequence[tuple[Floats, Floats] | None]]


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
        matrices: a batch of R, shape [draws, N + 1, N]; a metric that needs a cell that is NaN is NaN.
        higher_is_better: False for losses, see the module's docstring.
        undefined: names of metrics to leave out.
    """
    alone = matrices.shape[2] == 1
    defined = [m for m in METRICS if m.name not in undefined and not (alone and m.name not in ("ap", "la"))]
    sign = 1.0 if higher_is_better else -1.0
    return {metric.name: metric.formula(matrices, sign) for metric in defined}


def resample_matrices(cells: Table, *, draws: int, seed: int) -> Floats:
    """Return R and its bootstrap resamples over test rows, shape [1 + draws, stages + 1, tasks]; R itself comes first.

    Each draw resamples the rows of a task once, for all stages alike (a multinomial bootstrap), so that
    differences between stages stay paired. The resample of task j depends on the seed, on j and on its number
    of rows alone: two runs on the same test rows stay paired too. The spread is conditional on the trained
    models: it is test-row noise and holds no seed noise. Memory: 16 bytes x draws x rows of the largest task.

    Args:
        cells: the same test rows of a task in every stage. A cell is the weighted mean of its rows: the sum of the NLL
            over the sum of the tokens is that of the rows' nats *per token* with the rows' tokens as weights.
        draws: number of resamples.
        seed: not negative.
    """
    resampled = np.full((1 + draws, len(cells), len(cells[0])), np.nan)
    for j, column in enumerate(zip(*cells, strict=True)):
        rows = next(len(cell[0]) for cell in column if cell is not None)
        drawn = np.random.default_rng([seed, j]).multinomial(rows, np.full(rows, 1 / rows), size=draws)
        counts = np.vstack([np.ones(rows), drawn])
        for i, cell in enumerate(column):
            if cell is not None:
                scores, weights = cell
                resampled[:, i, j] = counts @ (weights * scores) / (counts @ weights)
    return resampled


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """Return the central 95 % percentile interval of finite bootstrap draws, shape [draws], in their units.

    Of draws made by `resample_matrices` it is conditional on the trained
    models: it shows test-row noise and no seed noise.
    """
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
