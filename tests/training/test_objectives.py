"""What methods add to the loss: alike for all of them, then the overlap of o-lora and the teacher of lwf by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from assignments import (
    DROPOUT,
    LORA,
    LORA_METHODS,
    METHODS,
    TRAIN,
    answers_by_hand,
    assignment,
    demanded,
    kl_by_hand,
    part_of,
    rows_of,
    second_task,
    shake,
    token_mean,
    tokens_of,
    trained,
)
from parts import gemma
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from sapo.integrations.testing import tiny_model
from sapo.models.losses import Scorer
from sapo.training.finetune import TrainingLog
from sapo.training.methods import make_method
from sapo.training.methods.ewc import Ewc
from sapo.training.methods.inc_lora import IncLora
from sapo.training.methods.lwf import Lwf, divergence
from sapo.training.methods.o_lora import OLora
from sapo.training.methods.replay import Replay
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import trainable
from sapo.training.schedule import Training
from sapo.training.settings import EwcSettings, LoraSettings, LwfSettings, MethodName, OLoraSettings, ReplaySettings

# 6 rows in updates of 4: the last one has 2, in one pass where others take two.
TASKS = [rows_of(name, 6, f"Instruction {name}.") for name in ("one", "two", "three")]
PENALISED = ("ewc", "lwf", "o-lora", "replay")
Make = Callable[[LoraSettings], SeqLora]


def task_at(number: int, before: Path | None) -> Training:
    return assignment(TASKS[number], stage=number + 1, seed=number, before=before)


def run(make: Make, root: Path, lora: LoraSettings = DROPOUT) -> list[TrainingLog]:
    """Train on two tasks; stages are left in the directories 1 and 2."""
    learner, before, found = make(lora), None, []
    model = learner.start(tiny_model())
    for number in range(2):
        task = task_at(number, before)
        model = learner.prepare(model, task)
        found.append(trained(learner, model, task, TRAIN, seed=number))
        before = root / str(number + 1)
        model = learner.finish(model, task, before)
    return found


def weights(root: Path) -> dict[str, bytes]:
    files = list(root.rglob("adapter_model.safetensors"))
    assert files
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


# All methods.


def nll_of_first_update(model: Any, task: Training) -> float:
    """NLL per token of the rows of the first update."""
    order = torch.randperm(len(task.rows), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [task.rows[i] for i in order[: TRAIN.batch_size]]
    with torch.no_grad():
        return float(token_mean(model, rows))


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_passes_make_the_update_of_whole_batches(name: MethodName, tmp_path: Path) -> None:
    # Methods that train the weights themselves need smaller steps, and Adam gives each weight the same.
    settings = TRAIN.model_copy(update={"learning_rate": 1e-2 if name in LORA_METHODS else 1e-3})
    found = []
    for micro in (2, 4):
        learner = make_method(name, LORA)
        model, task = second_task(learner, tmp_path / str(micro), TASKS)
        before = {key: p.detach().clone() for key, p in trainable(model).items()}
        first = nll_of_first_update(model, task)
        training = trained(learner, model, task, settings.model_copy(update={"micro_batch_size": micro}))
        moved = {key: p.detach() - before[key] for key, p in trainable(model).items()}
        found.append((training, moved))
    whole, expected = found[-1]
    assert max(float(m.abs().max()) for m in expected.values()) > settings.learning_rate
    training, moved = found[0]
    assert training.losses == pytest.approx(whole.losses, abs=1e-5)
    assert training.objectives == pytest.approx(whole.objectives, rel=1e-5)
    assert max(float((moved[key] - expected[key]).abs().max()) for key in moved) < 1e-6
    # What is recorded as the loss is the NLL alone.
    assert whole.losses[0] == pytest.approx(first, rel=1e-5)
    assert (whole.objectives != whole.losses) == (name in PENALISED)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "lwf"])
def test_nothing_is_added_at_the_first_task(name: MethodName) -> None:
    learner = make_method(name, LORA)
    task = task_at(0, None)
    assert learner.objective(learner.prepare(learner.start(tiny_model()), task), task) is None


SWITCHED_OFF: dict[MethodName, tuple[Make, Make]] = {
    "o-lora": (lambda lora: OLora(lora, OLoraSettings(weight=0.0)), IncLora),
    "ewc": (lambda lora: Ewc(lora, EwcSettings(weight=0.0)), SeqLora),
    "replay": (lambda lora: Replay(lora, ReplaySettings(share=0.0)), SeqLora),
    "lwf": (lambda lora: Lwf(lora, LwfSettings(weight=0.0)), SeqLora),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[Make, tuple[Path, list[TrainingLog]]]:
    """Two tasks by each method that adds nothing to the loss, with dropout."""
    found: dict[Make, tuple[Path, list[TrainingLog]]] = {}
    for make in (SeqLora, IncLora):
        root = tmp_path_factory.mktemp("plain")
        found[make] = (root, run(make, root))
    return found


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_weight_of_zero_leaves_the_plain_method_bit_for_bit_with_dropout(
    name: MethodName, plain: dict[Make, tuple[Path, list[TrainingLog]]], tmp_path: Path
) -> None:
    method, without = SWITCHED_OFF[name]
    root, expected = plain[without]
    found = run(method, tmp_path)
    assert [t.losses for t in found] == [t.losses for t in expected]
    # That its own weight changes what is minimised, the test of accumulated passes shows.
    assert weights(tmp_path) == weights(root)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("name", METHODS)
def test_a_model_with_parts_for_images_is_trained_on_texts_and_its_configuration_stays(
    name: MethodName, tmp_path: Path
) -> None:
    model, rows = gemma(), rows_of("one", 8)
    # The premise: only the configuration of its text says whether keys and values are kept.
    assert "use_cache" not in vars(model.config)
    scored = Scorer(model)(rows).per_token
    assert scored == pytest.approx(float(token_mean(model, rows).detach()), rel=1e-5)
    learner = make_method(name, LORA)
    task = assignment(rows)
    model = learner.prepare(learner.start(model), task)
    log = trained(learner, model, task, TRAIN.model_copy(update={"batch_size": 8}))
    assert log.losses[0] == pytest.approx(scored, rel=1e-4) and log.losses[-1] < log.losses[0]
    learner.finish(model, task, tmp_path)
    assert "use_cache" not in vars(model.config)


# O-LoRA.


def factors(adapter: Path) -> dict[str, torch.Tensor]:
    """The A matrices of a saved adapter, by module."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    return {key.split(".lora_A")[0]: tensor for key, tensor in tensors.items() if ".lora_A." in key}


