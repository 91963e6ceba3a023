"""The page of finished runs: of one, of several next to each other, or of sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sapo.report import details, remake
from sapo.report.blocks import NOTHING, Block, Command, Note, Page, Plot, Section, Table
from sapo.report.compare import PAIRED_ROWS, ROW_NOISE, Arranged, Compared, Setting, arrange, letter
from sapo.report.differences import Difference, direction, quantile, verdict
from sapo.report.numbers import LOSS, SHORT, TITLES, count, decimals, duration, estimate, interval, listed, number
from sapo.report.plots import Range, curves, height, ranges
from sapo.report.runs import Run
from sapo.report.selections import finding
from sapo.runs.metrics import METRICS, percentile_interval
from sapo.runs.results import MEASURES, NLL, PRIMARY, Prompt, RunResult
from sapo.selection.selection import Selection
from sapo.training.policies import LOWEST, MIXTURES

UNITS = {PRIMARY: "points", NLL: "nats per token"}
NAMES = {metric.name: metric.title for metric in METRICS}
# Metrics that are drawn and spoken of first: how good the end is, and what was forgotten.
HEADLINE = ("ap", "bwt_final")
# Tasks up to which each is spoken of and both matrices stand on the first screen; settings likewise; settings up to
# which each has a row there.
_FEW, _FEW_SETTINGS, _MANY = 5, 3, 12
_MOVED = {"better": "better", "worse": "worse", "too small to decide": "neither clearly better nor clearly worse"}
_MEANT = {PRIMARY: "score", NLL: "NLL in nats per token"}
_MARKS = (
    "rows: the model before training (zero-shot), then after each task; columns: the task tested. *: right after "
    "training on that task; (...): not trained on that task yet. NLL: negative log-likelihood of the true answers."
)
_TESTED = (
    "Test prompt selected: a task that was trained on is tested with the instruction it was trained with; original: "
    "with its original one. Tasks not trained on yet are always tested with their original instruction."
)
_MIXED = (
    "Tasks were trained with several paraphrases in turn and have no instruction of their own: they are tested with "
    "the original one."
)
_ORIGINAL = "All tasks are trained and tested with their original instructions."
_PAIRED_UNITS = (
    "difference: mean over the units in which both have a value, with its 95 % Student t interval. pairs: how many "
    "these are, of the units in which at least one of the two has one. each unit: the differences themselves, in the "
    "order of the units (–: no pair)."
)
EQUAL = (
    "An interval of no width means that all units differ by exactly the same amount. Coarse scores of few test rows "
    "often do: it is no sign of certainty."
)
_OBSTACLES = {
    "too small to decide": "too small to decide: the interval contains 0, or only touches it.",
    "not paired": "not paired: the runs were tested on different rows, so the difference has no interval.",
    "not comparable": "not comparable: the runs use different metrics, or their models split the answers into "
    "different tokens, so the numbers have different units.",
}


def results_page(runs: Sequence[Run]) -> Page:
    """Return the page of runs of directories, or of those of one or more sweeps.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    arranged = arrange(runs)
    alone = runs[0] if len(runs) == 1 and not arranged.sweep else None
    if alone is not None:
        title, notes = f"Run {alone.name}", _verdict(alone, arranged.prompts[0])
        first = [Section("Performance", tuple(_performance(alone, arranged.prompts[0])), "screen")]
    else:
        title = f"{'Sweep' if arranged.sweep else 'Comparison'} of {count(len(arranged.results), 'run')}"
        texts = list(_said(arranged)) or ["There is one setting: nothing to compare."]
        notes = [*(Note(text, "strong") for text in texts), Note(arranged.scope)]
        first = [Section("Results", (_headline(arranged),), "screen")]
        if not arranged.sweep:
            first.append(Section("What differs", (details.differing(runs),), "screen"))
    sections = [
        *first,
        Section("Cost and next step" if alone else "Cost", tuple(_cost_and_next(arranged, alone)), "screen"),
        *([Section("Units", tuple(_units(arranged)))] if arranged.sweep else []),
        Section("Every metric", tuple(_metrics(arranged, runs))),
        *_comparisons(arranged),
        *details.sections(arranged, runs),
        *([Section("Every run", (_every_run(arranged),))] if arranged.sweep else []),
        Section("How to read this", tuple(_reading(arranged))),
    ]
    # In their order, which that of the records does not change.
    ordered = [Run(r, versions=r.versions) for r in arranged.results] if arranged.sweep else runs
    return Page(title, (*sections, *remake.of_runs(ordered)), tuple(notes))


