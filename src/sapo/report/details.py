"""What stands further down on the page of runs: data, candidates, instructions, and what only some runs measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sapo.models.ability import general_texts
from sapo.report.blocks import NOTHING, Block, Listing, Note, Section, Table
from sapo.report.compare import Arranged, letter
from sapo.report.data import data_blocks
from sapo.report.numbers import NLL_DECIMALS, SCALES, Figure, estimate, interval, listed, number, prompt_name
from sapo.report.plots import curves
from sapo.report.runs import Run
from sapo.report.selections import OPTIMISTIC, RULES, cuts, effort, finding, legend, ranking, subject, trial_table
from sapo.runs.metrics import FIGURES
from sapo.runs.prompts import ORIGINAL, OWN, Prompt
from sapo.runs.results import MEASURES, NLL, RunResult
from sapo.training.guard import Alarm, ended
from sapo.training.policies import MIXTURES

Value = Callable[[RunResult], float | None]
Over = Callable[[Sequence[float]], float]
_CONTROLS = {
    "original": "every task's original instruction",
    "random": "a paraphrase drawn at random, as a control",
    "highest": "the candidate with the highest pre-update loss, as a control",
    "median": "the candidate with the median pre-update loss, as a control",
    "per-example": "a paraphrase drawn for every row in every epoch; tested with the original",
    "paft": "a paraphrase drawn for every few updates; tested with the original",
    "reselect": "the candidate with the lowest pre-update loss, chosen again during the training",
    "pure": "no instruction",
    "fixed": "a text that was given",
}
_WORDINGS = (
    "Paraphrases that were held out of the candidates, so that nothing was chosen or trained with them; each task at "
    "its last stage. The spread over wordings is not an error of the mean: it is what a user's own wording may cost."
)
_BEYOND = (
    "What a training does beyond its own prompt. R_q[i,j]: task j after stage i with test prompt q; s: the last stage "
    "that tested it. Spill: the change that a training makes on other tasks, and on its own task with other "
    "prompts. Conditionality: how much better the task is done with its own prompt than with held-out paraphrases (in "
    "NLL, better is below 0). Recoverable: how much better the best of these does than the original: what they bring "
    "back was hidden, not lost; as the best of noisy values it lies a little on the better side."
)
_LOOKS = (
    "A look finds a rise where the 95 % interval of one task's increase lies above the limit as a whole. Many looks at "
    "many tasks find some by chance, which the limit is there to absorb."
)


def sections(arranged: Arranged) -> list[Section]:
    """Return a section for each of them that the runs hold."""
    only, runs = arranged.only, arranged.runs
    found: dict[str, Iterable[Block]] = {
        "Data": data_blocks(only.data) if only and only.data else (),
        "Candidates before each task, lowest pre-update loss first": _candidates(only) if only else (),
        "Instructions trained with": () if arranged.sweep else _instructions(runs),
        "Watch tasks, never trained on": _watch(only) if only else (),
        "Robustness to wording": _robustness(arranged),
        "Beyond the training prompt": _beyond(arranged),
        "Trained with x tested with": (
            *_grid(arranged),
            *(_trained_by_tested(arranged) if arranged.sweep else _crossed(runs)),
        ),
        "General ability": _ability(arranged),
        "Forgetting guard": _alarms(runs),
    }
    return [Section(title, shown) for title, blocks in found.items() if (shown := tuple(blocks))]


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
    for label, task, selection in zip(run.labels, run.result.tasks, run.selections, strict=False):
        if selection is not None:
            title = f"{label}, on {len(selection.rows)} training rows"
            yield from ranking(selection, run.result.instructions[task].text, "trained", title=title)
            rejected = f"{len(selection.rejected)} texts were not scored." if selection.rejected else ""
            said = (finding(selection, subject(run.result.policy)), rejected, effort(selection), cuts(selection))
            yield Note(" ".join(filter(None, said)))
            yield from trial_table(selection)
    known = [selection for selection in run.selections if selection is not None]
    if known:
        raced = any(selection.race is not None for selection in known)
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
            where = label if len(runs) == 1 else f"{label}, {', '.join(map(letter, places))}"
            if used.mixture:
                yield Listing(f"{where}: {len(used.mixture)} paraphrases in turn", "\n".join(used.mixture))
                continue
            if used.switches is not None:
                times = "once" if used.switches == 1 else f"{used.switches} times"
                yield Note(f"{where}: the choice changed {times} during the training; the last one:")
            if not text:
                yield Note(f"{where}: no instruction.")
                continue
            if used.origin == "given":
                yield Listing(f"{where}: the text that was given", text, used.original)
                continue
            if text != used.original:
                yield Listing(f"{where}: a paraphrase, from: {used.origin}", text, used.original)
                continue
            if runs[places[0]].result.policy in ("random", *MIXTURES):
                yield Note(f"{where}: there was no paraphrase to draw, so it was trained with the original.", "strong")
            yield Listing(f"{where}: the original", text)


def _watch(run: Run) -> Iterator[Block]:
    result = run.result
    key = result.key(result.test_prompt) or result.test_prompt
    rows, stages = [], [str(i) for i in range(len(run.stages))]
    for task, measures in result.watch.items():
        for i, stage in enumerate(run.stages):
            row = ["" if i else task, stage]
            for measure, scale in SCALES.items():
                before, now = measures[measure][key][0], measures[measure][key][i]
                change = None if now is None or before is None else now - before
                row += [number(now, scale.decimals), number(change, scale.decimals, sign=True) if i else ""]
            rows.append(tuple(row))
    if not rows:
        return
    metrics = ", ".join(f"{task}: {result.primary_metrics[task]}" for task in result.watch)
    about = f"change: to zero-shot. Score: {metrics}. Always tested with the original instruction."
    yield Table(("task", "stage", "score", "change", "NLL", "change"), tuple(rows), legend=(about,), text=(0, 1))
    for measure, scale in SCALES.items():
        lines = {task: measures[measure][key] for task, measures in result.watch.items()}
        yield curves(f"Watch tasks: {scale.title}", stages, "stage", scale.short, lines)


def _robustness(arranged: Arranged) -> Iterator[Block]:
    """Yield scores and NLL under held-out paraphrases: by task of one run, else the mean over tasks by setting."""
    if not any(run.result.robustness for run in arranged.runs):
        return
    for measure, scale in SCALES.items():
        of: dict[str, Over] = {"mean": lambda v: float(np.mean(v)), "worst": max if measure == NLL else min}
        if arranged.only is not None:
            rows = tuple(
                (task, str(len(w.texts)), *(number(over(w.of(measure)), scale.decimals) for over in of.values()))
                for task, w in (arranged.only.result.robustness or {}).items()
            )
            yield Table(("task", "wordings", *of), rows, scale.title)
        else:
            values = {title: partial(_over_tasks, measure=measure, over=over) for title, over in of.items()}
            yield _by_setting(arranged, scale.title, values, scale.decimals)
    yield Note(_WORDINGS, "dim")


def _beyond(arranged: Arranged) -> Iterator[Block]:
    """Yield the figures of trained tasks: by task of one run, else by setting; and how they differ."""
    settings, only = arranged.settings, arranged.only
    defined = [
        one for one in FIGURES if any(s.figure(m, one.name).value is not None for s in settings for m in MEASURES)
    ]
    if not defined:
        return
    for measure, scale in SCALES.items():
        if only is not None:
            by_name = {one.name: only.result.figures[measure][one.name]["tasks"] for one in defined}
            found = {
                task: [Figure.of(by_name[one.name].get(task)) for one in defined] for task in only.result.tasks
            } | {"mean": [only.figure(measure, one.name) for one in defined]}
        else:
            found = {s.name: [s.figure(measure, one.name) for one in defined] for s in settings}
        rows = tuple(
            (name, *(estimate(figure, scale.decimals, sign=True) for figure in figures))
            for name, figures in found.items()
        )
        yield Table(("task" if only else "setting", *(one.title for one in defined)), rows, scale.title)
    for measure, scale in SCALES.items():
        rows = tuple(
            (one.name, figure.title, number(d.value, scale.decimals, sign=True),
             interval(d.interval, scale.decimals, sign=True), d.verdict)
            for one in arranged.compared
            if one.measure == measure
            for figure in defined
            if (d := one.figures.get(figure.name)) is not None
        )  # fmt: skip
        if rows:
            columns = ("against the baseline", "figure", "difference", "95 % interval", "verdict")
            yield Table(columns, rows, f"Differences, {scale.title}", text=(0, 1, 4))
    yield Table(
        ("figure", "definition", "source"), tuple((one.title, one.definition, one.source) for one in defined),
        legend=(_BEYOND,), text=(0, 1, 2),
    )  # fmt: skip
    yield from (Note(f"{one.title}: {one.lacking}.", "dim") for one in FIGURES if one not in defined)


def _over_tasks(run: RunResult, measure: str, over: Over) -> float | None:
    wordings = (run.robustness or {}).values()
    return float(np.mean([over(one.of(measure)) for one in wordings])) if wordings else None


def _ability(arranged: Arranged) -> Iterator[Block]:
    """Yield the loss on general text: by stage of one run, else before and after by setting."""
    if not any(run.result.ability for run in arranged.runs):
        return
    title = "Loss on general text (nats per token, lower is better)"
    if arranged.only is not None:
        stages = arranged.only.result.ability or ()
        losses = ((number(at.loss, NLL_DECIMALS), at.loss - stages[0].loss) for at in stages)
        rows = tuple(
            (
                f"stage {at.stage}" if n else "before training",
                loss,
                number(change, NLL_DECIMALS, sign=True) if n else "",
            )
            for n, (at, (loss, change)) in enumerate(zip(stages, losses, strict=True))
        )
        yield Table(("model", "loss", "change"), rows, title)
    else:
        values: dict[str, Value] = {
            "before": lambda run: _ends(run)[0],
            "after": lambda run: _ends(run)[1],
            "change": lambda run: _ends(run)[2],
        }
        yield _by_setting(arranged, title, values, NLL_DECIMALS)
    yield Note(
        f"On {len(general_texts())} general texts, without any prompt. No test interval: they are not a sample.", "dim"
    )


def _ends(run: RunResult) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return general ability before training and after the last stage, and its change."""
    stages = {at.stage: at.loss for at in run.ability or ()}
    if 0 not in stages or len(stages) == 1:
        return None, None, None
    before, after = stages[0], stages[max(stages)]
    return before, after, after - before


