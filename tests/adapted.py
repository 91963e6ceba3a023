"""Models with LoRA adapters that do something, and all that a computation could disturb."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
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


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """What a model says after each of these tokens, in the mode that it is in."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(40)[None] if ids is None else ids, use_cache=False).logits
    return found


def process_state() -> dict[str, Any]:
    """Random states and modes of the process."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
    }


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model in float32 and the process that could be disturbed, to be compared as a whole."""
    return process_state() | {
        "weights": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name for name, p in model.named_parameters() if p.grad is not None},
        "modes": {name: module.training for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        # Such as those by which accelerate knows a model that it prepared.
        "attributes": {(name, key) for name, module in model.named_modules() for key in vars(module)},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "adapters": (repr(getattr(model, "active_adapter", None)), sorted(getattr(model, "peft_config", ()))),
    }
