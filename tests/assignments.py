"""What methods are told about a training, in tests that leave most of it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapo.finetune import Checkpoints, Extras, Training, TrainSettings, finetune
from sapo.methods import METHODS, Assignment, LoraSettings, SeqLora
from sapo.types import Encoded

_ANY = LoraSettings(r=2, alpha=4, dropout=0.0, target_modules=("q_proj", "v_proj"))
# Those whose stages are adapters, and those whose stages are models.
LORA_METHODS = tuple(sorted(name for name in METHODS if not METHODS[name](_ANY).whole))
WHOLE_METHODS = tuple(sorted(METHODS.keys() - set(LORA_METHODS)))


def assignment(
    rows: Sequence[Encoded],
    *,
    stage: int = 1,
    stages: int = 3,
    seed: int = 0,
    before: Path | None = None,
    batch_size: int = 4,
) -> Assignment:
    """A training that starts from ``before``; without it, from the start of a run."""
    return Assignment(stage, stages, seed, tuple(rows), before, batch_size)


def trained(
    learner: SeqLora,
    model: Any,
    task: Assignment,
    settings: TrainSettings,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    **more: Any,
) -> Training:
    """Train a prepared model on its task as a run does, with what the method adds to the loss."""
    extras = Extras(objective=learner.objective(model, task))
    return finetune(model, task.rows, settings, seed, checkpoints=checkpoints, extras=extras, **more)
