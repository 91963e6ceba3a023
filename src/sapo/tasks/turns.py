"""Conversations: messages as role/content or from/value -> earlier turns, the last user turn, its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sapo.tasks.raw import UnusableError

Role = Literal["system", "user", "assistant"]
# The first three are today's names, the rest ShareGPT's.
ROLE_NAMES: Mapping[str, Role] = MappingProxyType(
    {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
)


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