def _by_setting(arranged: Arranged, title: str, values: Mapping[str, Value], digits: int) -> Table:
    """Return means over units of some values, by heading, for settings that have any; "change" has a sign."""
    rows = []
    for setting in arranged.settings:
        found = {heading: setting.over_units(of) for heading, of in values.items()}
        runs = max(figure.count for figure in found.values())
        cells = [
            text
            for heading, figure in found.items()
            for text in (
                number(figure.value, digits, sign=heading == "change"),
                listed(figure.points, digits, sign=heading == "change"),
            )
        ]
        rows += [(setting.name, str(runs), *cells)] if runs else []
    columns = ("setting", "runs", *(name for heading in values for name in (heading, "each unit")))
    about = f"Means over units; each unit: in the order of the units ({NOTHING}: not measured)."
    return Table(columns, tuple(rows), title, (about,), text=(0, *range(3, len(columns), 2)))


def _grid(arranged: Arranged) -> Iterator[Block]:
    """Yield what every training ends with under every test prompt, where there are more than own and original."""
    worded = all(run.result.robustness for run in arranged.runs)
    if not worded and set(arranged.prompts) <= {OWN, ORIGINAL}:
        return
    for measure, scale in SCALES.items():
        columns: dict[str, Value] = {
            prompt_name(prompt): partial(_last, measure=measure, prompt=prompt) for prompt in arranged.prompts
        }
        if worded:
            columns["held-out paraphrases"] = partial(
                _over_tasks, measure=measure, over=lambda values: float(np.mean(values))
            )
        rows = tuple(
            (name, *(estimate(s.over_units(of), scale.decimals) for of in columns.values()))
            for s in arranged.settings
            for name in [s.name if arranged.sweep else s.policy if arranged.only else f"{s.name}, {s.policy}"]
        )
        yield Table(("trained with", *columns), rows, scale.title)
    yield Note(
        "Columns: test prompts. Means over tasks, each at the last stage that tested it, and over units. Along a row "
        "only the test prompt differs.",
        "dim",
    )


