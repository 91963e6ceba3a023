"""What only some runs of a sweep measure: crossed prompts, other wordings, general ability, the forgetting guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sapo.report.matrices import MEASURES, decimals
from sapo.report.numbers import NLL_DECIMALS, number
from sapo.report.paired import measure_title, points
from sapo.report.tables import Cell, Column, Note, Section, Table, cells
from sapo.report.units import Grid, Unit, spread
from sapo.runs.results import NLL, Ability, RunResult

_POINTS = "each unit: the values of the column before, in the order of the units above (–: not measured)."


@dataclass(frozen=True, slots=True)
class _Value:
    """A column: what it takes from a run, and whether the values of all units are shown beside their mean."""

    title: str
    of: Callable[[RunResult], float | None]
    sign: bool = False
    each: bool = True


def trained_by_tested(grid: Grid) -> list[Section]:
    """Return the tables of training prompt x test prompt, of units that have all four cells."""
    rows: dict[str, list[tuple[Cell, ...]]] = {measure: [] for measure in MEASURES}
    for method in grid.methods:
        crossings = {run.crossed.by for run in grid.of(method, "original") if run is not None and run.crossed}
        for by in sorted(crossings):
            found = [four for unit in grid.units if (four := _four(grid, method, by, unit)) is not None]
            for m, measure in enumerate(MEASURES if found else ()):
                for n, trained in enumerate(("original", f"choice of {by}")):
                    values = [float(np.mean([four[m][n][tested] for four in found])) for tested in range(2)]
                    texts = (number(value, decimals(measure)) for value in values)
                    rows[measure].append(cells("" if n else method, trained, str(len(found)), *texts))
    if not rows[MEASURES[0]]:
        return []
    columns = (
        *(Column(title, numeric=False) for title in ("method", "trained with")),
        *(Column(title) for title in ("units", "tested with original", "tested with choice")),
    )
    legend = (
        "original: every task's original instruction; choice: what the named policy chose for the task in the run "
        "with the same sequence, method and seed. Means over units and tasks, each task at the last stage that tested "
        "it; only units with all four cells count. Down a column only the training differs, along a row only the test "
        "prompt."
    )
    tables = (Table(measure_title(measure), columns, tuple(rows[measure])) for measure in MEASURES)
    return [Section("Choice with x tested with", (*tables, Note(legend, "dim")))]


def robustness(grid: Grid) -> list[Section]:
    """Return scores and NLL under held-out paraphrases: mean and worst of the texts, mean over tasks."""
    counts = sorted({len(w.texts) for run in grid.records for w in (run.robustness or {}).values()})
    if not counts:
        return []
    tables = []
    for measure in MEASURES:
        worst = np.max if measure == NLL else np.min
        values = (
            _Value("mean", partial(_wordings, measure=measure, over=np.mean)),
            _Value("worst", partial(_wordings, measure=measure, over=worst)),
        )
        tables.append(_table(grid, measure_title(measure), values, decimals(measure)))
    about = (
        f"After the last stage every task is tested with {' or '.join(map(str, counts))} paraphrases of its "
        "instruction that it was not trained with."
    )
    legend = f"mean, worst: over these paraphrases, then the mean over tasks, then the mean over units. {_POINTS}"
    return [Section("Robustness to wording", (Note(about), *tables, Note(legend, "dim")))]


def ability(grid: Grid) -> list[Section]:
    """Return general ability before and after the sequence."""
    if all(_ends(run) is None for run in grid.records):
        return []
    kinds: tuple[tuple[str, Callable[[Ability], float], int], ...] = (
        ("Loss on general text (nats per token, lower is better)", lambda at: at.loss, NLL_DECIMALS),
    )
    tables = []
    for title, kind, digits in kinds:
        values = (
            _Value("before", partial(_before, kind=kind), each=False),
            _Value("after", partial(_after, kind=kind), each=False),
            _Value("change", partial(_change, kind=kind), sign=True),
        )
        tables.append(_table(grid, title, values, digits))
    about = "Texts that have nothing to do with the tasks: what training on the tasks does to the rest."
    legend = f"before: the model before any training; after: after the last stage. Means over units. {_POINTS}"
    return [Section("General ability", (Note(about), *tables, Note(legend, "dim")))]


def guard(grid: Grid) -> list[Section]:
    """Return what the forgetting guard saw."""
    rows = [
        cells(
            run.name, alarm.task, alarm.watched, f"{alarm.step} of {alarm.updates}",
            "went on" if alarm.back_to is None else str(alarm.back_to),
            number(alarm.increase, NLL_DECIMALS, sign=True), number(alarm.low, NLL_DECIMALS, sign=True),
        )
        for run in grid.records
        for alarm in run.guard or ()
    ]  # fmt: skip
    if not rows:
        return []
    columns = (
        *(Column(title, numeric=False) for title in ("run", "training on", "watched")),
        *(Column(title) for title in ("update", "back to", "increase", "at least")),
    )
    legend = (
        "While the task was trained, the loss on stored rows of the watched task rose by more than the limit "
        "(guard.limit). update: when that was seen. back to: training was stopped, with the weights that it had after "
        "so many updates. increase: of the loss in nats per token; at least: the lower end of its 95 % interval.",
    )
    return [Section("Forgetting guard", (Table("", columns, tuple(rows), legend),))]


def _table(grid: Grid, title: str, values: Sequence[_Value], digits: int) -> Table:
    """Return means over units of some values, a row for each method and policy that has any."""
    rows = []
    for method, policy in grid.settings:
        runs = grid.of(method, policy)
        spreads = [spread([None if run is None else value.of(run) for run in runs]) for value in values]
        if not spreads[0].count:
            continue
        row = [Cell(method), Cell(policy), Cell(str(spreads[0].count))]
        for value, found in zip(values, spreads, strict=True):
            row.append(Cell(number(found.mean, digits, sign=value.sign)))
            row += [Cell(points(found, digits, sign=value.sign))] if value.each else []
        rows.append(tuple(row))
    columns = [Column("method", numeric=False), Column("policy", numeric=False), Column("units")]
    for value in values:
        columns += [Column(value.title), *([Column("each unit", numeric=False)] if value.each else [])]
    return Table(title, tuple(columns), tuple(rows))


def _four(grid: Grid, method: str, by: str, unit: Unit) -> list[list[list[float]]] | None:
    """Return the means over tasks, axes measure, trained with, tested with; None if any is missing."""
    plain, chosen = grid.runs.get((method, "original", unit)), grid.runs.get((method, by, unit))
    if plain is None or chosen is None or plain.crossed is None or plain.crossed.by != by:
        return None
    found = []
    for measure in MEASURES:
        crossed = [plain.crossed.of(measure).get(task) for task in plain.tasks]
        values = [
            [_mean(plain.final(measure, "original")), _mean(crossed)],
            [_mean(chosen.final(measure, "original")), _mean(chosen.final(measure, "selected"))],
        ]
        complete = [[value for value in row if value is not None] for row in values]
        if any(len(row) < 2 for row in complete):
            return None
        found.append(complete)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _wordings(run: RunResult, *, measure: str, over: Callable[[Sequence[float]], float]) -> float | None:
    if not run.robustness:
        return None
    return float(np.mean([over(wordings.of(measure)) for wordings in run.robustness.values()]))


def _ends(run: RunResult) -> tuple[Ability, Ability] | None:
    """Return general ability before training and after the last stage."""
    stages = {at.stage: at for at in run.ability or ()}
    return (stages[0], stages[max(stages)]) if 0 in stages and len(stages) > 1 else None


def _before(run: RunResult, kind: Callable[[Ability], float]) -> float | None:
    ends = _ends(run)
    return None if ends is None else kind(ends[0])


def _after(run: RunResult, kind: Callable[[Ability], float]) -> float | None:
    ends = _ends(run)
    return None if ends is None else kind(ends[1])


def _change(run: RunResult, kind: Callable[[Ability], float]) -> float | None:
    ends = _ends(run)
    return None if ends is None else kind(ends[1]) - kind(ends[0])
