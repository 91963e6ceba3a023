"""The page of finished runs: of one, of several next to each other, or of sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sapo.report import details, remake
from sapo.report.blocks import NOTHING, Block, Command, Note, Page, Section, Table
from sapo.report.compare import Arranged, Compared, Setting, arrange, letter
from sapo.report.differences import NUMBERS, TITLES, Difference, signed
from sapo.report.findings import HEADLINE, outcome, said
from sapo.report.numbers import LOSS, SCALES, count, duration, estimate, interval, listed, number, prompt_name
from sapo.report.plots import Range, curves, ranges
from sapo.report.reading import reading
from sapo.report.runs import Run, only_originals
from sapo.runs.metrics import METRICS
from sapo.runs.prompts import Prompt
from sapo.runs.results import MEASURES, NLL, PRIMARY

_MARKS = "*: right after training on that task; (...): not trained on that task yet."
_WATCHED = (
    "watch: never trained on, and always tested with its original instruction. general text: without any prompt; its "
    "texts are no sample, so there is no interval."
)


def results_page(runs: Sequence[Run]) -> Page:
    """Return the page of runs of directories, or of those of one or more sweeps.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    arranged = arrange(runs)
    sweep, alone = arranged.sweep, None if arranged.sweep else arranged.only
    if alone is not None:
        title, notes = f"Run {alone.name}", list(outcome(alone, arranged.prompts[0]))
        table = _by_task(alone, arranged.prompts[0])
        first = [Section(f"By task: {table.title}", (replace(table, title=""),), "screen")]
    else:
        title = f"{'Sweep' if sweep else 'Comparison'} of {count(len(arranged.runs), 'run')}"
        notes = [Note(text, "bold") for text in said(arranged) or ["There is one setting: nothing to compare."]]
        first = [Section("Results", (_headline(arranged),), "screen")]
        if not sweep:
            first.append(Section("What differs", (details.differing(runs),), "screen"))
    notes += [Note(text) for text in details.stopped(arranged.runs)]
    sections = [
        *first,
        Section("Cost and next step" if alone else "Cost", tuple(_cost_and_next(arranged, alone)), "screen"),
        *([Section("Units", tuple(_units(arranged)))] if sweep else []),
        Section("Every metric", tuple(_metrics(arranged))),
        *_comparisons(arranged),
        *details.sections(arranged),
        *([Section("Every run", (_every_run(arranged),))] if sweep else []),
        Section("How to read this", tuple(reading(arranged))),
        *remake.of_runs(arranged.runs),
    ]
    return Page(title, tuple(sections), (*notes, Note(arranged.scope)))


def _curves(run: Run, prompt: Prompt) -> Iterator[Block]:
    """Yield what became of each task, and of what is only tested, as a figure."""
    for measure, scale in SCALES.items():
        lines = run.columns(measure, prompt)
        stages = [i for i in range(len(run.stages)) if any(values[i] is not None for values in lines.values())]
        if len(stages) > 2:
            seen = {label: [values[i] for i in stages] for label, values in lines.items()}
            title = "stage: tasks trained (0: zero-shot)"
            yield curves(f"{scale.title} by stage", [str(i) for i in stages], title, scale.short, seen)


def _by_task(run: Run, prompt: Prompt) -> Table:
    """Return what became of each task, and what it was trained with."""
    matrix, scale = run.matrix(PRIMARY, prompt), SCALES[PRIMARY]
    rows = []
    for j, (label, task) in enumerate(zip(run.labels, run.result.tasks, strict=True)):
        used = run.result.instructions[task]
        # Trained alone, a task has no end of a sequence.
        end = None if run.result.method == "single" else matrix[-1][j]
        scores = (number(value, scale.decimals) for value in (matrix[0][j], matrix[run.trained_at(j + 1)][j], end))
        losses = used.losses or {}
        change = losses[used.text] - losses[used.original] if {used.text, used.original} <= losses.keys() else None
        text = f"({len(used.mixture)} paraphrases in turn)" if used.mixture else used.text or "(none)"
        rows.append((label, *scores, number(change, LOSS, sign=True), text))
    columns = ("task", "zero-shot", "trained", "at the end", "loss to original", "instruction")
    about = (
        "trained: right after the training on that task. loss to original: before that training, in nats per token, "
        f"minus the original's. Policy {run.result.policy}."
    )
    return Table(columns, tuple(rows), _title([run], PRIMARY, prompt), (about,), text=(0, -1), clipped=True)


