"""Learning without forgetting: the teacher, and the distance to it by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from assignments import (
    LORA,
    answers_by_hand,
    assignment,
    demanded,
    kl_by_hand,
    part_of,
    rows_of,
    second_task,
    shake,
    tokens_of,
)
from peft import PeftModel
from torch.nn.functional import cross_entropy

from sapo.integrations.testing import tiny_model
from sapo.training.methods.lwf import Lwf, divergence
from sapo.training.settings import LwfSettings

TASKS = [rows_of(name, 7, f"Instruction {name}.") for name in ("one", "two")]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_is_kl_with_the_gradient_of_cross_entropy_with_soft_targets(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(4, 9, generator=generator) for _ in range(2))
    found, expected = student.clone().requires_grad_(), student.clone().requires_grad_()
    distance = divergence(teacher, found, temperature)
    distance.backward()
    assert float(distance.detach()) == pytest.approx(kl_by_hand(teacher, student, temperature), rel=1e-5)
    cross_entropy(expected / temperature, (teacher / temperature).softmax(-1), reduction="sum").backward()
    assert found.grad is not None and expected.grad is not None
    assert torch.allclose(found.grad, expected.grad, atol=1e-6) and float(found.grad.abs().max()) > 1e-2
    assert float(divergence(student, student, temperature)) == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_the_stage_before_and_stays_it_while_the_student_moves(tmp_path: Path) -> None:
    learner = Lwf(LORA, LwfSettings(weight=0.3, temperature=2.0))
    model, task = second_task(learner, tmp_path, TASKS)
    objective = demanded(learner, model, task)
    # In a mode that would show: the teacher has no dropout.
    model.train()
    found = float(objective(torch.tensor(1.0), part_of(model, task.rows)).detach())
    assert found == pytest.approx(1.0, abs=1e-5)
    for seed in (1, 2):
        shake(model, seed)
        teacher = answers_by_hand(PeftModel.from_pretrained(tiny_model(), tmp_path / "1"), task.rows)
        student = answers_by_hand(model, task.rows)
        kl = sum(kl_by_hand(t, s, 2.0) for t, s in zip(teacher, student, strict=True))
        expected = 0.3 * 2.0**2 * kl / tokens_of(task.rows)
        found = float(objective(torch.tensor(1.0), part_of(model, task.rows)).detach())
        assert found - 1.0 == pytest.approx(expected, rel=1e-4) and expected > 0.01
        assert all(module.training for module in model.modules())


def test_at_the_first_task_the_teacher_is_the_start() -> None:
    learner = Lwf(LORA, LwfSettings(weight=1.0, temperature=1.0))
    task = assignment(TASKS[0])
    model = learner.prepare(learner.start(tiny_model()), task)
    objective = demanded(learner, model, task)
    shake(model)
    found = float(objective(torch.tensor(0.0), part_of(model, task.rows)).detach())
    base, student = answers_by_hand(tiny_model(), task.rows), answers_by_hand(model, task.rows)
    kl = sum(kl_by_hand(t, s, 1.0) for t, s in zip(base, student, strict=True))
    assert found == pytest.approx(kl / tokens_of(task.rows), rel=1e-4)
