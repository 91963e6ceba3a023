"""Fine-tuning against scoring, a full-logits computation and a training loop of its own in plain PyTorch."""

import copy
from typing import Any

import pytest
import torch
from adapted import process_state
from assignments import partly_frozen, rows_of, token_mean, tokens_of
from torch import nn
from transformers import TrainingArguments

from sapo.core.errors import TrainError
from sapo.integrations.testing import tiny_model
from sapo.models.losses import Scorer
from sapo.training.finetune import demand_first_gpu, finetune
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Extras

SETTINGS = TrainSettings(epochs=1, learning_rate=1e-2, batch_size=8, micro_batch_size=8, warmup=0.0)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_the_first_logged_loss_is_the_pre_update_loss_of_scoring(micro_batch_size: int) -> None:
    encoded = rows_of("one", 8)
    model = partly_frozen()
    with torch.no_grad():
        by_hand = float(token_mean(model, encoded))
    scored = Scorer(model)(encoded).per_token
    training = finetune(model, encoded, SETTINGS.model_copy(update={"micro_batch_size": micro_batch_size}), seed=0)
    assert training.losses[0] == pytest.approx(scored, rel=1e-5)
    assert training.losses[0] == pytest.approx(by_hand, rel=1e-5)


def test_a_model_whose_own_loss_takes_nothing_more_is_trained_alike_and_with_the_objective() -> None:
    """As some models with images say of themselves, which leaves them without the number of tokens of an update."""
    found = []
    for micro_batch_size in (8, 2):
        model = partly_frozen()
        model.accepts_loss_kwargs = False
        settings = SETTINGS.model_copy(update={"micro_batch_size": micro_batch_size})
        found.append(finetune(model, rows_of("one", 8), settings, seed=0, extras=Extras(lambda nll, part: 2 * nll)))
    expected = finetune(partly_frozen(), rows_of("one", 8), SETTINGS, seed=0)
    for training in found:
        assert training.losses == pytest.approx(expected.losses, rel=1e-5)
        assert training.objectives == pytest.approx([2 * loss for loss in expected.losses], rel=1e-5)


def test_a_plain_pytorch_loop_reaches_the_same_weights() -> None:
    encoded = rows_of("one", 6)
    steps, warm, peak, limit = 10, 2, 5e-3, 0.5
    settings = TrainSettings(
        epochs=steps, learning_rate=peak, batch_size=6, micro_batch_size=3, warmup=warm / steps, weight_decay=0.1,
        max_grad_norm=limit,
    )  # fmt: skip
    model = partly_frozen()
    training = finetune(model, encoded, settings, seed=0)

    other = partly_frozen()
    parameters = [p for p in other.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.1)
    losses, norms = [], []
    for step in range(steps):
        rate = step / warm if step < warm else (steps - step) / (steps - warm)
        for group in optimiser.param_groups:
            group["lr"] = peak * rate
        optimiser.zero_grad()
        loss = token_mean(other, encoded)
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(parameters, limit)))
        optimiser.step()
        losses.append(float(loss.detach()))

    assert max(norms) > limit, "clipping must matter here, or it is not tested"
    assert largest_difference(weights(model), weights(partly_frozen())) > 1e-2
    assert largest_difference(weights(model), weights(other)) < 1e-5
    assert training.steps == steps
    assert training.losses == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "dropout"), [(2, 0.0), (8, 0.5)], ids=["order", "dropout"])
def test_the_seed_alone_decides_order_and_dropout_and_random_states_stay(batch_size: int, dropout: float) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": batch_size, "micro_batch_size": batch_size})
    found = []
    for noise, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(noise)
        before = process_state()
        model = partly_frozen()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        finetune(model, rows_of("one", 8), settings, seed)
        found.append(weights(model))
        assert process_state() == before
    assert largest_difference(found[0], found[1]) == 0
    assert largest_difference(found[0], found[2]) > 1e-4


def test_every_task_starts_with_a_fresh_optimiser_and_schedule() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 3, "warmup": 0.4})
    first, second = rows_of("one", 8), rows_of("two", 8)
    model = partly_frozen()
    finetune(model, first, settings, seed=0)
    without_history = copy.deepcopy(model)
    finetune(model, second, settings, seed=1)

    other = partly_frozen()
    other.load_state_dict(without_history.state_dict())
    finetune(other, second, settings, seed=1)
    assert largest_difference(weights(model), weights(without_history)) > 1e-3
    assert largest_difference(weights(model), weights(other)) == 0


def test_it_trains_what_is_trainable_in_train_mode_and_computes_no_logits_of_prompts() -> None:
    encoded, model, before = rows_of("one", 8), partly_frozen(), weights(partly_frozen())
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes, rows = [], []

    def watch(module: Any, inputs: Any, output: torch.Tensor) -> None:
        modes.append(model.training)
        rows.append(output.numel() // output.shape[-1])

    model.lm_head.register_forward_hook(watch)
    finetune(model, encoded, SETTINGS.model_copy(update={"micro_batch_size": 4}), seed=0)
    assert modes == [True, True] and not any(module.training for module in model.modules())
    assert sum(rows) == tokens_of(encoded)
    changed = {name for name, p in weights(model).items() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_mixed_precision_is_off_again_when_training_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a GPU a bfloat16 model trains under autocast. What stays of it would be scored and evaluated in one
    # precision here, and in another once the stage is loaded from its directory.
    monkeypatch.setattr(
        "sapo.training.finetune.TrainingArguments", lambda **given: TrainingArguments(**{**given, "bf16": True})
    )
    model = partly_frozen()
    encoded = rows_of("one", 8)
    finetune(model, encoded, SETTINGS, seed=0)
    fresh = tiny_model()
    fresh.load_state_dict(model.state_dict())
    ids = torch.tensor(encoded[0].ids)[None]
    with torch.no_grad():
        same = torch.equal(model(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert same


def test_what_accelerate_was_asked_for_does_not_change_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = finetune(partly_frozen(), rows_of("one", 8), SETTINGS, seed=0)
    # As `accelerate launch --mixed_precision bf16` sets it.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert finetune(partly_frozen(), rows_of("one", 8), SETTINGS, seed=0) == expected


def test_in_one_process_only_the_first_gpu_is_trained_on() -> None:
    for device in ("cuda", "cuda:0", "cpu", "mps:0", "no device"):
        demand_first_gpu(device)
    with pytest.raises(TrainError, match=r"device cuda:1: .*Set CUDA_VISIBLE_DEVICES=1 in the environment"):
        demand_first_gpu("cuda:1")


@pytest.mark.parametrize(("epochs", "batch_size", "updates"), [(0.1, 2, 1), (0.5, 2, 2), (1.5, 2, 6), (3, 16, 3)])
def test_epochs_may_be_a_fraction_and_rows_fewer_than_a_batch(epochs: float, batch_size: int, updates: int) -> None:
    told: list[int] = []
    settings = SETTINGS.model_copy(update={"epochs": epochs, "batch_size": batch_size, "micro_batch_size": 1})
    training = finetune(partly_frozen(), rows_of("one", 8), settings, seed=0, advance=told.append)
    assert (training.steps, len(training.losses), told) == (updates, updates, [1] * updates)
