"""What a method is told about the training at hand, and how it takes part in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sapo.core.types import Encoded

# Tasks one after another; all at once; or each for itself from the start.
Order = Literal["sequence", "joint", "apart"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One training: its place in the sequence, and its rows.

    Attributes:
        stage: of the state after it, from 1.
        stages: number of tasks in the sequence.
        seed: of whatever the method draws.
        rows: the training rows, with the instruction that they are trained with.
        before: directory of the stage that it starts from; None at the start of a run.
        batch_size: rows of an update.
    """

    stage: int
    stages: int
    seed: int
    rows: Sequence[Encoded]
    before: Path | None
    batch_size: int


@dataclass(frozen=True, slots=True)
class Part:
    """One forward pass of an update. What an objective returns for all parts adds up to the update's loss.

    Attributes:
        model: in training mode.
        ids: tokens of the rows, right-padded, shape [rows, length].
        keep: true where the next token is supervised, shape [rows, length].
        logits: at those positions, shape [supervised, vocabulary].
        tokens: number of supervised tokens in the whole update.
        step: number of updates made before.
        number: of this part, from 0, counted over all processes.
        parts: number of parts of the update.
    """

    model: Any
    ids: torch.Tensor
    keep: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor | int
    step: int
    number: int
    parts: int


# From a part's share of the update's NLL per supervised token to its share of what is minimised.
Objective = Callable[[torch.Tensor, Part], torch.Tensor]


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
