"""Rows of other people's fine-tuning data sets: where the instruction stands, what the model is asked and answers.

Known are alpaca (`instruction`, `input`, `output`), conversations (`messages` with role and content, `conversations`
with from and value), `prompt` with `completion`, as text or as messages, and a whole `text`, of which what follows the
instruction counts as the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sapo.core.errors import DataError
from sapo.core.types import Task
from sapo.models.layout import TAKEN_OUT, Side
from sapo.tasks.columns import meaning_of
from sapo.tasks.files import quoted
from sapo.tasks.raw import UnusableError
from sapo.tasks.rows import demand_learned

KNOWN = "instruction and output; messages; conversations; prompt and completion; text"
# How rows are asked, see `layout_of`; "own" is this library's way.
LAYOUTS = ("own", "system", "alpaca", "other")
_INSTRUCTION = "instruction"
_ALPACA = (_INSTRUCTION, "system", "input", "output")
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
# Trainers put these into the prompt, each in its own way.
_NOT_SCORED = ("tools", "chat_template_kwargs", "history")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data set, as `read_row` reads it.

    Attributes:
        columns: unchanged.
        where: the column in which the instruction stands.
        prompt: what the model is asked. An alpaca row asks its instruction and, on the next line, its input; what its
            column system holds comes first.
        completion: what it answers; of a conversation, the last turn.
    """

    columns: Mapping[str, Any]
    where: str
    prompt: Side
    completion: Side

    @property
    def roles(self) -> list[str]:
        """Who speaks in the prompt, in order; nobody in a text."""
        return [] if isinstance(self.prompt, str) else [turn["role"] for turn in self.prompt]

    @property
    def instruction(self) -> str:
        """The column of that name, or the system message; empty where there is neither."""
        if self.where == _INSTRUCTION:
            return str(self.columns[_INSTRUCTION])
        return "" if isinstance(self.prompt, str) or self.roles[:1] != ["system"] else str(self.prompt[0]["content"])

    @property
    def unused(self) -> list[str]:
        """The columns with a value that are neither asked nor answered."""
        used = {*_ALPACA} if self.where == _INSTRUCTION else {self.where}
        used |= {"completion"} & self.columns.keys()
        empty = (str, list, dict, type(None))
        held = self.columns.items()
        return [name for name, value in held if name not in used and (not isinstance(value, empty) or value)]

    def reworded(self, old: str, new: str) -> dict[str, Any] | None:
        """Return the columns with the first ``old`` in the instruction, system message or leading user turn replaced.

        None if it stands in none of them. Other columns, and the turns after the first of the user, do not change.
        """
        value = self.columns[self.where]
        swapped: Any = _swapped(value, old, new) if isinstance(value, str) else _swapped_turns(value, old, new)
        return None if swapped is None else {**self.columns, self.where: swapped}


def read_row(columns: Mapping[str, Any]) -> Row:
    """Return a row, checked: trainers must read it in the way in which it is scored.

    Raises:
        DataError: naming the column that is wrong.
    """
    where = _asking(columns)
    alpaca = where == _INSTRUCTION
    there = [column for column in ("prompt", "messages", "conversations", "text") if columns.get(column) is not None]
    there += ["instruction, output"] if alpaca else []
    if len(there) > 1:
        raise DataError(f"several layouts at once ({'; '.join(there)}): remove the columns that are not trained on")
    for column in _NOT_SCORED:
        if columns.get(column):
            raise DataError(f"column {column} changes what is trained on, and is not scored: leave it out")
    if alpaca:
        texts = {name: _text(name, "" if columns.get(name) is None else columns[name]) for name in _ALPACA}
        system = [{"role": "system", "content": texts["system"]}] if texts["system"] else []
        asked = "\n".join(filter(None, (texts[_INSTRUCTION], texts["input"])))
        prompt: Any = [*system, {"role": "user", "content": asked}]
        completion: Any = [{"role": "assistant", "content": texts["output"]}]
    elif where == "prompt":
        if type(columns["prompt"]) is not type(columns["completion"]):
            raise DataError("of prompt and completion one is a text, the other messages: allowed is one kind of both")
        prompt, completion = (_turns(column, columns[column]) for column in ("prompt", "completion"))
    elif where == "text":
        before, mark, after = columns["text"].partition(TAKEN_OUT)
        # Before the instruction is found, the whole of it may be an answer.
        prompt, completion = (before + mark, after) if mark else ("", before)
    else:
        *prompt, last = _turns(where, columns[where]) or [{"role": None}]
        if last["role"] != "assistant" or not prompt:
            raise DataError(f"a conversation ends with a turn of {last['role']!r}: allowed is one of the assistant")
        completion = [last]
    if not answer_of(completion).strip():
        raise DataError("the answer is empty: there is nothing to learn from it; leave the row out")
    row = Row(columns, where, prompt, completion)
    for column in row.unused:
        if (kind := meaning_of(column)) is not None:
            raise DataError(f"the column {column!r} is {kind}, and would not be used: remove the column, or the rows")
    turns = [] if alpaca else columns["completion" if where == "prompt" else where]
    if turns and not isinstance(turns, str):
        try:
            demand_learned(turns[-1], len(turns))
        except UnusableError as error:
            raise DataError(f"{error}; leave the row out") from error
    return row


