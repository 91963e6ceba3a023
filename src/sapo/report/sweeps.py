"""The page of a sweep: sequences x methods x policies x seeds, from the records of its finished runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from sapo.core.errors import RecordError
from sapo.report import extras, remake, short
from sapo.report.drawings import Intervals, Range
from sapo.report.matrices import (
    AXES,
    MEASURES,
    NLL_MEANING,
    TESTED,
    TESTED_MIXED,
    TESTED_ORIGINAL,
    decimals,
    definitions,
    signed,
)
from sapo.report.numbers import duration, interval, number
from sapo.report.paired import (
    COMPARED,
    SUMMARY,
    Comparison,
    measure_title,
    methods_compared,
    metric_points,
    policies_compared,
)
from sapo.report.tables import NOTHING, Block, Column, Note, Page, Section, Table, cells
from sapo.report.units import Grid, grid_of, quantile, spread
from sapo.runs.metrics import METRICS
from sapo.runs.records import RECORDS
from sapo.runs.results import Prompt, RunResult
from sapo.training.policies import MIXTURES


def is_sweep(path: Path) -> bool:
    """Whether a path is a file of records, or the directory of a sweep."""
    return path.suffix == ".jsonl" or ((path / RECORDS).is_file() and not (path / "results.json").exists())


def brief(page: Page, path: Path) -> Page:
    """Return the page with one metric of each comparison, the first one defined: AP, or LA.

    Args:
        page: of a sweep.
        path: of the file that has all of it.
    """
    note = Note(f"Shown here is the first metric of each comparison; {path} has all of them.", "strong")

    def first(block: Block) -> Block:
        if not isinstance(block, Table) or block.title == SUMMARY:
            return block
        return replace(block, rows=tuple(row for row in block.rows if row[0].text))

    return replace(
        page,
        sections=tuple(
            Section(s.title, (note, *map(first, s.blocks))) if s.title in COMPARED else s for s in page.sections
        ),
    )


def sweep_page(records: Sequence[RunResult]) -> Page:
    """Return the page of the runs of one or more sweeps; their order does not matter.

    Raises:
        RecordError: if there are none, or some cannot be compared, naming them.
    """
    grid = grid_of(records)
    prompts = shared_prompts(grid.records)
    # What a method does is seen with one test prompt; what a choice does, only with both.
    sections = (policies_compared(grid, prompts), methods_compared(grid, prompts[:1]))
    compared = [comparison for comparison in sections if comparison is not None]
    return Page(
        f"Sweep of {len(grid.runs)} {'run' if len(grid.runs) == 1 else 'runs'}",
        (
            Section("Runs", _runs(grid)),
            Section("Results", _results(grid, prompts)),
            *(comparison.section for comparison in compared),
            *extras.trained_by_tested(grid),
            *extras.robustness(grid),
            *extras.ability(grid),
            *extras.guard(grid),
            Section("Every run", (_every_run(grid, prompts[0]),)),
            Section("Cost", (_cost(grid.records),)),
            Section("How to read this", _reading(grid, compared)),
            *remake.of_sweep(grid.records),
        ),
        short.of_sweep(compared, _scope(grid)),
    )


def shared_prompts(records: Sequence[RunResult]) -> tuple[Prompt, ...]:
    """Return the test prompts that all runs have results for, the main one first.

    Raises:
        RecordError: if there is none.
    """
    main = {record.test_prompt for record in records if not record.only_originals}
    if not main:
        return ("original",)
    both: tuple[Prompt, ...] = ("selected", "original")
    wanted = both if "selected" in main else both[::-1]
    shared = tuple(prompt for prompt in wanted if all(record.key(prompt) is not None for record in records))
    if not shared:
        lacking = [next(r for r in records if r.key(prompt) is None) for prompt in wanted]
        raise RecordError(
            f"{lacking[0].name} was not tested with test prompt {wanted[0]}, and {lacking[1].name} not with "
            f"{wanted[1]}: run the sweep with evaluate.test_prompt=both"
        )
    return shared


def _runs(grid: Grid) -> tuple[Block, ...]:
    full = len(grid.methods) * len(grid.policies) * len(grid.sequences) * len(grid.seeds)
    model = next(iter(grid.runs.values())).model
    about = (
        f"Model {model}. {len(grid.runs)} of {full} combinations have finished: {_list('method', grid.methods)}; "
        f"{_list('policy', grid.policies, 'policies')}; {_list('sequence', grid.sequences)}; "
        f"{_list('seed', map(str, grid.seeds))}."
    )
    first = {sequence: next(r for r in grid.records if r.sequence == sequence) for sequence in grid.sequences}
    tasks = (
        f"Sequence {name}: {', '.join(f'{t} ({r.primary_metrics[t]}, {r.test_rows[t]} test rows)' for t in r.tasks)}."
        for name, r in first.items()
    )
    names = ", ".join(f"{sequence} s{seed}" for sequence, seed in grid.units)
    units = (
        "A unit is one sequence with one seed. " + f"There are {len(grid.units)}, in this order everywhere: {names}."
        if len(grid.units) > 1
        else f"There is one unit (sequence with a seed): {names}."
    )
    rows = []
    for method, policy in product(grid.methods, grid.policies):
        row = [method, policy]
        for sequence in grid.sequences:
            there = [seed for seed in grid.seeds if (method, policy, (sequence, seed)) in grid.runs]
            missing = [seed for seed in grid.seeds if seed not in there]
            parts = [", ".join(map(str, there)), "missing: " + ", ".join(map(str, missing)) if missing else ""]
            row.append("\n".join(filter(None, parts)))
        rows.append(cells(*row))
    columns = (
        Column("method", numeric=False),
        Column("policy", numeric=False),
        *(Column(sequence) for sequence in grid.sequences),
    )
    table = Table("Seeds that have finished, by sequence", columns, tuple(rows))
    return (Note(about), *map(Note, tasks), Note(units), table)


def _list(word: str, names: Iterable[str], several: str = "") -> str:
    found = list(names)
    return f"{word if len(found) == 1 else several or word + 's'} {', '.join(found)}"


def _results(grid: Grid, prompts: Sequence[Prompt]) -> tuple[Block, ...]:
    tables = [_means(grid, measure, prompt) for prompt in prompts for measure in MEASURES]
    originals = all(record.only_originals for record in grid.records)
    legend = (
        "Each cell: the mean over units, and below it the 95 % Student t interval of that mean over units. "
        f"{NOTHING}: not defined for the method. (n): defined for n of the units only.",
        NLL_MEANING,
        TESTED_ORIGINAL if originals else TESTED,
        *([TESTED_MIXED] if any(record.policy in MIXTURES for record in grid.records) else []),
    )
    meanings = definitions(max(len(record.tasks) for record in grid.records))
    # There it speaks of a matrix above, of which a sweep has too many to show.
    cell = (
        "R[i,j]: the result on task j after training on task i, 0 is zero-shot; N: number of tasks. AP: average "
        "performance at the end. LA: learning accuracy, each task right after it was trained on."
    )
    meanings = replace(meanings, legend=(cell, *meanings.legend[1:]))
    return (*tables, *(Note(sentence, "dim") for sentence in legend), meanings)


def _means(grid: Grid, measure: str, prompt: Prompt) -> Table:
    digits = decimals(measure)
    defined = [
        metric
        for metric in METRICS
        if any(record.estimate(measure, prompt, metric.name)["value"] is not None for record in grid.records)
    ]
    rows, ranges = [], []
    for method, policy in grid.settings:
        units = sum(run is not None for run in grid.of(method, policy))
        row = [method, policy, str(units)]
        for metric in defined:
            found = spread(metric_points(grid, (method, policy), measure, prompt, metric.name))
            sign = signed(metric.name)
            count = f" ({found.count})" if 0 < found.count < units else ""
            text = number(found.mean, digits, sign=sign) + count
            row.append(f"{text}\n{interval(found.interval, digits, sign=sign)}" if found.interval else text)
            if metric.name == "ap" and found.mean is not None:
                low, high = found.interval or (None, None)
                values = tuple(point for point in found.points if point is not None)
                ranges.append(Range(f"{method}: {policy}", found.mean, low, high, values if len(values) > 1 else ()))
        rows.append(cells(*row))
    columns = (
        Column("method", numeric=False),
        Column("policy", numeric=False),
        Column("units"),
        *(Column(metric.title) for metric in defined),
    )
    title = f"{measure_title(measure)}, test prompt: {prompt}"
    caption = "Rings below a line: the single units." if any(one.points for one in ranges) else ""
    drawing = Intervals(f"AP. {title}", AXES[measure], tuple(ranges), reference=None, caption=caption)
    return Table(title, columns, tuple(rows), drawings=(drawing,) if ranges else ())


def _every_run(grid: Grid, prompt: Prompt) -> Table:
    rows = []
    for run in grid.records:
        row = [run.name]
        for measure in MEASURES:
            found, digits = run.estimate(measure, prompt, "ap"), decimals(measure)
            row += [number(found["value"], digits), interval(found["interval"], digits)]
        rows.append(cells(*row, duration(run.seconds.get("total", sum(run.seconds.values())))))
    columns = (
        Column("run", numeric=False),
        Column("score AP"),
        Column("95 % interval"),
        Column("NLL AP"),
        Column("95 % interval"),
        Column("wall time"),
    )
    legend = (
        "These intervals are CONDITIONAL on the trained models: they come from resampling the test rows of one run, "
        "and say nothing of other seeds or sequences. They do not tell settings apart: paired differences over units "
        f"do. AP: average performance over all tasks after the last stage. Test prompt: {prompt}.",
    )
    return Table("", columns, tuple(rows), legend)


def _cost(records: Sequence[RunResult]) -> Table:
    kinds = dict.fromkeys(kind for record in records for kind in record.seconds)
    rows = []
    for kind in kinds:
        spent = [record.seconds[kind] for record in records if kind in record.seconds]
        rows.append(cells(kind, duration(sum(spent)), duration(sum(spent) / len(spent))))
    columns = (Column("kind of step", numeric=False), Column("wall time of all runs"), Column("mean of a run"))
    return Table("", columns, tuple(rows), ("A step that runs share is counted for each of them.",))


def _reading(grid: Grid, compared: Sequence[Comparison]) -> tuple[Block, ...]:
    units = len(grid.units)
    notes = [Note(_scope(grid), "strong")]
    if units > 1:
        notes.append(
            Note(
                f"Intervals over units are Student t intervals: mean ± {quantile(units):.2f} standard errors with "
                f"{units} units, 1.96 with very many. Few units make wide intervals: too small to decide does not mean "
                "that there is no difference."
            )
        )
    total = sum(comparison.intervals for comparison in compared)
    if total:
        notes.append(
            Note(
                f"This page holds {total} intervals of differences. If nothing differed at all, about 5 % of them, "
                f"{total * 0.05:.1f} here, would still exclude 0 by chance. Decide which comparison counts before you "
                "look, and take the others as hints."
            )
        )
    return tuple(notes)


def _scope(grid: Grid) -> str:
    """Return what the units are a sample of."""
    sequences, seeds = len(grid.sequences), len(grid.seeds)
    if len(grid.units) == 1:
        return (
            "One unit: no interval can be made, and nothing is said of other seeds or sequences. Repeat the sweep with "
            "several seeds and sequences before you call one setting better than another."
        )
    if sequences == 1:
        return (
            f"{seeds} seeds of one sequence: intervals hold for other seeds of it, and say nothing of other sequences."
        )
    if seeds == 1:
        return (
            f"{sequences} sequences with one seed each: intervals hold for other sequences only as far as these are a "
            "sample of them."
        )
    return (
        f"Units are {sequences} sequences with {seeds} seeds: intervals hold for other seeds and sequences only as far "
        "as these are a sample of them. Units of one sequence share its tasks, so they are more alike than units of "
        "different sequences; the intervals treat all as independent, and are too narrow for other sequences."
    )