# What was found, in sentences.


def _verdict(run: Run, prompt: Prompt) -> list[Note]:
    """Return what one run found, and what it was trained with."""
    outcome = _changed(run, prompt) if len(run.result.tasks) == 1 else _end(run.result, prompt)
    return [*(Note(text, "strong") for text in outcome), *map(Note, _choices(run)), Note(ROW_NOISE)]


def _end(result: RunResult, prompt: Prompt) -> Iterator[str]:
    """Yield what a sequence ends with, and what became of its earlier tasks."""
    for measure in MEASURES:
        end, moved = (result.estimate(measure, prompt, name) for name in HEADLINE)
        what = f"{_MEANT[measure]} ({direction(measure)} is better)"
        if end["value"] is None:
            yield f"There is no mean {what} over all tasks after the last one: {end['reason']}."
            continue
        later = ""
        if moved["value"] is not None and moved["interval"] is not None:
            low, high = moved["interval"]
            figures = estimate(moved["value"], (low, high), decimals(measure), sign=True)
            how = _MOVED[verdict((low, high), direction(measure))]
            later = f"; later training left earlier tasks {how} (BWT {figures})"
        figures = estimate(end["value"], end["interval"], decimals(measure))
        yield f"After {len(result.tasks)} tasks the mean {what} is {figures}{later}."


def _changed(run: Run, prompt: Prompt) -> Iterator[str]:
    """Yield what training on the only task changed, with intervals of the changes on equal rows."""
    how = "" if run.result.only_originals else f" with test prompt {prompt}"
    for measure in MEASURES:
        (before,), (after,) = run.matrix(measure, prompt)
        if before is not None and after is not None:
            draws, digits = run.resampled(measure, prompt, run.result.seed)[:, :, 0], decimals(measure)
            bounds = percentile_interval(draws[:, 1] - draws[:, 0])
            yield (
                f"On {run.result.tasks[0]}{how} the {_MEANT[measure]} ({direction(measure)} is better) is "
                f"{number(before, digits)} before training and {number(after, digits)} after it; change "
                f"{estimate(after - before, bounds, digits, sign=True)}: {verdict(bounds, direction(measure))}."
            )


def _choices(run: Run) -> Iterator[str]:
    """Yield what the tasks were trained with."""
    used, tasks = run.result.instructions, run.result.tasks
    if any(one.mixture for one in used.values()):
        yield f"Policy {run.result.policy}: tasks were trained with several paraphrases in turn."
        return
    others = sum(used[task].text != used[task].original for task in tasks)
    yield (
        f"Policy {run.result.policy} trained {others} of {count(len(tasks), 'task')} with another instruction than the "
        "original."
    )
    known = [(label, one) for label, one in zip(run.labels, run.selections, strict=True) if one is not None]
    if len(known) <= _FEW:
        subject = "chosen" if run.result.policy in LOWEST else "lowest, which this policy does not take,"
        for label, selection in known:
            taken, figures = selection.candidates[selection.chosen], ""
            if selection.trial is None and selection.chosen and taken.interval is not None:
                loss = estimate(taken.delta, taken.interval, LOSS, sign=True)
                figures = f" Loss minus the original's: {loss} nats per token."
            yield f"{label}: {finding(selection, subject)}{figures}"
    else:
        clear = sum(_is_clear(selection) for _, selection in known)
        tried = any(selection.trial is not None for _, selection in known)
        which = "chosen by a trial" if tried else "with the lowest loss before training"
        yield (
            f"In {clear} of {len(known)} tasks the candidate {which} is clearly better than the original: its interval "
            "lies below 0."
        )


def _is_clear(selection: Selection) -> bool:
    if selection.trial is not None:
        # Else the original would have stayed.
        return selection.chosen > 0
    bounds = selection.candidates[selection.chosen].interval
    return bool(selection.chosen) and bounds is not None and bounds[1] < 0


