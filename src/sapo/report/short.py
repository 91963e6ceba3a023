"""What a page says in short: words that never go beyond the intervals beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sapo.core.types import Selection
from sapo.report.differences import Difference, verdict
from sapo.report.matrices import MEASURES, SHORT, decimals, direction
from sapo.report.numbers import LOSS, interval, number
from sapo.report.outcome import ROW_NOISE, change_interval
from sapo.report.paired import HEADLINE, Comparison, Paired
from sapo.report.runs import Run
from sapo.report.selections import finding
from sapo.report.tables import Note
from sapo.runs.metrics import METRICS
from sapo.runs.results import NLL, PRIMARY
from sapo.training.policies import LOWEST

# Tasks up to which each is spoken of.
_FEW = 6
_TITLES = {metric.name: metric.title for metric in METRICS}
_MOVED = {"better": "better", "worse": "worse", "too small to decide": "neither clearly better nor clearly worse"}
_UNITS = {PRIMARY: "points", NLL: "nats per token"}
_MEANT = {PRIMARY: "score", NLL: "NLL in nats per token"}


def of_run(run: Run) -> tuple[Note, ...]:
    """Return what one run found, and what it was trained with."""
    outcome = _changed(run) if len(run.tasks) == 1 else _end(run)
    return (*(Note(text, "strong") for text in outcome), *map(Note, _choices(run)), Note(ROW_NOISE))


def of_runs(
    names: Sequence[str], found: Mapping[str, Sequence[Mapping[str, Difference]]], caveat: str
) -> tuple[Note, ...]:
    """Return how later runs differ from the first one.

    Args:
        names: of all runs.
        found: by measure, for each later run its differences by name of the metric.
        caveat: what they do not say.
    """
    notes = []
    for n, name in enumerate(names[1:]):
        said = [Note(text, "strong") for measure, later in found.items() for text in _differences(measure, later[n])]
        notes += [Note(f"{name} against {names[0]}:"), *(said or [Note(f"Not both define {' or '.join(HEADLINE)}.")])]
    return (*notes, Note(caveat))


def of_sweep(compared: Sequence[Comparison], scope: str) -> tuple[Note, ...]:
    """Return what differs within a sweep, and what its units stand for."""
    notes = [Note(text, "strong") for comparison in compared for text in _settings(comparison.found)]
    return (*(notes or [Note("There is one setting: nothing to compare.", "strong")]), Note(scope))


def _end(run: Run) -> Iterator[str]:
    """Yield what a sequence ends with, and what became of its earlier tasks."""
    for measure in MEASURES:
        metrics, digits = run.metrics(measure, run.prompts[0]), decimals(measure)
        end, moved = (metrics.get(name) or {"value": None} for name in ("ap", "bwt_final"))
        what = f"{_MEANT[measure]} ({direction(measure)} is better)"
        if end["value"] is not None:
            yield (
                f"After {len(run.tasks)} tasks the mean {what} is {number(end['value'], digits)} "
                f"{interval(end['interval'], digits)}{_moved(moved, measure)}."
            )
        else:
            yield f"There is no mean {what} over all tasks after the last one: {end.get('reason') or 'not recorded'}."


def _moved(found: Mapping[str, Any], measure: str) -> str:
    if found["value"] is None or found["interval"] is None:
        return ""
    low, high = found["interval"]
    digits = decimals(measure)
    return (
        f"; later training left earlier tasks {_MOVED[verdict((low, high), direction(measure))]} (BWT "
        f"{number(found['value'], digits, sign=True)} {interval((low, high), digits, sign=True)})"
    )


def _changed(run: Run) -> Iterator[str]:
    """Yield what training on the only task changed."""
    prompt = run.prompts[0]
    for measure in MEASURES:
        (before,), (after,) = run.matrix(measure, prompt)
        if before is not None and after is not None:
            bounds, digits = change_interval(run, measure, prompt), decimals(measure)
            change = f"{number(after - before, digits, sign=True)} {interval(bounds, digits, sign=True)}"
            yield (
                f"On {run.tasks[0]} the {_MEANT[measure]} ({direction(measure)} is better) is {number(before, digits)} "
                f"before training and {number(after, digits)} after it; change {change}: "
                f"{verdict(bounds, direction(measure))}."
            )


def _choices(run: Run) -> Iterator[str]:
    """Yield what the tasks were trained with."""
    used = run.data["instructions"]
    if run.mixed:
        yield f"Policy {run.config['policy']}: tasks were trained with several paraphrases in turn."
        return
    others = sum(used[task]["text"] != used[task]["original"] for task in run.tasks)
    yield (
        f"Policy {run.config['policy']} trained {others} of {len(run.tasks)} "
        f"{'task' if len(run.tasks) == 1 else 'tasks'} with another instruction than the original."
    )
    known = [(label, one) for label, one in zip(run.labels, run.selections, strict=True) if one is not None]
    if len(known) <= _FEW:
        subject = "chosen" if run.config["policy"] in LOWEST else "lowest, which this policy does not take,"
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
    return f" Loss {number(taken.delta, LOSS, sign=True)} {interval(taken.interval, LOSS, sign=True)} nats per token."


def _is_clear(selection: Selection) -> bool:
    taken = selection.candidates[selection.chosen]
    return bool(selection.chosen) and taken.interval is not None and taken.interval[1] < 0


def _differences(measure: str, later: Mapping[str, Difference]) -> Iterator[str]:
    digits = decimals(measure)
    said = [
        f"{_TITLES[name]} {number(one.value, digits, sign=True)} {interval(one.interval, digits, sign=True)}: "
        f"{one.verdict}"
        for name in ("ap", "bwt_final")
        if (one := later.get(name)) is not None
    ]
    if said:
        yield f"Difference in {SHORT[measure]} ({direction(measure)} is better): {'; '.join(said)}."


def _settings(found: Sequence[Paired]) -> Iterator[str]:
    """Yield what can be said of each thing that is compared with its baseline, over all groups."""
    prompt = found[0].prompt
    # Verdicts may differ with the other one, which the tables show.
    where = f" (test prompt {prompt})" if len({one.prompt for one in found}) > 1 else ""
    undecided: dict[str, list[str]] = {}
    for base, label in dict.fromkeys((one.base, one.label) for one in found):
        said, decided = [], False
        for measure in MEASURES:
            ours = [o for o in found if (o.base, o.label, o.measure, o.prompt) == (base, label, measure, prompt)]
            for title in HEADLINE:
                if known := [one for one in ours if title in one.differences]:
                    decided |= any(one.differences[title].verdict in ("better", "worse") for one in known)
                    said.append(_over_groups(title, measure, known))
        if said and (decided or len({(one.group, one.label) for one in found}) <= _FEW // 2):
            yield f"{label} against {base}{where}: {'; '.join(said)}."
        elif said:
            undecided.setdefault(base, []).append(label)
    for base, labels in undecided.items():
        metrics, names = " or ".join(HEADLINE), ", ".join(labels)
        yield f"Against {base}{where}, nothing is decided in {metrics}, in score or NLL: {names}."


def _over_groups(title: str, measure: str, ours: Sequence[Paired]) -> str:
    """Return what one metric says: its figures in one group, how many groups say what in several."""
    name = f"{title} in {SHORT[measure]}"
    if len(ours) == 1:
        difference = ours[0].differences[title]
        digits, found = decimals(measure), difference.spread
        bounds = f" {interval(found.interval, digits, sign=True)}" if found.interval else ""
        return f"{name} {number(found.mean, digits, sign=True)}{bounds} {_UNITS[measure]}, {difference.verdict}"
    verdicts = [one.differences[title].verdict for one in ours]
    counts = {kind: verdicts.count(kind) for kind in ("better", "worse")}
    counts["undecided"] = len(verdicts) - sum(counts.values())
    if counts["undecided"] == len(verdicts):
        return f"{name} undecided in all {len(verdicts)} groups"
    listed = ", ".join(f"{kind} in {count}" for kind, count in counts.items() if count)
    return f"{name} {listed} of {len(verdicts)} groups"
