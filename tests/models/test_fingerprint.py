"""What the fingerprint of a model's state tells apart: everything that its outputs depend on, and nothing else."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from adapted import adapted, logits
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from sapo.integrations.testing import tiny_model
from sapo.models.fingerprint import state_fingerprint
from sapo.models.load import DTYPES


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


def test_what_an_adapter_is_called_is_not_part_of_the_state() -> None:
    lora = LoraConfig(target_modules=["v_proj", "q_proj"], r=2)
    one, *others = (get_peft_model(tiny_model(), lora, adapter_name=name) for name in ("default", "reviews", "q_proj2"))
    for model in others:
        model.load_state_dict(dict(zip(model.state_dict(), one.state_dict().values(), strict=True)))
        assert state_fingerprint(model) == state_fingerprint(one)


class Forwards(set[str]):
    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))


class Backwards(Forwards):
    def __iter__(self) -> Iterator[str]:
        return reversed([*super().__iter__()])


def test_the_order_of_a_set_which_differs_from_process_to_process_is_not_part_of_the_state() -> None:
    models = [adapted(tiny_model(), exclude_modules=["k_proj", "o_proj", "up_proj"]) for _ in range(2)]
    for key in ("exclude_modules", "target_modules"):
        for model, kind in zip(models, (Forwards, Backwards), strict=True):
            setattr(model.peft_config["default"], key, kind(getattr(model.peft_config["default"], key)))
        # The premise: it is as sets that peft keeps and gives them.
        one, other = ([*model.peft_config["default"].to_dict()[key]] for model in models)
        assert one == other[::-1] and len(one) > 1
    assert state_fingerprint(models[0]) == state_fingerprint(models[1])


@pytest.mark.parametrize("what", UNSEEN)
def test_what_outputs_do_not_depend_on_is_not_part_of_the_state(what: str) -> None:
    model = adapted(tiny_model())
    before = state_fingerprint(model)
    UNSEEN[what](model)
    assert state_fingerprint(model) == before
