"""A training that was interrupted goes on from its last checkpoint to exactly the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from assignments import METHODS, assignment, dying_after, rows_of, second_task, trained
from safetensors.torch import load_file

from sapo.core.errors import TrainError
from sapo.integrations.testing import tiny_model
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import trainable
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, MethodName, TrainSettings
from sapo.training.trainer import Checkpoints

# 5 rows in batches of 4, three epochs: 6 updates, each second one of a single row.
SETTINGS = TrainSettings(epochs=3, learning_rate=1e-2, batch_size=4, micro_batch_size=2, warmup=0.1)
TASKS = rows_of("earlier", 5), rows_of("one", 5)


def prepared(method: MethodName, folder: Path) -> tuple[SeqLora, Any, Training]:
    """A model before its second task, with dropout where there are adapters, so that random states matter."""
    learner = make_method(method, LoraSettings(r=4, alpha=8, dropout=0.1))
    if not (folder / "1").exists():
        second_task(learner, folder, TASKS)
    task = assignment(TASKS[1], stage=2, seed=1, before=folder / "1")
    return learner, learner.prepare(learner.resume(learner.start(tiny_model()), folder / "1"), task), task


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_a_checkpoint_ends_bit_equal(method: MethodName, tmp_path: Path) -> None:
    learner, whole, task = prepared(method, tmp_path)
    expected = trained(learner, whole, task, SETTINGS, 3)
    # The premise: what a method adds to the loss takes part.
    assert (expected.objectives != expected.losses) == (method in ("o-lora", "ewc", "replay", "lwf"))
    # In the middle of the second epoch.
    checkpoints = Checkpoints(tmp_path / "unfinished", 3)
    learner, model, task = prepared(method, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(learner, model, task, SETTINGS, 3, checkpoints, advance=dying_after(5))
    last = Path(checkpoints.last() or "")
    assert last.name == "checkpoint-3"
    # It holds what is trained, and no other weights.
    assert load_file(last / "trained.safetensors").keys() == trainable(model).keys()
    learner, resumed, task = prepared(method, tmp_path)
    told: list[int] = []
    before = {name: tensor.clone() for name, tensor in resumed.state_dict().items()}
    found = trained(learner, resumed, task, SETTINGS, 3, checkpoints, advance=told.append)
    assert found == expected and told == [3, 1, 1, 1]
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in resumed.state_dict().items())


def test_the_last_update_leaves_no_checkpoint_from_which_one_more_would_be_made(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1.5})
    checkpoints = Checkpoints(tmp_path, 2)
    for _ in range(2):
        log = finetune(prepared("seq-lora", tmp_path)[1], TASKS[1], settings, 3, checkpoints=checkpoints)
        # 1.5 epochs of two updates each.
        assert log.steps == len(log.losses) == 3
        assert Path(checkpoints.last() or "").name == "checkpoint-2"


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_with(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.last() is None
    for number, whole in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-14").mkdir()
    # Killed while it was written.
    (tmp_path / "checkpoint-14" / "trainer_state.json").write_text("")
    assert checkpoints.last() == str(tmp_path / "checkpoint-10")


def test_a_damaged_checkpoint_is_an_error_that_names_it_and_what_fails_later_is_not_its_fault(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        finetune(prepared("seq-lora", tmp_path)[1], TASKS[1], SETTINGS, 3, dying_after(5), checkpoints=checkpoints)
    last = Path(checkpoints.last() or "")

    def fail(steps: int) -> None:
        if steps == 1:
            raise ValueError("something else")

    def full(steps: int) -> None:
        raise torch.OutOfMemoryError("the fake is full")

    with pytest.raises(ValueError, match="something else"):
        finetune(prepared("seq-lora", tmp_path)[1], TASKS[1], SETTINGS, 3, fail, checkpoints=checkpoints)
    with pytest.raises(TrainError, match=r"does not fit the memory \(the fake is full\): lower train\.micro_batch_s"):
        finetune(prepared("seq-lora", tmp_path)[1], TASKS[1], SETTINGS, 3, full, checkpoints=checkpoints)
    for file in ("scheduler.pt", "trained.safetensors"):
        (last / file).write_bytes((last / file).read_bytes()[:500])
        with pytest.raises(TrainError, match=rf"cannot resume from checkpoint .*{last.name} \("):
            finetune(prepared("seq-lora", tmp_path)[1], TASKS[1], SETTINGS, 3, checkpoints=checkpoints)