def overlap(model: Any, root: Path, stages: Sequence[int]) -> tuple[float, int]:
    """Sum of the absolute products of every old row of A with every new one, and their number."""
    total, count = 0.0, 0
    for stage in stages:
        for module, old in factors(root / str(stage) / "increment").items():
            new = model.get_submodule(module).lora_A["increment"].weight
            for one in old.tolist():
                for other in new.tolist():
                    total += abs(sum(a * b for a, b in zip(one, other, strict=True)))
                    count += 1
    return total, count


def third_task(root: Path, own: OLoraSettings) -> tuple[OLora, Any, Training]:
    """A model before its third task."""
    learner = OLora(LORA, own)
    model, task = second_task(learner, root, TASKS)
    shake(model, seed=1)
    model = learner.finish(model, task, root / "2")
    task = task_at(2, root / "2")
    return learner, learner.prepare(model, task), task


@pytest.mark.parametrize("normalise", [False, True])
def test_the_overlap_is_that_of_the_unscaled_saved_factors(normalise: bool, tmp_path: Path) -> None:
    learner, model, task = third_task(tmp_path, OLoraSettings(weight=0.7, normalise=normalise))
    total, count = overlap(model, tmp_path, (1, 2))
    # Two layers of two modules; two earlier tasks of rank 3 against rank 3.
    assert count == 2 * 2 * (2 * 3) * 3
    expected = total / count if normalise else total
    assert float(learner.penalty(model).detach()) == pytest.approx(expected, rel=1e-5)
    objective = demanded(learner, model, task)
    parts = [part_of(model, task.rows[:3], number=n, parts=3) for n in range(3)]
    found = sum(float(objective(torch.tensor(0.5), part).detach()) for part in parts)
    assert found == pytest.approx(3 * 0.5 + 0.7 * expected, rel=1e-5)


def test_the_gradient_of_the_overlap_by_hand_reaches_the_new_directions_alone(tmp_path: Path) -> None:
    learner, model, _ = third_task(tmp_path, OLoraSettings())
    model.requires_grad_(True)
    learner.penalty(model).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    saved = [factors(tmp_path / str(stage) / "increment") for stage in (1, 2)]
    assert reached == {f"{module}.lora_A.increment.weight" for module in saved[0]}
    for module in saved[0]:
        new, old = model.get_submodule(module).lora_A["increment"].weight, torch.cat([one[module] for one in saved])
        # d |a . b| / db = sign(a . b) a
        expected = torch.stack([(torch.sign(old @ row)[:, None] * old).sum(0) for row in new.detach()])
        assert torch.allclose(new.grad, expected, atol=1e-5)


# Learning without forgetting: the teacher, and the distance to it.


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


@pytest.mark.parametrize("first", [True, False])
def test_the_teacher_is_the_stage_before_and_stays_it_while_the_student_moves(first: bool, tmp_path: Path) -> None:
    learner, task = Lwf(LORA, LwfSettings(weight=0.3, temperature=2.0)), assignment(TASKS[0])
    if first:
        model = learner.prepare(learner.start(tiny_model()), task)
    else:
        model, task = second_task(learner, tmp_path, TASKS)
    objective = demanded(learner, model, task)
    # In a mode that would show: the teacher has no dropout.
    model.train()
    found = float(objective(torch.tensor(1.0), part_of(model, task.rows)).detach())
    assert found == pytest.approx(1.0, abs=1e-5)
    for seed in (1, 2):
        shake(model, seed)
        before = tiny_model() if first else PeftModel.from_pretrained(tiny_model(), tmp_path / "1")
        teacher, student = answers_by_hand(before, task.rows), answers_by_hand(model, task.rows)
        kl = sum(kl_by_hand(t, s, 2.0) for t, s in zip(teacher, student, strict=True))
        expected = 0.3 * 2.0**2 * kl / tokens_of(task.rows)
        found = float(objective(torch.tensor(1.0), part_of(model, task.rows)).detach())
        assert found - 1.0 == pytest.approx(expected, rel=1e-4) and expected > 0.01
        assert all(module.training for module in model.modules())
