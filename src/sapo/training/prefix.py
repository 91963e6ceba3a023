"""What all rows of a batch begin with (system turn, instruction) goes through the model once, gradients included.

The keys and values of the common beginning are computed in one row and looked at by every row's own remainder; the
gradient that reaches them is the sum over the rows. Loss and gradient are those of whole rows, up to the rounding
of another order of sums. With dropout they would not be: whole rows draw masks of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from sapo.core.types import Encoded
from sapo.models.passes import shareable

# Share of a batch's tokens from which on leaving them out is worth a pass of its own and attention with a mask.
WORTH = 0.1
# Largest difference of hidden states between both ways, relative to the largest of them: rounding, by precision.
_SAME = {torch.float32: 1e-3}
_SAME_HALF = 0.1
# Columns behind the common ones whose hidden states are compared.
_BEYOND = 16


def common_columns(ids: torch.Tensor, keep: torch.Tensor) -> int:
    """Return how many leading columns of ids [rows, length] are the same in all rows and short of any kept position."""
    return int(((ids != ids[0]).any(0) | keep.any(0)).int().argmax())


def columns_to_share(ids: torch.Tensor, keep: torch.Tensor) -> int:
    """Return `common_columns`, or 0 where sharing them would save less than `WORTH` of the batch's tokens."""
    columns = common_columns(ids, keep)
    return columns if (len(ids) - 1) * columns >= WORTH * ids.numel() else 0


def shared_beginning(decoder: Any, ids: torch.Tensor, rows: int) -> DynamicCache | None:
    """Return keys and values of ids [length] for ``rows`` rows, or None if the model has none that can be shared."""
    layers = shareable(decoder(input_ids=ids[None], use_cache=True).get("past_key_values"))
    if layers is None:
        return None
    views = [tuple(x.expand(rows, -1, -1, -1) for x in (layer.keys, layer.values)) for layer in layers]
    return DynamicCache(views)


def can_share(model: Any, encoded: Sequence[Encoded]) -> bool:
    """Return whether training on these examples with shared beginnings is training on whole rows.

    Not so with dropout, or if hidden states of a few rows differ between the two ways: a model with a sliding
    window, a recurrent state or dropout outside of modules. The model is left in training mode.
    """
    model.train()
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return False
    few = sorted((e.ids for e in encoded), key=len)[:2]
    # Cut to the shorter: nothing is padded, every column counts.
    ids = torch.tensor([row[: len(few[0])] for row in few], device=model.device)
    last = torch.zeros_like(ids, dtype=torch.bool)
    last[:, -1] = True
    columns = common_columns(ids, last)
    ids = ids[:, : columns + _BEYOND]
    if columns == 0:
        return False
    decoder = model.get_decoder()
    with torch.no_grad():
        cache = shared_beginning(decoder, ids[0, :columns], len(few))
        if cache is None:
            return False
        whole = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, columns:]
        rest = decoder(input_ids=ids[:, columns:], past_key_values=cache, use_cache=True).last_hidden_state
    difference = float((whole - rest).abs().max() / whole.abs().max())
    return difference <= _SAME.get(model.dtype, _SAME_HALF)
