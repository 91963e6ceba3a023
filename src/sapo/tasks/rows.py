"""What one row says: an example from its columns, or the last assistant turn of a conversation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from sapo.core.types import Example, Split, Unused
from sapo.tasks.columns import Columns
from sapo.tasks.files import HALF_CHARACTER
from sapo.tasks.raw import Broken, Rows, UnusableError

Role = Literal["system", "user", "assistant"]
# The first three are today's names, the rest ShareGPT's.
ROLE_NAMES: Mapping[str, Role] = MappingProxyType(
    {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be used.

    Attributes:
        example: its texts.
        instruction: its own instruction, from a column or a system message; "" where it has none.
    """

    example: Example
    instruction: str


def read_split(split: Split, rows: Rows, columns: Columns) -> tuple[list[Row], list[Unused]]:
    """Return the rows of a split that can be used, and the others with reasons."""
    used, unused = [], []
    for number, row in enumerate(rows, start=1):
        try:
            used.append(read_row(row, columns))
        except UnusableError as reason:
            unused.append(Unused(split, number, str(reason)))
    return used, unused


def read_row(row: dict[str, Any] | Broken, columns: Columns) -> Row:
    """Return what a row says.

    Raises:
        UnusableError: with the reason why it cannot be used.
    """
    if isinstance(row, Broken):
        raise UnusableError(row.reason)
    own = _text(row, columns.instruction) if columns.instruction is not None else ""
    messages = _messages(row, columns)
    if messages is None:
        answer, references = _answers(row, columns.answer or "")
        example = Example(_input(row, columns), answer, (), references)
    else:
        turns, references = messages
        talk = converse(turns)
        example = Example(talk.input, talk.answer, talk.history, references)
        own = "\n\n".join(text for text in (own, talk.system) if text.strip())
    if not example.answer.strip():
        raise UnusableError("the answer is empty")
    texts = (own, example.input, example.answer, *example.references, *(t for pair in example.history for t in pair))
    if any(HALF_CHARACTER.search(text) for text in texts):
        raise UnusableError("it holds half a character (a lone surrogate)")
    return Row(example, own if own.strip() else "")


def _messages(row: Mapping[str, Any], columns: Columns) -> tuple[list[tuple[Role, str]], tuple[str, ...]] | None:
    """Return a row's messages up to the answer and its references, or None where it holds plain texts."""
    if columns.messages is not None:
        return read_messages(row.get(columns.messages), columns.messages), ()
    prompt = row.get(columns.input) if columns.input is not None else None
    completion = row.get(columns.answer or "")
    if not is_messages(prompt) and not is_messages(completion):
        return None
    before: list[tuple[Role, str]] = (
        read_messages(prompt, columns.input or "") if is_messages(prompt) else [("user", _input(row, columns))]
    )
    if is_messages(completion):
        return before + read_messages(completion, columns.answer or ""), ()
    answer, references = _answers(row, columns.answer or "")
    return [*before, ("assistant", answer)], references


def _input(row: Mapping[str, Any], columns: Columns) -> str:
    if columns.input is None or (columns.input_may_lack and row.get(columns.input) is None):
        return ""
    return _text(row, columns.input)


def _answers(row: Mapping[str, Any], column: str) -> tuple[str, tuple[str, ...]]:
    """Return the answer and its distinct references; a cell may hold one text or a list of right ones."""
    value = row.get(column)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if not isinstance(value, list):
        return _text(row, column), ()
    texts = [text for text in (_member(member, column) for member in value) if text.strip()]
    if not texts:
        raise UnusableError("the answer is empty")
    answer, *others = dict.fromkeys(texts)
    return answer, tuple(others)


def _text(row: Mapping[str, Any], column: str) -> str:
    return _member(row.get(column), column)


def _member(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise UnusableError(f"{column!r} is missing")
    if isinstance(value, Broken):
        raise UnusableError(f"{column!r} cannot be read: {value.reason}")
    if isinstance(value, bool):
        # As JSON spells it.
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if not isinstance(value, (int, float, Decimal)):
        raise UnusableError(f"{column!r} is {type(value).__name__}: allowed is text, a number, yes/no or a date")
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableError(f"{column!r} is {value}, not a number")
    return str(value)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation cut where the model takes over.

    Attributes:
        system: text of the system message, "" where there is none.
        history: earlier (user, assistant) pairs, oldest first.
        input: the last user turn.
        answer: the last assistant turn.
    """

    system: str
    history: tuple[tuple[str, str], ...]
    input: str
    answer: str


def is_messages(value: Any) -> bool:
    """Return whether a cell holds messages rather than a text."""
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def read_messages(value: Any, column: str) -> list[tuple[Role, str]]:
    """Return the messages of a cell as (role, text).

    Raises:
        UnusableError: if it holds no messages, or one that is not plain text by a known role.
    """
    if value is None:
        raise UnusableError(f"{column!r} is missing")
    if not is_messages(value):
        found = "an empty list" if value == [] else type(value).__name__
        raise UnusableError(f"{column!r} is {found}: allowed is a list of messages")
    return [_message(message, number) for number, message in enumerate(value, start=1)]


def converse(messages: Sequence[tuple[Role, str]]) -> Conversation:
    """Return a conversation that ends in its answer.

    Raises:
        UnusableError: if it is not an optional system message, then user and assistant in turns, the assistant last.
    """
    first, *_ = messages
    system = first[1] if first[0] == "system" else ""
    turns = messages[1:] if first[0] == "system" else messages
    offset = 1 + len(messages) - len(turns)
    for index, (role, _text) in enumerate(turns):
        due = ("user", "assistant")[index % 2]
        if role != due:
            raise UnusableError(f"message {index + offset} is by the {role} where the {due} is due")
    if not turns or len(turns) % 2:
        raise UnusableError("it does not end with an assistant message")
    texts = [text for _, text in turns]
    pairs = tuple(zip(texts[0:-2:2], texts[1:-2:2], strict=True))
    return Conversation(system, pairs, texts[-2], texts[-1])


def _message(message: Mapping[str, Any], number: int) -> tuple[Role, str]:
    # In a table of Arrow, every message has the keys of all, most of them empty.
    name = next((message[key] for key in ("role", "from") if message.get(key) is not None), None)
    role = ROLE_NAMES.get(name) if isinstance(name, str) else None
    if role is None:
        raise UnusableError(f"message {number} is by {name!r}: allowed are {', '.join(ROLE_NAMES)}")
    if message.get("tool_calls"):
        raise UnusableError(f"message {number} calls a tool")
    content = next((message[key] for key in ("content", "value") if message.get(key) is not None), None)
    return role, _content(content, number)


def _content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UnusableError(f"message {number} has {type(content).__name__} as content: allowed is text")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise UnusableError(f"message {number} has a part that is not text ({kind or type(part).__name__})")
        texts.append(text)
    return "".join(texts)
