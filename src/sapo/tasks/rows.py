"""What one row says: an example from its columns, or the last assistant turn of a conversation.

Where a row cannot be used, functions that read one raise an `UnusableError`; `read_split` catches it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from decimal import Decimal
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from sapo.core.types import Example, Split, Unused
from sapo.core.untrusted import visible
from sapo.tasks.columns import Columns
from sapo.tasks.files import HALF_CHARACTER, Broken, Number, Rows

# Columns whose lists hold several right answers.
ALTERNATIVES = ("answers", "references", "targets", "aliases")
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf")
# Keys of a message that are read; the others are named where they hold something.
_KEYS = ("role", "content", "from", "value")
# Whether a turn is learned, as several trainers take it.
_MARKS = ("weight", "train", "training", "loss")
_REASONING = ("reasoning", "reasoning_content", "thinking")
Role = Literal["system", "user", "assistant"]
Turn = tuple[Role, str]
_TURNS: tuple[Role, Role] = ("user", "assistant")
# The first three are the usual names, then ShareGPT's, then the newest of a system message.
ROLE_NAMES: Mapping[str, Role] = MappingProxyType(
    {
        "system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant",
        "developer": "system",
    }
)  # fmt: skip


class UnusableError(Exception):
    """A row that cannot be used; the text is the reason, one clause."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be used.

    Attributes:
        example: its texts.
        system: what stands before all turns: a system message, and the instruction column of a conversation.
        instruction: what stands before the question, from a column.
        listed: whether its answer was a list whose members are all to be given.
    """

    example: Example
    system: str
    instruction: str
    listed: bool


def read_split(
    split: Split, rows: Rows, columns: Columns, *, alternatives: bool = False
) -> tuple[dict[int, Row], list[Unused]]:
    """Return the rows of a split that can be used, by their number from 1, and the others with reasons."""
    used, unused = {}, []
    for number, row in enumerate(rows, start=1):
        try:
            used[number] = read_row(row, columns, alternatives)
        except UnusableError as reason:
            unused.append(Unused(split, number, str(reason)))
    return used, unused


def read_row(row: dict[str, Any] | Broken, columns: Columns, alternatives: bool) -> Row:
    """Return what a row says; ``alternatives``: the answers of a list are all right."""
    if isinstance(row, Broken):
        raise UnusableError(row.reason)
    talks = [name for name in (columns.messages, columns.answer, *columns.input) if name and is_messages(row.get(name))]
    asked, (answered, references, listed) = _asked(row, columns), _answered(row, columns, alternatives)
    system, example = converse([*asked, *answered])
    if not visible(example.answer).strip():
        raise UnusableError("the answer is empty")
    said = None if columns.system is None else row.get(columns.system)
    before = [] if said is None else [text_of(said, columns.system or "")]
    instruction = "" if columns.instruction is None else text_of(row.get(columns.instruction), columns.instruction)
    if talks:
        before, instruction = [*before, instruction], ""
    read = Row(
        replace(example, references=references),
        "\n\n".join(text for text in (*before, system) if text.strip()),
        instruction if instruction.strip() else "",
        listed,
    )
    turned = (turn for pair in example.history for turn in pair)
    texts = (read.system, read.instruction, example.input, example.answer, *references, *turned)
    if any(map(HALF_CHARACTER.search, texts)):
        raise UnusableError("it holds half a character (a lone surrogate)")
    return read


def _asked(row: Mapping[str, Any], columns: Columns) -> list[Turn]:
    """Return all turns before the answer, or with it, where one column holds the whole conversation."""
    if columns.messages is not None:
        return read_messages(row.get(columns.messages), columns.messages)
    earlier = _history(row, columns.history)
    if len(columns.input) > 1:
        # Each with its name, one below the other.
        return [*earlier, ("user", "\n\n".join(f"{name}: {_part(row.get(name), name)}" for name in columns.input))]
    column, value = next(((name, row.get(name)) for name in columns.input), ("", ""))
    if is_messages(value):
        return earlier + read_messages(value, column)
    return [*earlier, ("user", "" if columns.input_may_lack and value is None else text_of(value, column))]


def _answered(row: Mapping[str, Any], columns: Columns, alternatives: bool) -> tuple[list[Turn], tuple[str, ...], bool]:
    """Return the turns that end in the answer, other right answers, and whether the answer was a list of parts.

    A list in a column of that kind (answers, references, targets), or in data of Natural-Instructions, holds answers
    that are all right; any other list is one answer of several parts.
    """
    column = columns.answer or ""
    value = row.get(columns.messages or column)
    if is_messages(value):
        for key, mark in ((key, value[-1].get(key)) for key in _MARKS):
            if str(mark).lower() in ("0", "0.0", "false"):
                why = f"message {len(value)}, its answer, is marked as not to be learned ({key}: {mark})"
                raise UnusableError(why)
            if mark is not None and str(mark).lower() not in ("1", "1.0", "true"):
                raise UnusableError(f"message {len(value)} has {key}: {mark}, and all answers count alike here")
        for key in _REASONING:
            if value[-1].get(key):
                why = f"message {len(value)} keeps its reasoning apart from its content ({key}): put it there"
                raise UnusableError(why)
        return [] if columns.messages is not None else read_messages(value, column), (), False
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value, alternatives = value["text"], True
    if not isinstance(value, list):
        return [("assistant", text_of(value, column))], (), False
    texts = [text for text in (text_of(member, column) for member in value) if text.strip()]
    if not texts:
        raise UnusableError("the answer is empty")
    if not alternatives and column.lower() not in ALTERNATIVES:
        return [("assistant", ", ".join(texts))], (), True
    answer, *others = dict.fromkeys(texts)
    return [("assistant", answer)], tuple(others), False


def _part(value: Any, column: str) -> str:
    """Return a cell of the input; of a list, such as choices, each member with a letter in a line of its own."""
    if not isinstance(value, list):
        return text_of(value, column)
    letters = [*ascii_uppercase, *map(str, range(len(ascii_uppercase) + 1, len(value) + 1))]
    return "".join(f"\n{letter}. {text_of(member, column)}" for letter, member in zip(letters, value, strict=False))


def _history(row: Mapping[str, Any], column: str | None) -> list[Turn]:
    """Return earlier turns: a list of pairs, or messages."""
    value = row.get(column) if column is not None else None
    if column is None or value is None or value == [] or value == "":
        return []
    if is_messages(value):
        return read_messages(value, column)
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise UnusableError(f"{column!r} is not a list of pairs, what the user said and the reply")
    return [(role, text_of(text, column)) for pair in value for role, text in zip(_TURNS, pair, strict=True)]


def text_of(value: Any, column: str) -> str:
    """Return the text of a cell, or of a member of its list, as a file spells it."""
    if isinstance(value, Number):
        if value in _NO_NUMBERS:
            raise UnusableError(f"{column!r} is {value}, not a number")
        return str.__str__(value)
    if isinstance(value, str):
        return value
    if value is None:
        raise UnusableError(f"{column!r} is missing")
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


def is_messages(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Return whether a cell holds messages rather than a text."""
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def read_messages(value: Any, column: str) -> list[Turn]:
    """Return the messages of a cell as (role, text)."""
    if value is None:
        raise UnusableError(f"{column!r} is missing")
    if not is_messages(value):
        found = "an empty list" if value == [] else type(value).__name__
        raise UnusableError(f"{column!r} is {found}: allowed is a list of messages")
    turns = []
    for number, message in enumerate(value, start=1):
        # In a table of Arrow, every message has the keys of all, most of them empty.
        name = next((message[key] for key in ("role", "from") if message.get(key) is not None), None)
        role = ROLE_NAMES.get(name) if isinstance(name, str) else None
        if role is None:
            raise UnusableError(f"message {number} is by {name!r}: allowed are {', '.join(ROLE_NAMES)}")
        if message.get("tool_calls"):
            raise UnusableError(f"message {number} calls a tool")
        content = next((message[key] for key in ("content", "value") if message.get(key) is not None), None)
        turns.append((role, content_of(content, number)))
    return turns


