"""Which instruction a task is trained with; orthogonal to how parameters are updated (methods/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sapo.types import Instruction, Selection

Policy = Literal["original", "sapo", "random", "highest", "median"]
# These choose by loss; the others never need a model.
BY_LOSS: tuple[Policy, ...] = ("sapo", "highest", "median")


def choose_instruction(
    policy: Policy, candidates: Sequence[Instruction], selection: Selection | None, seed: int
) -> Instruction:
    """Return the instruction to train with.

    Args:
        policy: "original"; "sapo", the selection's choice by its rule; "random", one paraphrase drawn for the
            whole task; "highest" loss and "median" loss (the lower of two middle ones), the controls.
        candidates: the original first.
        selection: their losses; needed by the policies in `BY_LOSS` only.
        seed: of the random draw.
    """
    if policy == "original" or len(candidates) == 1:
        return candidates[0]
    if policy == "random":
        return candidates[1 + int(np.random.default_rng(seed).integers(len(candidates) - 1))]
    if selection is None:
        raise ValueError(f"policy {policy} needs a selection")
    if policy == "sapo":
        return selection.instruction
    ranked = selection.ranked
    index = ranked[-1] if policy == "highest" else ranked[(len(ranked) - 1) // 2]
    return selection.candidates[index].instruction
