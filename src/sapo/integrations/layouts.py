"""Rows of fine-tuning data sets as they are found: where the instruction stands, what the model is asked and answers.

Known are alpaca (`instruction`, `input`, `output`), conversations (`messages` with role and content, `conversations`
with from and value) and `prompt` with `completion`, as text or as messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapo.errors import DataError
from sapo.types import Task

Row = Mapping[str, Any]
# A text, or messages with role and content.
Side = str | list[dict[str, Any]]

KNOWN = "instruction and output; messages; conversations; prompt and completion"
# Stands where the instruction was taken out of a row. Private-use characters: in no text by accident.
HERE = "\U0010fff0instruction\U0010fff1"
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
_SHOWN = 60


def shared_instruction(rows: Sequence[Row]) -> str:
    """Return the instruction that all rows have: the column of that name, or the system message.

    Raises:
        DataError: if they have none, or different ones.
    """
    found = {_instruction(row) for row in rows}
    if len(found) == 1 and (text := found.pop()):
        return text
    raise DataError(
        "the rows have no instruction in common (neither one system message nor one text in the column instruction): "
        "give the text that stands in every row as instruction=..."
    )


def reworded(row: Row, old: str, new: str) -> dict[str, Any] | None:
    """Return a row with the first ``old`` in its instruction, system message or leading user turn replaced.

    None if it stands in none of them. Other columns, and the turns after the first of the user, stay as they are.
    """
    if _is_alpaca(row):
        swapped: Any = _swapped(row["instruction"], old, new)
        return None if swapped is None else {**row, "instruction": swapped}
    column = _asking(row)
    value = row[column]
    swapped = _swapped(value, old, new) if isinstance(value, str) else _swapped_turns(value, old, new)
    return None if swapped is None else {**row, column: swapped}


def sides(row: Row) -> tuple[Side, Side]:
    """Return what a row asks and what it answers: the last turn, of the assistant, is the answer.

    An alpaca row asks its instruction and, on the next line, its input.

    Raises:
        DataError: if it ends otherwise.
    """
    if _is_alpaca(row):
        asked = "\n".join(text for text in (row["instruction"], row.get("input") or "") if text)
        return [{"role": "user", "content": asked}], [{"role": "assistant", "content": row["output"]}]
    column = _asking(row)
    if column == "prompt":
        return _turns(row["prompt"]), _turns(row["completion"])
    *before, last = _turns(row[column]) or [{"role": None}]
    if last["role"] != "assistant" or not before:
        raise DataError(f"a conversation ends with a turn of {last['role']!r}: allowed is one of the assistant")
    return before, [last]


def demand_one_layout(row: Row) -> None:
    """Refuse rows of which a trainer might take another column than the one whose instruction is exchanged.

    Raises:
        DataError: naming the columns.
    """
    there = [column for column in ("prompt", "messages", "conversations", "text") if row.get(column) is not None]
    there += ["instruction, output"] if _is_alpaca(row) else []
    if len(there) > 1:
        raise DataError(
            f"the rows are in several layouts at once ({'; '.join(there)}): remove the columns that are not trained on"
        )
    if row.get("tools"):
        raise DataError("rows with a column tools cannot be scored as they are trained on: leave it out")


def layout_of(rows: Sequence[Row], instruction: str) -> str:
    """Return how rows are asked, so that others can be.

    "system": the instruction as system message, then one turn of the user; "alpaca"; or "other".
    """
    if all(_is_alpaca(row) and row["instruction"] == instruction for row in rows):
        return "alpaca"
    for row in rows:
        asked = [] if _is_alpaca(row) else sides(row)[0]
        roles = [] if isinstance(asked, str) else [turn["role"] for turn in asked]
        if roles != ["system", "user"] or isinstance(asked, str) or asked[0]["content"] != instruction:
            return "other"
    return "system"


def is_taken_out(task: Task) -> bool:
    """Whether a task's inputs are rows of a layout of their own, with the instruction taken out."""
    return bool(task.train) and HERE in task.train[0].input


def answer_of(completion: Side) -> str:
    """Return the text of an answer."""
    return completion if isinstance(completion, str) else "\n".join(str(turn["content"]) for turn in completion)


def _is_alpaca(row: Row) -> bool:
    return isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str)


def _asking(row: Row) -> str:
    """Return the column that holds what the model is asked.

    Raises:
        DataError: if the layout is not known.
    """
    for column in ("messages", "conversations"):
        if isinstance(row.get(column), list):
            return column
    if isinstance(row.get("prompt"), (str, list)) and isinstance(row.get("completion"), (str, list)):
        return "prompt"
    raise DataError(f"rows with the columns {', '.join(row)} are in no known layout. Known: {KNOWN}")


def _instruction(row: Row) -> str:
    if _is_alpaca(row):
        return str(row["instruction"])
    value = row[_asking(row)]
    turns = [] if isinstance(value, str) else _turns(value)
    return str(turns[0]["content"]) if turns and turns[0]["role"] == "system" else ""


def _turns(value: Any) -> Any:
    """Return messages with role and content; texts as they are."""
    if isinstance(value, str):
        return value
    return [
        {"role": _SHAREGPT.get(turn["from"], turn["from"]), "content": turn["value"]} if "from" in turn else dict(turn)
        for turn in value
    ]


def _swapped(text: str, old: str, new: str) -> str | None:
    return text.replace(old, new, 1) if old in text else None


def _swapped_turns(turns: Sequence[Mapping[str, Any]], old: str, new: str) -> list[dict[str, Any]] | None:
    """Return the turns with the text replaced in the system message or the first turn of the user."""
    changed = [dict(turn) for turn in turns]
    for turn in changed:
        key, role = ("value", _SHAREGPT.get(turn["from"])) if "from" in turn else ("content", turn.get("role"))
        text = turn.get(key)
        swapped = _swapped(text, old, new) if isinstance(text, str) else None
        if swapped is not None:
            turn[key] = swapped
            return changed
        if role == "user":
            return None
    return None


def quoted(text: str) -> str:
    """Return a text shortened for a message."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
