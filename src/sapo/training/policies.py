"""Which instruction a task is trained with; orthogonal to how parameters are updated (methods/).

Four kinds: one instruction that is chosen before training; a mixture of paraphrases, drawn anew again and again;
one that is chosen again during training; and one that the user gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sapo.core.errors import ConfigError, nearest
from sapo.core.types import Instruction
from sapo.selection.selection import Selection
from sapo.training.settings import Policy

# These choose by loss; the others never need a model.
BY_LOSS: tuple[Policy, ...] = ("sapo", "highest", "median", "reselect")
# Of these, the ones that want the lowest loss, for which candidates can race.
LOWEST: tuple[Policy, ...] = ("sapo", "reselect")
# These train with all paraphrases in turn.
MIXTURES: tuple[Policy, ...] = ("per-example", "paft")
# These train with a text of the user's, or with none.
GIVEN: tuple[Policy, ...] = ("pure", "fixed")


def given_texts(policy: Policy, fixed: str | Mapping[str, str] | None, tasks: Sequence[str]) -> dict[str, str]:
    """Return what a policy in `GIVEN` trains tasks with, by task; a task that ``fixed`` leaves out has its original.

    Raises:
        ConfigError: if ``fixed`` names another task.
    """
    if policy == "pure":
        return dict.fromkeys(tasks, "")
    if isinstance(fixed, str):
        return dict.fromkeys(tasks, fixed)
    found = dict(fixed or {})
    for name in found:
        if name not in tasks:
            raise ConfigError(
                f"fixed: {name!r} is not a task of this sequence.{nearest(name, tasks)} Allowed: {', '.join(tasks)}"
            )
    return found


def choose_instruction(
    policy: Policy, candidates: Sequence[Instruction], selection: Selection | None, seed: int, place: int
) -> Instruction:
    """Return the instruction to train with, or to begin training with, and to test with.

    Args:
        policy: "original"; "sapo", the selection's choice by its rule; "random", one paraphrase drawn for the
            whole task; "highest" loss and "median" loss (the lower of two middle ones), the controls; "reselect"
            begins as sapo. Mixtures ("per-example", "paft") have no instruction of their own: the original.
            "pure" and "fixed" take the last candidate, which is the text that was given.
        candidates: the original first.
        selection: their losses; needed by the policies in `BY_LOSS` only.
        seed: of the random draw.
        place: of the task in its sequence; each task's draw is another one.
    """
    if policy == "original" or policy in MIXTURES or len(candidates) == 1:
        return candidates[0]
    if policy in GIVEN:
        return candidates[-1]
    if policy == "random":
        return candidates[1 + int(np.random.default_rng([seed, place]).integers(len(candidates) - 1))]
    if selection is None:
        raise ValueError(f"policy {policy} needs a selection")
    if policy in LOWEST:
        return selection.instruction
    ranked = selection.ranked
    index = ranked[-1] if policy == "highest" else ranked[(len(ranked) - 1) // 2]
    return selection.candidates[index].instruction


def leading(selection: Selection, count: int) -> tuple[Instruction, ...]:
    """Return the chosen instruction and those that follow it in order of loss, ``count`` at most."""
    others = [i for i in selection.ranked if i != selection.chosen]
    return tuple(selection.candidates[i].instruction for i in (selection.chosen, *others)[:count])