def _matrix(runs: Sequence[Run], measure: str, prompt: Prompt) -> Table:
    """Return R with a row for each stage and run, and what else is tested at every stage; runs have the same tasks."""
    several, scale, tasks = len(runs) > 1, SCALES[measure], runs[0].labels
    found = [run.columns(measure, prompt) for run in runs]
    labels = tuple(dict.fromkeys(label for columns in found for label in columns))
    rows = []
    for i in range(len(tasks) + 1):
        above = ""
        for n, run in enumerate(runs):
            values = [found[n][label][i] if label in found[n] else None for label in labels]
            if any(value is not None for value in values):
                head, above = "" if run.stages[i] == above else run.stages[i], run.stages[i]
                texts = (number(value, scale.decimals) for value in values)
                shown = (
                    _cell(text, i, run.trained_at(j)) if j <= len(tasks) else f"{text} "
                    for j, text in enumerate(texts, start=1)
                )  # fmt: skip
                rows.append((head, *([letter(n)] if several else []), *shown))
    # Rows name the tasks: columns need their numbers only.
    names = (*map(str, range(1, len(tasks) + 1)), *labels[len(tasks) :])
    columns = ("tested on:", *(["run"] if several else []), *names)
    legend = (_MARKS, *([_WATCHED] if len(labels) > len(tasks) else []))
    return Table(columns, tuple(rows), _title(runs, measure, prompt), legend, text=(0, 1) if several else (0,))


def _title(runs: Sequence[Run], measure: str, prompt: Prompt) -> str:
    how = "" if only_originals(runs, prompt) else f", test prompt: {prompt_name(prompt)}"
    kinds = ", ".join(dict.fromkeys(runs[0].result.primary_metrics[task] for task in runs[0].result.tasks))
    return SCALES[measure].title.replace("Score (", f"Score ({kinds}, ") + how


def _cell(text: str, stage: int, trained_at: int) -> str:
    return f"{text}*" if stage == trained_at else f"({text})" if stage < trained_at else f"{text} "


def _headline(arranged: Arranged) -> Table:
    """Return how good the end is, and what was forgotten: few enough columns for any terminal."""
    prompt, end = arranged.prompts[0], _end(arranged)
    over = f"over the {len(arranged.units)} units" if len(arranged.units) > 1 else "over test rows"
    how = "" if arranged.only_originals else f" Test prompt: {prompt_name(prompt)}."
    shown = [(PRIMARY, end), (NLL, end), *([(NLL, "bwt_final")] if arranged.defines("bwt_final") else [])]
    figures = tuple(
        (s.name, *(_figure(s, measure, prompt, name) for measure, name in shown)) for s in arranged.settings
    )
    columns = ("setting", *(f"{SCALES[measure].short} {TITLES[name]}" for measure, name in shown))
    about = "AP: mean over tasks at the end" if end == "ap" else "LA: mean over tasks, each right after its training"
    legend = (
        f"{about}; BWT (final): what later training did to earlier tasks. Score: 0 to 100, higher is better; NLL: nats "
        f"per token, lower is better. [..]: 95 % interval {over}.{how}"
    )
    if any(run is None for setting in arranged.settings for run in setting.runs):
        legend += " (n): over n of the units."
    return Table(columns, figures, legend=(legend,))


def _end(arranged: Arranged) -> str:
    """Return the metric of how good the end is, or where no method defines it, of how well tasks are learned."""
    return "ap" if arranged.defines("ap") else "la"


def _figure(setting: Setting, measure: str, prompt: Prompt, name: str) -> str:
    found = setting.metric(measure, prompt, name)
    few = f" ({found.count})" if 0 < found.count < len(setting.runs) else ""
    return estimate(found, SCALES[measure].decimals, sign=signed(name)) + few


