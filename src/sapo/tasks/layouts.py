"""Rows of other people's fine-tuning data sets: where the instruction stands, and another one in its place.

Known are alpaca (`instruction`, `input`, `output`), conversations (`messages` with role and content, `conversations`
with from and value), `prompt` with `completion`, as text or as messages, and a whole `text`, of which what follows the
instruction counts as the answer. What a row says, and whether it can be used, is asked where rows of files are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from types import MappingProxyType
from typing import Any

import numpy as np

from sapo.core.errors import DataError
from sapo.core.types import Task
from sapo.models.layout import TAKEN_OUT, Side
from sapo.tasks.columns import ANSWERS, INPUTS, Columns, holds
from sapo.tasks.files import quoted
from sapo.tasks.rows import ROLE_NAMES, text_of

INSTRUCTION = "instruction"
# How rows are asked; "own" is this library's way.
LAYOUTS = ("own", "system", "alpaca", "other")
_KNOWN = "instruction and output; messages; conversations; prompt and completion; text"
_TURNS = ("messages", "conversations", "prompt")
# By the column in which the instruction stands: what holds what. All of a text may be asked until it is parted.
_COLUMNS: Mapping[str, Columns] = MappingProxyType(
    {
        INSTRUCTION: Columns(("input",), "output", INSTRUCTION, "system", input_may_lack=True),
        "messages": Columns(messages="messages"),
        "conversations": Columns(messages="conversations"),
        "prompt": Columns(("prompt",), "completion"),
        "text": Columns(("text",), "text"),
    }
)
_WORD = "Rows that hold no instruction are worded by your own code, with selection.instruction.text"


def layout_of(rows: Iterable[Mapping[str, Any]]) -> tuple[str, Columns]:
    """Return the column in which the instruction of all rows stands, and what their columns hold.

    Raises:
        DataError: if the layout is not known, or there are several.
    """
    # The first value of each column tells its kind.
    first: dict[str, Any] = {}
    for row in rows:
        first |= {name: value for name, value in row.items() if value is not None and name not in first}
    found = _asking(first)
    there = [name for name in _COLUMNS if name in first and name != INSTRUCTION]
    there += ["instruction, output"] if found == INSTRUCTION else []
    if len(there) > 1:
        raise DataError(f"several layouts at once ({'; '.join(there)}): remove the columns that are not trained on")
    if found is None:
        raise DataError(f"no known layout: there are values in the columns {', '.join(first) or 'of none'}. "
                        f"Known: {_KNOWN}")  # fmt: skip
    return found, _COLUMNS[found]


def holds_instruction(rows: Sequence[Mapping[str, Any]], instruction: str | None) -> bool:
    """Whether rows have a layout of their own, with the instruction in it; a text alone may be an input."""
    found = {name for row in rows if (name := _asking(row)) is not None}
    if found != {"text"}:
        return bool(found)
    # Where an answer stands apart, a text is the input, as in a file.
    apart = any(holds(value) and name.lower() in ANSWERS for row in rows for name, value in row.items())
    told = instruction is not None and all(instruction in f"{row.get('text') or instruction}" for row in rows)
    return told and not apart


def is_taken_out(task: Task) -> bool:
    """Whether a task's inputs are rows of a layout of their own, with the instruction taken out."""
    return bool(task.train) and TAKEN_OUT in task.train[0].input


def sides(row: Mapping[str, Any], where: str, said: str = "") -> tuple[Side, Side]:
    """Return what a row that can be used asks and answers, as trainers lay it out; of a conversation, the last turn.

    ``said`` is the answer as it is read, for one that is neither a text nor messages.

    An alpaca row asks its instruction and, on the next line, its input; what its column system holds comes first.
    """
    if where == INSTRUCTION:
        system, *asked = (
            "" if row.get(name) is None else text_of(row[name], name) for name in ("system", INSTRUCTION, "input")
        )
        answer = row["output"]
        turns = [
            ("system", system),
            ("user", "\n".join(filter(None, asked))),
            ("assistant", answer if isinstance(answer, str) else said),
        ]
        *prompt, last = [{"role": role, "content": text} for role, text in turns if text or role != "system"]
        return prompt, [last]
    if where == "prompt":
        answer = row["completion"]
        told = isinstance(answer, list) and all(isinstance(turn, Mapping) for turn in answer)
        return _turns(row["prompt"]), _turns(answer) if told or isinstance(answer, str) else said
    if where == "text":
        before, mark, after = row["text"].partition(TAKEN_OUT)
        return before + mark, after
    *prompt, last = _turns(row[where])
    return prompt, [last]