def _last(run: RunResult, measure: str, prompt: Prompt) -> float | None:
    values = [value for value in run.final(measure, prompt) if value is not None]
    return float(np.mean(values)) if values else None


def _crossed(runs: Sequence[Run]) -> Iterator[Block]:
    """Yield how runs with the original instructions do with those that another policy chose."""
    for run in runs:
        if (crossed := run.result.crossed) is not None:
            rows = tuple(
                (task, *(number(crossed.of(measure)[task], scale.decimals) for measure, scale in SCALES.items()))
                for task in crossed.primary
            )
            about = (
                "Trained with the original instructions, tested at each task's last stage with those that policy "
                f"{crossed.by} chose."
            )
            yield Table(("task", "score", "NLL"), rows, f"Run {run.name}", (about,))


def _trained_by_tested(arranged: Arranged) -> Iterator[Block]:
    """Yield the tables of training prompt x test prompt, of units that have all four cells."""
    rows: dict[str, list[tuple[str, ...]]] = {measure: [] for measure in MEASURES}
    known = {(s.method, s.policy): s.runs for s in arranged.settings}
    for (method, policy), plain in known.items():
        crossed = [run.result.crossed for run in plain if run is not None and policy == "original"]
        for by in sorted({one.by for one in crossed if one is not None}):
            for measure, scale in SCALES.items():
                fours = (_four(*pair, by, measure) for pair in zip(plain, known.get((method, by), ()), strict=False))
                found = [four for four in fours if four is not None]
                for n, trained in enumerate(("original", f"choice of {by}") if found else ()):
                    means = (number(float(np.mean([four[n][k] for four in found])), scale.decimals) for k in (0, 1))
                    rows[measure].append(("" if n else method, trained, str(len(found)), *means))
    if rows[NLL]:
        columns = ("method", "trained with", "units", "tested with original", "tested with choice")
        yield from (Table(columns, tuple(rows[m]), scale.title, text=(0, 1)) for m, scale in SCALES.items())
        yield Note(
            "original: every task's original instruction; choice: what the named policy chose for the task in the run "
            "with the same sequence, method and seed. Means over units and tasks, each task at the last stage that "
            "tested it; only units with all four cells count. Down a column only the training differs, along a row "
            "only the test prompt.",
            "dim",
        )


