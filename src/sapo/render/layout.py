"""What stands where in a prompt, as text: the turns before the answer."""

from __future__ import annotations

from sapo.types import Example


def user_turn(instruction: str, text: str, suffix: str) -> str:
    """Return the text of the user turn, see the module docstring."""
    turn = f"{instruction}\n\nText:\n{text}"
    return f"{turn}\n\n{suffix}" if suffix else turn


def turns_of(instruction: str, example: Example, suffix: str) -> list[str]:
    """Return the turns before the answer, user and assistant in alternation, see `sapo.render`."""
    if not example.history:
        return [user_turn(instruction, example.input, suffix)]
    turns = [turn for exchange in example.history for turn in exchange]
    last = f"{example.input}\n\n{suffix}" if suffix else example.input
    return [user_turn(instruction, turns[0], ""), *turns[1:], last]
