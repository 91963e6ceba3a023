"""The instruction that a task's rows are worded with, from whatever the caller has of it."""

from __future__ import annotations

from sapo.core.errors import CandidateError
from sapo.core.types import Instruction, Selection, Task

Chosen = Selection | Instruction | str
_SHOWN = 60


def chosen(task: Task, given: Chosen) -> Instruction:
    """Return the instruction to word a task's rows with.

    Args:
        task: whose rows.
        given: what `sapo.select` returned for it, an instruction, or its text.

    Raises:
        CandidateError: if a selection is of another task, a text is empty, or it is something else.
    """
    if isinstance(given, Selection):
        original = given.candidates[0].instruction.text
        if original != task.instruction:
            raise CandidateError(
                f"the selection is of another task: its original instruction is {original[:_SHOWN]!r}, and that of "
                f"{task.name!r} is {task.instruction[:_SHOWN]!r}"
            )
        return given.instruction
    instruction = Instruction(given, "given") if isinstance(given, str) else given
    if not isinstance(instruction, Instruction) or not instruction.text.strip():
        raise CandidateError(f"selection = {given!r:.80}: give what sapo.select returned, or the text to train with")
    return instruction