def reworded(row: Mapping[str, Any], where: str, old: str, new: str) -> dict[str, Any] | None:
    """Return a row with the first ``old`` in the instruction, system message or leading user turn replaced.

    None if it stands in none of them. Other columns, and the turns after the first of the user, do not change.
    """
    value = row.get(where)
    if isinstance(value, str):
        return {**row, where: value.replace(old, new, 1)} if old in value else None
    changed = [dict(turn) for turn in value or ()]
    for turn in changed:
        key, role = ("value", "from") if turn.get("from") is not None else ("content", "role")
        if (replaced := _replaced(turn.get(key), old, new)) is not None:
            turn[key] = replaced
            return {**row, where: changed}
        if ROLE_NAMES.get(turn.get(role, "")) == "user":
            return None
    return None


def _replaced(content: Any, old: str, new: str) -> Any:
    """Return a message's text, or its parts, with the first ``old`` replaced; None if it does not stand there."""
    if isinstance(content, str):
        return content.replace(old, new, 1) if old in content else None
    if not isinstance(content, (list, tuple, np.ndarray)):
        return None
    parts = list(content)
    for n, part in enumerate(parts):
        if isinstance(part, dict) and (text := _replaced(part.get("text"), old, new)) is not None:
            return [*parts[:n], {**part, "text": text}, *parts[n + 1 :]]
    # It may go on from one part to the next.
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or (text := _replaced("".join(map(str, texts)), old, new)) is None:
        return None
    return [{"type": "text", "text": text}]


def exchange(data: Any, old: str, new: str) -> Any:
    """Return rows of any kind, see `sapo.selection.selection.Selection.apply`, with ``new`` in place of ``old``.

    Raises:
        DataError: if a row does not hold the old text, or the layout is not known.
    """
    from datasets import Dataset, DatasetDict, IterableDataset
    from pandas import DataFrame

    def changed(row: Any) -> dict[str, Any]:
        # What pandas reads from Parquet holds turns in arrays.
        turns = {name: row[name] for name in _TURNS if isinstance(row.get(name), (tuple, np.ndarray))}
        row = {**row, **{name: list(value) for name, value in turns.items()}}
        # A row without an answer is left out where it is read, and stays here.
        where = _asking(row) or _asking({"output": None, "completion": None, **row})
        # So is one in which nobody asks anything.
        if any(name in row for name in (INSTRUCTION, *_TURNS)) and not any(
            name.lower() in (INSTRUCTION, *_TURNS, *INPUTS)
            and holds(value)
            and not (isinstance(value, float) and isnan(value))
            for name, value in row.items()
        ):
            return dict(row)
        if where is None:
            raise DataError(f"no known layout: {quoted(row)}. Known: {_KNOWN}. {_WORD}")
        found = reworded(row, where, old, new)
        # A row that holds the new text already, as after a second call, stays: frames hold the original themselves.
        if found is None or old in new:
            found = reworded(row, where, new, new) or found
        if found is None:
            raise DataError(f"a row does not hold the instruction {quoted(old)}: {quoted(row)}. {_WORD}")
        return found

    if isinstance(data, (Dataset, DatasetDict, IterableDataset)):
        return data.map(changed)
    if isinstance(data, DataFrame):
        before = data.to_dict("records")
        rows = [changed(row) for row in before]
        table: Any = data.copy()
        # Other columns keep their types.
        for name in data.columns:
            if any(row[name] is not then[name] for row, then in zip(rows, before, strict=True)):
                table[name] = [row[name] for row in rows]
        return table
    if isinstance(data, (list, tuple)):
        return [changed(row) for row in data]
    raise DataError(f"rows in a {type(data).__name__}: allowed are a Dataset, a DataFrame or a list of rows. {_WORD}")


def _asking(row: Mapping[str, Any]) -> str | None:
    """Return the column that holds what the model is asked; of an alpaca row, its instruction."""
    if isinstance(row.get(INSTRUCTION), str) and "output" in row:
        return INSTRUCTION
    for column, kinds in (("messages", (list,)), ("conversations", (list,)), ("prompt", (str, list)), ("text", (str,))):
        if isinstance(row.get(column), kinds) and (column != "prompt" or "completion" in row):
            return column
    return None


def _turns(value: Any) -> Any:
    """Return messages with role and content, their other keys unchanged; a text unchanged."""
    if isinstance(value, str):
        return value
    return [
        dict(turn)
        if turn.get("from") is None
        else {"role": ROLE_NAMES.get(turn["from"], turn["from"]), "content": turn["value"]}
        for turn in value
    ]
