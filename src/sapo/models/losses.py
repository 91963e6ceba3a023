"""Pre-update loss, exact and per example.

The loss of a candidate p in the state theta is (paper section 4; sum over examples, then one division, so
that it does not depend on how examples were batched):

    L(p) = sum_i NLL_theta(answer_i | p, input_i) / sum_i tokens_i        [nats per supervised token]

Two routes compute the same numbers:

- plain: every example is one row; right-padded, which a causal model cannot see, so no mask is needed;
- shared prefix: the tokens that all examples of a candidate begin with (system turn, instruction) go through
  the model once, and every batch starts from their keys and values.

Both ask for vocabulary logits at supervised positions only: never [batch, length, vocabulary].

An accelerator idles while a few rows of one candidate go through it. There, a round of several candidates of whom none
fills a batch goes by the plain route in batches that they share ("common batches"): its rows are read whole, and
the beginnings that this computes again cost less than the batches that it saves.

Rows of a batch lie below each other. Behind each other in one long row, under a block mask that keeps them
apart, they were never faster on a CPU (4 to 28 % slower, more with longer batches), nor was a mask of our own
instead of the one that transformers builds for a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch

from sapo.core.processes import ALONE, Processes, in_proportion
from sapo.core.types import Encoded, Floats, Losses
from sapo.models.batches import common_prefix, first_of_its_kind, longest_first, losses_of, width
from sapo.models.load import quantised
from sapo.models.passes import Prefix, untouched
from sapo.models.runner import BATCH_TOKENS, Runner

# Largest difference between two exact routes in float32, in nats per supervised token.
EXACT = 1e-4
COMMON = "common batches"


class Scorer:
    """Computes exact per-example losses of one model.

    The first call compares both routes on a few rows of the loaded model and keeps the shared prefix only if
    they agree: a model with a cache that cannot be shared (sliding window, recurrent state) is served by the
    plain route, and `route` says so.

    Args:
        model: any transformers or peft causal LM; it is left as it was.
        batch_tokens: most tokens of a batch, padding included; a memory bound, it changes no result. By
            default what the model's device does best.
        processes: among which the rows are shared out; all of them must ask for the same losses.
        common: whether small rounds of several candidates share batches; by default on accelerators.
    """

    def __init__(
        self, model: Any, batch_tokens: int | None = None, processes: Processes = ALONE, common: bool | None = None
    ) -> None:
        self._runner = Runner(model, batch_tokens)
        self.common = model.device.type not in BATCH_TOKENS if common is None else common
        self._processes = processes
        self._shares: bool | None = None

    def on(self, model: Any) -> Scorer:
        """Return a scorer for another state of the same model that keeps the decision about routes."""
        other = copy(self)
        other._runner = Runner(model, self.batch_tokens)
        return other

    @property
    def route(self) -> str:
        """How losses are computed: "shared prefix", "plain", or "undecided" before the first call."""
        return {None: "undecided", True: "shared prefix", False: "plain"}[self._shares]

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch; lower than what was asked for once memory has run out."""
        return self._runner.batch_tokens

    def __call__(self, encoded: Sequence[Encoded], advance: Callable[[int], None] = lambda rows: None) -> Losses:
        """Return the losses of all examples, in the order given.

        ``encoded`` are examples of one candidate; ``advance`` takes the number of rows after each batch.

        Raises:
            ScoreError: if one row alone does not fit the memory.
        """
        scoring = self.open(encoded)
        try:
            return losses_of(encoded, scoring.nll(range(len(encoded)), advance))
        finally:
            scoring.release()

    def open(self, encoded: Sequence[Encoded]) -> Scoring:
        """Return a handle on one candidate's examples, to score them in rounds. Costs nothing yet.

        The handle speaks of the model's state now: release it before the model changes.
        """
        return Scoring(self, encoded)

    def join(self, asked: Sequence[tuple[Scoring, Sequence[int]]], advance: Callable[[int], None]) -> bool:
        """Compute rows of several candidates in common batches, so that each handle knows its own.

        Returns whether it did: not where the rows of one candidate alone fill a batch.
        """
        new = [(scoring, i) for scoring, rows in asked for i in scoring.unknown(rows)]
        most = max((sum(width(s.encoded[i], 0) for i in rows) for s, rows in asked), default=0)
        if len(asked) < 2 or not new or most > self.batch_tokens:
            return False
        encoded = [scoring.encoded[i] for scoring, i in new]

        def run(numbers: Sequence[int], advance: Callable[[int], None]) -> Floats:
            with untouched(self._runner.model):
                return self._runner.nll([encoded[n] for n in numbers], None, advance) if numbers else np.zeros(0)

        told = in_proportion(advance, sum(len(rows) for _, rows in asked), len(new))
        for n, value in shared_out(self._processes, longest_first(encoded, range(len(new))), run, told).items():
            scoring, i = new[n]
            scoring.learn(i, value)
        return True

    def plain(self, encoded: Sequence[Encoded]) -> Losses:
        """Return the same losses by the plain route, every row for itself: the reference for the other."""
        return losses_of(encoded, Scoring(self, encoded, alone=True).nll(range(len(encoded))))

    def side_by_side(self, pair: Sequence[Sequence[Encoded]]) -> list[Floats]:
        """Return the NLL sums of two candidates' examples, row k of both in the same batch of the plain route.

        Batches of other shapes round differently; here both candidates meet the same ones.
        """
        together = self.plain([encoded for rows in zip(*pair, strict=True) for encoded in rows]).nll
        return [together[0::2], together[1::2]]

    def layout_noise(self, scoring: Scoring, rows: Sequence[int]) -> float:
        """Return how far the loss of these rows may move with the layout of batches alone, in nats per token.

        Zero in float32, where the rounding is below every tolerance. In half precision and with quantised weights,
        where kernels for other shapes round differently, each row is scored again by itself, by the plain route: twice
        the standard error of a sum of such differences, which have the mean zero.
        """
        if not _rounds(self._runner.model):
            return 0.0
        alone = self.on(self._runner.model)
        alone._runner.batch_tokens = 1
        encoded = [scoring.encoded[row] for row in rows]
        moved = scoring.nll(rows) - alone.plain(encoded).nll
        return 2 * float(np.sqrt((moved**2).sum())) / sum(e.supervised for e in encoded)

    def _shares_prefix(self, encoded: Sequence[Encoded]) -> bool:
        """Decide at the first call whether prefixes are shared: whether both routes agree on the first rows."""
        if self._shares is None:
            rows, runner = encoded[:3], self._runner
            prefix = runner.prefix(rows[0].ids[: common_prefix(rows)])
            if prefix is None:
                self._shares = False
            else:
                difference = np.abs(runner.nll(rows, prefix) - runner.nll(rows)).sum() / sum(e.supervised for e in rows)
                self._shares = bool(difference <= (0.05 if _rounds(runner.model) else EXACT))
        return self._shares


