"""What stands further down on the page of runs: data, candidates, instructions, and what only some runs measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sapo.report.blocks import NOTHING, Block, Listing, Note, Section, Table
from sapo.report.compare import Arranged, letter
from sapo.report.data import data_blocks
from sapo.report.differences import spread
from sapo.report.numbers import NLL_DECIMALS, SCALES, Figure, count, estimate, number, prompt_name
from sapo.report.runs import Run
from sapo.report.selections import OPTIMISTIC, RULES, cuts, effort, finding, legend, ranking, subject, trial_table
from sapo.runs.directory import flat
from sapo.runs.metrics import FIGURES
from sapo.runs.prompts import ORIGINAL, OWN, Prompt
from sapo.runs.results import MEASURES, NLL, Ability
from sapo.training.guard import Alarm, ended
from sapo.training.policies import LOWEST

_CONTROLS = {
    "original": "every task's original instruction",
    "random": "a paraphrase drawn at random, as a control",
    "highest": "the candidate with the highest pre-update loss, as a control",
    "median": "the candidate with the median pre-update loss, as a control",
    "per-example": "a paraphrase drawn for every row in every epoch; tested with the original",
    "paft": "a paraphrase drawn for every few updates; tested with the original",
    "reselect": ", chosen again during the training",
    "pure": "no instruction",
    "fixed": "a text that was given",
}
_GRID = (
    "Columns: test prompts; each task at the last stage that tested it, and means over tasks and units. Along a row "
    "only the test prompt differs. Held-out paraphrases are no candidates: nothing was chosen or trained with them, "
    "and their spread is what a user's own wording may cost. Choice of sapo: what that policy chose in the run with "
    "the same sequence, method and seed, tested with the run that was trained with the original instructions."
)
# Rollbacks that the screen names; the page has all.
_STOPPED = 3
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
        "Beyond the training prompt": _beyond(only) if only else (),
        "Trained with x tested with": _grid(arranged),
        "General ability": _ability(arranged) if arranged.sweep else (),
        "Forgetting guard": _alarms(runs),
    }
    return [Section(title, shown) for title, blocks in found.items() if (shown := tuple(blocks))]


def differing(runs: Sequence[Run]) -> Table:
    """Return the settings and library versions in which runs of directories differ."""
    settings = [
        {
            "run directory": run.name,
            **{key: _text(value) for key, value in flat(dict(run.result.config)).items() if key != "run_dir"},
            **{f"version of {library}": version for library, version in run.versions.items()},
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for one in settings for key in one)
    differ = [key for key in keys if key == "run directory" or len({one.get(key) for one in settings}) > 1]
    rows = tuple((key, *(one.get(key, NOTHING) for one in settings)) for key in differ)
    said = "Only settings and library versions that differ." if len(differ) > 1 else "All settings are equal."
    columns = ("setting", *(letter(n) for n in range(len(runs))))
    return Table(columns, rows, legend=(said,), text=tuple(range(len(columns))))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
        rule = _CONTROLS.get(first.policy, "")
        if first.policy in LOWEST:
            rule = f"{RULES[first.config['selection']['rule']]}{rule}"
        yield Note(f"Policy {first.policy}{': ' if rule else ''}{rule}.")
    for label, task in zip(runs[0].labels, first.tasks, strict=True):
        by: dict[str, list[int]] = {}
        for n, run in enumerate(runs):
            by.setdefault(run.result.instructions[task].text, []).append(n)
        for text, places in by.items():
            used = runs[places[0]].result.instructions[task]
            where = label if len(runs) == 1 else f"{label}, {', '.join(map(letter, places))}"
            kinds = {"given": "the text that was given", "original": "the original"}
            kind = kinds.get(used.origin, f"a paraphrase, from: {used.origin}")
            if used.mixture:
                kind, text = f"{len(used.mixture)} paraphrases in turn", "\n".join(used.mixture)
            elif used.switches is not None:
                kind += f", the last one after {count(used.switches, 'change')} during the training"
            replaced = None if used.mixture or text == used.original else used.original
            yield Listing(f"{where}: {kind}", text or "(no instruction)", replaced)


def _beyond(run: Run) -> Iterator[Block]:
    """Yield the figures of each trained task."""
    means = {one: [run.metric(measure, OWN, one.name) for measure in MEASURES] for one in FIGURES}
    defined = [one for one in FIGURES if any(figure.value is not None for figure in means[one])]
    if not defined:
        return
    for n, (measure, scale) in enumerate(SCALES.items()):
        by_name = [run.result.figures[measure][one.name]["tasks"] for one in defined]
        found = {task: [Figure.of(of.get(task)) for of in by_name] for task in run.result.tasks}
        rows = tuple(
            (name, *(estimate(figure, scale.decimals, sign=True) for figure in figures))
            for name, figures in (found | {"mean": [means[one][n] for one in defined]}).items()
        )
        yield Table(("task", *(one.title for one in defined)), rows, scale.title)
    yield from (Note(f"{one.title}: {one.lacking}.", "dim") for one in FIGURES if one not in defined)


def _ability(arranged: Arranged) -> Iterator[Block]:
    """Yield the loss on general text before and after by setting; of runs of directories it is in the matrices."""
    if not any(run.result.ability for run in arranged.runs):
        return
    rows = []
    for setting in arranged.settings:
        before, after, change = (
            spread(values)
            for values in zip(*(_general(run.result.ability if run else None) for run in setting.runs), strict=True)
        )
        ends = (estimate(figure, NLL_DECIMALS) for figure in (before, after))
        rows.append((setting.name, *ends, estimate(change, NLL_DECIMALS, sign=True)))
    title = "Loss on general text (nats per token, lower is better)"
    yield Table(("setting", "before", "after", "change"), tuple(rows), title)


def _general(ability: Sequence[Ability] | None) -> tuple[float | None, float | None, float | None]:
    """Return general ability before training and at the last stage, and the change."""
    losses = {at.stage: at.loss for at in ability or ()}
    before, after = losses.get(0), losses[max(losses)] if max(losses, default=0) > 0 else None
    return before, after, None if before is None or after is None else after - before


def _grid(arranged: Arranged) -> Iterator[Block]:
    """Yield what every training ends with under every test prompt, where there are more than own and original.

    Of one run by task, else the mean over tasks by setting.
    """
    only = arranged.only
    for measure, scale in SCALES.items():
        found = [[_tested(run, measure, arranged.prompts) for run in setting.runs] for setting in arranged.settings]
        known = [one for several in found for one in several if one]
        columns = [name for name in known[0] if any(one[name] for one in known)]
        if {*columns} <= {OWN, ORIGINAL}:
            return
        rows: list[tuple[str, ...]] = []
        if only is not None:
            ((one,),) = found
            rows += [
                (task, *(number(one[name].get(task), scale.decimals) for name in columns)) for task in only.result.tasks
            ]
            rows.append(("mean", *(number(_mean(one[name]), scale.decimals) for name in columns)))
        else:
            for setting, several in zip(arranged.settings, found, strict=True):
                means = (spread([_mean(one.get(name, {})) for one in several]) for name in columns)
                name = setting.name if arranged.sweep else f"{setting.name}, {setting.policy}"
                rows.append((name, *(estimate(mean, scale.decimals) for mean in means)))
        yield Table(("task" if only else "trained with", *columns), tuple(rows), scale.title)
    yield Note(_GRID, "dim")


def _tested(run: Run | None, measure: str, prompts: Sequence[Prompt]) -> dict[str, Mapping[str, float]]:
    """Return what the tasks of a run end with, by column and task; nothing where there is no run."""
    if run is None:
        return {}
    result, wordings = run.result, {task: one.of(measure) for task, one in (run.result.robustness or {}).items()}
    ends = {prompt: zip(result.tasks, result.final(measure, prompt), strict=True) for prompt in prompts}
    worst = max if measure == NLL else min
    return {
        **{prompt_name(p): {task: value for task, value in of if value is not None} for p, of in ends.items()},
        "held-out paraphrases": {task: float(np.mean(values)) for task, values in wordings.items()},
        "the worst of them": {task: worst(values) for task, values in wordings.items()},
        "choice of sapo": result.crossed.of(measure) if result.crossed else {},
    }


def _mean(values: Mapping[str, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None


def _alarms(runs: Sequence[Run]) -> Iterator[Block]:
    for run in runs:
        for alarm in run.result.guard or ():
            yield Note((f"{run.name}, " if len(runs) > 1 else "") + _alarm(alarm))
    if any(run.result.guard for run in runs):
        yield Note(_LOOKS, "dim")


def stopped(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what the forgetting guard undid: figures at the end know nothing of it."""
    found = [(run, alarm) for run in runs for alarm in run.result.guard or () if alarm.back_to is not None]
    for run, alarm in found[:_STOPPED]:
        where = f"{run.name}, {alarm.task}" if len(runs) > 1 else alarm.task
        yield f"Forgetting guard, {where}: {ended(alarm.back_to or 0, alarm.updates)}."
    if len(found) > _STOPPED:
        yield f"Forgetting guard: {len(found) - _STOPPED} more trainings stopped and rolled back."


def _alarm(alarm: Alarm) -> str:
    went = "training continued" if alarm.back_to is None else ended(alarm.back_to, alarm.updates)
    rise = "was no longer a finite number"
    if alarm.increase is not None:
        rise = f"had risen by {alarm.increase:.3f} nats per token (95 % interval from {alarm.low or 0.0:.3f})"
    return f"{alarm.task}: after update {alarm.step} of {alarm.updates} the loss on {alarm.watched} {rise}; {went}."
