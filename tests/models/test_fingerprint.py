"""What the fingerprint of a model's state tells apart: everything that its outputs depend on, and nothing else."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapted import adapted
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from sapo.integrations.testing import tiny_model
from sapo.models.fingerprint import state_fingerprint
from sapo.models.load import DTYPES


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.arange(40)[None]).logits
    return found


def differ(one: Any, other: Any) -> None:
    """The models compute something else, and the fingerprints say so."""
    assert not torch.allclose(logits(one), logits(other), atol=1e-4)
    assert state_fingerprint(one) != state_fingerprint(other)


def test_only_another_alpha_is_another_state() -> None:
    one, other = adapted(tiny_model()), adapted(tiny_model(), lora_alpha=16)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    differ(one, other)
    differ(one, adapted(tiny_model(), use_rslora=True))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rms_norm_eps": 0.5},
        {"hidden_act": "relu"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_another_configuration_is_another_state(change: dict[str, Any]) -> None:
    config = copy.deepcopy(tiny_model().config)
    for key, value in change.items():
        setattr(config, key, value)
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(tiny_model().state_dict())
    differ(tiny_model(), other)


def test_only_another_active_adapter_is_another_state() -> None:
    one, other = adapted(tiny_model(), ("first", "other")), adapted(tiny_model(), ("first", "other"))
    assert state_fingerprint(one) == state_fingerprint(other)
    other.set_adapter("other")
    differ(one, other)
    together = adapted(tiny_model(), ("first", "other"))
    together.base_model.set_adapter(["first", "other"], inference_mode=True)
    differ(one, together)
    differ(other, together)


def test_the_last_bit_of_any_tensor_the_dtype_and_an_adapter_that_changes_nothing_yet_are_seen() -> None:
    model = adapted(tiny_model())
    seen = {state_fingerprint(model)}
    tensors = [tensor for _, tensor in sorted(model.state_dict().items())]
    for tensor in tensors:
        value = tensor.view(-1)[-1]
        value.copy_(torch.nextafter(value, torch.tensor(torch.inf)))
        seen.add(state_fingerprint(model))
    assert len(seen) == len(tensors) + 1
    fresh = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    others = [fresh, *(tiny_model().to(dtype) for dtype in DTYPES.values())]
    assert len({state_fingerprint(other) for other in others}) == len(DTYPES) + 1


UNSEEN: dict[str, Callable[[Any], object]] = {
    "training mode": lambda model: model.train(),
    "gradients": lambda model: model.requires_grad_(False),
    "the cache": lambda model: setattr(model.config, "use_cache", False),
    "its name": lambda model: setattr(model.config, "_name_or_path", "elsewhere"),
    "ids that a trainer aligns with the tokenizer": lambda model: vars(model.config).update(
        pad_token_id=3, bos_token_id=4, eos_token_id=[5]
    ),
    "dropout of the adapter": lambda model: setattr(model.peft_config["default"], "lora_dropout", 0.7),
}


def test_what_an_adapter_is_called_and_the_order_of_a_set_are_not_part_of_the_state() -> None:
    one, other, more = (
        get_peft_model(
            tiny_model(),
            LoraConfig(target_modules=["v_proj", "q_proj"], exclude_modules=["k_proj", "o_proj"], r=2),
            adapter_name=name,
        )
        for name in ("default", "reviews", "q_proj2")
    )
    for model in (other, more):
        model.load_state_dict(dict(zip(model.state_dict(), one.state_dict().values(), strict=True)))
        assert state_fingerprint(model) == state_fingerprint(one)
    program = (
        "from sapo.integrations.testing import tiny_model\n"
        "from sapo.models.fingerprint import state_fingerprint\n"
        "from peft import LoraConfig, get_peft_model\n"
        "import torch; torch.manual_seed(0)\n"
        "lora = LoraConfig(target_modules=['q_proj'], exclude_modules=['k_proj', 'o_proj', 'up_proj', 'x'], r=2)\n"
        "print(state_fingerprint(get_peft_model(tiny_model(), lora, adapter_name='a')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("what", UNSEEN)
def test_what_outputs_do_not_depend_on_is_not_part_of_the_state(what: str) -> None:
    model = adapted(tiny_model())
    before = state_fingerprint(model)
    UNSEEN[what](model)
    assert state_fingerprint(model) == before
