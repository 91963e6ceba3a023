"""From the tests of a run's stages to its result: matrices, metrics with intervals, figures.

Every cell is (stage, task, test prompt), see `sapo.runs.prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from sapo.core.types import Floats, Instruction, Task
from sapo.models.answers import Evaluation
from sapo.models.text_metrics import TEXT_METRICS
from sapo.runs.figures import Cells, Grid, per_row
from sapo.runs.metrics import DRAWS, FIGURES, METRICS, Table, metric_draws, percentile_interval, resample_matrices
from sapo.runs.prompts import CROSSED, Prompt
from sapo.runs.results import MEASURES, NLL, PRIMARY, Ability, ByTask, Crossed, Estimate, RunResult, Used, Wordings
from sapo.selection.selection import Choice
from sapo.tasks.load import data_fingerprint
from sapo.training.schedule import Order, Stage

_ALONE = "needs at least two tasks; the sequence has one"


@dataclass(frozen=True, slots=True)
class Row:
    """A stage, tested: its row of the performance matrix, and what is measured besides.

    Attributes:
        cells: by task and test prompt; watch tasks too. Tasks in their last stage also have those with held-out
            paraphrases, by text, and with another run's instruction.
        ability: loss on general text in nats per token, where it is measured.
    """

    stage: Stage
    cells: Mapping[tuple[str, Prompt], Evaluation]
    ability: float | None = None
    seconds: float = 0.0


def run_result(
    rows: Sequence[Row],
    tasks: Sequence[Task],
    watch: Sequence[Task],
    prompts: Sequence[Prompt],
    config: Mapping[str, Any],
    undefined: Mapping[str, str],
    held_out: Mapping[str, Sequence[Instruction]] = MappingProxyType({}),
    task_data: Mapping[str, str] = MappingProxyType({}),
) -> RunResult:
    """Return what the rows of a performance matrix say.

    Row 0 comes first in ``rows``, the test prompt of the main matrix in ``prompts``. Tasks hold the rows that were
    tested. ``undefined`` names metrics that lack their cells, with the reason; ``held_out`` are the paraphrases that
    each task was tested with at its last stage; ``task_data`` are fingerprints of tasks as they were given.
    """
    choices = {choice.task.name: choice for row in rows for choice in row.stage.choices}
    cells = {(row.stage.number, *key): cell for row in rows for key, cell in row.cells.items()}
    # The last test of each task with each prompt.
    last = {key: cell for row in rows for key, cell in row.cells.items()}
    names, metrics = [task.name for task in tasks], {task.name: task.metric for task in (*tasks, *watch)}
    crossed = [name for name, prompt in last if prompt == CROSSED]
    wordings = {name: [one.text for one in found] for name, found in held_out.items() if found}
    used = {name: _used(choice, config["policy"]) for name, choice in choices.items()}
    texts = {name: (one.original, one.text) for name, one in used.items()}
    grid = Grid(names, [task.name for task in watch], metrics, prompts, texts, wordings)
    seconds = {
        "scoring": sum(c.selection.seconds for c in choices.values() if c.selection is not None),
        "training": sum(row.stage.seconds for row in rows),
        "evaluating": sum(row.seconds for row in rows),
    }

    def ends(name: str, prompt: Prompt, measure: str) -> float:
        return _mean(per_row(last[name, prompt], measure, metrics[name]))

    return RunResult(
        tasks=names,
        primary_metrics=metrics,
        test_prompt=prompts[0],
        **tabulate(cells, tasks, watch, prompts, config["seed"], undefined),
        instructions=used,
        figures={m: _summarised(grid.figures(cells, m, config["seed"])) for m in MEASURES},
        test_data={task.name: data_fingerprint(task.test) for task in tasks},
        test_rows={task.name: len(task.test) for task in tasks},
        config=config,
        seconds={**seconds, "total": sum(seconds.values())},
        robustness={
            name: Wordings(texts=texts, **{m: [ends(name, text, m) for text in texts] for m in MEASURES})
            for name, texts in wordings.items()
        }
        or None,
        crossed=Crossed(by="sapo", **{m: {name: ends(name, CROSSED, m) for name in crossed} for m in MEASURES})
        if crossed
        else None,
        ability=[Ability(stage=r.stage.number, loss=r.ability) for r in rows if r.ability is not None] or None,
        guard=[alarm for r in rows for alarm in r.stage.alarms] or None,
        task_data=task_data,
    )


def _used(trained: Choice, policy: str) -> Used:
    selection = trained.selection
    race, later = (None, False) if selection is None else (selection.race, selection.trial or trained.switches)
    return Used(
        text=trained.instruction.text,
        origin=trained.instruction.origin,
        original=trained.task.instruction,
        suffix=trained.task.suffix,
        losses=None if selection is None else {c.instruction.text: c.loss for c in selection.candidates},
        mixture=[paraphrase.text for paraphrase in trained.mixture] or None,
        switches=len(trained.switches) if policy == "reselect" else None,
        tolerance=None if race is None or race.end != "budget" or later else race.tolerance,
    )


def _mean(cell: tuple[Floats, Floats]) -> float:
    return float(np.average(cell[0], weights=cell[1]))


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

    def table(columns: Sequence[Task], measure: str, prompt: Prompt) -> Table:
        found = [[(cells.get((stage, task.name, prompt)), task) for task in columns] for stage in range(len(tasks) + 1)]
        return [[None if cell is None else per_row(cell, measure, task.metric) for cell, task in row] for row in found]

    names = (PRIMARY, *TEXT_METRICS, NLL)
    tables = {name: {prompt: table(tasks, name, prompt) for prompt in prompts} for name in names}
    return {
        "matrices": {name: {prompt: _means(rows) for prompt, rows in of.items()} for name, of in tables.items()},
        "metrics_all": {
            name: {prompt: _metrics(rows, seed, undefined, higher_is_better=name != NLL) for prompt, rows in of.items()}
            for name, of in tables.items()
        },
        "watch": {
            task.name: {
                name: {prompt: [mean for (mean,) in _means(table([task], name, prompt))] for prompt in prompts}
                for name in names
            }
            for task in watch
        },
    }


def _means(rows: Table) -> list[list[float | None]]:
    return [[None if cell is None else _mean(cell) for cell in row] for row in rows]


def _metrics(rows: Table, seed: int, undefined: Mapping[str, str], *, higher_is_better: bool) -> dict[str, Estimate]:
    resampled = resample_matrices(rows, draws=DRAWS, seed=seed)
    found = metric_draws(resampled, higher_is_better=higher_is_better, undefined=undefined)
    return {
        metric.name: _estimate(found[metric.name])
        if metric.name in found
        else Estimate(value=None, interval=None, reason=undefined.get(metric.name, _ALONE))
        for metric in METRICS
    }


def _estimate(values: Floats) -> Estimate:
    """Return a value and its interval, from itself and its draws, shape [1 + draws]."""
    return Estimate(value=float(values[0]), interval=list(percentile_interval(values[1:])), reason=None)


def _summarised(draws: Mapping[str, Mapping[str, Floats]]) -> dict[str, ByTask]:
    """Return what `Grid.figures` found as values with intervals, by task and their mean."""
    lacking = {figure.name: Estimate(value=None, interval=None, reason=figure.lacking) for figure in FIGURES}
    return {
        name: ByTask(
            mean=_estimate(np.mean(list(of.values()), axis=0)) if of else lacking[name],
            tasks={task: _estimate(values) for task, values in of.items()},
        )
        for name, of in draws.items()
    }


def undefined(order: Order) -> Mapping[str, str]:
    """Return the metrics that lack their cells, by name, with the reason."""
    defined, reason = {
        "sequence": ({metric.name for metric in METRICS}, ""),
        "joint": ({"ap"}, "all tasks were trained at once: only the final row is defined"),
        "apart": ({"la"}, "each task was trained alone: only the diagonal is defined"),
    }[order]
    return {metric.name: reason for metric in METRICS if metric.name not in defined}
