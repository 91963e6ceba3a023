"""What methods are told about a training, in tests that leave most of it as it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.batches import pad, supervised_positions
from sapo.models.render import Renderer
from sapo.training.finetune import TrainingLog, finetune
from sapo.training.methods import make_method
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import Objective, Part, trainable
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, MethodName, TrainSettings
from sapo.training.trainer import Checkpoints, Extras

# A scaling, 5 / 3, that no number of the tests is by chance the same without.
LORA = LoraSettings(r=3, alpha=5, dropout=0.0)
DROPOUT = LORA.model_copy(update={"dropout": 0.3})
TRAIN = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, micro_batch_size=2, warmup=0.0)
# All but multitask and single, which are seq-lora on other rows.
METHODS: tuple[MethodName, ...] = tuple(n for n in get_args(MethodName) if n not in ("multitask", "single"))
# Those whose stages are adapters, and those whose stages are models.
LORA_METHODS = tuple(sorted(name for name in METHODS if not make_method(name, LORA).whole))
WHOLE_METHODS = tuple(sorted(set(METHODS) - set(LORA_METHODS)))


def rows_of(name: str, count: int, instruction: str = "Say it.") -> list[Encoded]:
    """Rows of a toy task whose prompts and answers differ in length."""
    task = toy_task(name, rows=count)
    rows = [replace(row, answer=row.answer + " indeed" * (i % 3)) for i, row in enumerate(task.train)]
    return Renderer(tiny_tokenizer(), 256).encode(instruction, task.suffix, rows)


def nll_by_hand(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    """Summed NLL of the rows' supervised tokens: every logit computed, one unpadded row at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor(row.ids)
        log_p = model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(-1)
        for position in range(row.prompt_length, len(row.ids)):
            total = total - log_p[position - 1, ids[position]]
    return total


def answers_by_hand(model: Any, rows: Sequence[Encoded]) -> list[torch.Tensor]:
    """Logits that predict the supervised tokens, row by row."""
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0] for row in rows]
    return [each[row.prompt_length - 1 : -1] for each, row in zip(logits, rows, strict=True)]


def kl_by_hand(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> float:
    """Sum over positions and vocabulary of p log (p / q), in double precision."""
    p, q = ((logits.double() / temperature).softmax(-1) for logits in (teacher, student))
    return float((p * (p / q).log()).sum())


def alike(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether all entries agree, up to rounding of the largest one."""
    assert found.keys() == expected.keys()
    largest = max(float(f.abs().max()) for f in expected.values())
    return all(torch.allclose(found[n], expected[n], rtol=1e-3, atol=1e-5 * largest) for n in expected)


def dying_after(updates: int) -> Callable[[int], None]:
    """What ends a training after so many updates, as the end of its process would."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done >= updates:
            raise KeyboardInterrupt

    return advance


def tokens_of(rows: Sequence[Encoded]) -> int:
    """Number of supervised tokens."""
    return sum(len(row.ids) - row.prompt_length for row in rows)


def part_of(model: Any, rows: Sequence[Encoded], step: int = 0, number: int = 0, parts: int = 1) -> Part:
    """A forward pass with these rows, as a part of an update of these rows alone."""
    ids, labels = pad([row.ids for row in rows], [row.prompt_length for row in rows])
    keep, _ = supervised_positions(labels)
    logits = model(input_ids=ids, use_cache=False).logits[keep]
    return Part(model, ids, keep, logits, tokens_of(rows), step, number, parts)


def assignment(
    rows: Sequence[Encoded],
    *,
    stage: int = 1,
    stages: int = 3,
    seed: int = 0,
    before: Path | None = None,
    batch_size: int = 4,
) -> Training:
    """A training that starts from ``before``; without it, from the start of a run."""
    return Training(stage, stages, f"{stage}-task", (), False, (), (), seed, batch_size, tuple(rows), before)


def trained(
    learner: SeqLora,
    model: Any,
    task: Training,
    settings: TrainSettings,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    **more: Any,
) -> TrainingLog:
    """Train a prepared model on its task as a run does, with what the method adds to the loss."""
    extras = Extras(objective=learner.objective(model, task))
    return finetune(model, task.rows, settings, seed, checkpoints=checkpoints, extras=extras, **more)


def token_mean(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    """NLL per supervised token."""
    return nll_by_hand(model, rows) / tokens_of(rows)


def partly_frozen() -> Any:
    """The tiny model with only the query and value projections trainable."""
    model = tiny_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "q_proj" in name or "v_proj" in name
    return model


def whole_rows(model: Any) -> Any:
    """The model with a dropout that nothing goes through: what a batch's rows begin with is not computed once."""
    model.unused = torch.nn.Dropout(0.5)
    return model


def shake(model: Any, seed: int = 0) -> None:
    """Move all trainable parameters far from where they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainable(model).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def second_task(
    learner: SeqLora, root: Path, tasks: Sequence[Sequence[Encoded]], batch_size: int = 4
) -> tuple[Any, Training]:
    """A model prepared for the second task, after a first one that left every parameter somewhere else.

    The first stage is in the directory 1.
    """
    first = assignment(tasks[0], batch_size=batch_size)
    model = learner.prepare(learner.start(tiny_model()), first)
    shake(model)
    model = learner.finish(model, first, root / "1")
    task = assignment(tasks[1], stage=2, seed=1, before=root / "1", batch_size=batch_size)
    return learner.prepare(model, task), task


def demanded(learner: SeqLora, model: Any, task: Training) -> Objective:
    """What is minimised in place of the NLL, which it must be."""
    objective = learner.objective(model, task)
    assert objective is not None
    return objective
