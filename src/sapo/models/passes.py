"""One forward pass: from tokens to losses, with or without the keys and values of a shared beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache, DynamicLayer

from sapo.core.types import Encoded, Floats
from sapo.models.batches import pad, supervised_positions, width

# Logits converted at once: 4 Mi, 32 MiB in float64 and as much again for their logarithms.
_PRECISE = 1 << 22


# What accelerate leaves on a model that it prepares: autocast around the forward, and a mark not to do that again.
_PREPARED = ("forward", "_original_forward", "_is_accelerate_prepared")


@contextmanager
def unprepared(model: Any) -> Iterator[None]:
    """Run a block with the forward of before accelerate prepared the model, then put back what there was.

    After a Trainer with bf16 or fp16, a model in memory would round where the same weights, saved and loaded, do not.
    """
    held = {name: value for name, value in vars(model).items() if name in _PREPARED}
    own = {"forward": held.get("_original_forward", held.get("forward"))} if "forward" in held else {}
    try:
        _put(model, own)
        yield
    finally:
        _put(model, held)


def _put(model: Any, values: dict[str, Any]) -> None:
    for name in _PREPARED:
        vars(model).pop(name, None)
    vars(model).update(values)


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Run a block in eval mode, without gradients and autocast of accelerate's, then put all of that back.

    Adapters are never switched, so nothing else needs restoring (peft's `disable_adapter` would make frozen
    adapters trainable on exit).
    """
    with unprepared(model), evaluating(model):
        yield


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run a block in eval mode without gradients, then put every module's mode back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class _SharedLayer(DynamicLayer):
    """Keys and values of one layer [1, heads, length, size] that every row of a batch begins with.

    It never grows: what a batch adds is joined for the attention of this layer and then forgotten. So one
    cache serves all batches, and no batch holds the keys and values of all layers at once.
    """

    # Under a name, transformers would make this class its default for that kind of layer.
    _layer_type = None

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (key_states.shape[0], -1, -1, -1)
        return (
            torch.cat([self.keys.expand(shape), key_states], dim=-2),
            torch.cat([self.values.expand(shape), value_states], dim=-2),
        )


class Prefix:
    """The tokens that all examples of a candidate begin with, as keys and values.

    Attributes:
        length: number of tokens.
        cache: for `past_key_values` of any number of batches; no pass changes it.
        bytes: what it holds.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.length: int = layers[0].keys.shape[-2]
        self.cache = DynamicCache()
        self.cache.layers = [_SharedLayer(layer.keys, layer.values) for layer in layers]
        self.bytes: int = sum(t.numel() * t.element_size() for x in layers for t in (x.keys, x.values))

    def growing(self) -> Any:
        """Return a copy that one row may extend from pass to pass."""
        return DynamicCache([(layer.keys, layer.values) for layer in self.cache.layers])


def prefix_of(model: Any, ids: Sequence[int]) -> Prefix | None:
    """Run the tokens through the model; None where there are none, or the cache is not of the kind to share."""
    if not ids:
        return None
    given = torch.tensor([ids], device=model.device)
    cache = model(input_ids=given, use_cache=True, logits_to_keep=1).get("past_key_values")
    layers = shareable(cache)
    return None if layers is None else Prefix(layers)


def shareable(cache: Any) -> list[Any] | None:
    """Return a cache's layers if rows can share their keys and values, else None."""
    # A layer without keys of its own borrows another one's.
    sound = isinstance(cache, DynamicCache) and all(
        type(layer) is DynamicLayer and layer.keys is not None for layer in cache.layers
    )
    return list(cache.layers) if sound else None


def losses_of_batch(model: Any, rows: Sequence[Encoded], prefix: Prefix | None) -> torch.Tensor:
    """Return the NLL of each supervised token, row by row, shape [tokens], in one pass over what follows the prefix.

    They stay on the model's device, which need not have computed them yet.
    """
    skip = prefix.length if prefix else 0
    ids, labels = pad([e.ids[skip:] for e in rows], [e.prompt_length - skip for e in rows])
    keep, targets = supervised_positions(labels)
    columns = max(width(e, skip) for e in rows)
    logits = model(
        input_ids=ids[:, :columns].to(model.device),
        past_key_values=prefix.cache if prefix else None,
        use_cache=prefix is not None,
        logits_to_keep=keep[:, :columns].to(model.device),
    ).logits
    return _token_losses(logits, targets)


def losses_of_long_row(model: Any, row: Encoded, prefix: Prefix | None, labels: int) -> torch.Tensor:
    """Return the same of one row, in several passes that ask for at most ``labels`` tokens' logits each.

    With a prefix, each pass continues from the keys and values of the one before; without, where the model has
    none to share, each begins at the first token.
    """
    past = prefix.growing() if prefix else None
    begin, found = prefix.length if prefix else 0, list[torch.Tensor]()
    for start in range(row.prompt_length, len(row.ids), labels):
        stop = min(start + labels, len(row.ids))
        logits = model(
            input_ids=torch.tensor([row.ids[begin : stop - 1]], device=model.device),
            past_key_values=past,
            use_cache=past is not None,
            logits_to_keep=stop - start,
        ).logits[0]
        found.append(_token_losses(logits, torch.tensor(row.ids[start:stop])))
        begin = stop - 1 if past is not None else 0
    return torch.cat(found)


def row_sums(rows: Sequence[Encoded], losses: torch.Tensor) -> Floats:
    """Return each row's NLL, shape [rows], from that of all their supervised tokens; waits for the device."""
    numbers = torch.repeat_interleave(torch.tensor([row.supervised for row in rows]))
    sums = torch.zeros(len(rows), dtype=torch.float64)
    return np.asarray(sums.index_add_(0, numbers, losses.cpu().double()).numpy())


def _token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -log p(target) in nats for logits [tokens, vocabulary], shape [tokens]."""
    precise = _precise(logits.device)
    size = max(_PRECISE // logits.shape[-1], 1)
    parts = zip(logits.split(size), targets.to(logits.device).split(size), strict=True)
    return torch.cat([cross_entropy(part.to(precise), wanted, reduction="none") for part, wanted in parts])


def _precise(device: torch.device) -> torch.dtype:
    # In float32 the sum over a large vocabulary loses the sixth digit; few accelerators are fast at more, or can do it.
    return torch.float64 if device.type == "cpu" else torch.float32
