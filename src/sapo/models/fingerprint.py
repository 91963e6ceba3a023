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
    scaling, of positions or of an adapter, are another model. What an active adapter is called does not.
    """
    digest = hashlib.sha256(json.dumps(_architecture(model), sort_keys=True, default=_plain).encode())
    places = {name: f"adapter {place}" for place, name in enumerate(_active(model))}
    weights = {
        ".".join(places.get(part, part) for part in name.split(".")): x for name, x in model.state_dict().items()
    }
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
        rows = bits.reshape(bits.shape[0], -1) if bits.dim() > 1 else bits.reshape(1, -1)
        digest.update(rows.sum(dim=1, dtype=torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _architecture(model: Any) -> list[Any]:
    """Return everything about a model but its weights that its outputs depend on."""
    configs = [model.config, *(model.peft_config[name] for name in _active(model))]
    return [{key: value for key, value in one.to_dict().items() if key not in _NO_EFFECT} for one in configs]


def _active(model: Any) -> list[str]:
    from peft import PeftModel

    return list(model.active_adapters) if isinstance(model, PeftModel) else []


def _plain(value: object) -> object:
    """Return what JSON can hold: peft keeps names of layers in sets, whose order differs from process to process."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


# Where it came from, how it is loaded, trained or asked, but not what it computes.
_NO_EFFECT = frozenset(
    {
        "_name_or_path", "architectures", "auto_mapping", "base_model_name_or_path", "bos_token_id", "dtype",
        "eos_token_id", "inference_mode", "init_lora_weights", "lora_dropout", "pad_token_id", "peft_version",
        "revision", "task_type", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
