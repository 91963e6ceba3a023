"""The front door of the method: model + task + candidates -> Selection.

    selection = sapo.select(model, tokenizer, task, candidates)
    selection.instruction.text      # train with this one

All candidates are scored on the same rows, so losses are compared pair by pair: d_i = NLL_i(candidate) -
NLL_i(original). What is reported is delta = sum(d) / sum(tokens) with an interval that holds for all
candidates at once. It speaks of these rows' population and this state of the model, not of what training
will do; and the winner's own delta is optimistic, since it is the lowest of many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sapo.cache import Found, LossCache
from sapo.errors import CandidateError, DataError, ScoreError
from sapo.paraphrase import admit
from sapo.render import Renderer
from sapo.score import Scorer, losses_of
from sapo.types import (
    CandidateLoss,
    Floats,
    Instruction,
    Ints,
    Losses,
    Rejection,
    Rule,
    Sample,
    Selection,
    Task,
)

# Published limit: 1536 tokens of prompt and 128 of answer.
MAX_LENGTH = 1664
# Two exact routes in float32 differ by less; half precision measures its own.
TIE = 1e-5
DRAWS = 2000
LEVEL = 0.95
# Measured (LOG.md, 2026-11-23): joint coverage 94 to 99 % from 4 examples on; no effect from 12 on.
_LEAST_SPREAD = 0.2


def select(
    model: Any,
    tokenizer: Any,
    task: Task,
    candidates: Sequence[str],
    examples: int = 250,
    *,
    rule: Rule = "lowest",
    sample: Sample = "stratified",
    seed: int = 42,
    max_length: int = MAX_LENGTH,
) -> Selection:
    """Return the candidates' pre-update losses on the task's training rows, and the chosen instruction.

    Args:
        model: any transformers or peft causal LM. Weights, mode, requires_grad and random state stay as
            they are.
        tokenizer: its tokenizer.
        task: its instruction is the original and always the first candidate.
        candidates: paraphrases of the original. Unusable ones are rejected with a reason.
        examples: number of selection rows, all training rows where there are fewer.
        rule: "lowest" loss, the paper's; or "confident": leave the original only for a candidate whose
            interval lies below zero.
        sample: "stratified" by label where there are labels, or the "first" rows, as published.
        seed: of the sample and of the bootstrap.
        max_length: most tokens of prompt and answer; longer inputs are cut in the middle.

    Raises:
        CandidateError: if no candidate is left beside the original.
        DataError: if the task has no training rows.
        ScoreError: if a loss is not finite.
        RenderError: if a prompt does not fit.
    """
    if examples < 1:
        raise DataError(f"examples = {examples}: allowed is a positive number of selection rows")
    kept, rejected = admit(task, candidates, "given")
    if len(kept) == 1:
        reasons = "; ".join(f"{r.text!r}: {r.reason}" for r in rejected) or "none were given"
        raise CandidateError(f"task {task.name!r} has no candidate beside the original instruction ({reasons})")
    limit = min(max_length, context_length(model))
    rows = selection_rows(task, examples, sample, seed)
    return score_candidates(
        Scorer(model), Renderer(tokenizer, limit), task, kept, rows, rule=rule, sample=sample, seed=seed,
        rejected=rejected,
    )  # fmt: skip


def score_candidates(
    scorer: Scorer,
    renderer: Renderer,
    task: Task,
    candidates: Sequence[Instruction],
    rows: Sequence[int],
    *,
    rule: Rule,
    sample: Sample,
    seed: int,
    rejected: Sequence[Rejection] = (),
    advance: Callable[[int], None] = lambda rows: None,
    cache: LossCache | None = None,
) -> Selection:
    """Score candidates, the original first, on the given training rows and choose by the rule.

    ``advance`` is told the number of rows scored after each batch. Losses that ``cache`` knows are taken from
    there.
    """
    examples = [task.train[i] for i in rows]
    losses, seconds, routes, cached = [], 0.0, set(), 0
    for number, candidate in enumerate(candidates):
        encoded = renderer.encode(candidate.text, task.suffix, examples)
        found = None if cache is None else cache.find(encoded)
        if found is None:
            began = time.perf_counter()
            computed = scorer(encoded, advance)
            found = Found(computed.nll, time.perf_counter() - began, scorer.route)
            _demand_finite(computed, number, candidate, task, rows)
            if cache is not None:
                cache.keep(encoded, found)
        else:
            advance(len(encoded))
            cached += 1
        losses.append(losses_of(encoded, found.nll))
        seconds += found.seconds
        routes.add(found.route)
        if number == 0:
            tolerance = max(TIE, scorer.layout_noise(encoded, losses[0]))
    deltas, intervals = compare(np.stack([x.nll for x in losses]), losses[0].tokens, seed)
    chosen = choose([x.per_token for x in losses], intervals, rule, tolerance)
    return Selection(
        task=task.name, rule=rule, sample=sample, rows=tuple(rows), chosen=chosen, tolerance=tolerance,
        rejected=tuple(rejected), seconds=seconds, route=" and ".join(sorted(routes)), cached=cached,
        candidates=tuple(
            CandidateLoss(candidate, loss, delta, interval, "chosen" if i == chosen else "scored")
            for i, (candidate, loss, delta, interval) in enumerate(
                zip(candidates, losses, deltas, intervals, strict=True)
            )
        ),
    )  # fmt: skip


def choose(
    losses: Sequence[float], intervals: Sequence[tuple[float, float] | None], rule: Rule, tolerance: float
) -> int:
    """Return the index of the chosen candidate; index 0 is the original.

    Ties (within ``tolerance`` of the lowest) go to the original, then to the earlier candidate.
    """
    allowed: list[int] = list(range(len(losses)))
    if rule == "confident":
        allowed = [0] + [i for i, ci in enumerate(intervals) if ci is not None and ci[1] < 0]
    lowest = min(losses[i] for i in allowed)
    return next(i for i in allowed if losses[i] <= lowest + tolerance)


def compare(nll: Floats, tokens: Ints, seed: int) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return each candidate's loss difference to the first one, and its simultaneous 95 % interval.

    Bootstrap over examples of sum(d) / sum(tokens), studentised, with the quantile of the largest |t| over
    all candidates (max-t; Romano & Wolf 2005), so that all intervals hold together.

    Args:
        nll: per candidate and example, in nats, shape [candidates, examples].
        tokens: supervised tokens per example, shape [examples].
        seed: of the resampling.

    Returns:
        Deltas in nats per token, and intervals; None for the first candidate, and for all if there are fewer
        than two examples. A candidate whose differences do not vary has an interval of no width.
    """
    candidates, n = nll.shape
    d = (nll - nll[0]).T
    t = tokens.astype(np.float64)
    delta = d.sum(axis=0) / t.sum()
    if n < 2 or candidates < 2:
        return delta.tolist(), [None] * candidates
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    error = _ratio_error(np.ones((1, n)), d, t, delta[None])[0]
    drawn = (weights @ d) / (weights @ t)[:, None]
    drawn_error = _ratio_error(weights, d, t, drawn)
    # A resample of few distinct examples has hardly any spread of its own and would count for almost everything.
    drawn_error = np.maximum(drawn_error, _LEAST_SPREAD * error)
    varies = error > 1e-12
    ratio = np.abs(drawn - delta)[:, varies] / drawn_error[:, varies]
    q = float(np.quantile(ratio.max(axis=1), LEVEL)) if varies.any() else 0.0
    pairs = [(float(x - q * e), float(x + q * e)) for x, e in zip(delta, error, strict=True)]
    return delta.tolist(), [None, *pairs[1:]]


