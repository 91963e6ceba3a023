"""Methods whose stages are whole models: full fine-tuning, and the frozen directions of osf by SVD."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from assignments import WHOLE_METHODS, assignment, rows_of, trained
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from sapo.core.errors import ModelError
from sapo.integrations.testing import tiny_model
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.stage import load_stage
from sapo.sequence import run
from sapo.training.methods import make_method
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, MethodName, TrainSettings

TARGETS = ("q_proj", "v_proj", "down_proj")
LORA = LoraSettings(r=3, alpha=5, dropout=0.2, target_modules=TARGETS)
TRAIN = TrainSettings(epochs=3, learning_rate=2e-3, batch_size=4, micro_batch_size=4, warmup=0.0)
TASKS = [rows_of(name, 8, f"Instruction {name}.") for name in ("one", "two", "three")]


def method(name: MethodName, targets: tuple[str, ...] = TARGETS) -> SeqLora:
    return make_method(name, LORA.model_copy(update={"target_modules": targets}))


def task_at(number: int) -> Training:
    return assignment(TASKS[number], stage=number + 1, seed=number)


def train(learner: SeqLora, model: Any, task: Training, settings: TrainSettings = TRAIN) -> Any:
    model = learner.prepare(model, task)
    trained(learner, model, task, settings, seed=task.stage)
    return model


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", WHOLE_METHODS)
def test_models_that_cannot_be_trained_are_refused_with_what_to_do(name: MethodName) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match=rf"method {name} .* cannot continue from an adapter: merge it first \(sapo"):
        method(name).start(get_peft_model(tiny_model(), config))
    with pytest.raises(ModelError, match=f"method {name} needs model.dtype float32, not bfloat16: small updates"):
        method(name).start(tiny_model().to(torch.bfloat16))


def test_osf_refuses_layers_that_it_would_leave_as_they_are() -> None:
    config = GPT2Config(vocab_size=258, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    for targets, message in (
        (("c_attn", "wte", "lm_head"), "osf decomposes linear layers only, which c_attn, wte of this model is not"),
        (("q_proj",), "has no q_proj that can carry"),
    ):
        with pytest.raises(ModelError, match=message):
            method("osf", targets).start(GPT2LMHeadModel(config))


def test_full_trains_every_weight_even_where_there_are_no_target_modules() -> None:
    learner = method("full", ("nowhere",))
    model = learner.start(tiny_model())
    before = tensors(model)
    model = learner.prepare(model.requires_grad_(False), task_at(0))
    assert all(p.requires_grad for p in model.parameters())
    trained(learner, model, task_at(0), TRAIN)
    same = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
    assert not same and "model.embed_tokens.weight" in before and len(before) > 20
    moved = (model.model.embed_tokens.weight - before["model.embed_tokens.weight"]).abs().sum(1) > 0
    assert set(moved.nonzero()[:, 0].tolist()) == {token for row in TASKS[0] for token in row.ids[:-1]}


# Orthogonal subspace fine-tuning.


def osf_layers(model: Any) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "osf_svd_params")}


def test_the_frozen_share_of_directions_grows_with_every_task() -> None:
    for number in range(3):
        learner = method("osf")
        layers = osf_layers(learner.prepare(learner.start(tiny_model()), task_at(number)))
        assert {name.rsplit(".", 1)[-1] for name in layers} == set(TARGETS) and len(layers) == 2 * 3
        for layer in layers.values():
            smallest = min(layer.base_layer.weight.shape)
            frozen = smallest * (number + 1) // 4
            assert layer.effective_rank["default"] == frozen
            shapes = {key: tuple(p.shape) for key, p in layer.osf_svd_params["default"].items()}
            assert shapes["S_low"] == (smallest - frozen,) == shapes["U_low"][1:] == shapes["V_low"][:1]


def test_only_target_modules_train_and_change(tmp_path: Path) -> None:
    learner = method("osf")
    model = learner.start(tiny_model())
    before = tensors(model)
    model = train(learner, model, task_at(0))
    assert all("osf_svd_params" in name for name, p in model.named_parameters() if p.requires_grad)
    after = tensors(learner.finish(model, task_at(0), tmp_path))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if any(f".{target}." in name for target in TARGETS)}


def leaks(name: MethodName, folder: Path) -> tuple[float, float]:
    """How much of the change of a training lies inside the strongest directions, and how much touches them at all.

    Shares of the change's norm, of W's own directions by SVD; the largest over all layers.
    """
    learner, task = method(name), task_at(1)
    model = learner.start(tiny_model())
    before = tensors(model)
    model = train(learner, model, task, TRAIN.model_copy(update={"learning_rate": 1e-3}))
    after = tensors(learner.finish(model, task, folder / name))
    found = []
    for key in [key for key in before if key.split(".")[-2] in TARGETS]:
        u, _, v = torch.linalg.svd(before[key], full_matrices=False)
        frozen, change = min(before[key].shape) * 2 // 4, after[key] - before[key]
        left, right = u[:, :frozen].T @ change, change @ v[:frozen].T
        inside, touching = (left @ v[:frozen].T).norm(), torch.maximum(left.norm(), right.norm())
        found.append((float(inside / change.norm()), float(touching / change.norm())))
    return max(inside for inside, _ in found), max(touching for _, touching in found)


def test_adam_steps_leave_the_frozen_directions_as_they_were(tmp_path: Path) -> None:
    # Adam scales each entry of a projected gradient, so its update is not quite projected: U_low and V_low are a little
    # off, and U_high' W V_high' moves by the product of both, an order less.
    inside, touching = leaks("osf", tmp_path)
    assert inside < 1e-2 and touching < 0.4
    # Weights that move freely change there as they do elsewhere.
    inside, touching = leaks("full", tmp_path)
    assert inside > 0.3 and touching > 0.6


def test_a_stage_answers_as_its_run_was_tested_without_the_base(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    config = configured(method="osf")
    run(config)
    moved = Path(shutil.copytree(config.run_dir / "stages" / "1-review-sentiment", tmp_path / "moved"))
    lineage = json.loads((moved / "sapo.json").read_text())
    (moved / "sapo.json").write_text(json.dumps(lineage | {"base_model": "./nowhere"}))
    stage = load_stage(moved)
    tested = json.loads((config.run_dir / "cells" / "1" / "review-sentiment.original.json").read_text())["value"]
    (task,) = prepare(config).inputs.tasks
    assert stage.generate([row.input for row in task.test]) == tested["predictions"]
    assert not isinstance(stage.loaded.model, PeftModel)
