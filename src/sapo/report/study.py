"""The page of a study: the method's claims on a user's own model, from the records of its trainings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sapo.core.untrusted import one_line
from sapo.experiments.study.analysis import Analysis, analyse, compared, predicted
from sapo.experiments.study.prediction import PRIMARY
from sapo.experiments.study.records import StudyRecord
from sapo.experiments.study.resampling import Measured
from sapo.report import claims, remake
from sapo.report.blocks import NOTHING, Note, Page, Section, Table
from sapo.report.claims import RATIO, RHO, p_value
from sapo.report.differences import flat
from sapo.report.numbers import LOSS, NLL_DECIMALS, SCORE, count, duration, estimate, listed, number
from sapo.report.reading import EQUAL

# Characters of a candidate that a table shows.
_SHOWN = 56
_CLAIMS = {
    1: "Claim 1: candidates differ more in other tasks than in the task",
    2: "Claim 2: what is good for one other task is good for the rest",
    3: "Claim 3: a lower pre-update loss goes with better effects",
}
_EFFECTS = (
    "Effects, in nats per token, higher is better. Task itself: minus its loss after the training, tested with the "
    "candidate it was trained with. Earlier and unseen tasks: minus the rise of their loss by the training, tested "
    "with their original instructions; mean over tasks."
)


def study_page(records: Sequence[StudyRecord]) -> Page:
    """Return the page of a study; the order of its records does not matter. Errors are those of `analyse`."""
    found = analyse(records)
    ordered = sorted(records, key=lambda r: (r.transition, r.arm, r.candidate, r.seed))
    sections = (
        Section("Result", (_result(found),), "screen"),
        Section("Cost", (_cost(ordered),), "screen"),
        Section("Trainings", (_trainings(found), Note(_EFFECTS, "dim"))),
        Section(_CLAIMS[1], (*claims.claim_1(found),)),
        Section(_CLAIMS[2], (claims.claim_2(found),)),
        Section(_CLAIMS[3], (*_power(found), *claims.claim_3(found))),
        Section("What choosing is worth", (*claims.gains(found),)),
        Section("Between choice and effect", (claims.mediators(found), claims.bounds(found))),
        Section("Other indicators", (claims.indicators(found),)),
        Section("Every candidate", (_candidates(ordered),)),
        Section("Every training", (_every_training(ordered),)),
        Section("How to read this", tuple(_reading(found))),
        *remake.of_study(ordered),
    )
    return Page(f"Study of {count(len(records), 'training')}", sections, tuple(_short(found)))


def _result(found: Analysis) -> Table:
    """Return what each rule of choosing is worth for the other tasks, which is what a user would choose it for."""
    arm = found.arms[0]
    known = {(gain.rule, gain.outcome): estimate(gain.mean, NLL_DECIMALS, sign=True) for gain in arm.gains}
    outcomes = ("forgetting", "generalisation", "in_task")
    rows = tuple(
        (rule, *(known.get((rule, outcome), NOTHING) for outcome in outcomes))
        for rule in dict.fromkeys(gain.rule for gain in arm.gains)
    )
    legend = (
        f"Arm {arm.name}: effect of choosing by a rule, minus that of the original; nats per token, higher is "
        "better. lowest: what SAPO does; oracle: what knowing the effects would be worth. [..]: 95 % interval.",
    )
    return Table(("rule", *(claims.NAMES[outcome] for outcome in outcomes)), rows, legend=legend)


def _short(found: Analysis) -> Iterator[Note]:
    """Yield the verdict on every claim with its figure, the primary test first, and what choosing did."""
    main, test = found.arms[0], found.primary
    p = "" if test.p is None else f", p {'' if test.p < 0.001 else '= '}{p_value(test.p)}"
    sizes = " to ".join(dict.fromkeys((str(min(test.candidates, default=0)), str(max(test.candidates, default=0)))))
    least = (
        "No correlation at all could"
        if test.critical is None
        else f"One within ±{number(test.critical, RHO)} could not"
    )
    size = f"{count(len(test.candidates), 'transition')} of {sizes} candidates, arm {test.arm}"
    yield Note(
        f"{_CLAIMS[3]}: {predicted(test)}. Rank correlation with the effect on earlier tasks "
        f"{_in_words(test.rho, RHO)}{p} (the claim: below 0), over {size}. {least} have been "
        "detected at this size.",
        "bold",
    )
    agreement, ratio = main.agreements[0].across, main.spreads[0].ratio
    yield Note(
        f"{_CLAIMS[2]}: {compared(agreement, 0.0, 'above')}. Effects on two other tasks correlate over candidates, "
        f"between different seeds, at {_in_words(agreement, RHO)} (the claim: above 0)."
    )
    yield Note(
        f"{_CLAIMS[1]}: {compared(ratio, 1.0, 'above')}. What candidates add to another task's loss, over what they "
        f"add to that of the task itself, as standard deviations: {_in_words(ratio, RATIO, sign=False)} (the claim: "
        "above 1)."
    )
    gain = next(one.mean for one in main.gains if (one.rule, one.outcome) == ("lowest", "forgetting"))
    yield Note(
        "What choosing the lowest loss instead of the original did to earlier tasks, in nats per token (above 0 is "
        f"better): {_in_words(gain, NLL_DECIMALS)}: {claims.gain_verdict(gain)}."
    )
    if len(main.blocks) == 1:
        yield Note("There is one transition: nothing here says what other transitions would show.", "bold")


def _power(found: Analysis) -> Iterator[Note]:
    critical, powered = found.detectable.critical, found.detectable.powered
    if powered is not None and critical is not None and found.primary.critical is not None:
        yield Note(
            f"By Student's t approximation the limit of what could have been detected is ±{number(critical, RHO)}. A "
            f"true correlation of about ±{number(powered, RHO)} is detected by four of five studies of this size."
        )


def _trainings(found: Analysis) -> Table:
    rows = tuple(
        (
            arm.name, block.transition, ", ".join(block.first.earlier) or NOTHING,
            ", ".join(block.tasks("unseen")) or NOTHING,
            str(len(block.candidates)), ", ".join(map(str, block.seeds)), str(block.left_out),
        )
        for arm in found.arms
        for block in arm.blocks
    )  # fmt: skip
    columns = ("arm", "transition", "trained earlier", "unseen", "candidates", "seeds", "left out")
    legend = (
        "transition: a state of the model, and the task that was trained from it with every candidate.",
        "left out: trainings that are no part of a full table of candidates x seeds; listed below, and not counted.",
    )
    return Table(columns, rows, legend=legend, text=(0, 1, 2, 3))


def _candidates(ordered: Sequence[StudyRecord]) -> Table:
    first = {(record.transition, record.candidate): record for record in reversed(ordered)}
    rows = []
    for (transition, candidate), record in sorted(first.items()):
        loss = number(record.indicators.get(PRIMARY), LOSS)
        origin = record.origin if candidate else "original"
        rows.append((transition, str(candidate), loss, origin, one_line(record.text, _SHOWN)))
    columns = ("transition", "candidate", "pre-update loss", "origin", "text")
    return Table(columns, tuple(rows), text=(0, 3, 4))


def _every_training(ordered: Sequence[StudyRecord]) -> Table:
    found: dict[tuple[str, str, int], list[StudyRecord]] = {}
    for record in ordered:
        found.setdefault((record.transition, record.arm, record.candidate), []).append(record)
    rows = []
    for (transition, arm, candidate), trainings in found.items():
        effects = [
            listed([record.mean_effect(role) for record in trainings], NLL_DECIMALS)
            for role in ("own", "earlier", "unseen")
        ]
        scores = listed([record.effect(record.task, "score") for record in trainings], SCORE, sign=False)
        seeds = ", ".join(str(record.seed) for record in trainings)
        time = duration(sum(record.seconds for record in trainings))
        rows.append((transition, arm, str(candidate), seeds, *effects, scores, time))
    columns = (
        "transition", "arm", "candidate", "seeds", "task itself", "earlier tasks", "unseen tasks", "score", "wall time",
    )  # fmt: skip
    legend = ("Effects by seed, in nats per token. score: of the task itself after the training, 0 to 100.",)
    return Table(columns, tuple(rows), legend=legend, text=(0, 1, 4, 5, 6, 7))


def _cost(ordered: Sequence[StudyRecord]) -> Note:
    spent: dict[str, list[float]] = {}
    for record in ordered:
        spent.setdefault(record.arm, []).append(record.seconds)
    shown = (f"{arm} {count(len(one), 'training')}, {duration(sum(one))}" for arm, one in spent.items())
    return Note(f"Wall time with tests, without the states that trainings start from: {'; '.join(shown)}.")


def _reading(found: Analysis) -> Iterator[Note]:
    yield Note("One test was fixed before: the primary one. Everything else on this page is a hint.", "bold")
    yield Note(
        "[..]: 95 % intervals; where nothing else is said, bootstrap intervals over transitions and, within them, "
        "candidates. They hold for other transitions only as far as these are a sample of them, and for these test "
        "rows."
    )
    if len(found.arms[0].blocks) == 1:
        yield Note(
            "With one transition, intervals of standard deviations are too narrow: in simulations they hold the true "
            "one in about 85 % of cases."
        )
    yield Note("Undecided does not mean that there is no effect: few candidates and transitions make wide intervals.")
    yield Note("Correlations do not show that the loss is the reason: something else that candidates differ in may be.")
    figures = [
        *(test.rho for arm in found.arms for test in arm.predictions),
        *(gain.mean for arm in found.arms for gain in arm.gains if gain.by_transition.count(0.0) < len(arm.blocks)),
    ]
    if any(figure.interval is not None and flat(figure.interval) for figure in figures):
        yield Note(EQUAL)


def _in_words(found: Measured, digits: int, *, sign: bool = True) -> str:
    """Return a figure with its interval, or why it has none, within a sentence."""
    if found.value is None:
        return f"(not known: {found.reason})"
    text = estimate(found, digits, sign=sign)
    return text if found.interval is not None else f"{text} (no interval: {found.reason})"
