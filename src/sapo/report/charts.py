"""Drawings of a study: effects against the loss before training, and what choosing by it is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sapo.experiments.study.analysis import Analysis, Arm
from sapo.experiments.study.blocks import Block, Outcome
from sapo.experiments.study.decision import Gain
from sapo.experiments.study.prediction import PRIMARY
from sapo.report.drawings import Drawing, Intervals, Point, Range, Scatter, Tone
from sapo.report.numbers import LOSS, NLL_DECIMALS, number
from sapo.report.tables import Cell, Column, Figure, Table, cells

_TONES: Mapping[str, Tone] = {"better": "good", "worse": "bad"}
_OUTCOMES: Mapping[Outcome, str] = {"forgetting": "earlier tasks", "generalisation": "unseen tasks"}
_RING = "Ring: the original instruction. The claim: points fall to the right within each transition."


def effects_by_loss(found: Analysis) -> Iterator[Figure]:
    """Yield for each arm what each candidate did to other tasks, against its pre-update loss."""
    for arm in found.arms:
        rows = [row for block in arm.blocks for row in _candidates(block)]
        drawings = [one for outcome, name in _OUTCOMES.items() if (one := _scatter(arm, outcome, name)) is not None]
        columns = (
            Column("transition", numeric=False),
            *map(Column, ("candidate", "pre-update loss", *_OUTCOMES.values())),
        )
        if drawings:
            legend = (
                "Means over seeds of the effects, in nats per token, higher is better. Candidate 0: the original.",
            )
            yield Figure(Table(f"Arm {arm.name}", columns, tuple(rows), legend, drawings=tuple(drawings)))


def gain_drawings(arm: Arm, said: Sequence[str], names: Mapping[str, str]) -> tuple[Drawing, ...]:
    """Return what every rule is worth, a drawing for each outcome.

    Args:
        arm: whose gains are drawn.
        said: the verdict on each of them.
        names: of the outcomes.
    """
    found = []
    for outcome in dict.fromkeys(gain.outcome for gain in arm.gains):
        rows = [
            _range(gain, says)
            for gain, says in zip(arm.gains, said, strict=True)
            if gain.outcome == outcome and gain.mean.value is not None
        ]
        if rows:
            caption = "Rings: the single transitions." if any(row.points for row in rows) else ""
            title = f"Effect on {names[outcome]}, minus the original's; arm {arm.name}"
            found.append(Intervals(title, "nats per token (above 0: better)", tuple(rows), caption=caption))
    return tuple(found)


def _range(gain: Gain, said: str) -> Range:
    low, high = gain.mean.interval or (None, None)
    points = tuple(value for value in gain.by_transition if value is not None)
    shown = points if len(points) > 1 else ()
    return Range(gain.rule, gain.mean.value, low, high, shown, "undecided" if said not in _TONES else said,
                 _TONES.get(said, ""))  # fmt: skip


def _candidates(block: Block) -> Iterator[tuple[Cell, ...]]:
    losses = block.indicator(PRIMARY)
    effects = [block.outcome(outcome) for outcome in _OUTCOMES]
    for n, candidate in enumerate(block.candidates):
        means = (None if one is None else float(one[n].mean()) for one in effects)
        yield cells(
            block.transition,
            str(candidate),
            number(None if losses is None else float(losses[n]), LOSS),
            *(number(mean, NLL_DECIMALS, sign=True) for mean in means),
        )


def _scatter(arm: Arm, outcome: Outcome, name: str) -> Scatter | None:
    points = []
    for block in arm.blocks:
        losses, effects = block.indicator(PRIMARY), block.outcome(outcome)
        if losses is not None and effects is not None:
            points += [
                Point(float(loss), float(effect.mean()), block.transition, candidate == 0)
                for loss, effect, candidate in zip(losses, effects, block.candidates, strict=True)
            ]
    if not points:
        return None
    return Scatter(
        f"Effect on {name}, by pre-update loss; arm {arm.name}", "pre-update loss, nats per token",
        "effect, nats per token (higher: better)", tuple(points), _RING,
    )  # fmt: skip
