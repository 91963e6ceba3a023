"""What several methods need from peft, with its traps kept in one place."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from sapo.core.errors import ModelError


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

    Ranks add up: A = [A_1; A_2; ...], B = [s_1 B_1, s_2 B_2, ...] with each one's own scaling s = alpha / r
    folded in, and alpha = r, so that stock peft applies the result at strength 1. A stays as it was trained: it
    spans the directions that O-LoRA keeps new ones away from.
    """
    parts = [
        [(*down_up(layer, name), layer.scaling[name]) for name in names if name in layer.r]
        for layer in lora_layers(model)
    ]
    model.add_weighted_adapter(list(names), [1.0] * len(names), into, combination_type="cat")
    for layer, found in zip(lora_layers(model), parts, strict=True):
        _fill(layer, into, found)
    freeze(model, into)
    for name in names:
        model.delete_adapter(name)


def _fill(layer: LoraLayer, name: str, parts: Sequence[tuple[torch.Tensor, torch.Tensor, float]]) -> None:
    """Write A and B of each part side by side, with its scaling in B.

    peft's own multiplies A with the scaling of each of several adapters, and A and B with its root where there is one.
    """
    if not parts:
        return
    a, b = down_up(layer, name)
    down = torch.cat([part for part, _, _ in parts])
    up = torch.cat([scaling * part for _, part, scaling in parts], dim=1)
    with torch.no_grad():
        # What a part that does not adapt this layer leaves empty, at the end: peft has zeros of any sign there.
        a.zero_()
        b.zero_()
        a[: len(down)] = down
        b[:, : up.shape[1]] = up


def down_up(layer: LoraLayer, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A [rank, inputs] and B [outputs, rank] of an adapter on a layer."""
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name], layer.lora_embedding_B[name]
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def save_adapter(model: Any, name: str, directory: Path) -> None:
    """Write one adapter so that `PeftModel.from_pretrained(base, directory)` gives it back.

    Equal adapters give equal files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        model.save_pretrained(scratch, selected_adapters=[name])
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            source = Path(scratch) / file if name == "default" else Path(scratch) / name / file
            source.rename(directory / file)
    # peft keeps the modules as a set, whose order changes from process to process.
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def unusual_features(config: LoraConfig) -> list[str]:
    """Return the settings of an adapter that go beyond plain LoRA: an update (alpha / r) B A on listed modules."""
    plain, found = LoraConfig().to_dict(), config.to_dict()
    if config.init_lora_weights in SAFE_INIT:
        found["init_lora_weights"] = plain["init_lora_weights"]
    unusual = [_TITLES.get(key, key) for key, value in found.items() if key not in _PLAIN and value != plain[key]]
    return unusual + (["a pattern as target_modules"] if isinstance(config.target_modules, str) else [])


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield every layer with its path in the model without adapters, one that carries one as what it was before."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    for path, module in inner.named_modules():
        if ".base_layer" not in path and ".lora_" not in path:
            yield path, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def targets_of(model: Any, wanted: Sequence[str] | str) -> tuple[str, ...]:
    """Return the layers to adapt, by name or path, as peft takes them; if there are none, that is an error.

    ``wanted`` are names; or "all-linear", every linear layer but the output head; or a pattern that whole paths match.
    """
    head = model.get_output_embeddings()
    found = [(path, layer) for path, layer in _layers(model) if _carries(layer)]
    linear = [path for path, layer in found if layer is not head and not isinstance(layer, torch.nn.Embedding)]
    if wanted == "all-linear":
        return tuple(sorted({path.rsplit(".", 1)[-1] for path in linear}))
    layers = {path.rsplit(".", 1)[-1] for path, _ in found}
    if isinstance(wanted, str) and wanted not in layers:
        try:
            matched = tuple(path for path in linear if re.fullmatch(wanted, path))
        except re.error as error:
            raise ModelError(f"lora.target_modules = {wanted!r} is not a pattern: {error}") from error
        if matched:
            return matched
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    missing = [name for name in names if name not in layers]
    if missing:
        raise ModelError(
            f"lora.target_modules: this model has no {', '.join(missing)} that can carry LoRA. Its layers that can: "
            f"{', '.join(sorted(layers))}; or all-linear"
        )
    return names


def smallest_dimension(model: Any, targets: Sequence[str]) -> int:
    """Return the smallest side of the weights of the named layers: a larger rank could express nothing more."""
    ends = tuple(f".{target}" for target in targets)
    layers = [layer for path, layer in _layers(model) if f".{path}".endswith(ends) and _carries(layer)]
    # A quantised weight is stored in another shape.
    shapes = ((x.in_features, x.out_features) if isinstance(x, torch.nn.Linear) else x.weight.shape for x in layers)
    return int(min(map(min, shapes)))


def _carries(layer: Any) -> bool:
    """Return whether peft can put LoRA on a layer."""
    return isinstance(layer, (torch.nn.Linear, torch.nn.Embedding, Conv1D))


# Other initialisations (PiSSA, OLoRA ...) subtract something from the base weights whenever they are loaded.
SAFE_INIT = (True, False, "gaussian", "orthogonal")
# What may differ from peft's defaults in a plain LoRA adapter; the rest changes what its weights mean.
_PLAIN = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_alpha", "lora_dropout", "peft_type",
        "peft_version", "r", "revision", "target_modules", "task_type",
    }
)  # fmt: skip
_TITLES = {"use_rslora": "rsLoRA", "use_dora": "DoRA"}


def lora_layers(model: Any) -> list[LoraLayer]:
    """Return the layers that carry LoRA weights."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
