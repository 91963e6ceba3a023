"""From what a language model replied to the text of a candidate, kept on disk so that nothing is paid for twice.

Whether the text makes a good candidate is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from sapo.core.errors import RecordError
from sapo.core.storage import fingerprint, read_json, write_json

# No instruction is longer; of a longer reply this much is enough to see what it was.
_LONGEST, _SHOWN = 20_000, 2_000
# Of the files that replies are kept in.
_FORMAT = 1
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“", "«": "»", "「": "」", "『": "』"}
_FENCED = re.compile(r"```(?:\w*[ \t]*\n)?(.*)```", re.DOTALL)
_TAGGED = re.compile(r"<(instruction\d*)>(.*)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request brought.

    Attributes:
        text: of the candidate, see `text_of`; empty where there is none.
        tokens: of prompt and reply together, as the server counts them; None where it does not.
        reason: why there is no text, a clause.
        thinking: whether it came to its limit before the text began, as replies of reasoning models do.
    """

    text: str
    tokens: int | None
    reason: str = ""
    thinking: bool = False


def text_of(reply: str | None) -> str:
    """Return the text of a candidate from a model's raw reply; empty where there is none.

    Left out are reasoning (``<think>...</think>``), surrounding white space, and what encloses the whole reply: a
    code fence, the tags of the question, quotation marks, one pair of each. Of a reply that is far too long the
    beginning is returned: still too long for a candidate, and short enough to be recorded.
    """
    text = _without_reasoning(reply or "").strip()
    for pattern, group in ((_FENCED, 1), (_TAGGED, 2)):
        enclosed = pattern.fullmatch(text)
        if enclosed and "```" not in enclosed[1]:
            text = enclosed[group].strip()
    if len(text) > 1 and "```" not in text and _QUOTES.get(text[0]) == text[-1] and _is_one_pair(text):
        text = text[1:-1].strip()
    return text if len(text) <= _LONGEST else text[:_SHOWN]


def reply_of(body: bytes) -> Reply:
    """Return what the body of a server's answer holds: a chat completion with one text, or nothing of use."""
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        return Reply("", None, "not a chat completion")
    usage = completion.usage
    tokens = usage.prompt_tokens + usage.completion_tokens if isinstance(usage, _Usage) else None
    if len(completion.choices) != 1:
        return Reply("", tokens, f"{len(completion.choices)} choices instead of 1")
    choice = completion.choices[0]
    text = text_of(choice.message.content)
    if choice.finish_reason == "length":
        begun = "before its text ended" if text else "before its text began"
        return Reply("", tokens, f"cut off {begun}", thinking=not text)
    return Reply(text, tokens, "" if text else "empty")


class Kept:
    """Texts by the request that brought them; threads may share it. A directory that cannot be used keeps nothing.

    One file a request. Its name is the hash of everything the reply depends on, the number of the request among it, so
    twenty equal requests stay twenty. A key is never part of it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, request: Mapping[str, Any]) -> str | None:
        """Return the text that this request brought, or None where it is not known or its file is damaged."""
        with suppress(RecordError, KeyError, TypeError):
            text = read_json(self._path(request))["text"]
            return text if isinstance(text, str) else None
        return None

    def keep(self, request: Mapping[str, Any], text: str) -> None:
        """Keep a text; where that is not possible, nothing is lost but the chance to have it for nothing later."""
        with suppress(RecordError):
            write_json(self._path(request), {"text": text})

    def _path(self, request: Mapping[str, Any]) -> Path:
        return self._directory / f"{fingerprint([_FORMAT, dict(request)])}.json"


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _Completion(BaseModel):
    """The little that is needed of a chat completion: servers differ in all the rest."""

    choices: list[_Choice]
    # A server that counts otherwise does not count.
    usage: Annotated[_Usage | Any, Field(union_mode="left_to_right")] = None


def _without_reasoning(text: str) -> str:
    # Each piece but the last ended in reasoning, whose beginning some chat templates put into the prompt.
    *thoughts, last = text.split("</think>")
    before = [said for said, opened, _ in (thought.partition("<think>") for thought in thoughts) if opened]
    return "".join([*before, last.partition("<think>")[0]])


def _is_one_pair(text: str) -> bool:
    """Whether the first and the last character are one pair of quotation marks, unlike in ``"yes" or "no"``."""
    opening, closing, inner = re.escape(text[0]), re.escape(text[-1]), text[1:-1]
    closed = re.search(rf"(?<=\S){closing}(?!\w)", inner)
    opened = re.search(rf"(?<!\S){opening}", inner)
    return closed is None or (opened is not None and opened.start() < closed.start())