def _cost_and_next(arranged: Arranged, alone: Run | None) -> Iterator[Block]:
    results = [run.result for run in arranged.runs]
    kinds = dict.fromkeys(kind for result in results for kind in result.seconds)
    sums = {kind: sum(result.seconds.get(kind, 0.0) for result in results) for kind in kinds}
    of = f" for {len(results)} runs" if len(results) > 1 else ""
    whole = duration(sums.pop("total", sum(sums.values())))
    spent = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in sums.items())
    yield Note(f"{whole}{of} without loading: {spent}.")
    if arranged.sweep:
        methods, policies = ({s.method: None for s in arranged.settings}, {s.policy: None for s in arranged.settings})
        full = len(methods) * len(policies) * len(arranged.units)
        yield Note(
            f"Model {results[0].model}. {len(results)} of {full} combinations have finished: method "
            f"{', '.join(methods)}; policy {', '.join(policies)}; {count(len(arranged.units), 'unit')}."
        )
        if differing := remake.mixed([result.config for result in results]):
            yield Note(f"Means mix settings: the runs differ in {', '.join(differing)} too.")
    used = [one for result in results for one in result.instructions.values() if one.losses is not None]
    if ended := [one.tolerance for one in used if one.tolerance is not None]:
        yield Note(
            f"selection.budget ended {len(ended)} of {count(len(used), 'choice')}: the lowest loss may lie up to "
            f"{max(ended):.2g} nats per token below the chosen one's."
        )
    if alone is None or alone.directory is None:
        return
    other = "sapo" if alone.result.policy == "original" else "original"
    yield Command(("sapo", "report", alone.name, "OTHER_RUN"), f"Compare, such as with policy={other}:")
    tasks = alone.result.tasks
    stage = alone.directory / "stages" / f"{len(tasks)}-{'all' if alone.result.method == 'multitask' else tasks[-1]}"
    if stage.is_dir():
        yield Command(("sapo", "generate", str(stage), "--input", "TEXT"), "Ask the trained model:")


def _units(arranged: Arranged) -> Iterator[Block]:
    """Yield what ran, and what of the sweep has not finished."""
    names = [f"{sequence} s{seed}" for sequence, seed in arranged.units]
    yield Note(f"A unit is one sequence with one seed, in this order everywhere: {', '.join(names)}.")
    for sequence, one in {run.result.sequence: run.result for run in reversed(arranged.runs)}.items():
        tasks = (f"{task} ({one.primary_metrics[task]}, {one.test_rows[task]} rows)" for task in one.tasks)
        yield Note(f"{sequence}: {', '.join(tasks)}.")
    missing = tuple(
        (s.name, ", ".join(unit for unit, run in zip(names, s.runs, strict=True) if run is None))
        for s in arranged.settings
        if None in s.runs
    )
    if missing:
        yield Table(("setting", "not finished"), missing, text=(0, 1))


def _metrics(arranged: Arranged) -> Iterator[Block]:
    """Yield every metric of every setting, a table for each test prompt; and the matrices of directories."""
    runs, main, only = arranged.runs, arranged.prompts[0], arranged.only
    heads = ("metric",) if len(arranged.settings) == 1 else ("metric", "setting")
    columns = (*heads, *(scale.short for scale in SCALES.values()))
    for prompt in arranged.prompts:
        rows = tuple(
            (*("" if n else one.title, s.name)[: len(heads)], *(_figure(s, m, prompt, one.name) for m in MEASURES))
            for one in NUMBERS
            if one in METRICS or prompt == main
            if arranged.defines(one.name)
            for n, s in enumerate(arranged.settings)
        )
        yield Table(
            columns, rows, "" if arranged.only_originals else f"Test prompt: {prompt_name(prompt)}",
            text=(0, 1)[: len(heads)],
        )  # fmt: skip
    if only is not None:
        found = (only.result.estimate(PRIMARY, main, metric.name)["reason"] for metric in METRICS)
        yield from (Note(f"{NOTHING}: {reason}.", "dim") for reason in dict.fromkeys(filter(None, found)))
    end = _end(arranged)
    for measure, scale in SCALES.items() if len(runs) > 1 else ():
        drawn = [(s.name, s.metric(measure, main, end)) for s in arranged.settings]
        rings = [Range(name, figure, points=figure.points) for name, figure in drawn]
        yield ranges(f"{TITLES[end]}: {scale.title}", rings, scale.title, caption=_rings(rings))
    if arranged.sweep:
        return
    tasks = runs[0].result.tasks
    for prompt in arranged.prompts:
        if only is not None and prompt != main and len(tasks) == 1:
            yield from outcome(only, prompt)
        for measure in MEASURES:
            yield _matrix(runs, measure, prompt)
    if only is not None:
        yield from _curves(only, main)
    sizes = ", ".join(f"{task} {runs[0].result.test_rows[task]}" for task in tasks)
    yield Note(f"Test rows: {sizes}.", "dim")


