"""Pre-update loss, exact and per example.

The loss of a candidate p in the state theta is (paper section 4; sum over examples, then one division, so
that it does not depend on how examples were batched):

    L(p) = sum_i NLL_theta(answer_i | p, input_i) / sum_i tokens_i        [nats per supervised token]

Two routes compute the same numbers:

- plain: every example is one row; right-padded, which a causal model cannot see, so no mask is needed;
- shared prefix: the tokens that all examples of a candidate begin with (system turn, instruction) go through
  the model once, and every batch starts from their keys and values.

Both ask for vocabulary logits at supervised positions only: never [batch, length, vocabulary].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache, DynamicLayer

from sapo.processes import ALONE, Processes
from sapo.types import Encoded, Losses

# Most tokens of a batch, padding included. On a CPU measured (benchmarks/batches.py), elsewhere a first guess.
BATCH_TOKENS = {"cpu": 1024}
BATCH_TOKENS_ACCELERATOR = 16384
# Logits held at once: 32 Mi, 128 MiB in float32 and as much again twice in float64.
LOGITS = 1 << 25
# Largest difference between two exact routes in float32, in nats per supervised token.
EXACT = 1e-4


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Run a block in eval mode without gradients, then put every module's mode back as it was.

    Adapters are never switched, so nothing else needs restoring (peft's `disable_adapter` would make frozen
    adapters trainable on exit).
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


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
    """

    def __init__(self, model: Any, batch_tokens: int | None = None, processes: Processes = ALONE) -> None:
        self._model = model
        self._processes = processes
        self._batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS_ACCELERATOR)
        self._vocabulary = model.get_output_embeddings().weight.shape[0]
        self._shares: bool | None = None

    def on(self, model: Any) -> Scorer:
        """Return a scorer for another state of the same model that keeps the decision about routes."""
        other = Scorer(model, self._batch_tokens, self._processes)
        other._shares = self._shares
        return other

    @property
    def route(self) -> str:
        """How losses are computed: "shared prefix", "plain", or "undecided" before the first call."""
        return {None: "undecided", True: "shared prefix", False: "plain"}[self._shares]

    def __call__(self, encoded: Sequence[Encoded], advance: Callable[[int], None] = lambda rows: None) -> Losses:
        """Return the losses of all examples, in the order given.

        Args:
            encoded: examples of one candidate.
            advance: told the number of rows after each batch, for progress bars.
        """
        with untouched(self._model):
            if self._shares is None:
                self._shares = self._routes_agree(encoded[:3])
            return self._losses(encoded, self._shared if self._shares else self._plain, advance)

    def plain(self, encoded: Sequence[Encoded]) -> Losses:
        """Return the same losses by the plain route: the reference that the other is held against."""
        with untouched(self._model):
            return self._losses(encoded, self._plain, lambda rows: None)

    def layout_noise(self, encoded: Sequence[Encoded], losses: Losses) -> float:
        """Return how far a loss moves with the layout of batches alone, in nats per token.

        Zero in float32, where the rounding is below every tolerance; in half precision, where kernels for
        other shapes round differently, the same examples are scored again by the plain route in smaller batches.
        """
        if self._model.dtype == torch.float32:
            return 0.0
        other = Scorer(self._model, self._batch_tokens // 4, self._processes).plain(encoded)
        return abs(losses.per_token - other.per_token)

    def _losses(
        self,
        encoded: Sequence[Encoded],
        route: Callable[[Sequence[Encoded], Callable[[int], None]], np.ndarray],
        advance: Callable[[int], None],
    ) -> Losses:
        """Score this process's share of the examples by the route, and put all shares together."""
        mine = self._processes.share(_longest_first(encoded))
        told = self._processes.telling(advance, len(encoded))
        part = route([encoded[i] for i in mine], told) if mine else np.zeros(0)
        nll = np.zeros(len(encoded), dtype=np.float64)
        for rows, values in self._processes.gather((mine, part)):
            nll[rows] = values
        return losses_of(encoded, nll)

    def _routes_agree(self, encoded: Sequence[Encoded]) -> bool:
        cache, _ = self._prefix(encoded)
        if cache is None:
            return False
        silent: Callable[[int], None] = lambda rows: None  # noqa: E731
        tokens = sum(e.supervised for e in encoded)
        difference = np.abs(self._shared(encoded, silent) - self._plain(encoded, silent)).sum() / tokens
        exact = EXACT if self._model.dtype == torch.float32 else 0.05
        return bool(difference <= exact)

    def _plain(self, encoded: Sequence[Encoded], advance: Callable[[int], None]) -> np.ndarray:
        return self._batched(encoded, 0, None, advance)

    def _shared(self, encoded: Sequence[Encoded], advance: Callable[[int], None]) -> np.ndarray:
        cache, length = self._prefix(encoded)
        return self._batched(encoded, length, cache, advance)

    def _prefix(self, encoded: Sequence[Encoded]) -> tuple[DynamicCache | None, int]:
        """Return keys and values of the longest common token prefix, and its length."""
        length = _common_prefix(encoded)
        if length == 0:
            return None, 0
        ids = torch.tensor([encoded[0].ids[:length]], device=self._model.device)
        cache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1).get("past_key_values")
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None, 0
        return cache, length

    def _batched(
        self,
        encoded: Sequence[Encoded],
        skip: int,
        cache: DynamicCache | None,
        advance: Callable[[int], None],
    ) -> np.ndarray:
        nll = np.zeros(len(encoded), dtype=np.float64)
        for rows in self._batches(encoded, skip):
            nll[rows] = self._batch([encoded[i] for i in rows], skip, cache)
            advance(len(rows))
        return nll

    def _batches(self, encoded: Sequence[Encoded], skip: int) -> Iterator[list[int]]:
        """Yield row numbers, long rows first so that too large a batch fails at once."""
        batch: list[int] = []
        labels = width = 0
        for i in _longest_first(encoded):
            labels += encoded[i].supervised
            width = width or len(encoded[i].ids) - skip
            if batch and ((len(batch) + 1) * width > self._batch_tokens or labels * self._vocabulary > LOGITS):
                yield batch
                batch, labels, width = [], encoded[i].supervised, len(encoded[i].ids) - skip
            batch.append(i)
        if batch:
            yield batch

    def _batch(self, encoded: Sequence[Encoded], skip: int, cache: DynamicCache | None) -> np.ndarray:
        device = self._model.device
        ids, labels = pad([e.ids[skip:] for e in encoded], [e.prompt_length - skip for e in encoded])
        keep, targets = supervised_positions(labels)
        past = None
        if cache is not None:
            size = len(encoded)
            past = DynamicCache(
                [(layer.keys.expand(size, -1, -1, -1), layer.values.expand(size, -1, -1, -1)) for layer in cache.layers]
            )
        logits = self._model(
            input_ids=ids.to(device),
            past_key_values=past,
            use_cache=past is not None,
            logits_to_keep=keep.to(device),
        ).logits
        # In float32 the sum over a large vocabulary loses the fifth digit.
        precise = torch.float32 if device.type == "mps" else torch.float64
        losses = cross_entropy(logits.to(precise), targets.to(device), reduction="none").double().cpu()
        rows = keep.nonzero()[:, 0]
        return torch.zeros(len(encoded), dtype=torch.float64).index_add_(0, rows, losses).numpy()


