"""What a run found: matrices, metrics, watch tasks."""

from __future__ import annotations

from collections.abc import Mapping

from sapo.report.drawings import Lines, Series
from sapo.report.matrices import (
    AXES,
    MARKS,
    MEASURES,
    NLL_MEANING,
    SHORT,
    STAGES,
    decimals,
    definitions,
    heading,
    matrix_table,
    prompts_note,
    signed,
)
from sapo.report.numbers import interval, number
from sapo.report.runs import Run
from sapo.report.tables import NOTHING, Block, Cell, Column, Note, Table, cells
from sapo.runs.metrics import METRICS, percentile_interval
from sapo.runs.results import Prompt

# Of a metric that an earlier version did not know.
_NONE: Mapping[str, None] = {"value": None, "interval": None}
ROW_NOISE = (
    "95 % intervals come from resampling the test rows: they are the test-row noise of these trained models only. "
    "One seed: they say nothing of other seeds."
)


def outcome(run: Run) -> tuple[Block, ...]:
    """Return matrices and metrics; of one task, before and after."""
    if len(run.tasks) == 1:
        return _change(run)
    matrices = [matrix_table([run], [""], measure, prompt) for prompt in run.prompts for measure in MEASURES]
    notes = [Note(sentence, "dim") for sentence in (MARKS, NLL_MEANING, prompts_note([run]), rows_note(run))]
    return (*matrices, *notes, _metrics(run), definitions(len(run.tasks)), Note(ROW_NOISE))


def rows_note(run: Run) -> str:
    """Return one sentence on the size of the test sets."""
    sizes = ", ".join(f"{task} {count}" for task, count in run.test_counts().items())
    cuts = ", ".join(f"{task} {count}" for task, count in run.test_cuts().items())
    return f"Test rows: {sizes}." + (f" Inputs cut in the middle to fit the model: {cuts}." if cuts else "")


def _metrics(run: Run) -> Table:
    rows = []
    several = len(run.prompts) > 1
    for metric in METRICS:
        for prompt in run.prompts:
            row = [metric.title if prompt == run.prompts[0] else "", *([prompt] if several else [])]
            for measure in MEASURES:
                found, digits = run.metrics(measure, prompt).get(metric.name, _NONE), decimals(measure)
                sign = signed(metric.name)
                row += [number(found["value"], digits, sign=sign), interval(found["interval"], digits, sign=sign)]
            rows.append(cells(*row))
    columns = (
        Column("metric", numeric=False),
        *([Column("test prompt", numeric=False)] if several else []),
        *(column for measure in MEASURES for column in (Column(SHORT[measure]), Column("95 % interval"))),
    )
    found = run.metrics(MEASURES[0], run.prompts[0])
    reasons = dict.fromkeys(value["reason"] for value in found.values() if value["reason"])
    return Table("Metrics", columns, tuple(rows), tuple(f"{NOTHING}: {reason}." for reason in reasons))


def _change(run: Run) -> tuple[Block, ...]:
    """Return before and after of a run with one task, which has no backward or forward transfer."""
    rows = []
    for measure in MEASURES:
        for prompt in run.prompts:
            digits = decimals(measure)
            (before,), (after,) = run.matrix(measure, prompt)
            if before is None or after is None:
                continue
            bounds = change_interval(run, measure, prompt)
            texts = (
                heading([run], measure, prompt),
                number(before, digits),
                number(after, digits),
                number(after - before, digits, sign=True),
                interval(bounds, digits, sign=True),
            )
            rows.append(cells(*texts))
    columns = (
        Column("measure", numeric=False),
        Column("before"),
        Column("after"),
        Column("change"),
        Column("95 % interval"),
    )
    legend = (
        "before: zero-shot, always tested with the original instruction; change: after minus before, with the "
        "interval of the change, both tested on the same rows.",
        NLL_MEANING,
        ROW_NOISE,
        rows_note(run),
    )
    return (
        Table(f"Before and after training on {run.tasks[0]}", columns, tuple(rows), legend),
        Note(prompts_note([run]), "dim"),
    )


def change_interval(run: Run, measure: str, prompt: Prompt) -> tuple[float, float]:
    """Return the 95 % interval of what training changed, of a run with one task that was tested before and after."""
    draws = run.resampled(measure, prompt, int(run.config["seed"]))[:, :, 0]
    return percentile_interval(draws[:, 1] - draws[:, 0])


def watch(run: Run) -> Table:
    """Return scores and losses of the watch tasks at every stage."""
    prompt = run.prompts[0]
    rows = []
    for task, measures in run.data["watch"].items():
        for i, stage in enumerate(run.stages):
            row = [Cell(task if i == 0 else ""), Cell(stage)]
            for measure in MEASURES:
                values = measures[measure][run.key(prompt)]
                moved = None if values[i] is None else values[i] - values[0]
                change = number(moved, decimals(measure), sign=True) if i else ""
                row += [Cell(number(values[i], decimals(measure))), Cell(change)]
            rows.append(tuple(row))
    columns = (
        Column("task", numeric=False),
        Column("stage", numeric=False),
        *(column for measure in MEASURES for column in (Column(SHORT[measure]), Column("change"))),
    )
    metrics = ", ".join(f"{task}: {run.data['primary_metrics'][task]}" for task in run.data["watch"])
    legend = (
        f"change: to zero-shot; score: higher is better ({metrics}); NLL: lower is better. "
        "Always tested with the original instruction.",
    )
    drawings = tuple(_watched(run, measure, run.key(prompt)) for measure in MEASURES)
    return Table("", columns, tuple(rows), legend, drawings=drawings)


def _watched(run: Run, measure: str, prompt: str | None) -> Lines:
    measured = {task: measures[measure][prompt] for task, measures in run.data["watch"].items()}
    stages = [i for i in range(len(run.stages)) if any(values[i] is not None for values in measured.values())]
    series = tuple(Series(task, tuple(values[i] for i in stages)) for task, values in measured.items())
    x = tuple(map(str, stages))
    return Lines(f"{SHORT[measure]} of watch tasks, by stage", x, STAGES, AXES[measure], series)
