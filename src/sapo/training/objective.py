"""How a method takes part in an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


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


def copies(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of it as it is now, by name."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@torch.no_grad()
def put_back(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Give all that is trained these values, by name."""
    for name, parameter in trainable(model).items():
        parameter.copy_(weights[name])
