"""Claim 1: how far candidates differ in the task that is trained, and how far in other tasks.

Effects of one transition lie in a table of candidates x seeds. Each is a mean, plus what the candidate adds, plus
what the seed adds (for all candidates alike), plus a residual: interaction and noise. The variances of the three are
estimated by the method of moments from the mean squares of the two-way analysis of variance without replication
(Searle, Casella & McCulloch 1992, chapter 4). They are unbiased, and so may be negative: they are averaged over
transitions, with weight candidates - 1, before a negative one is set to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats, Ints
from sapo.experiments.study.blocks import Block, together
from sapo.experiments.study.records import Measure
from sapo.experiments.study.resampling import Measured, Part, Sampling, estimates, point

NAMES = ("candidates", "seeds", "residual")
_ROUNDING = 1e-12
_UNDEFINED = "no transition has two candidates or more that were tested on such tasks"
_ONE_SEED = "one seed: candidates cannot be told from noise"
_FEW_SEEDS = "few seeds: no interval"
_NO_SPREAD = "candidates do not differ in the task itself, as far as can be told"


@dataclass(frozen=True, slots=True)
class Components:
    """Standard deviations of one kind of effect, in its units, pooled over transitions.

    Attributes:
        tasks: "own", "other" (one other task at a time, mean over these of the variances), "earlier" or "unseen"
            (the mean effect over them).
        seeds: what seeds add; without interval, as seeds are too few to be resampled.
        residual: of a single training, beyond both.
        within: between candidates of one seed, with the residual in it.
        negative: names of those whose variance was estimated below 0, and set to 0.
        transitions: how many have effects of this kind.
    """

    tasks: str
    candidates: Measured
    seeds: Measured
    residual: Measured
    within: Measured
    negative: tuple[str, ...]
    transitions: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Claim 1 in one arm and one measure.

    Attributes:
        measure: "nll" in nats per token, or "score".
        components: of "own", "other", "earlier" and "unseen".
        ratio: standard deviation of what candidates add in other tasks ("other") over that in their own.
        ratio_within: the same of single trainings, with their noise.
    """

    measure: Measure
    components: tuple[Components, ...]
    ratio: Measured
    ratio_within: Measured


def moments(table: Floats) -> Floats:
    """Return the variance estimates of candidates, seeds, residual and candidates within a seed, shape [..., 4].

    ``table`` has shape [..., candidates, seeds], two candidates or more; with one seed the first three are NaN.
    """
    c, s = table.shape[-2:]
    within = table.var(axis=-2, ddof=1).mean(axis=-1)
    if s == 1:
        missing = np.full_like(within, np.nan)
        return np.stack([missing, missing, missing, within], axis=-1)
    by_candidate, by_seed = table.mean(axis=-1), table.mean(axis=-2)
    grand = table.mean(axis=(-2, -1))
    rest = table - by_candidate[..., :, None] - by_seed[..., None, :] + grand[..., None, None]
    residual = (rest**2).sum(axis=(-2, -1)) / ((c - 1) * (s - 1))
    candidates = by_candidate.var(axis=-1, ddof=1) - residual / s
    seeds = by_seed.var(axis=-1, ddof=1) - residual / c
    return np.stack([candidates, seeds, residual, within], axis=-1)


def spread(blocks: Sequence[Block], measure: Measure, sampling: Sampling) -> Spread:
    """Return claim 1 of the blocks of one arm."""
    kinds: dict[str, Callable[[Block], list[Floats | None]]] = {
        "own": lambda block: [block.outcome("in_task", measure)],
        "other": lambda block: [block.effects(task, measure) for task in block.tasks("earlier", "unseen")],
        "earlier": lambda block: [block.outcome("forgetting", measure)],
        "unseen": lambda block: [block.outcome("generalisation", measure)],
    }
    blocks = [block for block in blocks if len(block.candidates) > 1]
    tables = {kind: [together(found(block)) for block in blocks] for kind, found in kinds.items()}
    both = list(zip(tables["own"], tables["other"], strict=True))
    return Spread(
        measure,
        tuple(_components(kind, [found for found in tables[kind] if found is not None], sampling) for kind in kinds),
        *(_ratio([(a, b) for a, b in both if a is not None and b is not None], k, sampling) for k in (0, 3)),
    )


def _components(kind: str, tables: Sequence[Floats], sampling: Sampling) -> Components:
    if not tables:
        nothing = Measured(None, None, _UNDEFINED)
        return Components(kind, nothing, nothing, nothing, nothing, (), 0)
    parts = [_part([table], [0, 1, 2]) for table in tables]
    candidates, seeds, residual = estimates(parts, sampling, _ONE_SEED, _roots)
    (within,) = estimates([_part([table], [3]) for table in tables], sampling, _UNDEFINED, _roots)
    negative = tuple(name for name, v in zip(NAMES, point(parts), strict=True) if v < -_ROUNDING)
    if seeds.value is not None:
        seeds = Measured(seeds.value, None, _FEW_SEEDS)
    return Components(kind, candidates, seeds, residual, within, negative, len(tables))


def _ratio(pairs: Sequence[tuple[Floats, Floats]], which: int, sampling: Sampling) -> Measured:
    """Return the ratio of one of the standard deviations of `moments`, second tables over first ones."""
    if not pairs:
        return Measured(None, None, _UNDEFINED)
    parts = [_part(pair, [which]) for pair in pairs]
    undefined = _ONE_SEED if np.isnan(point(parts)).any() else _NO_SPREAD
    (ratio,) = estimates(parts, sampling, undefined, _quotient)
    return ratio if ratio.value != np.inf else Measured(None, None, _NO_SPREAD)


def _part(kinds: Sequence[Floats], which: Sequence[int]) -> Part:
    """Return a transition's share in variances: these of `moments`, mean over tasks, of each kind of effects."""
    n = kinds[0].shape[1]

    def variances(index: Ints) -> Floats:
        return np.concatenate([moments(tables[:, index]).mean(axis=0)[:, which] for tables in kinds], axis=1)

    return Part(n, n - 1, variances, n / (n - 1))


def _roots(variances: Floats) -> Floats:
    """Return standard deviations, 0 for negative variances and NaN for missing ones."""
    return np.sqrt(np.maximum(variances, 0.0))


def _quotient(variances: Floats) -> Floats:
    own, other = _roots(variances).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(other / own)[:, None]
