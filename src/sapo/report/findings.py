"""What runs found, in sentences: of one run, and of what is compared with its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sapo.report.blocks import Note
from sapo.report.compare import Arranged
from sapo.report.differences import TITLES, Difference, verdict
from sapo.report.numbers import SCALES, Figure, estimate, number, prompt_name
from sapo.report.runs import Run, only_originals
from sapo.runs.metrics import percentile_interval
from sapo.runs.prompts import Prompt

# Metrics that are drawn and spoken of first: how good the end is, and what was forgotten.
HEADLINE = ("ap", "bwt_final")
# Settings up to which each that decides nothing is spoken of.
_FEW_SETTINGS = 3


def outcome(run: Run, prompt: Prompt) -> Iterator[Note]:
    """Yield what a sequence ends with and what became of its earlier tasks, or what training on one task changed."""
    tasks = run.result.tasks
    for measure, scale in SCALES.items():
        what = scale.title.replace("Score", "score")
        if len(tasks) == 1:
            (before,), (after,) = run.matrix(measure, prompt)
            if before is None or after is None:
                continue
            # Both on the same resamples of the test rows.
            draws = run.resampled(measure, prompt, run.result.seed)[:, :, 0]
            changes = draws[:, 1] - draws[:, 0]
            change = Figure(float(changes[0]), percentile_interval(changes[1:]))
            how = "" if only_originals([run], prompt) else f" with test prompt {prompt_name(prompt)}"
            ends = (number(value, scale.decimals) for value in (before, after))
            text = f"On {tasks[0]}{how} the {what} is {' before training and '.join(ends)} after it; change"
        else:
            end, change = (run.metric(measure, prompt, name) for name in HEADLINE)
            if end.value is None:
                reason = run.result.estimate(measure, prompt, HEADLINE[0])["reason"]
                yield Note(f"There is no mean {scale.short} over all tasks after the last one: {reason}.", "bold")
                continue
            text = f"After {len(tasks)} tasks the mean {what} is {estimate(end, scale.decimals)}"
            text += "" if change.value is None else "; earlier tasks changed by"
        if change.value is not None and change.interval is not None:
            text += f" {estimate(change, scale.decimals, sign=True)}: {verdict(change.interval, scale.better)}"
        yield Note(f"{text}.", "bold")


def said(arranged: Arranged) -> list[str]:
    """Return what can be said of each thing that is compared with its baseline, over all groups."""
    main = arranged.prompts[0]
    # Verdicts may differ with the other one, which the tables show.
    where = f" (test prompt {prompt_name(main)})" if len(arranged.prompts) > 1 else ""
    metrics = " or ".join(TITLES[name] for name in HEADLINE)
    pairs: dict[tuple[str, str], dict[tuple[str, str], list[tuple[str, Difference]]]] = {}
    for one in arranged.compared:
        if one.prompt == main:
            known = pairs.setdefault((one.base, one.label), {})
            for name in HEADLINE:
                if (difference := one.differences.get(name)) is not None:
                    known.setdefault((name, one.measure), []).append((one.group, difference))
    said, open_, undefined = [], dict[str, list[str]](), []
    for (base, label), known in pairs.items():
        name, baseline = (arranged.names.get(one, one) for one in (label, base))
        subject = f"{name} against {baseline}{where}"
        verdicts = {d.verdict for several in known.values() for _, d in several}
        decided = bool(verdicts & {"better", "worse"})
        grouped = any(len(several) > 1 for several in known.values())
        if not known:
            undefined.append(f"{subject}: not both define {metrics}.")
        elif decided or not (grouped or len(pairs) > _FEW_SETTINGS):
            said.append(f"{subject}: {'; '.join(_over_groups(*key, several) for key, several in known.items())}.")
        else:
            why = f"No clear difference to {baseline}{where} in {metrics}, in score or NLL"
            if verdicts == {"one unit: no interval"}:
                why = f"One unit, so nothing can be said against {baseline}"
            elif verdicts <= {"one unit: no interval", "not paired", "not comparable"}:
                why = f"Without an interval, so nothing can be said against {baseline}"
            open_.setdefault(why, []).append(name)
    undecided = [f"{why}: {', '.join(names)}." for why, names in open_.items()]
    return [*said, *undecided, *undefined]


def _over_groups(metric: str, measure: str, found: Sequence[tuple[str, Difference]]) -> str:
    """Return what one metric says: its figures in one group, how many groups say what in several."""
    scale = SCALES[measure]
    name = f"{TITLES[metric]} in {scale.short}"
    if len(found) == 1:
        ((group, one),) = found
        where = f" ({group})" if group else ""
        return f"{name} {estimate(one, scale.decimals, sign=True)} {scale.unit}, {one.verdict}{where}"
    verdicts = [one.verdict if one.verdict in ("better", "worse") else "undecided" for _, one in found]
    counts = (f"{kind} in {verdicts.count(kind)}" for kind in ("better", "worse", "undecided") if kind in verdicts)
    return f"{name} {', '.join(counts)} of {len(verdicts)} groups"
