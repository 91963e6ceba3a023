"""The page of finished runs: of one, of several side by side, or of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sapo.core.types import Selection
from sapo.report import details, remake
from sapo.report.blocks import NOTHING, Block, Command, Note, Page, Plot, Section, Table
from sapo.report.compare import (
    ROW_NOISE,
    SHORT,
    TITLES,
    Arranged,
    all_metrics,
    arrange,
    comparisons,
    headline,
    letter,
    reading,
    said,
    signed,
)
from sapo.report.differences import direction, verdict
from sapo.report.numbers import LOSS, count, decimals, duration, estimate, number
from sapo.report.plots import curves
from sapo.report.runs import Run
from sapo.report.selections import finding
from sapo.runs.metrics import METRICS, percentile_interval
from sapo.runs.results import MEASURES, NLL, PRIMARY, Estimate, Prompt, RunResult
from sapo.training.policies import LOWEST, MIXTURES

# Tasks up to which each is spoken of, and both matrices stand on the first screen.
_FEW = 5
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


def results_page(runs: Sequence[Run]) -> Page:
    """Return the page of runs of directories, or of those of one or more sweeps.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    arranged = arrange(runs)
    alone = runs[0] if len(runs) == 1 else None
    if alone is not None and alone.directory is not None:
        title, verdict_notes = f"Run {alone.name}", _verdict(alone, arranged.prompts[0])
        first = [Section("Performance", tuple(_performance(alone, arranged.prompts)), "screen")]
    else:
        kind = "Sweep" if arranged.grid is not None else "Comparison"
        title = f"{kind} of {count(len(arranged.results), 'run')}"
        notes = list(said(arranged)) or ["There is one setting: nothing to compare."]
        verdict_notes = [*(Note(text, "strong") for text in notes), Note(arranged.scope)]
        first = [Section("Results", (headline(arranged),), "screen"), *_what_ran(arranged, runs)]
    sections = [
        *first,
        Section("Cost and next step", tuple(_cost_and_next(arranged, runs)), "screen"),
        Section("Every metric", tuple(_metrics(arranged, runs))),
        *comparisons(arranged),
        *details.sections(arranged, runs),
    ]
    if arranged.grid is not None:
        sections += [
            Section("Every run", (_every_run(arranged),)),
            Section("How to read this", tuple(reading(arranged))),
        ]
    # In their order, which that of the records does not change.
    ordered = runs if arranged.grid is None else [Run(r, versions=r.versions) for r in arranged.results]
    return Page(title, (*sections, *remake.of_runs(ordered)), tuple(verdict_notes))


# One run.


def _verdict(run: Run, prompt: Prompt) -> list[Note]:
    """Return what one run found, and what it was trained with."""
    outcome = _changed(run, prompt) if len(run.result.tasks) == 1 else _end(run.result, prompt)
    return [*(Note(text, "strong") for text in outcome), *map(Note, _choices(run)), Note(ROW_NOISE)]


def _end(result: RunResult, prompt: Prompt) -> Iterator[str]:
    """Yield what a sequence ends with, and what became of its earlier tasks."""
    for measure in MEASURES:
        end, moved = (result.estimate(measure, prompt, name) for name in ("ap", "bwt_final"))
        what = f"{_MEANT[measure]} ({direction(measure)} is better)"
        if end["value"] is None:
            yield f"There is no mean {what} over all tasks after the last one: {end['reason']}."
            continue
        figures = estimate(end["value"], end["interval"], decimals(measure))
        yield f"After {len(result.tasks)} tasks the mean {what} is {figures}{_moved(moved, measure)}."


def _moved(found: Estimate, measure: str) -> str:
    if found["value"] is None or found["interval"] is None:
        return ""
    low, high = found["interval"]
    figures = estimate(found["value"], (low, high), decimals(measure), sign=True)
    return f"; later training left earlier tasks {_MOVED[verdict((low, high), direction(measure))]} (BWT {figures})"


