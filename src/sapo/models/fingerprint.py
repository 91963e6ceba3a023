"""The fingerprint of a model's state: equal where weights, and how they are used, are equal."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch


def state_fingerprint(model: Any) -> str:
    """Return a hash of a model's weights and of how it computes with them: any trained change gives another one.

    Every row of every tensor enters by the exact sum of its bits as integers, so the hash depends neither on
    the number of threads nor on the device. The configuration enters because equal weights under another
    scaling, of positions or of an adapter, are another model.
    """
    digest = hashlib.sha256(json.dumps(_architecture(model), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
        rows = bits.reshape(bits.shape[0], -1) if bits.dim() > 1 else bits.reshape(1, -1)
        digest.update(rows.sum(dim=1, dtype=torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _architecture(model: Any) -> list[Any]:
    """Return everything about a model but its weights that its outputs depend on."""
    from peft import PeftModel

    config = {key: value for key, value in model.config.to_dict().items() if key not in _NO_EFFECT}
    if not isinstance(model, PeftModel):
        return [config]
    adapters = {
        name: {key: value for key, value in model.peft_config[name].to_dict().items() if key not in _NO_EFFECT}
        for name in model.active_adapters
    }
    for values in adapters.values():
        values["target_modules"] = sorted(values.get("target_modules") or [])
    return [config, adapters]


# Where it came from, how it is loaded or trained, but not what it computes.
_NO_EFFECT = frozenset(
    {
        "_name_or_path", "architectures", "auto_mapping", "base_model_name_or_path", "dtype", "inference_mode",
        "init_lora_weights", "lora_dropout", "peft_version", "revision", "task_type", "torch_dtype",
        "transformers_version", "use_cache",
    }
)  # fmt: skip
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
