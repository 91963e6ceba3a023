"""Performance matrices and what stands beside them, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sapo.report.drawings import Heat, Lines, Series
from sapo.report.numbers import NLL_DECIMALS, SCORE, number
from sapo.report.runs import Run
from sapo.report.tables import Cell, Column, Style, Table, cells
from sapo.runs.metrics import METRICS
from sapo.runs.results import NLL, PRIMARY, Prompt

MEASURES = (PRIMARY, NLL)
SHORT = {PRIMARY: "score", NLL: "NLL"}
AXES = {PRIMARY: "score, 0 to 100 (higher is better)", NLL: "NLL, nats per token (lower is better)"}
STAGES = "stage: tasks trained (0: zero-shot)"
MARKS = (
    "rows: the model before training (zero-shot), then after each task; columns: the task tested. "
    "*: right after training on that task; (...): not trained on that task yet."
)
NLL_MEANING = (
    "NLL: negative log-likelihood of the true answers, nats per token; lower is better. It moves where scores of "
    "few rows stand still."
)
TESTED = (
    "test prompt selected: a task that was trained on is tested with the instruction it was trained with; original: "
    "with its original one. Tasks not trained on yet are always tested with their original instruction."
)
TESTED_MIXED = (
    "Tasks were trained with several paraphrases in turn and have no instruction of their own: they are tested with "
    "the original one."
)
TESTED_ORIGINAL = "All tasks are trained and tested with their original instructions."


def decimals(measure: str) -> int:
    """Return how many decimals a measure is shown with."""
    return NLL_DECIMALS if measure == NLL else SCORE


def heading(runs: Sequence[Run], measure: str, prompt: Prompt) -> str:
    """Return the title of a table of one measure."""
    title = "NLL of the true answers (lower" if measure == NLL else f"Score ({runs[0].scores}, 0 to 100; higher"
    how = "" if all(run.only_originals for run in runs) else f", test prompt: {prompt}"
    return f"{title} is better){how}"


def prompts_note(runs: Sequence[Run]) -> str:
    """Return what tasks were tested with."""
    if any(run.mixed for run in runs):
        return TESTED_MIXED if all(run.only_originals for run in runs) else f"{TESTED} {TESTED_MIXED}"
    return TESTED_ORIGINAL if all(run.only_originals for run in runs) else TESTED


def direction(measure: str, metric: str = "ap") -> Literal["higher", "lower"]:
    """Return which values of a metric are good: "higher" or "lower"."""
    return "lower" if measure == NLL or metric == "forgetting_max" else "higher"


def matrix_table(runs: Sequence[Run], names: Sequence[str], measure: str, prompt: Prompt) -> Table:
    """Return R with a row for each stage and run; all runs have the same tasks.

    Args:
        runs: at least one.
        names: what to call them; not shown for one run.
        measure: a metric of results.json.
        prompt: how seen tasks were tested.
    """
    several = len(runs) > 1
    rows, shades = [], []
    for i in range(len(runs[0].tasks) + 1):
        told = ""
        for run, name in zip(runs, names, strict=True):
            values = run.matrix(measure, prompt)[i]
            if all(value is None for value in values):
                # The method has no such stage.
                continue
            head, told = Cell("" if run.stages[i] == told else run.stages[i]), run.stages[i]
            shown = (_cell(number(value, decimals(measure)), i, j) for j, value in enumerate(values, start=1))
            rows.append((head, *([Cell(name)] if several else []), *shown))
            shades.append((None, *([None] if several else []), *values))
    columns = [
        Column("tested on:", numeric=False),
        *([Column("run", numeric=False)] if several else []),
        *(Column(label, short=str(n)) for n, label in enumerate(runs[0].labels, start=1)),
    ]
    heat = Heat(tuple(shades), direction(measure))
    drawings = () if several else (_curves(runs[0], measure, prompt),)
    return Table(heading(runs, measure, prompt), tuple(columns), tuple(rows), heat=heat, drawings=drawings)


def averages(runs: Sequence[Run], names: Sequence[str], measure: str, prompt: Prompt) -> Table:
    """Return for several runs the mean over the tasks trained so far, by stage."""
    tasks = len(runs[0].tasks)
    matrices = [run.matrix(measure, prompt) for run in runs]
    found = [[_seen(matrix[i], i) for matrix in matrices] for i in range(1, tasks + 1)]
    digits = decimals(measure)
    rows = tuple(cells(str(i), *(number(v, digits) for v in row)) for i, row in enumerate(found, 1) if any_value(row))
    columns = (Column("tasks trained"), *map(Column, names))
    lines = tuple(Series(name, tuple(values)) for name, values in zip(names, zip(*found, strict=True), strict=True))
    title = f"Mean over the tasks trained so far: {heading(runs, measure, prompt)}"
    x = tuple(map(str, range(1, tasks + 1)))
    return Table(title, columns, rows, drawings=(Lines(title, x, "tasks trained", AXES[measure], lines),))


def any_value(values: Sequence[float | None]) -> bool:
    """Whether there is any value."""
    return any(value is not None for value in values)


def _seen(row: Sequence[float | None], stage: int) -> float | None:
    """Return the mean over the tasks trained at a stage; None where one of them was not tested."""
    known = [value for value in row[:stage] if value is not None]
    return float(np.mean(known)) if len(known) == stage else None


def _curves(run: Run, measure: str, prompt: Prompt) -> Lines:
    """Return what became of each task, by stage."""
    matrix = run.matrix(measure, prompt)
    stages = [i for i, row in enumerate(matrix) if any_value(row)]
    series = []
    for j, name in enumerate(run.labels):
        values = tuple(matrix[i][j] for i in stages)
        own = stages.index(j + 1) if j + 1 in stages else None
        series.append(Series(name, values, own if own is not None and values[own] is not None else None))
    return Lines(
        f"{heading([run], measure, prompt)}, by stage",
        tuple(map(str, stages)),
        STAGES,
        AXES[measure],
        tuple(series),
        "Ring: right after training on that task. What happens to the right of it is what later training did to it.",
    )


def definitions(tasks: int) -> Table:
    """Return what the metrics mean that a sequence of this many tasks defines."""
    rows = tuple(
        cells(m.title, f"{direction(PRIMARY, m.name)}, {direction(NLL, m.name)}", m.definition)
        for m in METRICS
        if tasks > 1 or not signed(m.name)
    )
    legend = [
        "R[i,j]: a matrix above; row i: after task i, 0 is zero-shot; column j: the task tested; N: number of tasks. "
        "AP: average performance at the end. LA: learning accuracy, each task right after it was trained on."
    ]
    if tasks > 1:
        legend.append(
            "BWT: backward transfer, what later training did to earlier tasks. FWT: forward transfer, what it did to "
            "tasks not trained on yet."
        )
    if tasks > 2:
        legend.append("Forgetting (max) takes the best of noisy cells, so its interval lies a little high.")
    columns = tuple(Column(title, numeric=False) for title in ("metric", "better: score, NLL", "definition"))
    return Table("What the metrics are", columns, rows, tuple(legend))


def signed(metric: str) -> bool:
    """Whether a metric is a difference of cells."""
    return metric not in ("ap", "la")


def _cell(text: str, stage: int, task: int) -> Cell:
    styles: tuple[tuple[bool, str, Style], ...] = (
        (stage == task, f"{text}*", "strong"),
        (stage < task, f"({text})", "dim"),
    )
    return next((Cell(marked, style) for holds, marked, style in styles if holds), Cell(f"{text} "))