def _changed(run: Run, prompt: Prompt) -> Iterator[str]:
    """Yield what training on the only task changed."""
    for measure in MEASURES:
        (before,), (after,) = run.matrix(measure, prompt)
        if before is not None and after is not None:
            bounds, digits = _change_interval(run, measure, prompt), decimals(measure)
            yield (
                f"On {run.result.tasks[0]} the {_MEANT[measure]} ({direction(measure)} is better) is "
                f"{number(before, digits)} before training and {number(after, digits)} after it; change "
                f"{estimate(after - before, bounds, digits, sign=True)}: {verdict(bounds, direction(measure))}."
            )


def _change_interval(run: Run, measure: str, prompt: Prompt) -> tuple[float, float]:
    """Return the 95 % interval of what training changed, of a run with one task that was tested before and after."""
    draws = run.resampled(measure, prompt, run.result.seed)[:, :, 0]
    return percentile_interval(draws[:, 1] - draws[:, 0])


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
            yield f"{label}: {finding(selection, subject)}{_loss(selection)}"
    else:
        clear = sum(_is_clear(selection) for _, selection in known)
        yield (
            f"In {clear} of {len(known)} tasks the candidate with the lowest loss before training is clearly better "
            "than the original: its interval lies below 0."
        )


def _loss(selection: Selection) -> str:
    taken = selection.candidates[selection.chosen]
    if not selection.chosen or taken.interval is None:
        return ""
    return f" Loss {estimate(taken.delta, taken.interval, LOSS, sign=True)} nats per token."


def _is_clear(selection: Selection) -> bool:
    taken = selection.candidates[selection.chosen]
    return bool(selection.chosen) and taken.interval is not None and taken.interval[1] < 0


def _performance(run: Run, prompts: Sequence[Prompt]) -> Iterator[Block]:
    """Yield the performance matrices of the main test prompt, and what became of each task as a figure."""
    few = len(run.result.tasks) <= _FEW
    for measure in MEASURES if few else MEASURES[:1]:
        yield matrix([run], [""], measure, prompts[0])
    yield Note(_MARKS, "dim")
    for measure in MEASURES if len(run.result.tasks) > 1 else ():
        rows = run.matrix(measure, prompts[0])
        stages = [i for i, row in enumerate(rows) if any(value is not None for value in row)]
        lines = {label: [rows[i][j] for i in stages] for j, label in enumerate(run.labels)}
        title = "stage: tasks trained (0: zero-shot)"
        yield Plot(f"{TITLES[measure]} by stage", curves([str(i) for i in stages], title, SHORT[measure], lines))


def matrix(runs: Sequence[Run], names: Sequence[str], measure: str, prompt: Prompt) -> Table:
    """Return R with a row for each stage and run; all runs have the same tasks."""
    several = len(runs) > 1
    rows = []
    for i in range(len(runs[0].result.tasks) + 1):
        told = ""
        for run, name in zip(runs, names, strict=True):
            values = run.matrix(measure, prompt)[i]
            if all(value is None for value in values):
                # The method has no such stage.
                continue
            head, told = "" if run.stages[i] == told else run.stages[i], run.stages[i]
            shown = (_cell(number(value, decimals(measure)), i, j) for j, value in enumerate(values, start=1))
            rows.append((head, *([name] if several else []), *shown))
    how = "" if all(run.result.only_originals for run in runs) else f", test prompt: {prompt}"
    kinds = ", ".join(dict.fromkeys(runs[0].result.primary_metrics[task] for task in runs[0].result.tasks))
    title = TITLES[measure].replace("Score (", f"Score ({kinds}, ") + how
    columns = ("tested on:", *(["run"] if several else []), *runs[0].labels)
    return Table(columns, tuple(rows), title, text=(0, 1) if several else (0,))


def _cell(text: str, stage: int, task: int) -> str:
    return f"{text}*" if stage == task else f"({text})" if stage < task else f"{text} "


# All of them.


