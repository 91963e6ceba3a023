"""What stands further down on the page of runs: data, candidates, instructions, and what only some runs measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sapo.models.ability import general_texts
from sapo.report.blocks import NOTHING, Block, Listing, Note, Plot, Section, Table
from sapo.report.compare import Arranged, letter
from sapo.report.data import data_blocks
from sapo.report.differences import spread
from sapo.report.numbers import NLL_DECIMALS, SHORT, TITLES, decimals, listed, number
from sapo.report.plots import curves
from sapo.report.runs import Run
from sapo.report.selections import OPTIMISTIC, RULES, cuts, effort, finding, legend, ranking, trial_table
from sapo.runs.results import MEASURES, NLL, RunResult
from sapo.training.guard import Alarm, ended
from sapo.training.policies import LOWEST, MIXTURES

Value = Callable[[RunResult], float | None]
_CONTROLS = {
    "original": "every task's original instruction",
    "random": "a paraphrase drawn at random, as a control",
    "highest": "the candidate with the highest pre-update loss, as a control",
    "median": "the candidate with the median pre-update loss, as a control",
    "per-example": "a paraphrase drawn for every row in every epoch; tested with the original",
    "paft": "a paraphrase drawn for every few updates; tested with the original",
    "reselect": "the candidate with the lowest pre-update loss, chosen again during the training",
}
_WORDINGS = (
    "Paraphrases that were held out of the candidates, so that nothing was chosen or trained with them; each task at "
    "its last stage. The spread over wordings is not an error of the mean: it is what a user's own wording may cost."
)
_LOOKS = (
    "A look finds a rise where the 95 % interval of one task's increase lies above the limit as a whole. Many looks at "
    "many tasks find some by chance, which the limit is there to absorb."
)


def sections(arranged: Arranged, runs: Sequence[Run]) -> Iterator[Section]:
    """Yield a section for each of them that the runs hold."""
    alone = runs[0] if len(runs) == 1 else None
    if alone is not None and alone.data:
        yield Section("Data", data_blocks(alone.data))
    if alone is not None and any(selection is not None for selection in alone.selections):
        yield Section("Candidates before each task, lowest pre-update loss first", tuple(_candidates(alone)))
    if not arranged.sweep:
        yield Section("Instructions trained with", tuple(_instructions(runs)))
    if alone is not None and alone.result.watch:
        yield Section("Watch tasks, never trained on", tuple(_watch(alone)))
    if any(result.robustness for result in arranged.results):
        yield Section("Robustness to wording", tuple(_robustness(arranged)))
    crossed = list(_trained_by_tested(arranged) if arranged.sweep else _crossed(runs))
    if crossed:
        yield Section("Trained with x tested with", tuple(crossed))
    if any(result.ability for result in arranged.results):
        yield Section("General ability", tuple(_ability(arranged)))
    names = [run.name for run in runs] if not arranged.sweep else [result.name for result in arranged.results]
    results = [run.result for run in runs] if not arranged.sweep else arranged.results
    alarms = [
        Note(("" if len(results) == 1 else f"{name}, ") + _alarm(alarm))
        for name, result in zip(names, results, strict=True)
        for alarm in result.guard or ()
    ]
    if alarms:
        yield Section("Forgetting guard", (*alarms, Note(_LOOKS, "dim")))


def differing(runs: Sequence[Run]) -> Table:
    """Return the settings and library versions in which runs of directories differ."""
    settings = [
        {
            "run directory": run.name,
            **_flat({key: value for key, value in run.result.config.items() if key != "run_dir"}),
            **{f"version of {library}": version for library, version in run.versions.items()},
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for flat in settings for key in flat)
    differ = [key for key in keys if key == "run directory" or len({flat.get(key) for flat in settings}) > 1]
    rows = tuple((key, *(flat.get(key, NOTHING) for flat in settings)) for key in differ)
    said = "Only settings and library versions that differ." if len(differ) > 1 else "All settings are equal."
    columns = ("setting", *(letter(n) for n in range(len(runs))))
    return Table(columns, rows, legend=(said,), text=tuple(range(len(columns))))


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}".strip(".")).items()}


def _candidates(run: Run) -> Iterator[Block]:
    subject = "chosen" if run.result.policy in LOWEST else "lowest, which this policy does not take,"
    for label, task, selection in zip(run.labels, run.result.tasks, run.selections, strict=True):
        if selection is not None:
            title = f"{label}, on {len(selection.rows)} training rows"
            yield from ranking(selection, run.result.instructions[task].text, "trained", title=title)
            rejected = f" {len(selection.rejected)} texts were not scored." if selection.rejected else ""
            yield Note(" ".join(filter(None, (finding(selection, subject) + rejected, effort(selection),
                                              cuts(selection)))))  # fmt: skip
            yield from trial_table(selection)
    raced = any(selection is not None and selection.race is not None for selection in run.selections)
    yield from (Note(sentence, "dim") for sentence in (*legend(raced), OPTIMISTIC))


def _instructions(runs: Sequence[Run]) -> Iterator[Block]:
    first = runs[0].result
    if len(runs) == 1:
        rule = RULES[first.config["selection"]["rule"]] if first.policy == "sapo" else _CONTROLS.get(first.policy, "")
        yield Note(f"Policy {first.policy}{': ' if rule else ''}{rule}.")
    for label, task in zip(runs[0].labels, first.tasks, strict=True):
        by: dict[str, list[int]] = {}
        for n, run in enumerate(runs):
            by.setdefault(run.result.instructions[task].text, []).append(n)
        for text, places in by.items():
            used = runs[places[0]].result.instructions[task]
            who = label if len(runs) == 1 else f"{label}, {', '.join(map(letter, places))}"
            if used.mixture:
                yield Listing(f"{who}: {len(used.mixture)} paraphrases in turn", "\n".join(used.mixture))
                continue
            if used.switches is not None:
                times = "once" if used.switches == 1 else f"{used.switches} times"
                yield Note(f"{who}: the choice changed {times} during the training; the last one:")
            if text != used.original:
                yield Listing(f"{who}: a paraphrase, from: {used.origin}", text, used.original)
                continue
            if runs[places[0]].result.policy in ("random", *MIXTURES):
                yield Note(f"{who}: there was no paraphrase to draw, so it was trained with the original.", "strong")
            yield Listing(f"{who}: the original", text)


def _watch(run: Run) -> Iterator[Block]:
    result = run.result
    rows = []
    values = {
        (task, measure): measures[measure][result.key(result.test_prompt) or result.test_prompt]
        for task, measures in result.watch.items()
        for measure in MEASURES
    }
    for task in result.watch:
        for i, stage in enumerate(run.stages):
            row = ["" if i else task, stage]
            for measure in MEASURES:
                now, before = values[task, measure][i], values[task, measure][0]
                change = None if now is None or before is None else now - before
                row += [number(now, decimals(measure)), number(change, decimals(measure), sign=True) if i else ""]
            rows.append(tuple(row))
    metrics = ", ".join(f"{task}: {result.primary_metrics[task]}" for task in result.watch)
    legend = f"change: to zero-shot. Score: {metrics}. Always tested with the original instruction."
    yield Table(("task", "stage", "score", "change", "NLL", "change"), tuple(rows), legend=(legend,), text=(0, 1))
    for measure in MEASURES:
        lines = {task: values[task, measure] for task in result.watch}
        stages = [str(i) for i in range(len(run.stages))]
        yield Plot(f"Watch tasks: {TITLES[measure]}", curves(stages, "stage", SHORT[measure], lines))


def _robustness(arranged: Arranged) -> Iterator[Block]:
    """Yield scores and NLL under held-out paraphrases: by task of one run, else the mean over tasks by setting."""
    alone = arranged.results[0] if len(arranged.results) == 1 else None
    for measure in MEASURES:
        worst = np.max if measure == NLL else np.min
        columns: tuple[tuple[str, Callable[[Sequence[float]], Any]], ...] = (("mean", np.mean), ("worst", worst))
        if alone is not None:
            rows = tuple(
                (
                    task,
                    str(len(w.texts)),
                    *(number(float(over(w.of(measure))), decimals(measure)) for _, over in columns),
                )
                for task, w in (alone.robustness or {}).items()
            )
            yield Table(("task", "wordings", "mean", "worst"), rows, TITLES[measure])
            continue

        def of(over: Callable[[Sequence[float]], Any], m: str = measure) -> Value:
            return lambda run: (
                float(np.mean([over(w.of(m)) for w in run.robustness.values()])) if run.robustness else None
            )

        values = {title: of(over) for title, over in columns}
        yield _by_setting(arranged, TITLES[measure], values, decimals(measure))
    yield Note(_WORDINGS, "dim")


def _ability(arranged: Arranged) -> Iterator[Block]:
    """Yield the loss on general text: by stage of one run, else before and after by setting."""
    title = "Loss on general text (nats per token, lower is better)"
    if len(arranged.results) == 1:
        stages = arranged.results[0].ability or ()
        rows = tuple(
            (
                f"stage {at.stage}" if n else "before training",
                number(at.loss, NLL_DECIMALS),
                number(at.loss - stages[0].loss, NLL_DECIMALS, sign=True) if n else "",
            )
            for n, at in enumerate(stages)
        )
        yield Table(("model", "loss", "change"), rows, title)
    else:
        values: dict[str, Value] = {
            "before": lambda run: _ends(run)[0],
            "after": lambda run: _ends(run)[1],
            "change": _change,
        }
        yield _by_setting(arranged, title, values, NLL_DECIMALS)
    yield Note(
        f"On {len(general_texts())} general texts, without any prompt. No test interval: they are not a sample.", "dim"
    )


def _ends(run: RunResult) -> tuple[float | None, float | None]:
    """Return general ability before training and after the last stage."""
    stages = {at.stage: at.loss for at in run.ability or ()}
    return (stages[0], stages[max(stages)]) if 0 in stages and len(stages) > 1 else (None, None)


def _change(run: RunResult) -> float | None:
    before, after = _ends(run)
    return None if before is None or after is None else after - before


def _by_setting(arranged: Arranged, title: str, values: Mapping[str, Value], digits: int) -> Table:
    """Return means over units of some values, by heading, for settings that have any; "change" has a sign."""
    rows = []
    for setting in arranged.settings:
        spreads = {heading: spread(setting.points(of)) for heading, of in values.items()}
        runs = max(found.count for found in spreads.values())
        if runs:
            cells = (
                text
                for heading, found in spreads.items()
                for text in (
                    number(found.mean, digits, sign=heading == "change"),
                    listed(found.points, digits, sign=heading == "change"),
                )
            )
            rows.append((setting.name, str(runs), *cells))
    columns = ("setting", "runs", *(name for heading in values for name in (heading, "each unit")))
    legend = f"Means over units; each unit: in the order of the units ({NOTHING}: not measured)."
    return Table(columns, tuple(rows), title, (legend,), text=(0, *range(3, len(columns), 2)))


def _crossed(runs: Sequence[Run]) -> Iterator[Block]:
    """Yield how runs with the original instructions do with those that another policy chose."""
    for run in runs:
        if (crossed := run.result.crossed) is not None:
            rows = tuple(
                (task, *(number(crossed.of(measure)[task], decimals(measure)) for measure in MEASURES))
                for task in crossed.primary
            )
            legend = (
                f"Trained with the original instructions, tested at each task's last stage with those that policy "
                f"{crossed.by} chose."
            )
            yield Table(("task", "score", "NLL"), rows, f"Run {run.name}", (legend,))


def _trained_by_tested(arranged: Arranged) -> Iterator[Block]:
    """Yield the tables of training prompt x test prompt, of units that have all four cells."""
    rows: dict[str, list[tuple[str, ...]]] = {measure: [] for measure in MEASURES}
    known = {(s.method, s.policy): s.runs for s in arranged.settings}
    for method in dict.fromkeys(s.method for s in arranged.settings):
        plain = known.get((method, "original"), ())
        for by in sorted({run.crossed.by for run in plain if run is not None and run.crossed}):
            pairs = list(zip(plain, known.get((method, by), ()), strict=False))
            for measure in MEASURES:
                fours = (_four(one, other, by, measure) for one, other in pairs)
                found = [four for four in fours if four is not None]
                for n, trained in enumerate(("original", f"choice of {by}") if found else ()):
                    means = (number(float(np.mean([four[n][k] for four in found])), decimals(measure)) for k in (0, 1))
                    rows[measure].append(("" if n else method, trained, str(len(found)), *means))
    if rows[MEASURES[0]]:
        columns = ("method", "trained with", "units", "tested with original", "tested with choice")
        yield from (Table(columns, tuple(rows[m]), TITLES[m], text=(0, 1)) for m in MEASURES)
        yield Note(
            "original: every task's original instruction; choice: what the named policy chose for the task in the run "
            "with the same sequence, method and seed. Means over units and tasks, each task at the last stage that "
            "tested it; only units with all four cells count. Down a column only the training differs, along a row "
            "only the test prompt.",
            "dim",
        )


def _four(plain: RunResult | None, chosen: RunResult | None, by: str, measure: str) -> list[list[float]] | None:
    """Return the means over tasks, axes trained with and tested with; None if any is missing."""
    if plain is None or chosen is None or plain.crossed is None or plain.crossed.by != by:
        return None
    crossed = [plain.crossed.of(measure).get(task) for task in plain.tasks]
    cells: list[list[Sequence[float | None]]] = [
        [plain.final(measure, "original"), crossed],
        [chosen.final(measure, "original"), chosen.final(measure, "selected")],
    ]
    if any(value is None for row in cells for cell in row for value in cell):
        return None
    return [[float(np.mean(np.asarray(cell, dtype=np.float64))) for cell in row] for row in cells]


def _alarm(alarm: Alarm) -> str:
    went = "training went on" if alarm.back_to is None else ended(alarm.back_to, alarm.updates)
    rise = "was no longer a finite number"
    if alarm.increase is not None:
        rise = f"had risen by {alarm.increase:.3f} nats per token (95 % interval from {alarm.low or 0.0:.3f})"
    return f"{alarm.task}: after update {alarm.step} of {alarm.updates} the loss on {alarm.watched} {rise}; {went}."