def _said(arranged: Arranged) -> Iterator[str]:
    """Yield what can be said of each thing that is compared with its baseline, over all groups."""
    ours = [one for one in arranged.compared if one.prompt == arranged.prompts[0]]
    # Verdicts may differ with the other one, which the tables show.
    where = f" (test prompt {arranged.prompts[0]})" if len(arranged.prompts) > 1 else ""
    metrics = " or ".join(NAMES[name] for name in HEADLINE)
    undecided: dict[str, list[str]] = {}
    undefined = []
    pairs = dict.fromkeys((one.axis, one.base, one.label) for one in ours)
    for axis, base, label in pairs:
        known = [one for one in ours if (one.axis, one.base, one.label) == (axis, base, label)]
        subject = f"{arranged.names.get(label, label)} against {arranged.names.get(base, base)}{where}"
        parts, decided = [], False
        for measure in MEASURES:
            for name in HEADLINE:
                found = [o.differences[name] for o in known if o.measure == measure and name in o.differences]
                decided |= any(one.verdict in ("better", "worse") for one in found)
                parts += [_over_groups(name, measure, found)] if found else []
        if parts and (decided or len(pairs) <= _FEW_SETTINGS):
            yield f"{subject}: {'; '.join(parts)}."
        elif parts:
            undecided.setdefault(base, []).append(label)
        else:
            undefined.append(f"{subject}: not both define {metrics}.")
    for base, labels in undecided.items():
        yield f"Against {base}{where}, nothing is decided in {metrics}, in score or NLL: {', '.join(labels)}."
    yield from undefined


def _over_groups(metric: str, measure: str, found: Sequence[Difference]) -> str:
    """Return what one metric says: its figures in one group, how many groups say what in several."""
    name = f"{NAMES[metric]} in {SHORT[measure]}"
    if len(found) == 1:
        figures = estimate(found[0].value, found[0].interval, decimals(measure), sign=True)
        return f"{name} {figures} {UNITS[measure]}, {found[0].verdict}"
    verdicts = [one.verdict for one in found]
    counts = {kind: verdicts.count(kind) for kind in ("better", "worse")}
    counts["undecided"] = len(verdicts) - sum(counts.values())
    if counts["undecided"] == len(verdicts):
        return f"{name} undecided in all {len(verdicts)} groups"
    parts = ", ".join(f"{kind} in {n}" for kind, n in counts.items() if n)
    return f"{name} {parts} of {len(verdicts)} groups"


# Tables.


def _performance(run: Run, prompt: Prompt) -> Iterator[Block]:
    """Yield the performance matrices of the main test prompt, and what became of each task as a figure."""
    for measure in MEASURES if len(run.result.tasks) <= _FEW else MEASURES[:1]:
        yield _matrix([run], measure, prompt)
    yield Note(_MARKS, "dim")
    for measure in MEASURES if len(run.result.tasks) > 1 else ():
        rows = run.matrix(measure, prompt)
        stages = [i for i, row in enumerate(rows) if any(value is not None for value in row)]
        lines = {label: [rows[i][j] for i in stages] for j, label in enumerate(run.labels)}
        title = "stage: tasks trained (0: zero-shot)"
        yield Plot(f"{TITLES[measure]} by stage", curves([str(i) for i in stages], title, SHORT[measure], lines))


def _matrix(runs: Sequence[Run], measure: str, prompt: Prompt) -> Table:
    """Return R with a row for each stage and run; all runs have the same tasks."""
    several = len(runs) > 1
    rows = []
    for i in range(len(runs[0].result.tasks) + 1):
        told = ""
        for n, run in enumerate(runs):
            values = run.matrix(measure, prompt)[i]
            if all(value is None for value in values):
                # The method has no such stage.
                continue
            head, told = "" if run.stages[i] == told else run.stages[i], run.stages[i]
            shown = (_cell(number(value, decimals(measure)), i, j) for j, value in enumerate(values, start=1))
            rows.append((head, *([letter(n)] if several else []), *shown))
    how = "" if all(run.result.only_originals for run in runs) else f", test prompt: {prompt}"
    kinds = ", ".join(dict.fromkeys(runs[0].result.primary_metrics[task] for task in runs[0].result.tasks))
    title = TITLES[measure].replace("Score (", f"Score ({kinds}, ") + how
    columns = ("tested on:", *(["run"] if several else []), *runs[0].labels)
    return Table(columns, tuple(rows), title, text=(0, 1) if several else (0,))


def _cell(text: str, stage: int, task: int) -> str:
    return f"{text}*" if stage == task else f"({text})" if stage < task else f"{text} "