def _what_ran(arranged: Arranged, runs: Sequence[Run]) -> list[Section]:
    grid = arranged.grid
    if grid is None:
        return [Section("What differs", (details.differing(runs),), "screen")]
    first = {sequence: next(r for r in grid.records if r.sequence == sequence) for sequence in grid.sequences}
    full = len(grid.methods) * len(grid.policies) * len(grid.units)
    about = (
        f"Model {arranged.results[0].model}. {len(grid.runs)} of {full} combinations have finished: method "
        f"{', '.join(grid.methods)}; policy {', '.join(grid.policies)}; {count(len(grid.units), 'unit')}."
    )
    notes = [
        Note(f"A unit is one sequence with one seed, in this order everywhere: {', '.join(arranged.units)}."),
        *(
            Note(f"{name}: {', '.join(f'{t} ({one.primary_metrics[t]}, {one.test_rows[t]} rows)' for t in one.tasks)}.")
            for name, one in first.items()
        ),
    ]  # fmt: skip
    missing = [
        (setting.name, ", ".join(unit for unit, run in zip(arranged.units, setting.runs, strict=True) if run is None))
        for setting in arranged.settings
        if None in setting.runs
    ]
    table = [Table(("setting", "not finished"), tuple(missing), text=(0, 1))] if missing else []
    return [Section("Runs", (Note(about), *table), "screen"), Section("Units", tuple(notes))]


def _cost_and_next(arranged: Arranged, runs: Sequence[Run]) -> Iterator[Block]:
    kinds = dict.fromkeys(kind for result in arranged.results for kind in result.seconds)
    sums = {kind: sum(result.seconds.get(kind, 0.0) for result in arranged.results) for kind in kinds}
    of = f" of {len(arranged.results)} runs" if len(arranged.results) > 1 else ""
    spent = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in sums.items())
    yield Note(f"Wall time{of}, without loading the model: {spent}.")
    run = runs[0]
    if run.directory is None or len(runs) > 1:
        return
    purpose = "Compare with another run of the same tasks, such as policy=original:"
    yield Command(("sapo", "report", run.name, "OTHER_RUN"), purpose)
    last = run.result.tasks[-1]
    stage = run.directory / "stages" / f"{len(run.result.tasks)}-{'all' if run.result.method == 'multitask' else last}"
    if stage.is_dir():
        words = ("sapo", "generate", str(stage), "--task", last, "--input", "YOUR TEXT")
        yield Command(words, f"Ask the trained model; it is prompted as {last} was trained:")


def _metrics(arranged: Arranged, runs: Sequence[Run]) -> Iterator[Block]:
    results = arranged.results
    if len(results) == 1 and len(results[0].tasks) == 1 and runs[0].directory is not None:
        yield _change(runs[0], arranged.prompts)
    elif len(results) == 1:
        yield _one_runs_metrics(results[0], arranged.prompts)
    else:
        yield from all_metrics(arranged)
    if runs[0].directory is not None:
        names = [letter(n) for n in range(len(runs))]
        for prompt in arranged.prompts:
            for measure in MEASURES:
                shown = len(runs) == 1 and prompt == arranged.prompts[0] and len(results[0].tasks) <= _FEW
                if not shown and not (len(runs) == 1 and prompt == arranged.prompts[0] and measure == PRIMARY):
                    yield matrix(runs, names, measure, prompt)
        if len(runs) > 1:
            yield from _averages(runs, names, arranged.prompts[0])
            yield Note(_MARKS, "dim")
        yield Note(_rows(runs[0]), "dim")
    if any(result.policy in MIXTURES for result in results):
        yield Note(_MIXED, "dim")
    yield Note(_ORIGINAL if all(result.only_originals for result in results) else _TESTED, "dim")
    yield definitions(max(len(result.tasks) for result in results))


