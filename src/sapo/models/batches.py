"""Which tokens go through the model together, and at which positions logits are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sapo.core.types import Encoded, Floats, Losses

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


def labelled(example: Encoded) -> dict[str, list[int]]:
    """Return one example as a row of another trainer: input_ids, and labels that are IGNORED at the prompt."""
    ids = list(example.ids)
    return {"input_ids": ids, "labels": [IGNORED] * example.prompt_length + ids[example.prompt_length :]}


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (keep, targets) for labels [rows, length].

    ``keep`` [rows, length] is true where the *next* token is supervised; ``targets`` [kept] are those tokens,
    in the order in which a boolean ``logits_to_keep`` lays the logits out.
    """
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORED
    return keep, labels[:, 1:][keep[:, :-1]]


def losses_of(encoded: Sequence[Encoded], nll: Floats) -> Losses:
    """Return the losses of examples whose NLL is known."""
    return Losses(
        nll=nll,
        tokens=np.array([e.supervised for e in encoded], dtype=np.int64),
        cut=np.array([e.cut for e in encoded], dtype=np.int64),
    )


def common_prefix(encoded: Sequence[Encoded]) -> int:
    """Return how many tokens all prompts begin with, short of the last prompt token.

    The last prompt token predicts the first answer token, so its logits belong to each example's own pass.
    """
    limit = min(e.prompt_length for e in encoded) - 1
    first = encoded[0].ids
    for e in encoded[1:]:
        limit = next((i for i in range(limit) if e.ids[i] != first[i]), limit)
    return max(limit, 0)


def first_of_its_kind(encoded: Sequence[Encoded]) -> list[int]:
    """Return for each example the number of the first one with the same tokens and prompt, its own if new."""
    seen: dict[tuple[tuple[int, ...], int], int] = {}
    return [seen.setdefault((e.ids, e.prompt_length), i) for i, e in enumerate(encoded)]


def longest_first(encoded: Sequence[Encoded], rows: Sequence[int]) -> list[int]:
    """Return the row numbers by falling length, so that batches are even and too large a one fails at once."""
    return sorted(rows, key=lambda i: -len(encoded[i].ids))


def width(example: Encoded, skip: int) -> int:
    """Return how many tokens of an example go through the model: the last one predicts nothing."""
    return max(len(example.ids) - skip - 1, 1)


def batch_size(rows: Sequence[Encoded], skip: int, tokens: int, labels: int) -> int:
    """Return how many of the rows, longest first, go together; one at least.

    ``skip`` tokens of each row do not go through the model again. A batch has at most so many ``tokens``, padding
    included, and supervised ``labels``.
    """
    widest, supervised = width(rows[0], skip), 0
    for n, row in enumerate(rows):
        supervised += row.supervised
        if n and ((n + 1) * widest > tokens or supervised > labels):
            return n
    return len(rows)
