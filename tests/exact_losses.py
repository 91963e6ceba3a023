"""Rows of very different lengths, and their losses by the plainest computation there is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from assignments import nll_by_hand
from transformers import MistralConfig, MistralForCausalLM

from sapo.core.types import Encoded, Example, Floats
from sapo.integrations.testing import tiny_tokenizer
from sapo.models.batches import common_prefix
from sapo.models.render import Renderer

VOCABULARY = 258


@cache
def examples() -> tuple[Encoded, ...]:
    """Prompts of one instruction; inputs and answers of very different lengths."""
    rows = [
        Example("x", "yes"),
        Example("a much longer text " * 4, "no"),
        Example("", "a rather long answer, for once"),
        Example("naïve 北京", "y"),
        Example("x" * 50, "<|im_end|>"),
        Example("one more", "maybe so"),
        Example("and one", "no"),
    ]
    return tuple(Renderer(tiny_tokenizer(), 512).encode("Say yes or no to this.", "Be brief.", rows))


def window_model() -> Any:
    """A model whose cache cannot be shared: it sees sixteen tokens back."""
    shape = dict.fromkeys(("num_hidden_layers", "num_key_value_heads"), 2) | {"num_attention_heads": 4}
    config = MistralConfig(**shape, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, sliding_window=16)
    return MistralForCausalLM(config).eval()


def by_hand(model: Any, rows: Sequence[Encoded]) -> Floats:
    """One example at a time, all logits, no padding, no cache: sum of -log p(token | everything before)."""
    with torch.no_grad():
        return np.array([float(nll_by_hand(model, [row])) for row in rows])


def close(a: Floats, b: Floats) -> bool:
    return bool(np.abs(a - b).max() < 1e-5)


class Watch:
    """Records the shapes that go into the embedding and the logits that come out of the vocabulary layer."""

    def __init__(self, model: Any) -> None:
        self.inputs: list[torch.Size] = []
        self.logits: list[int] = []
        self._hooks = [
            model.get_input_embeddings().register_forward_hook(lambda m, args, out: self.inputs.append(args[0].shape)),
            model.get_output_embeddings().register_forward_hook(lambda m, args, out: self.logits.append(out.numel())),
        ]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def passes(self, encoded: Sequence[Encoded]) -> int:
        """How often exactly the tokens went through that all these examples begin with."""
        return self.inputs.count(torch.Size((1, common_prefix(encoded))))


# Of CUDA; other devices raise a plain RuntimeError.
MEMORY = torch.OutOfMemoryError


class Cramped:
    """Makes a model run out of memory where more than ``most`` tokens go in at once, or ``times`` times."""

    def __init__(self, model: Any, most: int, times: int = 1 << 30, error: type[Exception] = MEMORY) -> None:
        self.most, self.times, self.error = most, times, error
        self.failed: list[torch.Size] = []
        self.passed: list[torch.Size] = []
        self._hook = model.get_input_embeddings().register_forward_pre_hook(self._check)

    def _check(self, module: Any, args: Any) -> None:
        shape = args[0].shape
        if shape.numel() > self.most and len(self.failed) < self.times:
            self.failed.append(shape)
            raise self.error("MPS backend out of memory: the fake is full")
        self.passed.append(shape)

    def __enter__(self) -> Cramped:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