def _headline(arranged: Arranged) -> Table:
    """Return how good the end is, and what was forgotten: few enough columns for any terminal."""
    prompt = arranged.prompts[0]
    end = "ap" if _defines(arranged, "ap") else "la"
    over = f"over the {len(arranged.units)} units" if len(arranged.units) > 1 else "over test rows"
    how = "" if arranged.only_originals else f" Test prompt: {prompt}."
    scales = "Score: 0 to 100, higher is better; NLL: nats per token, lower is better."
    if len(arranged.settings) > _MANY:
        # A method a row; intervals stand below.
        policies = list(dict.fromkeys(s.policy for s in arranged.settings))
        by_method: dict[str, list[str]] = {}
        for s in arranged.settings:
            means = (number(s.metric(m, prompt, end).mean, decimals(m)) for m in MEASURES)
            by_method.setdefault(s.method, [NOTHING] * len(policies))[policies.index(s.policy)] = " / ".join(means)
        legend = f"Means of score / NLL; intervals and single units: --full. {scales}{how}"
        pivot = tuple((method, *cells) for method, cells in by_method.items())
        return Table(("method", *policies), pivot, f"{NAMES[end]} by method and policy", (legend,))
    shown = [(PRIMARY, end), (NLL, end), *([(NLL, "bwt_final")] if _defines(arranged, "bwt_final") else [])]
    rows = tuple((s.name, *(_figure(s, measure, prompt, name) for measure, name in shown)) for s in arranged.settings)
    columns = [f"{SHORT[measure]} {NAMES[name]}" for measure, name in shown]
    legend = (
        "AP: mean over tasks at the end; BWT (final): what later training did to earlier tasks. "
        f"{scales} [..]: 95 % interval {over}.{how}"
    )
    return Table(("setting", *columns), rows, legend=(legend,))


def _defines(arranged: Arranged, name: str) -> bool:
    found = (r.estimate(PRIMARY, prompt, name) for r in arranged.results for prompt in arranged.prompts)
    return any(one["value"] is not None for one in found)


def _figure(setting: Setting, measure: str, prompt: Prompt, name: str) -> str:
    found = setting.metric(measure, prompt, name)
    few = f" ({found.count})" if 0 < found.count < sum(run is not None for run in setting.runs) else ""
    return estimate(found.mean, found.interval, decimals(measure), sign=_signed(name)) + few


def _signed(metric: str) -> bool:
    """Whether a metric is a difference of cells."""
    return metric not in ("ap", "la")


def _cost_and_next(arranged: Arranged, alone: Run | None) -> Iterator[Block]:
    results = arranged.results
    kinds = dict.fromkeys(kind for result in results for kind in result.seconds)
    sums = {kind: sum(result.seconds.get(kind, 0.0) for result in results) for kind in kinds}
    of = f" of {len(results)} runs" if len(results) > 1 else ""
    spent = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in sums.items())
    yield Note(f"Wall time{of}, without loading the model: {spent}.")
    if arranged.sweep:
        methods, policies = ({s.method: None for s in arranged.settings}, {s.policy: None for s in arranged.settings})
        full = len(methods) * len(policies) * len(arranged.units)
        yield Note(
            f"Model {results[0].model}. {len(results)} of {full} combinations have finished: method "
            f"{', '.join(methods)}; policy {', '.join(policies)}; {count(len(arranged.units), 'unit')}."
        )
    if alone is None or alone.directory is None:
        return
    purpose = "Compare with another run of the same tasks, such as policy=original:"
    yield Command(("sapo", "report", alone.name, "OTHER_RUN"), purpose)
    tasks = alone.result.tasks
    stage = alone.directory / "stages" / f"{len(tasks)}-{'all' if alone.result.method == 'multitask' else tasks[-1]}"
    if stage.is_dir():
        words = ("sapo", "generate", str(stage), "--task", tasks[-1], "--input", "YOUR TEXT")
        yield Command(words, f"Ask the trained model; it is prompted as {tasks[-1]} was trained:")