def unused_keys(rows: Rows, columns: Columns) -> Counter[str]:
    """Return how often a key of a message holds something that is in no prompt and no answer."""
    found: Counter[str] = Counter()
    talks = [name for name in (columns.messages, columns.answer, columns.history, *columns.input) if name is not None]
    known = (*_KEYS, *_MARKS)
    for row in rows:
        cells: list[Any] = [] if isinstance(row, Broken) else [row.get(name) for name in talks]
        for message in (m for cell in cells if is_messages(cell) for m in cell):
            found.update(key for key, held in message.items() if key not in known and held not in (None, "", [], {}))
    return found


def converse(messages: Sequence[Turn]) -> tuple[str, Example]:
    """Return the system message of a conversation, "" where there is none, and its turns with the answer."""
    first, *_ = messages
    system = first[1] if first[0] == "system" else ""
    turns = messages[1:] if first[0] == "system" else messages
    offset = 1 + len(messages) - len(turns)
    for index, (role, _text) in enumerate(turns):
        due = _TURNS[index % 2]
        if role != due:
            raise UnusableError(f"message {index + offset} is by the {role} where the {due} is due")
    if not turns or len(turns) % 2:
        raise UnusableError("it does not end with an assistant message")
    *earlier, question, answer = [text for _, text in turns]
    return system, Example(question, answer, tuple(zip(earlier[::2], earlier[1::2], strict=True)))


def content_of(content: Any, number: int) -> str:
    """Return the text of a message's content, which may stand in parts."""
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
