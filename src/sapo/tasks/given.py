"""What a program has in hand as a task: a task, a path, or rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from sapo.core.errors import DataError
from sapo.core.types import Task
from sapo.tasks.files import Broken, is_data
from sapo.tasks.inplace import Rows
from sapo.tasks.layouts import holds_instruction
from sapo.tasks.library import in_memory
from sapo.tasks.load import load_task
from sapo.tasks.make import make_task
from sapo.tasks.own import own_source

_NAME = "rows"
_LAYOUT = (
    "from a path, rows that hold their instruction are scored in this library's own layout, as sapo run trains them; "
    "for losses of the rows as they are laid out, load them and give the data set"
)


def given_task(
    data: Any,
    instruction: str | None = None,
    suffix: str | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
) -> Task | Rows:
    """Return a task from anything that holds one.

    Args:
        data: a task; a name, file, directory or hub id, as `sapo.load_task` takes it; or rows: one split of a
            `datasets.Dataset`, a pandas DataFrame, a list of dicts. Rows that hold the instruction themselves
            (messages, conversations, prompt and completion, alpaca, text) keep their layout.
        instruction: the task's; it may be left out where the data hold one.
        suffix: a fixed sentence about the answer's format, which the library appends.
        columns: role -> column, see `sapo.tasks.own.DataSource`; rows are then laid out by the library.

    Raises:
        DataError: if the data cannot be used, or a setting is not for this kind of data.
    """
    if instruction is not None and not (isinstance(instruction, str) and instruction.strip()):
        raise DataError(f"instruction = {instruction!r:.80}: allowed is a text that is not empty")
    if isinstance(data, Task):
        if instruction is not None or suffix is not None or columns is not None:
            raise DataError("instruction, suffix and columns are for other data: a task has its own")
        return data
    if isinstance(data, (str, PathLike)):
        task = load_task(fspath(data), instruction=instruction, suffix=suffix, columns=columns)
        # Only rows can tell an instruction that nobody gave.
        held = instruction is None and columns is None and suffix is None and is_data(fspath(data))
        return replace(task, notes=(*task.notes, f"{task.name}: {_LAYOUT}")) if held else task
    found = in_memory(_NAME, data)
    rows = [row for row in found.splits["train"] if not isinstance(row, Broken)]
    if columns is None and suffix is None and holds_instruction(rows, instruction):
        return Rows(data, instruction)
    source = own_source({"data": _NAME, "instruction": instruction, "suffix": suffix or "", "columns": columns or {}})
    return make_task(_NAME, source, found)