def _rings(rows: Sequence[Range]) -> str:
    return "Rings: the single units." if any(len(row.points) > 1 for row in rows) else ""


def _comparisons(arranged: Arranged) -> Iterator[Section]:
    """Yield a section with every difference for each thing that varies."""
    for axis in dict.fromkeys(one.axis for one in arranged.compared):
        ours = [one for one in arranged.compared if one.axis == axis]
        grouped = ", within each group" if any(one.group for one in ours) else ""
        blocks: list[Block] = [Note(f"Each {axis} minus {ours[0].base}{grouped}.")]
        for measure in MEASURES:
            blocks += _drawn([one for one in ours if (one.measure, one.prompt) == (measure, arranged.prompts[0])])
        for prompt, measure in dict.fromkeys((one.prompt, one.measure) for one in ours):
            known = [one for one in ours if (one.prompt, one.measure) == (prompt, measure)]
            blocks.append(_differences(known, units=arranged.sweep and len(arranged.units) > 1))
        plural = {"policy": "Policies", "method": "Methods", "run": "Runs"}[axis]
        yield Section(f"{plural} compared", tuple(blocks))


def _drawn(known: Sequence[Compared]) -> Iterator[Block]:
    for name in HEADLINE:
        rows = [
            Range(one.name, d, d.points, d.verdict) for one in known if (d := one.differences.get(name)) is not None
        ]
        if rows:
            scale = SCALES[known[0].measure]
            title = f"{TITLES[name]} in {scale.short}: difference to {known[0].base}"
            sense = "above 0 is better" if scale.better == "higher" else "below 0 is better"
            yield ranges(title, rows, f"{scale.unit} ({sense})", 0.0, _rings(rows))


def _differences(known: Sequence[Compared], *, units: bool) -> Table:
    first, rows = known[0], []
    scale = SCALES[first.measure]
    for one in known:
        for name, d in (one.differences or {NOTHING: Difference(None, None)}).items():
            figures = (number(d.value, scale.decimals, sign=True), interval(d.interval, scale.decimals, sign=True))
            row = (one.name, TITLES.get(name, name), *figures, d.verdict)
            pairs = f"{d.count} of {d.either}" if d.count else NOTHING
            rows.append((*row, *((pairs, listed(d.points, scale.decimals)) if units else ())))
    columns = (first.axis, "metric", "difference", "95 % interval", "verdict", *(("pairs", "each unit") * units))
    title = f"{scale.title}, test prompt: {prompt_name(first.prompt)}"
    return Table(columns, tuple(rows), title, text=(0, 1, 4, 6) if units else (0, 1, 4))


def _every_run(arranged: Arranged) -> Table:
    rows = []
    for run in arranged.runs:
        found = (estimate(run.metric(m, arranged.prompts[0], "ap"), s.decimals) for m, s in SCALES.items())
        seconds = run.result.seconds
        rows.append((run.name, *found, duration(seconds.get("total", sum(seconds.values())))))
    legend = (
        "Intervals are conditional on the trained models: they come from resampling the test rows of one run. They "
        "do not tell settings apart: paired differences over units do. Steps that runs share are counted for each.",
    )
    return Table(("run", "score AP", "NLL AP", "wall time"), tuple(rows), legend=legend)
