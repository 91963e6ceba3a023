"""Do trainings obey the bounds that may explain the method?

Full-batch gradient descent with step sizes eta_k <= 1 / smoothness travels a path of length

    sum eta_k |g_k| <= sqrt(2 * sum eta_k * (L_0 - L_T))

and the loss of an old task rises by at most (its gradient's norm) * length, to first order. Adam's updates are not
of this kind, and mini-batches and dropout are neither: what is measured here is whether the bound holds all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapo.experiments.study.blocks import Block
from sapo.experiments.study.records import StudyRecord


@dataclass(frozen=True, slots=True)
class Bound:
    """How many ``trainings`` have ``kept`` a bound: the share whose left side is at most the right one; None without.

    ``ratio`` is the median of left over right, of those with a right side above 0, ``range`` the least and greatest;
    ``undefined`` counts the trainings for which a side is not defined.
    """

    trainings: int
    undefined: int
    kept: float | None
    ratio: float | None
    range: tuple[float, float] | None


def bounds(blocks: Sequence[Block]) -> dict[str, Bound]:
    """Return what the trainings of the blocks of one arm keep of both bounds, "path" and "forgetting"."""
    sides = {"path": path_sides, "forgetting": forgetting_sides}
    records = [record for block in blocks for row in block.records for record in row]
    return {name: bound([of(record) for record in records]) for name, of in sides.items()}


def path_sides(record: StudyRecord) -> tuple[float, float] | None:
    """Return length of the path and its bound; None where something is missing, or the training loss rose."""
    path, rates, before, after = map(record.mediators.get, ("path", "rate_sum", "train_before", "train_after"))
    if path is None or rates is None or before is None or after is None or after > before or rates < 0:
        return None
    return path, math.sqrt(2 * rates * (before - after))


def forgetting_sides(record: StudyRecord) -> tuple[float, float] | None:
    """Return the rise of the earlier tasks' loss and its first-order bound; None where something is missing.

    Their rows count together, by token, as in the loss that the gradient is of.
    """
    path, gradient = record.mediators.get("path"), record.mediators.get("earlier_gradient")
    earlier = [record.losses[task] for task in record.tasks("earlier")]
    if path is None or gradient is None or not earlier:
        return None
    rise = sum(sum(losses.after) - sum(losses.before) for losses in earlier)
    return rise / sum(sum(losses.tokens) for losses in earlier), gradient * path


def bound(sides: Sequence[tuple[float, float] | None]) -> Bound:
    """Return how many of the pairs have a left side that is at most the right one."""
    known = [pair for pair in sides if pair is not None]
    if not known:
        return Bound(0, len(sides), None, None, None)
    ratios = [left / right for left, right in known if right > 0]
    return Bound(
        trainings=len(known),
        undefined=len(sides) - len(known),
        kept=sum(left <= right for left, right in known) / len(known),
        ratio=float(np.median(ratios)) if ratios else None,
        range=(min(ratios), max(ratios)) if ratios else None,
    )