def _four(plain: Run | None, chosen: Run | None, by: str, measure: str) -> list[list[float]] | None:
    """Return the means over tasks, axes trained with and tested with; None if any is missing."""
    crossed = plain.result.crossed if plain is not None else None
    if plain is None or chosen is None or crossed is None or crossed.by != by:
        return None
    cells = [
        [plain.result.final(measure, ORIGINAL), tuple(map(crossed.of(measure).get, plain.result.tasks))],
        [chosen.result.final(measure, ORIGINAL), chosen.result.final(measure, OWN)],
    ]
    if any(value is None for row in cells for cell in row for value in cell):
        return None
    return [[float(np.mean(np.asarray(cell, dtype=np.float64))) for cell in row] for row in cells]


def _alarms(runs: Sequence[Run]) -> Iterator[Block]:
    for run in runs:
        for alarm in run.result.guard or ():
            yield Note((f"{run.name}, " if len(runs) > 1 else "") + _alarm(alarm))
    if any(run.result.guard for run in runs):
        yield Note(_LOOKS, "dim")


def _alarm(alarm: Alarm) -> str:
    went = "training continued" if alarm.back_to is None else ended(alarm.back_to, alarm.updates)
    rise = "was no longer a finite number"
    if alarm.increase is not None:
        rise = f"had risen by {alarm.increase:.3f} nats per token (95 % interval from {alarm.low or 0.0:.3f})"
    return f"{alarm.task}: after update {alarm.step} of {alarm.updates} the loss on {alarm.watched} {rise}; {went}."
