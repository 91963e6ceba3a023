"""Scoring leaves no trace in the model or the process, and adapters count as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adapted import adapted, both_adapted
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


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model and the process that scoring could disturb."""
    seen = {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name for name, p in model.named_parameters() if p.grad is not None},
        "modes": {name: module.training for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "torch": torch.get_rng_state(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    }
    if hasattr(model, "active_adapters"):
        seen["adapters"] = repr(getattr(model, "active_adapter", None)) + repr(
            sorted(getattr(model, "peft_config", ()))
        )
    return seen


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    weights = [torch.equal(before["weights"][name], value) for name, value in after["weights"].items()]
    rest = set(before) - {"weights", "torch"}
    return (
        before["weights"].keys() == after["weights"].keys()
        and all(weights)
        and torch.equal(before["torch"], after["torch"])
        and all(before[key] == after[key] for key in rest)
    )


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
    assert same(before, snapshot(model))


def test_modes_are_restored_when_scoring_fails() -> None:
    model = tiny_model().train()
    list(model.modules())[5].training = False
    before = snapshot(model)
    with untouched(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
    assert same(before, snapshot(model))
    with pytest.raises(IndexError):
        Scorer(model)([Encoded((1, VOCABULARY + 7, 3), 2)])
    assert same(before, snapshot(model))


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = two_adapters().train()
    losses = Scorer(model)(examples())
    assert close(losses.nll, by_hand(model.eval(), examples()))