IGNORED = -100


def pad(rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids and labels, both [rows, longest]; labels are IGNORED at prompt and padding.

    No attention mask goes with them: under a causal mask no real token sees the padding to its right.
    """
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for i, (row, prompt) in enumerate(zip(rows, prompt_lengths, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, prompt : len(row)] = ids[i, prompt : len(row)]
    return ids, labels


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (keep, targets) for labels [rows, length].

    ``keep`` [rows, length] is true where the *next* token is supervised; ``targets`` [kept] are those tokens,
    in the order in which a boolean ``logits_to_keep`` lays the logits out.
    """
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORED
    return keep, labels[:, 1:][keep[:, :-1]]


def losses_of(encoded: Sequence[Encoded], nll: np.ndarray) -> Losses:
    """Return the losses of examples whose NLL is known."""
    return Losses(
        nll=nll,
        tokens=np.array([e.supervised for e in encoded], dtype=np.int64),
        cut=np.array([e.cut for e in encoded], dtype=np.int64),
    )


def _longest_first(encoded: Sequence[Encoded]) -> list[int]:
    return sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))


def _common_prefix(encoded: Sequence[Encoded]) -> int:
    """Return how many tokens all prompts begin with, short of the last prompt token.

    The last prompt token predicts the first answer token, so its logits belong to each example's own pass.
    """
    limit = min(e.prompt_length for e in encoded) - 1
    first = encoded[0].ids
    for e in encoded[1:]:
        limit = next((i for i in range(limit) if e.ids[i] != first[i]), limit)
    return max(limit, 0)
