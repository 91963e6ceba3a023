"""Models with LoRA adapters that do something, for tests of whatever must see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model


def adapted(
    model: Any, names: Sequence[str] = ("default",), *, targets: Sequence[str] = ("q_proj", "v_proj"), **changes: Any
) -> Any:
    """The model in eval mode with random adapters of different ranks, the first one active."""
    generator = torch.Generator().manual_seed(0)
    for n, name in enumerate(names):
        settings = {"r": 2 + n, "lora_alpha": 8, "task_type": "CAUSAL_LM", **changes}
        config = LoraConfig(target_modules=list(targets), **settings)
        if n:
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def both_adapted(model: Any, **changes: Any) -> Any:
    """The model with an older adapter and a new one, both active; dropout would show if it were."""
    model = adapted(model, ("past", "new"), lora_dropout=0.5, **changes)
    model.base_model.set_adapter(["past", "new"], inference_mode=True)
    return model