def _rounds(model: Any) -> bool:
    """Return whether the model computes in less than float32 anywhere."""
    return model.dtype != torch.float32 or quantised(model)


class Scoring:
    """One candidate's examples, scored in rounds; made by `Scorer.open`.

    What all examples begin with goes through the model once, and is kept for later rounds as far as the scorer
    has room. It is the same in every round, so a loss does not depend on the rows it is computed with.

    Args:
        alone: no prefix is shared, and equal examples are computed each for itself.

    Attributes:
        encoded: the examples.
        tokens: that went through the model so far, those of other processes included.
    """

    def __init__(self, scorer: Scorer, encoded: Sequence[Encoded], *, alone: bool = False) -> None:
        self._runner, self._processes = scorer._runner, scorer._processes
        self._shares_prefix = (lambda _: False) if alone else scorer._shares_prefix
        self.encoded = encoded
        self._first: Sequence[int] = range(len(encoded)) if alone else first_of_its_kind(encoded)
        self._known: dict[int, float] = {}
        self.tokens = 0

    def nll(self, rows: Sequence[int], advance: Callable[[int], None] = lambda rows: None) -> Floats:
        """Return the NLL sums of these examples in nats, in the order of ``rows``, shape [rows].

        Examples with the same tokens, also in earlier rounds, are computed once.

        ``advance`` takes the number of rows after each batch, duplicates included.
        """
        new = longest_first(self.encoded, self.unknown(rows))
        if new:
            before = self.tokens
            told = in_proportion(advance, len(rows), len(new))
            self._known.update(shared_out(self._processes, new, self._run, told))
            self.tokens = before + sum(self._processes.gather(self.tokens - before))
        elif rows:
            advance(len(rows))
        return np.array([self._known[self._first[i]] for i in rows], dtype=np.float64)

    def unknown(self, rows: Sequence[int]) -> list[int]:
        """Return the examples that these rows still need to be computed, equal ones once."""
        return [i for i in dict.fromkeys(self._first[i] for i in rows) if i not in self._known]

    def learn(self, row: int, nll: float) -> None:
        """Take the NLL of a row that was computed from its first token on, in a common batch."""
        self._known[row] = nll
        self.tokens += width(self.encoded[row], 0)

    def release(self) -> None:
        """Forget what was computed; a later call computes it again."""
        self._runner.kept.drop(self)
        self._known.clear()

    def _run(self, rows: Sequence[int], advance: Callable[[int], None]) -> Floats:
        with untouched(self._runner.model):
            # All processes decide, also those without a row.
            shares = self._shares_prefix(self.encoded)
            if not rows:
                return np.zeros(0)
            prefix = self._prefix() if shares else None
            skip = 0 if prefix is None else prefix.length
            self.tokens += sum(width(self.encoded[i], skip) for i in rows)
            return self._runner.nll([self.encoded[i] for i in rows], prefix, advance)

    def _prefix(self) -> Prefix | None:
        prefix = self._runner.kept.find(self)
        if prefix is None:
            prefix = self._runner.prefix(self.encoded[0].ids[: common_prefix(self.encoded)])
            if prefix is not None:
                self.tokens += prefix.length
                self._runner.kept.keep(self, prefix)
        return prefix


def shared_out(
    processes: Processes,
    rows: Sequence[int],
    run: Callable[[Sequence[int], Callable[[int], None]], Floats],
    advance: Callable[[int], None],
) -> dict[int, float]:
    """Return the NLL of each row; every process computes its share of them by ``run``."""
    mine, told = processes.share(rows), processes.telling(advance, len(rows))
    values = processes.together(lambda: run(mine, told))
    return {
        row: x for share, part in processes.gather((mine, values)) for row, x in zip(share, part.tolist(), strict=True)
    }
