"""Scoring leaves no trace in the model or the process, and adapters count as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapted import adapted, both_adapted, snapshot
from exact_losses import VOCABULARY, by_hand, close, examples
from transformers import MistralConfig, MistralForCausalLM

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model
from sapo.models.losses import Scorer
from sapo.models.passes import untouched


def two_adapters() -> Any:
    """An older adapter, frozen and active, and a trainable one on top."""
    model = both_adapted(tiny_model())
    model.set_requires_grad("new", True)
    return model


def window_model() -> Any:
    """A model whose cache cannot be shared."""
    shape = dict.fromkeys(("num_hidden_layers", "num_key_value_heads"), 2) | {"num_attention_heads": 4}
    return MistralForCausalLM(
        MistralConfig(**shape, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, sliding_window=16)
    ).eval()


TRACELESS: dict[str, tuple[Callable[[], Any], str]] = {
    "base": (tiny_model, "eval"),
    "lora": (lambda: adapted(tiny_model()), "train"),
    "two adapters": (two_adapters, "mixed"),
    "window": (window_model, "mixed"),
}


@pytest.mark.parametrize(("make", "mode"), TRACELESS.values(), ids=TRACELESS)
def test_scoring_leaves_no_trace(make: Callable[[], Any], mode: str) -> None:
    model = make()
    model.train(mode != "eval")
    if mode == "mixed":
        for module in list(model.modules())[::3]:
            module.training = False
    # A frozen base weight beside trainable ones, so that both values must be kept.
    model.get_input_embeddings().weight.requires_grad_(False)
    before = snapshot(model)
    scorer = Scorer(model, 150)
    scorer(examples())
    scorer.plain(examples())
    scoring = scorer.open(examples())
    scoring.nll([0, 2])
    scoring.nll([1])
    scoring.release()
    assert snapshot(model) == before


def test_modes_are_restored_when_scoring_fails() -> None:
    model = tiny_model().train()
    list(model.modules())[5].training = False
    before = snapshot(model)
    with untouched(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
    assert snapshot(model) == before
    with pytest.raises(IndexError):
        Scorer(model)([Encoded((1, VOCABULARY + 7, 3), 2)])
    assert snapshot(model) == before


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = two_adapters().train()
    losses = Scorer(model)(examples())
    assert close(losses.nll, by_hand(model.eval(), examples()))
