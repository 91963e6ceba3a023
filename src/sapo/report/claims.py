"""Tables of a study: its claims, what choosing is worth, and what happens between choice and effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sapo.experiments.study.analysis import Analysis, compared, predicted
from sapo.experiments.study.bound import Bound
from sapo.experiments.study.components import Spread
from sapo.experiments.study.prediction import PRIMARY, Association
from sapo.experiments.study.resampling import Measured
from sapo.report.charts import gain_drawings
from sapo.report.differences import verdict
from sapo.report.figures import Reasons, listed, p_value
from sapo.report.numbers import LOSS, NLL_DECIMALS, SCORE, number
from sapo.report.tables import NOTHING, Block, Cell, Column, Note, Style, Table, cells

RHO, RATIO = 2, 2
NAMES: Mapping[str, str] = {
    "pre_update": "pre-update loss", "answer_only": "loss of the answer only", "example_mean": "mean loss of examples",
    "pmi": "PMI: loss minus loss without input", "gradient_norm": "gradient norm", "length": "length in tokens",
    "edit": "edit distance to original", "first_gradient": "first gradient", "path": "length of the path",
    "displacement": "displacement", "drift": "drift (KL) on earlier tasks", "train_before": "training loss before",
    "train_after": "training loss after", "in_task": "task itself", "forgetting": "earlier tasks",
    "generalisation": "unseen tasks", "sum": "sum of the three", "own": "the task itself",
    "other": "one other task at a time", "earlier": "mean of earlier tasks", "unseen": "mean of unseen tasks",
}  # fmt: skip
_STYLES: Mapping[str, Style] = {
    "in line with the claim": "good", "against the claim": "bad", "better": "good", "worse": "bad",
}  # fmt: skip
EACH = "each transition: in the order of its arm in the table of trainings (–: not defined)."


def claim_1(found: Analysis) -> Iterator[Block]:
    """Yield how far candidates differ in the task itself and in others, for each measure."""
    for measure, unit, digits in (("nll", "nats per token", LOSS), ("score", "points of 0 to 100", SCORE + 1)):
        spreads = [(arm.name, one) for arm in found.arms for one in arm.spreads if one.measure == measure]
        if spreads:
            yield _components(spreads, unit, digits)
            yield _ratios(spreads)


def _components(spreads: Sequence[tuple[str, Spread]], unit: str, digits: int) -> Table:
    rows, reasons = [], Reasons()
    for arm, spread in spreads:
        for one in spread.components:
            figures = (
                *reasons.figure(one.candidates, digits),
                number(one.seeds.value, digits),
                *reasons.figure(one.residual, digits),
                *reasons.figure(one.within, digits),
            )
            rows.append(cells(arm, NAMES[one.tasks], str(one.transitions), *figures, ", ".join(one.negative) or "none"))
    interval = Column("95 % interval")
    columns = (
        *texts("arm", "effect on"),
        *(Column("transitions"), Column("candidates"), interval, Column("seeds")),
        *(Column("residual"), interval, Column("within seed"), interval),
        *texts("below 0"),
    )
    legend = (
        "candidates, seeds: what these add, for all of the others alike. residual: what neither explains. within seed: "
        "between candidates of one seed, residual and all.",
        "below 0: whose variance came out below 0, as estimates without bias may; it counts as 0.",
        *reasons.legend(),
    )
    return Table(f"Standard deviations, in {unit}", columns, tuple(rows), legend)


def _ratios(spreads: Sequence[tuple[str, Spread]]) -> Table:
    rows, reasons = [], Reasons()
    for arm, one in spreads:
        says = _verdict(compared(one.ratio, 1.0, "above"))
        rows.append((*cells(arm, "what candidates add", *reasons.figure(one.ratio, RATIO)), says))
        rows.append(cells(arm, "within seed", *reasons.figure(one.ratio_within, RATIO), "–, holds noise"))
    columns = (*texts("arm", "of"), Column("ratio"), Column("95 % interval"), *texts("verdict"))
    legend = (
        "ratio: standard deviation of the effect on one other task at a time, over that of the effect on the task "
        "itself. Losses of different tasks may have different scales.",
        *reasons.legend(),
    )
    return Table("Other tasks over the task itself", columns, tuple(rows), legend)


def claim_2(found: Analysis) -> Table:
    """Return how far effects on pairs of other tasks agree."""
    rows, reasons = [], Reasons()
    for arm in found.arms:
        for one in arm.agreements:
            if one.pairs:
                figures = (*reasons.figure(one.across, RHO, sign=True), *reasons.figure(one.same, RHO, sign=True))
                says = _verdict(compared(one.across, 0.0, "above"))
                row = cells(arm.name, one.group, str(one.pairs), *figures)
                rows.append((*row, says, Cell(listed(one.by_transition, RHO))))
    titles = ("pairs", "different seeds", "95 % interval", "same seed", "95 % interval")
    columns = (*texts("arm", "pairs of tasks"), *map(Column, titles), *texts("verdict", "each transition"))
    if not rows:
        return Table("", columns, (), ("No transition has two tasks other than the trained one to compare.",))
    legend = (
        "Mean correlation over candidates of the effects on two tasks other than the trained one. different seeds: the "
        "two effects are of trainings with different seeds; noise weakens it. same seed: of one training, whose noise "
        "both effects share: an upper reading, which alone shows nothing. The verdict is on the former.",
        f"{EACH} Where there is one seed, of the same training.",
        *reasons.legend(),
    )
    return Table("", columns, tuple(rows), legend)


def claim_3(found: Analysis) -> Table:
    """Return the tests of pre-update loss, the primary one first."""
    rows, reasons = [], Reasons()
    for test in _tests(found, primary=True):
        adjusted = "primary" if test == found.primary else p_value(test.adjusted)
        says = _verdict(predicted(test))
        rows.append((*_test(test, reasons, adjusted), says, Cell(listed(test.by_transition, RHO))))
    columns = (*_TEST_COLUMNS, *texts("verdict", "each transition"))
    legend = (
        "rho: Spearman's rank correlation over candidates, of means over seeds; mean over transitions, weighted by "
        "candidates - 1. p: two-sided, by permutation of candidates within transitions "
        f"({found.sampling.permutations} random orders, or all where there are fewer). adjusted p: corrected for all "
        f"{found.secondary} tests on this page but the primary one (Holm). needed: least |rho| with p < 0.05 in that "
        "test alone. A verdict needs both (adjusted) p < 0.05 and an interval without 0.",
        EACH,
        *reasons.legend(),
    )
    return Table("", columns, tuple(rows), legend)


def indicators(found: Analysis) -> Table:
    """Return the tests of all other indicators."""
    rows, reasons = [], Reasons()
    for test in _tests(found, primary=False):
        each = listed(test.by_transition, RHO)
        rows.append((*_test(test, reasons, p_value(test.adjusted)), Cell(each)))
    about = (
        "Columns as for claim 3. Length and edit distance are trivial controls: a loss that predicts no better than "
        "they do is no help."
    )
    return Table("", (*_TEST_COLUMNS, *texts("each transition")), tuple(rows), (about, *reasons.legend()))


def _tests(found: Analysis, *, primary: bool) -> Iterator[Association]:
    return (test for arm in found.arms for test in arm.predictions if (test.x == PRIMARY) == primary)


def _test(test: Association, reasons: Reasons, adjusted: str) -> tuple[Cell, ...]:
    names = (NAMES.get(test.x, test.x), NAMES[test.y])
    rho = reasons.figure(test.rho, RHO, sign=True)
    return cells(test.arm, *names, *rho, p_value(test.p), adjusted, number(test.critical, RHO))


def gains(found: Analysis) -> Iterator[Block]:
    """Yield what choosing is worth, for each arm."""
    for arm in found.arms:
        rows, reasons = [], Reasons()
        for gain in arm.gains:
            row = cells(NAMES[gain.outcome], gain.rule, *reasons.figure(gain.mean, NLL_DECIMALS, sign=True))
            rows.append((*row, _verdict(gain_verdict(gain.mean)), Cell(listed(gain.by_transition, NLL_DECIMALS))))
        figures = (Column("mean"), Column("95 % interval"))
        columns = (*texts("effect on", "rule"), *figures, *texts("verdict", "each transition"))
        title = f"Arm {arm.name}: effect minus that of the original"
        said = [gain_verdict(gain.mean) for gain in arm.gains]
        drawings = gain_drawings(arm, said, NAMES)
        yield Table(title, columns, tuple(rows), reasons.legend(), drawings=drawings)
    yield Note(
        "In nats per token, higher is better. Rules choose by pre-update loss: the lowest; confident: the lowest if it "
        f"lies more than {found.margin:g} nats per token below the original's, else the original; the median; the "
        "highest. random: mean over the paraphrases. oracle: best effect on the other seeds, valued on the seed left "
        "out: what knowing the effects would be worth. mean: over transitions, with its 95 % Student t interval; too "
        f"small to decide: it contains 0. {EACH}",
        "dim",
    )


def gain_verdict(mean: Measured) -> str:
    """Return what can be said of a mean gain."""
    return "undecided" if mean.interval is None else verdict(mean.interval, "higher")


def mediators(found: Analysis) -> Table:
    """Return how what happens in a training goes with the loss before it and the effect after it."""
    rows, reasons = [], Reasons()
    for arm in found.arms:
        for before, after in arm.mediations:
            figures = (figure for one in (before, after) for figure in reasons.figure(one.rho, RHO, sign=True))
            rows.append(cells(arm.name, NAMES[before.y], *figures))
    titles = ("with pre-update loss", "95 % interval", "with earlier tasks", "95 % interval")
    legend = (
        "Rank correlations as for claim 3, of what happens in a training with the pre-update loss before it, and with "
        "the effect on earlier tasks after it. Hints at a reason: not tested, and not corrected for their number.",
        *reasons.legend(),
    )
    return Table("", (*texts("arm", "in between"), *map(Column, titles)), tuple(rows), legend)


def bounds(found: Analysis) -> Table:
    """Return how many trainings keep the bounds that may explain the claims."""
    rows = []
    for arm in found.arms:
        for name, one in (("path", arm.bounds.path), ("forgetting", arm.bounds.forgetting)):
            rows.append(cells(arm.name, name, *_bound(one)))
    titles = ("trainings", "kept by", "median ratio", "ratios", "not defined")
    legend = (
        "path: length of the parameters' path, against sqrt(2 * sum of learning rates * fall of the training loss), "
        "which bounds it for full-batch gradient descent with small steps; not defined where the loss rose. Adam's "
        "steps are not of that kind.",
        "forgetting: rise of the earlier tasks' loss, against the norm of that loss's gradient * length of the path, "
        "its bound to first order.",
        "ratio: left side over right side; at most 1 where the bound is kept.",
    )
    return Table("Bounds", (*texts("arm", "bound"), *map(Column, titles)), tuple(rows), legend)


def _bound(one: Bound) -> tuple[str, ...]:
    if one.kept is None:
        return ("0", NOTHING, NOTHING, NOTHING, str(one.undefined))
    ratios = NOTHING if one.range is None else " to ".join(number(ratio, RATIO) for ratio in one.range)
    return (str(one.trainings), f"{100 * one.kept:.0f} %", number(one.ratio, RATIO), ratios, str(one.undefined))


def texts(*titles: str) -> tuple[Column, ...]:
    """Return columns of texts."""
    return tuple(Column(title, numeric=False) for title in titles)


def _verdict(says: str) -> Cell:
    return Cell(says, _STYLES.get(says, ""))


_TEST_COLUMNS = (
    *texts("arm", "indicator", "effect on"),
    *map(Column, ("rho", "95 % interval", "p", "adjusted p", "needed")),
)
