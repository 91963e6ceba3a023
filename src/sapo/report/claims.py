"""Tables of a study: its claims, what choosing is worth, and what happens between choice and effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sapo.experiments.study.analysis import Analysis, Arm, compared, predicted
from sapo.experiments.study.blocks import Outcome
from sapo.experiments.study.prediction import PRIMARY
from sapo.experiments.study.resampling import Measured
from sapo.report.blocks import NOTHING, Block, Note, Table
from sapo.report.differences import verdict
from sapo.report.numbers import LOSS, NLL_DECIMALS, SCORE, estimate, listed, number
from sapo.report.plots import Range, ranges, scatter

RHO, RATIO, _P = 2, 2, 3
NAMES: Mapping[str, str] = {
    "pre_update": "pre-update loss", "answer_only": "loss of the answer only", "example_mean": "mean loss of examples",
    "pmi": "PMI: loss minus loss without input", "gradient_norm": "gradient norm", "length": "length in tokens",
    "edit": "edit distance to original", "first_gradient": "first gradient", "path": "length of the path",
    "displacement": "displacement", "drift": "drift (KL) on earlier tasks", "train_before": "training loss before",
    "train_after": "training loss after", "in_task": "task itself", "forgetting": "earlier tasks",
    "generalisation": "unseen tasks", "sum": "sum of the three", "own": "the task itself",
    "other": "one other task at a time", "earlier": "mean of earlier tasks", "unseen": "mean of unseen tasks",
}  # fmt: skip
_OUTCOMES: tuple[Outcome, ...] = ("forgetting", "generalisation")
EACH = "each transition: in the order of its arm in the table of trainings (–: not defined)."


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Measured]],
    digits: int,
    title: str = "",
    legend: Sequence[str] = (),
    *,
    text: tuple[int, ...] = (0, 1),
    sign: bool = True,
) -> Table:
    """Return a table of texts, and of figures with their intervals; it tells why some have no value or interval."""
    given = [tuple(row) for row in rows]
    reasons = [cell.reason for row in given for cell in row if isinstance(cell, Measured) and cell.reason]
    shown = (
        tuple(cell if isinstance(cell, str) else estimate(cell, digits, sign=sign) for cell in row) for row in given
    )
    why = [f"{NOTHING}: {'; or '.join(dict.fromkeys(reasons))}."] if reasons else []
    return Table(tuple(columns), tuple(shown), title, (*legend, *why), text)


def p_value(p: float | None) -> str:
    """Return a p-value."""
    return "< 0.001" if p is not None and p < 0.001 else number(p, _P)


def claim_1(found: Analysis) -> Iterator[Block]:
    """Yield how far candidates differ in the task itself and in others, for each measure."""
    for measure, unit, digits in (("nll", "nats per token", LOSS), ("score", "points of 0 to 100", SCORE + 1)):
        spreads = [(arm.name, one) for arm in found.arms for one in arm.spreads if one.measure == measure]
        if not spreads:
            continue
        rows = (
            (
                arm, NAMES[one.tasks], str(one.transitions), one.candidates, number(one.seeds.value, digits),
                one.residual, one.within, ", ".join(one.negative) or "none",
            )
            for arm, spread in spreads
            for one in spread.components
        )  # fmt: skip
        columns = ("arm", "effect on", "transitions", "candidates", "seeds", "residual", "within seed", "below 0")
        legend = (
            "candidates, seeds: what these add, for all of the others alike. residual: what neither explains. within "
            "seed: between candidates of one seed, residual and all.",
            "below 0: components whose unbiased estimate of the variance is below 0; they count as 0.",
        )
        yield _table(columns, rows, digits, f"Standard deviations, in {unit}", legend, text=(0, 1, -1), sign=False)
        ratios = (
            row
            for arm, one in spreads
            for row in (
                (arm, "what candidates add", one.ratio, compared(one.ratio, 1.0, "above")),
                (arm, "within seed", one.ratio_within, "–, holds noise"),
            )
        )
        about = (
            "ratio: standard deviation of the effect on one other task at a time, over that of the effect on the task "
            "itself. Losses of different tasks may have different scales."
        )
        titles, title = ("arm", "of", "ratio", "verdict"), "Other tasks over the task itself"
        yield _table(titles, ratios, RATIO, title, (about,), text=(0, 1, 3), sign=False)


def claim_2(found: Analysis) -> Table:
    """Return how far effects on pairs of other tasks agree."""
    rows = [
        (
            arm.name, one.group, str(one.pairs), one.across, one.same, compared(one.across, 0.0, "above"),
            listed(one.by_transition, RHO),
        )
        for arm in found.arms
        for one in arm.agreements
        if one.pairs
    ]  # fmt: skip
    legend: tuple[str, ...] = (
        "Mean correlation over candidates of the effects on two tasks other than the trained one. different seeds: the "
        "two effects are of trainings with different seeds; noise weakens it. same seed: of one training, whose noise "
        "both effects share: an upper reading, which alone shows nothing. The verdict is on the former.",
        f"{EACH} Where there is one seed, of the same training.",
    )
    if not rows:
        legend = ("No transition has two tasks other than the trained one to compare.",)
    columns = ("arm", "pairs of tasks", "pairs", "different seeds", "same seed", "verdict", "each transition")
    return _table(columns, rows, RHO, legend=legend, text=(0, 1, -2, -1))


def claim_3(found: Analysis) -> Iterator[Block]:
    """Yield the tests of pre-update loss, the primary one first, and effects against it as figures."""
    legend = (
        "rho: Spearman's rank correlation over candidates, of means over seeds; mean over transitions, weighted by "
        "candidates - 1. p: two-sided, by permutation of candidates within transitions "
        f"({found.sampling.permutations} random orders, or all where there are fewer). adjusted p: corrected for all "
        f"{found.secondary} tests on this page but the primary one (Holm). needed: least |rho| with p < 0.05 in that "
        "test alone. A verdict needs both (adjusted) p < 0.05 and an interval without 0.",
        EACH,
    )
    yield _tests(found, legend, primary=True)
    for arm in found.arms:
        for outcome in _OUTCOMES:
            if points := _points(arm, outcome):
                title = f"Effect on {NAMES[outcome]}, by pre-update loss; arm {arm.name}"
                axes = ("pre-update loss, nats per token", "effect, nats per token (higher: better)")
                caption = "Ring: the original. The claim: points fall to the right within each transition."
                yield scatter(title, points, *axes, caption)


def indicators(found: Analysis) -> Table:
    """Return the tests of all other indicators."""
    about = (
        "Columns as for claim 3. Length and edit distance are trivial controls: a loss that predicts no better than "
        "they do is no help."
    )
    return _tests(found, (about,), primary=False)


def _tests(found: Analysis, legend: tuple[str, ...], *, primary: bool) -> Table:
    rows: Iterable[Sequence[str | Measured]] = (
        [
            test.arm, NAMES.get(test.x, test.x), NAMES[test.y], test.rho, p_value(test.p),
            "primary" if test == found.primary else p_value(test.adjusted), number(test.critical, RHO),
            # A verdict is on the claim, which speaks of the pre-update loss alone.
            *([predicted(test)] if primary else []), listed(test.by_transition, RHO),
        ]
        for arm in found.arms
        for test in arm.predictions
        if (test.x == PRIMARY) == primary
    )  # fmt: skip
    titles = ("arm", "indicator", "effect on", "rho", "p", "adjusted p", "needed")
    columns = (*titles, *(["verdict"] if primary else []), "each transition")
    return _table(columns, rows, RHO, legend=legend, text=(0, 1, 2, *range(7, len(columns))))


def _points(arm: Arm, outcome: Outcome) -> dict[str, list[tuple[float, float]]]:
    """Return by transition (pre-update loss, mean effect) of every candidate, the original first."""
    found = {}
    for block in arm.blocks:
        losses, effects = block.indicator(PRIMARY), block.outcome(outcome)
        if losses is not None and effects is not None:
            means = (float(effect.mean()) for effect in effects)
            found[block.transition] = list(zip(map(float, losses), means, strict=True))
    return found


def gains(found: Analysis) -> Iterator[Block]:
    """Yield what choosing is worth, for each arm."""
    for arm in found.arms:
        rows = (
            (NAMES[gain.outcome], gain.rule, gain.mean, gain_verdict(gain.mean),
             listed(gain.by_transition, NLL_DECIMALS))
            for gain in arm.gains
        )  # fmt: skip
        columns = ("effect on", "rule", "mean", "verdict", "each transition")
        title = f"Arm {arm.name}: effect minus that of the original"
        yield _table(columns, rows, NLL_DECIMALS, title, text=(0, 1, 3, 4))
        for outcome in dict.fromkeys(gain.outcome for gain in arm.gains):
            drawn = [
                Range(gain.rule, gain.mean, gain.by_transition, gain_verdict(gain.mean))
                for gain in arm.gains
                if gain.outcome == outcome and gain.mean.value is not None
            ]
            title = f"Effect on {NAMES[outcome]}, minus the original's; arm {arm.name}"
            if drawn:
                yield ranges(title, drawn, "nats per token (above 0: better)", 0.0, "Rings: the single transitions.")
    yield Note(
        "In nats per token, higher is better. Rules choose by pre-update loss: the lowest; the median; the highest. "
        "random: mean over the paraphrases. oracle: best effect on the other seeds, valued on the seed left out: what "
        "knowing the effects would be worth. mean: over transitions, with its 95 % Student t interval; too small to "
        f"decide: it contains 0. {EACH}",
        "dim",
    )


def gain_verdict(mean: Measured) -> str:
    """Return what can be said of a mean gain."""
    return "undecided" if mean.interval is None else verdict(mean.interval, "higher")


def mediators(found: Analysis) -> Table:
    """Return how what happens in a training goes with the loss before it and the effect after it."""
    rows = (
        (arm.name, NAMES[before.y], before.rho, after.rho) for arm in found.arms for before, after in arm.mediations
    )
    about = (
        "Rank correlations as for claim 3, of what happens in a training with the pre-update loss before it, and with "
        "the effect on earlier tasks after it. Hints at a reason: not tested, and not corrected for their number."
    )
    columns = ("arm", "in between", "with pre-update loss", "with earlier tasks")
    return _table(columns, rows, RHO, legend=(about,))


def bounds(found: Analysis) -> Table:
    """Return how many trainings keep the bounds that may explain the claims."""
    rows = []
    for arm in found.arms:
        for name, one in arm.bounds.items():
            kept = NOTHING if one.kept is None else f"{100 * one.kept:.0f} %"
            ratios = NOTHING if one.range is None else " to ".join(number(ratio, RATIO) for ratio in one.range)
            counted = str(0 if one.kept is None else one.trainings)
            rows.append((arm.name, name, counted, kept, number(one.ratio, RATIO), ratios, str(one.undefined)))
    legend = (
        "path: length of the parameters' path, against sqrt(2 * sum of learning rates * fall of the training loss), "
        "which bounds it for full-batch gradient descent with small steps; not defined where the loss rose, or "
        "where lean left its parts out. Adam's steps are not of that kind.",
        "forgetting: rise of the earlier tasks' loss, against the norm of that loss's gradient * length of the path, "
        "its bound to first order.",
        "ratio: left side over right side; at most 1 where the bound is kept.",
    )
    columns = ("arm", "bound", "trainings", "kept by", "median ratio", "ratios", "not defined")
    return Table(columns, tuple(rows), "Bounds", legend, text=(0, 1))
