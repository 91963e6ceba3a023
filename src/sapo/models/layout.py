"""What stands where in a prompt, as text: the turns before the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapo.core.errors import RenderError
from sapo.core.types import Example

ROLES = ("user", "assistant")
# What chat templates write around turns. Spelled in a text, the renderer reads it as ordinary text.
CHAT_PIECE = r"<\|[^|>]*\|?>?|</?s>|\[/?INST\]|<</?SYS>>|</?think>|^[ \t]*(?:user|assistant|system|human|ai)[ \t]*:"
# A text, or messages with role and content.
Side = str | list[dict[str, Any]]
# Stands where the instruction was taken out of a row of another layout, see `sapo.tasks.inplace.Rows`.
# Private-use characters: in no text by accident.
TAKEN_OUT = "\U0010fff0instruction\U0010fff1"


def user_turn(instruction: str, text: str, suffix: str) -> str:
    """Return the text of the user turn, see `sapo.models.render`; without an instruction, the text comes first."""
    turn = f"{instruction}\n\nText:\n{text}" if instruction else text
    return f"{turn}\n\n{suffix}" if suffix else turn


def turns_of(instruction: str, example: Example, suffix: str) -> list[str]:
    """Return the turns before the answer, user and assistant in alternation, see `sapo.models.render`.

    Raises:
        RenderError: if the row is one of another layout.
    """
    if TAKEN_OUT in example.input:
        raise RenderError(
            "these rows have a layout of their own, which only their own renderer reads: give renderer="
            "rows.renderer(tokenizer), and train on selection.apply(dataset) or selection.completions(dataset)"
        )
    if not example.history:
        return [user_turn(instruction, example.input, suffix)]
    turns = [turn for exchange in example.history for turn in exchange]
    last = f"{example.input}\n\n{suffix}" if suffix else example.input
    return [user_turn(instruction, turns[0], ""), *turns[1:], last]


def plain_prompt(turns: Sequence[str]) -> str:
    """Return turns as the prompt of a model without a chat template."""
    return "".join(f"{turn}\n\nAnswer:" if n % 2 == 0 else f" {turn}\n\n" for n, turn in enumerate(turns))


def messages(instruction: str, suffix: str, row: Example) -> list[dict[str, str]]:
    """Return a row in the library's own words as messages, the answer last."""
    turns = [*turns_of(instruction, row, suffix), row.answer]
    return [{"role": ROLES[n % 2], "content": turn} for n, turn in enumerate(turns)]