def _units(arranged: Arranged) -> Iterator[Block]:
    """Yield what ran, and what of the sweep has not finished."""
    results = arranged.results
    names = [f"{sequence} s{seed}" for sequence, seed in arranged.units]
    yield Note(f"A unit is one sequence with one seed, in this order everywhere: {', '.join(names)}.")
    for sequence, one in {result.sequence: result for result in reversed(results)}.items():
        tasks = (f"{task} ({one.primary_metrics[task]}, {one.test_rows[task]} rows)" for task in one.tasks)
        yield Note(f"{sequence}: {', '.join(tasks)}.")
    missing = tuple(
        (s.name, ", ".join(unit for unit, run in zip(names, s.runs, strict=True) if run is None))
        for s in arranged.settings
        if None in s.runs
    )
    if missing:
        yield Table(("setting", "not finished"), missing, text=(0, 1))


def _metrics(arranged: Arranged, runs: Sequence[Run]) -> Iterator[Block]:
    """Yield every metric of every setting, a table for each test prompt; and the matrices of directories."""
    alone = len(arranged.settings) == 1
    for prompt in arranged.prompts:
        rows = [
            (metric.title if not n else "", s.name, *(_figure(s, measure, prompt, metric.name) for measure in MEASURES))
            for metric in METRICS
            if _defines(arranged, metric.name)
            for n, s in enumerate(arranged.settings)
        ]
        columns = ("metric", "setting", *(SHORT[measure] for measure in MEASURES))
        how = "" if arranged.only_originals else f"Test prompt: {prompt}"
        if alone:
            rows, columns = [(row[0], *row[2:]) for row in rows], ("metric", *columns[2:])
        yield Table(columns, tuple(rows), how, text=(0,) if alone else (0, 1))
    results = arranged.results
    if alone and len(results) == 1:
        found = (results[0].estimate(PRIMARY, arranged.prompts[0], metric.name)["reason"] for metric in METRICS)
        yield from (Note(f"{NOTHING}: {reason}.", "dim") for reason in dict.fromkeys(filter(None, found)))
    several = len(arranged.units) > 1
    end = "ap" if _defines(arranged, "ap") else "la"
    for measure in MEASURES if len(arranged.settings) > 1 or several else ():
        found_ = [(s.name, s.metric(measure, arranged.prompts[0], end)) for s in arranged.settings]
        rings = [Range(name, f.mean, f.interval, f.points if several else ()) for name, f in found_]
        caption = "Rings: the single units." if several else ""
        yield Plot(f"{NAMES[end]}: {TITLES[measure]}", ranges(rings, TITLES[measure]), caption, height(len(rings)))
    if arranged.sweep:
        return
    for prompt in arranged.prompts:
        main = prompt == arranged.prompts[0] and len(runs) == 1
        if not main and len(runs) == 1 and len(results[0].tasks) == 1:
            yield from map(Note, _changed(runs[0], prompt))
        for measure in MEASURES:
            if not main or (len(results[0].tasks) > _FEW and measure == NLL):
                yield _matrix(runs, measure, prompt)
    sizes = ", ".join(f"{task} {results[0].test_rows[task]}" for task in results[0].tasks)
    cuts = ", ".join(f"{task} {n}" for task, n in runs[0].test_cuts().items())
    cut = f" Inputs cut in the middle to fit the model: {cuts}." if cuts else ""
    yield Note(f"Test rows: {sizes}.{cut}", "dim")


def _comparisons(arranged: Arranged) -> Iterator[Section]:
    """Yield a section with every difference for each thing that varies."""
    for axis in dict.fromkeys(one.axis for one in arranged.compared):
        ours = [one for one in arranged.compared if one.axis == axis]
        grouped = ", within each group" if any(one.group for one in ours) else ""
        blocks: list[Block] = [Note(f"Each {axis} minus {ours[0].base}{grouped}.")]
        for measure in MEASURES:
            blocks += _drawn([one for one in ours if (one.measure, one.prompt) == (measure, arranged.prompts[0])])
        for group, prompt, measure in dict.fromkeys((one.group, one.prompt, one.measure) for one in ours):
            known = [one for one in ours if (one.group, one.prompt, one.measure) == (group, prompt, measure)]
            blocks.append(_differences(known, units=arranged.sweep and len(arranged.units) > 1))
        plural = {"policy": "Policies", "method": "Methods", "run": "Runs"}[axis]
        yield Section(f"{plural} compared", tuple(blocks))