def _one_runs_metrics(result: RunResult, prompts: Sequence[Prompt]) -> Table:
    """Return every metric of one run, with the reason where it has none."""
    keys = [(measure, prompt) for prompt in prompts for measure in MEASURES]
    several = len(prompts) > 1
    rows = []
    for metric in METRICS:
        found = [result.estimate(measure, prompt, metric.name) for measure, prompt in keys]
        texts = (
            estimate(f["value"], f["interval"], decimals(measure), sign=signed(metric.name))
            for f, (measure, _) in zip(found, keys, strict=True)
        )
        rows.append((metric.title, *texts))
    reasons = dict.fromkeys(r for m in METRICS if (r := result.estimate(PRIMARY, prompts[0], m.name)["reason"]))
    columns = (SHORT[measure] + (f", {prompt} prompt" if several else "") for measure, prompt in keys)
    legend = ("[..]: 95 % interval over test rows.", *(f"{NOTHING}: {reason}." for reason in reasons))
    return Table(("metric", *columns), tuple(rows), legend=legend)


def _change(run: Run, prompts: Sequence[Prompt]) -> Table:
    """Return before and after of a run with one task, which has no backward or forward transfer."""
    rows = []
    for measure in MEASURES:
        for prompt in prompts:
            digits = decimals(measure)
            (before,), (after,) = run.matrix(measure, prompt)
            if before is not None and after is not None:
                bounds = _change_interval(run, measure, prompt)
                change = estimate(after - before, bounds, digits, sign=True)
                rows.append((SHORT[measure], prompt, number(before, digits), number(after, digits), change))
    legend = "before: zero-shot, with the original instruction; change: with the interval of the change, on equal rows."
    columns = ("measure", "test prompt", "before", "after", "change")
    return Table(columns, tuple(rows), f"Before and after training on {run.result.tasks[0]}", (legend,), text=(0, 1))


def _averages(runs: Sequence[Run], names: Sequence[str], prompt: Prompt) -> Iterator[Block]:
    """Yield for several runs the mean over the tasks trained so far, by stage."""
    tasks = len(runs[0].result.tasks)
    for measure in MEASURES if tasks > 1 else ():
        matrices = [run.matrix(measure, prompt) for run in runs]
        means = [[_seen(rows[i], i) for rows in matrices] for i in range(1, tasks + 1)]
        title = f"Mean over the tasks trained so far: {TITLES[measure]}"
        rows = tuple((str(i), *(number(v, decimals(measure)) for v in row)) for i, row in enumerate(means, start=1))
        yield Table(("tasks trained", *names), rows, title, text=())
        lines = dict(zip(names, map(list, zip(*means, strict=True)), strict=True))
        yield Plot(title, curves([str(i) for i in range(1, tasks + 1)], "tasks trained", SHORT[measure], lines))


def _seen(row: Sequence[float | None], stage: int) -> float | None:
    """Return the mean over the tasks trained at a stage; None where one of them was not tested."""
    known = [value for value in row[:stage] if value is not None]
    return sum(known) / len(known) if len(known) == stage else None


def _rows(run: Run) -> str:
    """Return one sentence on the size of the test sets."""
    sizes = ", ".join(f"{task} {run.result.test_rows[task]}" for task in run.result.tasks)
    cuts = ", ".join(f"{task} {n}" for task, n in run.test_cuts().items())
    return f"Test rows: {sizes}." + (f" Inputs cut in the middle to fit the model: {cuts}." if cuts else "")


def definitions(tasks: int) -> Table:
    """Return what the metrics mean that a sequence of this many tasks defines."""
    rows = tuple(
        (m.title, f"{direction(PRIMARY, m.name)}, {direction(NLL, m.name)}", m.definition, m.source)
        for m in METRICS
        if tasks > 1 or not signed(m.name)
    )
    legend = (
        "R[i,j]: the result on task j after training on task i, 0 is zero-shot; N: number of tasks. AP: average "
        "performance at the end. LA: learning accuracy, each task right after it was trained on. BWT: backward "
        "transfer, what later training did to earlier tasks. FWT: forward transfer, what it did to tasks not trained "
        "on yet. Forgetting (max) takes the best of noisy cells, so its interval lies a little high.",
    )
    columns = ("metric", "better: score, NLL", "definition", "source")
    return Table(columns, rows, "What the metrics are", legend, text=(0, 1, 2, 3))


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
