"""Training with a common beginning computed once, against training on whole rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assignments import assignment, whole_rows
from exact_losses import window_model
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sapo.core.types import Encoded, Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.prefix import can_share, columns_to_share, common_columns
from sapo.training.settings import LoraSettings, TrainSettings

SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=8, micro_batch_size=4, warmup=0.0)


def encoded(size: int, instruction: str = "Say it, and say it well.") -> list[Encoded]:
    answers = ["yes", "no", "many, many words"]
    rows = [Example("word " * (i % 3) + f"row {i}", answers[i % 3]) for i in range(size)]
    return Renderer(tiny_tokenizer(), 256).encode(instruction, toy_task().suffix, rows)


def lora(model: Any, dropout: float = 0.0) -> Any:
    method = make_method("seq-lora", LoraSettings(r=4, alpha=8, dropout=dropout))
    return method.prepare(method.start(model), assignment(encoded(1)))


def watched(model: Any, rows: list[Encoded]) -> tuple[list[float], list[list[torch.Tensor]], int]:
    """Train; return losses, the gradient of every update, and tokens that it was trained on."""
    seen, tokens = list[list[torch.Tensor]](), list[int]()

    def watch(optimiser: Any, *_: Any) -> None:
        seen.append([p.grad.clone() for group in optimiser.param_groups for p in group["params"]])

    hook = register_optimizer_step_pre_hook(watch)
    model.get_input_embeddings().register_forward_hook(
        lambda m, given, out: tokens.append(given[0].numel() * torch.is_grad_enabled())
    )
    try:
        return list(finetune(model, rows, SETTINGS, seed=0).losses), seen, sum(tokens)
    finally:
        hook.remove()


@pytest.mark.parametrize("make", [tiny_model, lambda: lora(tiny_model())], ids=["all weights", "lora"])
def test_losses_and_gradients_are_those_of_whole_rows(make: Callable[[], Any]) -> None:
    rows = encoded(13)
    losses, found, tokens = watched(make(), rows)
    expected_losses, expected, whole_tokens = watched(whole_rows(make()), rows)
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    assert len(found) == len(expected) > 1
    for one, other in zip(expected, found, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))
        assert max(float(a.abs().max()) for a in one) > 1e-2
    # The premise: something was left out.
    assert tokens < 0.8 * whole_tokens


def test_common_columns_as_worked_out_by_hand() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5]])
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    assert common_columns(ids, nowhere) == 3
    keep = nowhere.clone()
    keep[1, 2] = True
    # The last prompt token predicts the first answer token: its logits belong to its own row.
    assert common_columns(ids, keep) == 2
    assert common_columns(ids[:1], nowhere[:1]) == columns_to_share(ids[:1], nowhere[:1]) == 0
    # One common column of 2 x 11 saves 1 of 22 tokens, which is too little; of 2 x 5, 1 of 10.
    for length, expected in ((11, 0), (5, 1)):
        ids = torch.stack([torch.arange(length), torch.arange(length) + 1])
        ids[:, 0] = 7
        nowhere = torch.zeros_like(ids, dtype=torch.bool)
        assert (common_columns(ids, nowhere), columns_to_share(ids, nowhere)) == (1, expected)


def attention_dropout() -> Any:
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    return model


@pytest.mark.parametrize(
    ("make", "shares"),
    [
        (lambda: lora(tiny_model()), True),
        # A new adapter's second factor is 0: dropout in front of it changes nothing before the first update.
        (lambda: lora(tiny_model(), dropout=0.1), False),
        (attention_dropout, False),
        (window_model, False),
    ],
    ids=["no dropout", "adapter dropout", "attention dropout", "sliding window"],
)
def test_dropout_and_windows_forbid_sharing(make: Callable[[], Any], shares: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert can_share(make(), encoded(5)) == shares
    assert not can_share(tiny_model(), [Encoded((n, *range(20, 40)), 15) for n in range(5)])