def _drawn(known: Sequence[Compared]) -> Iterator[Plot]:
    for name in HEADLINE:
        rows = [
            Range(", ".join(filter(None, (one.group, one.label))), d.value, d.interval, d.points, d.verdict)
            for one in known
            if (d := one.differences.get(name)) is not None
        ]
        if rows:
            measure = known[0].measure
            title = f"{NAMES[name]} in {SHORT[measure]}: difference to {known[0].base}"
            sense = "below 0 is better" if measure == NLL else "above 0 is better"
            caption = "Rings: the single units." if any(len(row.points) > 1 for row in rows) else ""
            yield Plot(title, ranges(rows, f"{UNITS[measure]} ({sense})", 0.0), caption, height(len(rows)))


def _differences(known: Sequence[Compared], *, units: bool) -> Table:
    first = known[0]
    digits = decimals(first.measure)
    rows = []
    for one in known:
        for name, d in (one.differences or {NOTHING: Difference(None, None, "no pair")}).items():
            bounds = interval(d.interval, digits, sign=True)
            row = (one.label, NAMES.get(name, name), number(d.value, digits, sign=True), bounds, d.verdict)
            rows.append((*row, *((f"{d.count} of {d.either}", listed(d.points, digits)) if units else ())))
    columns = (first.axis, "metric", "difference", "95 % interval", "verdict", *(("pairs", "each unit") * units))
    title = f"{TITLES[first.measure]}, test prompt: {first.prompt}" + (f", {first.group}" if first.group else "")
    return Table(columns, tuple(rows), title, text=(0, 1, 4, 6) if units else (0, 1, 4))


def _every_run(arranged: Arranged) -> Table:
    prompt = arranged.prompts[0]
    rows = []
    for result in arranged.results:
        found = ((result.estimate(measure, prompt, "ap"), measure) for measure in MEASURES)
        texts = (estimate(f["value"], f["interval"], decimals(measure)) for f, measure in found)
        rows.append((result.name, *texts, duration(result.seconds.get("total", sum(result.seconds.values())))))
    legend = (
        "Intervals are conditional on the trained models: they come from resampling the test rows of one run. They "
        "do not tell settings apart: paired differences over units do. Steps that runs share are counted for each.",
    )
    return Table(("run", "score AP", "NLL AP", "wall time"), tuple(rows), legend=legend)


def _reading(arranged: Arranged) -> Iterator[Block]:
    """Yield what metrics, test prompts, differences and intervals mean."""
    units, results = len(arranged.units), arranged.results
    found = [d for one in arranged.compared for d in one.differences.values()]
    yield Note(_ORIGINAL if arranged.only_originals else _TESTED)
    if any(result.policy in MIXTURES for result in results):
        yield Note(_MIXED)
    if any(None in s.runs or s.metric(PRIMARY, arranged.prompts[0], "ap").mean is None for s in arranged.settings):
        yield Note(f"{NOTHING}: not defined for the method. (n): defined for n of the runs only.")
    if found:
        yield Note(_PAIRED_UNITS if arranged.sweep else PAIRED_ROWS)
    yield from (Note(text) for kind, text in _OBSTACLES.items() if any(d.verdict == kind for d in found))
    if any(d.interval is not None and d.interval[0] == d.interval[1] for d in found):
        yield Note(EQUAL)
    if units > 1:
        yield Note(
            f"Intervals over units are Student t intervals: mean ± {quantile(units):.2f} standard errors with {units} "
            "units, 1.96 with very many. Few units make wide intervals: too small to decide does not mean that there "
            "is no difference."
        )
    total = sum(d.interval is not None for d in found)
    if total:
        yield Note(
            f"This page holds {total} intervals of differences. If nothing differed at all, about 5 % of them, "
            f"{total * 0.05:.1f} here, would still exclude 0 by chance. Decide which comparison counts before you "
            "look, and take the others as hints."
        )
    rows = tuple(
        (m.title, f"{direction(PRIMARY, m.name)}, {direction(NLL, m.name)}", m.definition, m.source)
        for m in METRICS
        if not _signed(m.name) or any(len(result.tasks) > 1 for result in results)
    )
    legend = (
        "R[i,j]: the result on task j after training on task i, 0 is zero-shot; N: number of tasks. AP: average "
        "performance at the end. LA: learning accuracy, each task right after it was trained on. BWT: backward "
        "transfer, what later training did to earlier tasks. FWT: forward transfer, what it did to tasks not trained "
        "on yet. Forgetting (max) takes the best of noisy cells, so its interval lies a little high.",
    )
    yield Table(
        ("metric", "better: score, NLL", "definition", "source"), rows, "The metrics", legend, text=(0, 1, 2, 3)
    )
