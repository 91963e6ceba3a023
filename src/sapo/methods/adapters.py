"""What several methods need from peft, with its traps kept in one place."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


def activate(model: Any, frozen: Sequence[str], trainable: str) -> None:
    """Make all named adapters active, and only ``trainable`` trainable.

    peft's own `set_adapter` takes one name and would make it trainable; several active adapters go through
    the tuner, in inference mode, before gradients are switched on for the new one alone.
    """
    model.base_model.set_adapter([*frozen, trainable], inference_mode=True)
    model.set_requires_grad(trainable, True)


def freeze(model: Any, name: str) -> None:
    """Make one adapter the only active one, without gradients and without dropout.

    Dropout of a frozen adapter would stay active in training mode and blur what was learned earlier.
    """
    model.base_model.set_adapter([name], inference_mode=True)
    model.peft_config[name].lora_dropout = 0.0
    for layer in lora_layers(model):
        if name in layer.lora_dropout:
            layer.lora_dropout[name] = torch.nn.Identity()


def concatenate(model: Any, names: Sequence[str], into: str) -> None:
    """Add adapter ``into``, whose update is exactly the sum of the named ones', and delete those.

    Ranks add up: B = [B_1 B_2 ...], A = [s_1 A_1; s_2 A_2; ...] with each one's own scaling s = alpha / r
    folded into A, and alpha = r, so that stock peft applies the result at strength 1.
    """
    model.add_weighted_adapter(list(names), [1.0] * len(names), into, combination_type="cat")
    freeze(model, into)
    for name in names:
        model.delete_adapter(name)


def save_adapter(model: Any, name: str, directory: Path) -> None:
    """Write one adapter so that `PeftModel.from_pretrained(base, directory)` gives it back."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        model.save_pretrained(scratch, selected_adapters=[name])
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            source = Path(scratch) / file if name == "default" else Path(scratch) / name / file
            source.rename(directory / file)


def lora_layers(model: Any) -> list[LoraLayer]:
    """Return the layers that carry LoRA weights."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
