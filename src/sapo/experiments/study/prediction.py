"""Claim 3: does what is known of candidates before a training tell what the training does?

Correlations are Spearman's, within a transition, between means over seeds; over transitions they are averaged with
the weight candidates - 1, the inverse of their variance where there is no association (Kendall 1948). On Fisher's
scale (weight candidates - 3) the mean would not exist for a correlation of +-1, which few candidates often have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sapo.core.types import Floats, Ints
from sapo.experiments.study.blocks import Block, Outcome
from sapo.experiments.study.resampling import (
    Measured,
    Part,
    Sampling,
    estimates,
    holm,
    permutation_test,
    rank_correlation,
)

PRIMARY = "pre_update"
# By name: the indicators and mediators of `StudyRecord`.
INDICATORS = (PRIMARY, "answer_only", "example_mean", "pmi", "gradient_norm", "length", "edit")
MEDIATORS = ("first_gradient", "path", "displacement", "drift", "train_before", "train_after")
OUTCOMES: tuple[Outcome, ...] = ("forgetting", "generalisation")
_UNDEFINED = "no transition has two candidates or more that differ in both, or lean left it out"


@dataclass(frozen=True, slots=True)
class Association:
    """A rank correlation over candidates.

    Attributes:
        arm: the optimiser.
        x: what is correlated,
        y: and with what.
        rho: mean over transitions.
        by_transition: of each block of the arm, in order; None where it is not defined.
        p: two-sided, by permutation; None where nothing is defined.
        adjusted: p after Holm's correction among all secondary tests; None where p stands alone.
        critical: least |rho| with p < 0.05, by permutation; None if no order reaches it.
    """

    arm: str
    x: str
    y: str
    rho: Measured
    by_transition: tuple[float | None, ...]
    candidates: tuple[int, ...]
    p: float | None
    adjusted: float | None
    critical: float | None


def associate(
    arm: str, x: str, y: str, pairs: Sequence[tuple[Floats | None, Floats | None]], sampling: Sampling
) -> Association:
    """Return the association of two variables of candidates.

    ``pairs`` holds both variables, shape [candidates] each, by transition; None where a transition lacks one.
    """
    rhos = [None if a is None or b is None else float(rank_correlation(a, b)) for a, b in pairs]
    by_transition = tuple(None if rho is None or np.isnan(rho) else rho for rho in rhos)
    used = [
        (a, b)
        for (a, b), rho in zip(pairs, by_transition, strict=True)
        if a is not None and b is not None and rho is not None
    ]
    sizes = tuple(len(a) for a, _ in used)
    if not used:
        return Association(arm, x, y, Measured(None, None, _UNDEFINED), by_transition, (), None, None, None)
    parts = [Part(len(a), len(a) - 1, partial(_correlations, a, b)) for a, b in used]
    (rho,) = estimates(parts, sampling, _UNDEFINED)
    test = permutation_test(used, [part.weight for part in parts], sampling)
    return Association(arm, x, y, rho, by_transition, sizes, test.p, None, test.critical)


def predictions(blocks: Sequence[Block], sampling: Sampling) -> tuple[Association, ...]:
    """Return every indicator against forgetting and generalisation, of the blocks of one arm."""
    there = {PRIMARY}.union(*(block.first.indicators for block in blocks))
    return tuple(
        associate(
            blocks[0].arm, name, outcome,
            [(block.indicator(name), _mean(block.outcome(outcome))) for block in blocks], sampling,
        )
        for name in INDICATORS
        if name in there
        for outcome in OUTCOMES
    )  # fmt: skip


def mediations(blocks: Sequence[Block], sampling: Sampling) -> tuple[tuple[Association, Association], ...]:
    """Return, by mediator, pre-update loss against it and it against forgetting, of the blocks of one arm."""
    arm, there = blocks[0].arm, {name for block in blocks for name in block.first.mediators}
    losses = [block.indicator(PRIMARY) for block in blocks]
    forgetting = [_mean(block.outcome("forgetting")) for block in blocks]
    found = []
    for name in (name for name in MEDIATORS if name in there):
        values = [_mean(block.mediator(name)) for block in blocks]
        before = associate(arm, PRIMARY, name, list(zip(losses, values, strict=True)), sampling)
        after = associate(arm, name, "forgetting", list(zip(values, forgetting, strict=True)), sampling)
        found.append((before, after))
    return tuple(found)


def adjusted(secondary: Sequence[Association]) -> tuple[Association, ...]:
    """Return associations with their p-values corrected for one another; undefined ones do not count."""
    corrected = iter(holm([one.p for one in secondary if one.p is not None]))
    return tuple(one if one.p is None else replace(one, adjusted=next(corrected)) for one in secondary)


def _correlations(x: Floats, y: Floats, index: Ints) -> Floats:
    return rank_correlation(x[index], y[index])[:, None]


def _mean(values: Floats | None) -> Floats | None:
    return None if values is None else values.mean(axis=1)
