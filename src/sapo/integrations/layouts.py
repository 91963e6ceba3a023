"""Rows of fine-tuning data sets as they are found: where the instruction stands, what the model is asked and answers.

Known are alpaca (`instruction`, `input`, `output`), conversations (`messages` with role and content, `conversations`
with from and value) and `prompt` with `completion`, as text or as messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sapo.core.errors import CandidateError, DataError
from sapo.core.types import Example, Instruction, Selection, Task
from sapo.models.layout import ROLES, TAKEN_OUT, turns_of
from sapo.tasks.columns import meaning_of
from sapo.tasks.raw import UnusableError
from sapo.tasks.rows import demand_learned

Row = Mapping[str, Any]
# A text, or messages with role and content.
Side = str | list[dict[str, Any]]
# What a caller has of the instruction to train with.
Chosen = Selection | Instruction | str

KNOWN = "instruction and output; messages; conversations; prompt and completion"
# How rows are asked, see `layout_of`; "own" is this library's way.
LAYOUTS = ("own", "system", "alpaca", "other")
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
# Trainers put these into the prompt, each in its own way.
_NOT_SCORED = ("tools", "chat_template_kwargs", "history")
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

    An alpaca row asks its instruction and, on the next line, its input; what its column system holds comes first.

    Raises:
        DataError: if it ends otherwise.
    """
    if _is_alpaca(row):
        asked = "\n".join(text for text in (row["instruction"], row.get("input")) if text)
        system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return [*system, {"role": "user", "content": asked}], [{"role": "assistant", "content": row["output"]}]
    column = _asking(row)
    if column == "prompt":
        return _turns(row["prompt"]), _turns(row["completion"])
    *before, last = _turns(row[column]) or [{"role": None}]
    if last["role"] != "assistant" or not before:
        raise DataError(f"a conversation ends with a turn of {last['role']!r}: allowed is one of the assistant")
    return before, [last]


def demand_readable(row: Any) -> None:
    """Refuse a row that a trainer might read otherwise than it is scored, or that holds something else than texts.

    Raises:
        DataError: naming the column.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{quoted(row)} instead of columns: give one split of a data set")
    there = [column for column in ("prompt", "messages", "conversations", "text") if row.get(column) is not None]
    there += ["instruction, output"] if _is_alpaca(row) else []
    if len(there) > 1:
        raise DataError(f"several layouts at once ({'; '.join(there)}): remove the columns that are not trained on")
    for column in _NOT_SCORED:
        if row.get(column):
            raise DataError(f"a column {column}, which is not scored as it is trained on: leave it out")
    for column in unused_columns(row):
        if (kind := meaning_of(column)) is not None:
            raise DataError(f"the column {column!r} is {kind}, and would not be used: remove the column, or the rows")
    if not _is_alpaca(row) and _asking(row) == "prompt" and type(row["prompt"]) is not type(row["completion"]):
        raise DataError("of prompt and completion one is a text, the other messages: allowed is one kind of both")
    for where, value in _texts(row):
        if not isinstance(value, str):
            raise DataError(f"{where} is {quoted(value)}: allowed is a text")
    if not answer_of(sides(row)[1]).strip():
        raise DataError("the answer is empty: there is nothing to learn from it; leave the row out")
    turns = [] if _is_alpaca(row) else row["completion" if _asking(row) == "prompt" else _asking(row)]
    if turns and not isinstance(turns, str):
        try:
            demand_learned(turns[-1], len(turns))
        except UnusableError as error:
            raise DataError(f"{error}; leave the row out") from error


def unused_columns(row: Row) -> list[str]:
    """Return the columns with a value that are neither asked nor answered."""
    used = {"instruction", "input", "output", "system"} if _is_alpaca(row) else {_asking(row)}
    used |= {"completion"} & row.keys()
    empty = (str, list, dict, type(None))
    return [name for name, value in row.items() if name not in used and (not isinstance(value, empty) or value)]


def layout_of(rows: Sequence[Row], instruction: str) -> str:
    """Return how rows are asked, so that others can be.

    "system": the instruction as system message, then one turn of the user; "alpaca"; or "other".
    """
    if all(_is_alpaca(row) and row["instruction"] == instruction and not row.get("system") for row in rows):
        return "alpaca"
    for row in rows:
        asked = [] if _is_alpaca(row) else sides(row)[0]
        roles = [] if isinstance(asked, str) else [turn["role"] for turn in asked]
        if roles != ["system", "user"] or isinstance(asked, str) or asked[0]["content"] != instruction:
            return "other"
    return "system"


def is_taken_out(task: Task) -> bool:
    """Whether a task's inputs are rows of a layout of their own, with the instruction taken out."""
    return bool(task.train) and TAKEN_OUT in task.train[0].input


def answer_of(completion: Side) -> str:
    """Return the text of an answer."""
    return completion if isinstance(completion, str) else "\n".join(str(turn["content"]) for turn in completion)


def _is_alpaca(row: Row) -> bool:
    return row.get("instruction") is not None and row.get("output") is not None


def _texts(row: Row) -> Iterator[tuple[str, Any]]:
    """Yield what must be texts, each with where it stands."""
    if _is_alpaca(row):
        optional = [column for column in ("system", "input") if row.get(column) is not None]
        yield from ((column, row[column]) for column in ("instruction", *optional, "output"))
        return
    asking = _asking(row)
    for column in (asking, "completion") if asking == "prompt" else (asking,):
        if isinstance(row[column], str):
            continue
        for number, turn in enumerate(row[column], start=1):
            keys = ("from", "value") if isinstance(turn, Mapping) and "from" in turn else ("role", "content")
            for key in keys:
                yield f"{key} of turn {number} of {column}", turn.get(key) if isinstance(turn, Mapping) else None


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
    held = ", ".join(column for column, value in row.items() if value is not None)
    raise DataError(f"no known layout: there are values in the columns {held or 'of none'}. Known: {KNOWN}")


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


def quoted(value: Any) -> str:
    """Return a value shortened for a message."""
    shown = value if isinstance(value, str) else repr(value)
    short = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    return repr(short) if isinstance(value, str) else short


def messages(instruction: str, suffix: str, row: Example) -> list[dict[str, str]]:
    """Return a row in the library's own words as messages, the answer last."""
    turns = [*turns_of(instruction, row, suffix), row.answer]
    return [{"role": ROLES[n % 2], "content": turn} for n, turn in enumerate(turns)]


def chosen(task: Task, given: Chosen) -> Instruction:
    """Return the instruction to word a task's rows with.

    ``given`` is what `sapo.select` returned for the task, an instruction, or its text.

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