def shared_instruction(rows: Sequence[Row]) -> str:
    """Return the instruction that all rows have: the column of that name, or the system message.

    Raises:
        DataError: if they have none, or different ones.
    """
    found = {row.instruction for row in rows}
    if len(found) == 1 and (text := found.pop()):
        return text
    raise DataError(
        "the rows have no instruction in common (neither one system message nor one text in the column instruction): "
        "pass the text that every row contains as instruction=..."
    )


def layout_of(rows: Sequence[Row], instruction: str) -> str:
    """Return how rows are asked, so that others can be.

    "system": the instruction as system message, then one turn of the user; "alpaca"; or "other".
    """
    asked = {(row.where == _INSTRUCTION, tuple(row.roles), row.instruction == instruction) for row in rows}
    if asked == {(True, ("user",), True)}:
        return "alpaca"
    return "system" if asked == {(False, ("system", "user"), True)} else "other"


def holds_instruction(columns: Mapping[str, Any], instruction: str | None) -> bool:
    """Whether a row has a layout of its own, with the instruction in it; a text alone may be an input."""
    try:
        where = _asking(columns)
    except DataError:
        return False
    return where != "text" or (instruction is not None and instruction in columns["text"])


def is_taken_out(task: Task) -> bool:
    """Whether a task's inputs are rows of a layout of their own, with the instruction taken out."""
    return bool(task.train) and TAKEN_OUT in task.train[0].input


def answer_of(completion: Side) -> str:
    """Return the text of an answer."""
    return completion if isinstance(completion, str) else "\n".join(str(turn["content"]) for turn in completion)


def _asking(row: Mapping[str, Any]) -> str:
    """Return the column that holds what the model is asked; of an alpaca row, its instruction."""
    if row.get(_INSTRUCTION) is not None and row.get("output") is not None:
        return _INSTRUCTION
    for column in ("messages", "conversations"):
        if isinstance(row.get(column), list):
            return column
    if isinstance(row.get("prompt"), (str, list)) and isinstance(row.get("completion"), (str, list)):
        return "prompt"
    if isinstance(row.get("text"), str):
        return "text"
    held = ", ".join(column for column, value in row.items() if value is not None)
    raise DataError(f"no known layout: there are values in the columns {held or 'of none'}. Known: {KNOWN}")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} is {quoted(value)}: allowed is a text")
    return value


def _turns(column: str, value: Any) -> Any:
    """Return messages with role and content; a text unchanged."""
    if isinstance(value, str):
        return value
    turns = []
    for number, turn in enumerate(value, start=1):
        columns = turn if isinstance(turn, Mapping) else {}
        names = ("from", "value") if "from" in columns else ("role", "content")
        who, said = (_text(f"{name} of turn {number} of {column}", columns.get(name)) for name in names)
        turns.append({"role": _SHAREGPT.get(who, who), "content": said} if "from" in columns else dict(columns))
    return turns


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
