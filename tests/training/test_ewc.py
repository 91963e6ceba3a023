"""Elastic weight consolidation: the Fisher matrix against brute force, the penalty by hand."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from assignments import LORA, alike, assignment, demanded, nll_by_hand, part_of, rows_of, second_task, shake
from safetensors.torch import load_file
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model
from sapo.training.methods.ewc import Ewc, diagonal_fisher
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import trainable
from sapo.training.settings import EwcSettings

TASKS = [rows_of(name, count, f"Instruction {name}.") for name, count in (("one", 5), ("two", 7))]


# The diagonal Fisher matrix.


def squares_by_hand(model: Any, rows: list[Encoded]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Mean of the squared gradients of single rows, and the squared mean gradient: full logits, torch.func."""
    weights = {name: p.detach() for name, p in trainable(model).items()}

    def losses(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([nll_by_hand(lambda **x: functional_call(model, given, kwargs=x), [row]) for row in rows])

    # The one implementation of attention that batches of gradients go through.
    with sdpa_kernel(SDPBackend.MATH):
        gradients: dict[str, torch.Tensor] = jacrev(losses)(weights)
    return {n: (g**2).mean(0) for n, g in gradients.items()}, {n: g.mean(0) ** 2 for n, g in gradients.items()}


def test_the_fisher_matrix_is_the_mean_of_squares_of_single_rows_gradients(tmp_path: Path) -> None:
    model, task = second_task(SeqLora(LORA), tmp_path, TASKS)
    found = diagonal_fisher(model, task.rows, "gold", 0)
    of_rows, of_batch = squares_by_hand(model, list(task.rows))
    assert alike(found, of_rows) and max(float(f.max()) for f in found.values()) > 0
    # The premise: a batch's gradient squared is something else.
    assert not alike(of_batch, of_rows)
    assert {name: f.shape for name, f in found.items()} == {name: p.shape for name, p in trainable(model).items()}


def test_estimating_the_fisher_matrix_has_no_dropout_and_leaves_no_gradients(tmp_path: Path) -> None:
    model, task = second_task(SeqLora(LORA.model_copy(update={"dropout": 0.5})), tmp_path, TASKS)
    model.train()
    torch.manual_seed(1)
    one = diagonal_fisher(model, task.rows, "gold", 0)
    torch.manual_seed(2)
    other = diagonal_fisher(model.train(), task.rows, "gold", 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(p.grad is None for p in model.parameters()) and not model.training


def small_world() -> tuple[Any, list[Encoded]]:
    """A model of five words, whose predictions are far from even, with some of its weights trainable."""
    config = LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.9,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "v_proj" in name
    return model, [Encoded((1, 2, 3, 4, 0, 2), 3), Encoded((4, 4, 1, 3), 2)]


def exact_fisher(model: Any, rows: list[Encoded]) -> dict[str, torch.Tensor]:
    """Mean over rows of the sum over supervised positions of E_y (d log p(y) / d theta)^2, y from the model itself.

    Draws at different positions are independent and each has gradients of mean zero: squares of sums are sums.
    """
    weights = trainable(model)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for row in rows:
        for position in range(row.prompt_length, len(row.ids)):
            log_p = model(input_ids=torch.tensor([row.ids[:position]])).logits[0, -1].log_softmax(-1)
            for word in range(len(log_p)):
                gradients = torch.autograd.grad(log_p[word], list(weights.values()), retain_graph=True)
                for name, gradient in zip(weights, gradients, strict=True):
                    total[name] += log_p[word].exp().detach() * gradient**2
    return {name: value / len(rows) for name, value in total.items()}


def test_sampled_labels_have_the_exact_fisher_matrix_as_their_mean() -> None:
    model, rows = small_world()
    draws = [
        diagonal_fisher(model, rows, "sampled", seed)["model.layers.0.self_attn.v_proj.weight"] for seed in range(200)
    ]
    expected = exact_fisher(model, rows)["model.layers.0.self_attn.v_proj.weight"]
    found = torch.stack(draws)
    mean, error = found.mean(0), found.std(0) / len(draws) ** 0.5
    # 64 entries, which are correlated: none is expected beyond four standard errors.
    assert float(((mean - expected).abs() / error).max()) < 4
    assert float(mean.sum()) == pytest.approx(float(expected.sum()), rel=0.1)
    # The premise: the rows' own answers, or draws that are not squared one by one, would be noticed.
    gold = diagonal_fisher(model, rows, "gold", 0)["model.layers.0.self_attn.v_proj.weight"]
    assert float(((gold - expected).abs() / error).max()) > 10


# Elastic weight consolidation.


def fisher_file(root: Path, stage: int) -> dict[str, torch.Tensor]:
    return load_file(root / str(stage) / "fisher.safetensors")


def test_the_stored_matrix_is_gamma_times_the_earlier_one_plus_the_tasks_own(tmp_path: Path) -> None:
    learner = Ewc(LORA, EwcSettings(gamma=0.6))
    model, task = second_task(learner, tmp_path, TASKS)
    shake(model, seed=1)
    model = learner.finish(model, task, tmp_path / "2")
    own, _ = squares_by_hand(learner.prepare(model, task), list(task.rows))
    first, second = fisher_file(tmp_path, 1), fisher_file(tmp_path, 2)
    assert alike(second, {name: 0.6 * first[name] + own[name] for name in own})
    assert not alike(second, own)


def test_the_matrix_is_estimated_from_so_many_rows_at_most(tmp_path: Path) -> None:
    found = {}
    for seed in range(3):
        learner = Ewc(LORA, EwcSettings(examples=2))
        task = assignment(TASKS[0], seed=seed)
        model = learner.prepare(learner.start(tiny_model()), assignment(TASKS[0]))
        shake(model)
        learner.finish(model, task, tmp_path / str(seed))
        found[seed] = fisher_file(tmp_path, seed)
    pairs = {pair: diagonal_fisher(model, pair, "gold", 0) for pair in combinations(TASKS[0], 2)}
    hits = [[pair for pair, expected in pairs.items() if alike(f, expected)] for f in found.values()]
    assert all(len(hit) == 1 for hit in hits) and len({hit[0] for hit in hits}) > 1


def test_the_penalty_and_its_gradient_by_hand(tmp_path: Path) -> None:
    learner = Ewc(LORA, EwcSettings(weight=7.0))
    model, task = second_task(learner, tmp_path, TASKS)
    objective = demanded(learner, model, task)
    shake(model, seed=1)
    stored, fisher = load_file(tmp_path / "1" / "adapter_model.safetensors"), fisher_file(tmp_path, 1)
    moved = {n: p.detach() - stored[n.replace(".default.", ".")] for n, p in trainable(model).items()}
    penalties = [objective(torch.zeros(()), part_of(model, task.rows[:2], number=n, parts=4)) for n in range(4)]
    total = torch.stack(penalties).sum()
    assert float(total.detach()) == pytest.approx(
        7.0 / 2 * sum(float((fisher[n] * moved[n] ** 2).sum()) for n in moved), rel=1e-5
    )
    total.backward()
    for name, parameter in trainable(model).items():
        assert torch.allclose(parameter.grad, 7.0 * fisher[name] * moved[name], rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
