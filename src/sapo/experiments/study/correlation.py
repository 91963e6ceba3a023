"""Claim 2: is a candidate that is good for one other task good for the rest?

Pearson's correlation over candidates, of the effect on task X in one training with the effect on task Y in another,
for all pairs of tasks other than the trained one. The two trainings of a candidate have different seeds: what noise
did to X and Y in one training would make them alike without any superior candidate. Noise that is not shared weakens
a correlation, so this reading is a cautious one; the same correlation within one seed is the upper reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sapo.core.types import Floats, Ints
from sapo.experiments.study.blocks import Block
from sapo.experiments.study.records import Role
from sapo.experiments.study.resampling import Measured, Part, Sampling, estimates, standardised, weighted

# Which pairs of tasks: both roles, None for all.
GROUPS: Mapping[str, tuple[Role, Role] | None] = {
    "all": None,
    "earlier with earlier": ("earlier", "earlier"),
    "earlier with unseen": ("earlier", "unseen"),
    "unseen with unseen": ("unseen", "unseen"),
}
_ONE_SEED = "one seed: only trainings that share their noise can be compared"
_NO_PAIR = "no transition has two such tasks and two candidates that differ in them"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean correlation of effects on pairs of tasks, over pairs, ordered pairs of seeds and transitions.

    Attributes:
        group: key of `GROUPS`.
        pairs: how many pairs of tasks, in all transitions together.
        across: between trainings of different seeds.
        same: between effects of one training.
        by_transition: ``across``, or ``same`` where there is one seed, of each block; None where it is not defined.
    """

    group: str
    pairs: int
    across: Measured
    same: Measured
    by_transition: tuple[float | None, ...]


def agreements(blocks: Sequence[Block], sampling: Sampling) -> tuple[Agreement, ...]:
    """Return claim 2 of the blocks of one arm, for each group of pairs."""
    return tuple(_agreement(blocks, group, sampling) for group in GROUPS)


def _agreement(blocks: Sequence[Block], group: str, sampling: Sampling) -> Agreement:
    pairs = [_pairs(block, GROUPS[group]) if len(block.candidates) > 1 else [] for block in blocks]
    usable = [(block, found) for block, found in zip(blocks, pairs, strict=True) if found]
    if not usable:
        nothing = Measured(None, None, _NO_PAIR)
        return Agreement(group, 0, nothing, nothing, (None,) * len(blocks))
    one_seed = all(len(block.seeds) == 1 for block, _ in usable)
    (across,) = estimates([_part(*one, same=False) for one in usable], sampling, _ONE_SEED if one_seed else _NO_PAIR)
    (same,) = estimates([_part(*one, same=True) for one in usable], sampling, _NO_PAIR)
    values = (
        float(_part(block, found, same=one_seed).value()[0]) if found else np.nan
        for block, found in zip(blocks, pairs, strict=True)
    )
    by_transition = tuple(None if np.isnan(value) else value for value in values)
    return Agreement(group, sum(map(len, pairs)), across, same, by_transition)


def _pairs(block: Block, kind: tuple[Role, Role] | None) -> list[tuple[int, int]]:
    """Return the pairs of tasks of a kind, by their places among those other than the trained one."""
    roles = [block.first.losses[task].role for task in block.tasks("earlier", "unseen")]
    return [
        (a, b) for a, b in combinations(range(len(roles)), 2) if kind is None or sorted((roles[a], roles[b])) == [*kind]
    ]


def _part(block: Block, pairs: Sequence[tuple[int, int]], *, same: bool) -> Part:
    """Return a transition's share in the mean correlation of pairs, within one seed or between different ones."""
    found = (block.effects(task) for task in block.tasks("earlier", "unseen"))
    effects = np.stack([table for table in found if table is not None])
    _, n, seeds = effects.shape
    xs, ys = ([pair[side] for pair in pairs] for side in (0, 1))
    chosen = np.eye(seeds, dtype=bool) == same

    def correlate(index: Ints) -> Floats:
        # Correlations are of centred values: within each seed, over its candidates. [tasks, m, seeds, candidates]
        units = standardised(np.moveaxis(effects[:, index], 2, -1))
        r = np.einsum("pmsc,pmtc->pmst", units[xs], units[ys])
        found = np.moveaxis(r[..., chosen], 1, -1).reshape(-1, len(index))
        return weighted(found, np.ones((len(found), 1)))[:, None]

    return Part(n, n - 1, correlate)
