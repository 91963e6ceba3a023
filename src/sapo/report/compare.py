"""The page of several finished runs of the same tasks, side by side, with paired differences to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapo.core.errors import RecordError
from sapo.report import remake, short
from sapo.report.differences import Difference, Verdict, differences
from sapo.report.drawings import Intervals, Range, Tone
from sapo.report.matrices import (
    MARKS,
    MEASURES,
    NLL_MEANING,
    SHORT,
    averages,
    decimals,
    definitions,
    heading,
    matrix_table,
    prompts_note,
    signed,
)
from sapo.report.numbers import duration, interval, number
from sapo.report.outcome import rows_note
from sapo.report.runs import Run, shared_prompts
from sapo.report.tables import NOTHING, Block, Cell, Changed, Column, Listing, Note, Page, Section, Style, Table, cells
from sapo.runs.metrics import METRICS
from sapo.runs.results import Prompt

# Of a metric that a run does not define, or that its version did not know.
_NONE: Mapping[str, None] = {"value": None, "interval": None}
_STYLES: Mapping[Verdict, Style] = {"better": "good", "worse": "bad"}
_TONES: Mapping[Verdict, Tone] = {"better": "good", "worse": "bad"}
PAIRED = (
    "to A: the value minus run A's, with the 95 % interval of the difference; both runs are resampled on the same "
    "test rows (paired). too small to decide: the interval contains 0, or only touches it."
)
OBSTACLES: Mapping[Verdict, str] = {
    "not paired": "not paired: the runs were tested on different rows, so the difference has no interval.",
    "not comparable": (
        "not comparable: the runs use different metrics, or their models split the answers into different tokens, so "
        "the numbers have different units."
    ),
}
CAVEAT = (
    "These intervals are the test-row noise of these trained models only, and of few rows (below about 20 for a task) "
    "they come out too narrow. Each run is one seed: they say nothing of "
    "other seeds. Repeat the runs with several seeds before you call one setting better than another."
)


def comparison_page(runs: Sequence[Run]) -> Page:
    """Return the page of several runs.

    Raises:
        RecordError: if they do not have the same tasks in the same order, or no test prompt in common.
    """
    for run in runs[1:]:
        if run.tasks != runs[0].tasks:
            raise RecordError(
                f"{runs[0].directory} has the tasks {', '.join(runs[0].tasks)}, but {run.directory} has "
                f"{', '.join(run.tasks)}: only runs of the same tasks in the same order can be compared"
            )
    names = [_name(n) for n in range(len(runs))]
    prompts = shared_prompts(runs)
    matrices = [matrix_table(runs, names, measure, prompt) for prompt in prompts for measure in MEASURES]
    curves = [
        averages(runs, names, measure, prompt) for prompt in prompts for measure in MEASURES if len(runs[0].tasks) > 1
    ]
    meaning = [Note(text, "dim") for text in (MARKS, NLL_MEANING, prompts_note(runs), rows_note(runs[0]))]
    found = {
        (measure, prompt): [differences(runs[0], run, measure, prompt) for run in runs[1:]]
        for prompt in prompts
        for measure in MEASURES
    }
    tables = [_metrics(runs, names, *key, later) for key, later in found.items()]
    verdicts = {d.verdict for later in found.values() for metrics in later for d in metrics.values()}
    legend = [Note(text, "dim") for text in (PAIRED, *(OBSTACLES[v] for v in OBSTACLES if v in verdicts))]
    summary = Table(
        "",
        tuple(
            Column(title, numeric=False) for title in ("runs", "measure", "test prompt", "better", "worse", "undecided")
        ),
        tuple(row for key, later in found.items() for row in _summary(names, *key, later)),
    )
    return Page(
        f"Comparison of {len(runs)} runs",
        (
            Section("Runs", (_settings(runs, names),)),
            Section("Instructions trained with", tuple(_instructions(runs, names))),
            Section("Performance matrices", (*matrices, *curves, *meaning)),
            Section("Metrics and differences to run A", (*tables, *legend, definitions(len(runs[0].tasks)))),
            Section("Better, worse, undecided", (summary,)),
            Section("Cost", (_cost(runs, names),)),
            *remake.of_runs(runs),
        ),
        short.of_runs(
            [f"{n} ({r.directory})" for n, r in zip(names, runs, strict=True)],
            {measure: found[measure, prompts[0]] for measure in MEASURES},
            CAVEAT,
        ),
    )


def _name(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"R{n + 1}"


def _settings(runs: Sequence[Run], names: Sequence[str]) -> Table:
    settings = [{"run directory": str(run.directory), **_flat(run.config), **_libraries(run)} for run in runs]
    keys = dict.fromkeys(key for flat in settings for key in flat if key != "run_dir")
    differ = [key for key in keys if len({flat.get(key) for flat in settings}) > 1]
    shown = [key for key in keys if key == "run directory" or key in differ]
    rows = tuple(cells(key, *(flat.get(key, NOTHING) for flat in settings)) for key in shown)
    columns = (Column("setting", numeric=False), *(Column(name, numeric=False) for name in names))
    legend = (
        "Only settings and library versions that differ are listed." if len(shown) > 1 else "All settings are equal."
    )
    return Table("", columns, rows, (legend,))


def _libraries(run: Run) -> dict[str, str]:
    return {f"version of {library}": version for library, version in run.versions.items()}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}".strip(".")).items()}


def _instructions(runs: Sequence[Run], names: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    for label, task in zip(runs[0].labels, runs[0].tasks, strict=True):
        used: dict[tuple[str, bool], list[str]] = {}
        for run, name in zip(runs, names, strict=True):
            entry = run.data["instructions"][task]
            used.setdefault((entry["text"], entry["text"] == entry["original"]), []).append(name)
        for (text, original), by in used.items():
            kind = "the original" if original else "a paraphrase"
            title = f"{label}, {', '.join(by)}: {kind}"
            replaced = runs[0].data["instructions"][task]["original"]
            # A terminal shows it once, whether or not a run was trained with it.
            blocks.append(Listing(title, text) if original else Changed(title, text, replaced, told=True))
    return blocks


def _metrics(
    runs: Sequence[Run], names: Sequence[str], measure: str, prompt: Prompt, later: Sequence[Mapping[str, Difference]]
) -> Table:
    digits = decimals(measure)
    rows, ranges = [], []
    for metric in METRICS:
        if all(run.metrics(measure, prompt).get(metric.name, _NONE)["value"] is None for run in runs):
            continue
        sign = signed(metric.name)
        for n, (run, name) in enumerate(zip(runs, names, strict=True)):
            own = run.metrics(measure, prompt).get(metric.name, _NONE)
            row = cells("" if n else metric.title, name, number(own["value"], digits, sign=sign))
            row += cells(interval(own["interval"], digits, sign=sign))
            difference = later[n - 1].get(metric.name) if n else None
            row += _difference(difference, digits) if difference else cells(*[NOTHING if n else ""] * 3)
            rows.append(row)
            if difference:
                named = f"{metric.title}: {name}" if len(runs) > 2 else metric.title
                ranges.append(_range(named, difference))
    columns = (
        Column("metric", numeric=False),
        Column("run", numeric=False),
        Column("value"),
        Column("95 % interval"),
        Column("to A"),
        Column("95 % interval"),
        Column("verdict", numeric=False),
    )
    title = heading(runs, measure, prompt)
    drawing = Intervals(
        f"Difference to {names[0]}: {title}", f"difference to {names[0]} ({SHORT[measure]})", tuple(ranges)
    )
    return Table(title, columns, tuple(rows), drawings=(drawing,) if ranges else ())


def _range(name: str, difference: Difference) -> Range:
    low, high = difference.interval or (None, None)
    said = "undecided" if difference.verdict == "too small to decide" else difference.verdict
    return Range(name, difference.value, low, high, note=said, tone=_TONES.get(difference.verdict, ""))


def _cost(runs: Sequence[Run], names: Sequence[str]) -> Table:
    kinds = dict.fromkeys(kind for run in runs for kind in run.data["seconds"])
    spent = [[run.data["seconds"].get(kind) for run in runs] for kind in kinds]
    rows = tuple(
        cells(kind, *(NOTHING if seconds is None else duration(seconds) for seconds in row))
        for kind, row in zip(kinds, spent, strict=True)
    )
    columns = (Column("wall time", numeric=False), *map(Column, names))
    return Table("", columns, rows, ("Model loading is not counted.",))


def _difference(difference: Difference, digits: int) -> tuple[Cell, ...]:
    return (
        Cell(number(difference.value, digits, sign=True)),
        Cell(interval(difference.interval, digits, sign=True)),
        Cell(difference.verdict, _STYLES.get(difference.verdict, "")),
    )


def _summary(
    names: Sequence[str], measure: str, prompt: Prompt, later: Sequence[Mapping[str, Difference]]
) -> list[tuple[Cell, ...]]:
    """Return for each later run which metrics are better, worse, or neither."""
    rows = []
    for name, found in zip(names[1:], later, strict=True):
        kinds = [[m.title for m in METRICS if m.name in found and found[m.name].verdict == kind] for kind in _STYLES]
        open_ = [m.title for m in METRICS if m.name in found and found[m.name].verdict not in _STYLES]
        every = "all" if len(found) == len(METRICS) else f"all {len(found)} that both define"
        listed = (every if len(titles) == len(found) else ", ".join(titles) or NOTHING for titles in (*kinds, open_))
        rows.append(cells(f"{name} against {names[0]}", SHORT[measure], prompt, *listed))
    return rows