def _ratio_error(weights: Floats, d: Floats, t: Floats, ratio: Floats) -> Floats:
    """Standard error of sum(d) / sum(t) by linearisation, for every row of weights [draws, n] -> [draws, c]."""
    residual = weights @ d**2 - 2 * ratio * (weights @ (d * t[:, None])) + ratio**2 * (weights @ t**2)[:, None]
    error: Floats = np.sqrt(np.maximum(residual, 0)) / (weights @ t)[:, None]
    return error


def selection_rows(task: Task, examples: int, sample: Sample, seed: int) -> tuple[int, ...]:
    """Return the indices of the selection rows among the training rows, ascending.

    "first" takes the first ones. "stratified" draws without replacement, so that every label has its share of
    the training rows (largest remainders); answers outside the labels, and tasks without labels, form one
    stratum.
    """
    total = len(task.train)
    if total == 0:
        raise DataError(f"task {task.name!r} has no training rows to score on")
    examples = min(examples, total)
    if sample == "first":
        return tuple(range(examples))
    strata: dict[str, list[int]] = {}
    for i, row in enumerate(task.train):
        strata.setdefault(row.answer if row.answer in task.labels else "", []).append(i)
    names = sorted(strata)
    exact = [examples * len(strata[name]) / total for name in names]
    shares = [int(x) for x in exact]
    by_remainder = sorted(range(len(names)), key=lambda k: (shares[k] - exact[k], k))
    for k in by_remainder[: examples - sum(shares)]:
        shares[k] += 1
    rng = np.random.default_rng(seed)
    picked = [i for name, k in zip(names, shares, strict=True) for i in rng.permutation(strata[name])[:k]]
    return tuple(sorted(int(i) for i in picked))


def context_length(model: Any) -> int:
    """Return the most tokens that the model was made for, or a very large number where it does not say."""
    try:
        # As an attribute, the name also finds what some configurations call n_positions.
        return int(model.config.get_text_config().max_position_embeddings)
    except AttributeError:
        return 1 << 30


def _demand_finite(losses: Losses, number: int, candidate: Instruction, task: Task, rows: Sequence[int]) -> None:
    bad = np.flatnonzero(~np.isfinite(losses.nll))
    if bad.size:
        raise ScoreError(
            f"task {task.name!r}: candidate {number} ({candidate.text[:60]!r}) has the loss "
            f"{losses.nll[bad[0]]} on training row {rows[bad[0]]} ({bad.size} such rows). The model's weights "
            "or its number format are broken: try dtype float32, or an earlier stage."
        )
