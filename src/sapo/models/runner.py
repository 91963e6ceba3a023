"""Rows through one model in batches that fit its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from sapo.core.errors import ScoreError
from sapo.core.types import Encoded, Floats
from sapo.models.batches import batch_size, longest_first, width
from sapo.models.memory import KEPT_BYTES, KEPT_BYTES_ACCELERATOR, Kept, unless_out_of_memory
from sapo.models.passes import Prefix, losses_of_batch, losses_of_long_row, prefix_of, row_sums

# Most tokens of a batch, padding included. On a CPU measured (benchmarks/batches.py), elsewhere a first guess.
BATCH_TOKENS = {"cpu": 1024}
BATCH_TOKENS_ACCELERATOR = 16384
# Logits held at once: 32 Mi, 128 MiB in float32.
LOGITS = 1 << 25


class Runner:
    """Computes NLL sums of one model, prefix and batches, within a bound on memory.

    Where memory runs out all the same, it gives up what it keeps for later, then halves the bound for good.

    ``batch_tokens`` includes padding; by default it is what the device does best.

    Attributes:
        batch_tokens: the bound as it is now.
    """

    def __init__(self, model: Any, batch_tokens: int | None = None) -> None:
        device = model.device.type
        self.model = model
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS_ACCELERATOR)
        self.kept = Kept(KEPT_BYTES.get(device, KEPT_BYTES_ACCELERATOR))
        self._vocabulary: int = model.get_output_embeddings().weight.shape[0]

    def prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Return keys and values of the tokens, or None where they cannot be shared.

        Raises:
            ScoreError: if they do not fit the memory.
        """
        while True:
            found = unless_out_of_memory(lambda: (prefix_of(self.model, ids),))
            if found is not None:
                return found[0]
            if not self._make_room(None):
                raise self._too_large(f"the {len(ids)} tokens that all prompts begin with do")

    def nll(
        self, rows: Sequence[Encoded], prefix: Prefix | None = None, advance: Callable[[int], None] = lambda rows: None
    ) -> Floats:
        """Return the rows' NLL sums in nats, shape [rows].

        The rows begin with the prefix; ``advance`` takes the number of rows after each batch. Losses stay on the
        device until the last one. (In each, a boolean ``logits_to_keep`` still makes an accelerator be waited for.)

        Raises:
            ScoreError: if one row alone does not fit the memory.
        """
        skip, labels = prefix.length if prefix else 0, max(LOGITS // self._vocabulary, 1)
        order, losses = longest_first(rows, range(len(rows))), list[torch.Tensor]()
        left = order
        while left:
            size = batch_size([rows[i] for i in left], skip, self.batch_tokens, labels)
            batch = [rows[i] for i in left[:size]]
            values = unless_out_of_memory(lambda: self._pass(batch, prefix, labels))  # noqa: B023
            if values is None:
                if not self._make_room(prefix):
                    if size == 1:
                        raise self._too_large(f"a single row of {len(batch[0].ids)} tokens does")
                    # From what did not fit, which may be far less than the bound.
                    self.batch_tokens = size * width(batch[0], skip) // 2
                continue
            losses.append(values)
            left = left[size:]
            advance(size)
        nll = np.zeros(len(rows), dtype=np.float64)
        nll[order] = row_sums([rows[i] for i in order], torch.cat(losses))
        return nll

    def _pass(self, batch: Sequence[Encoded], prefix: Prefix | None, labels: int) -> torch.Tensor:
        if batch[0].supervised > labels:
            return losses_of_long_row(self.model, batch[0], prefix, labels)
        return losses_of_batch(self.model, batch, prefix)

    def _make_room(self, used: Prefix | None) -> bool:
        """Free what only later calls need, and return whether that may have helped."""
        freed = self.kept.only(used)
        clear_device_cache()
        return freed

    def _too_large(self, what: str) -> ScoreError:
        return ScoreError(
            f"{what} not fit the memory of the device {str(self.model.device)!r} next to the model "
            f"({self.model.dtype}). Lower max_length, or take a smaller model or a smaller dtype."
        )
