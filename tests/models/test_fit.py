"""Conversations in a prompt: real turns in the model's own layout, and what goes first when they are too long."""

from __future__ import annotations

import pytest

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_tokenizer
from sapo.models.render import Renderer

HISTORY = (("u1", "a1"), ("u2", "a2"))
TALK = Example("u3", "a3", HISTORY)


def renderer(max_length: int = 512, *, chat_template: str | None = CHAT_TEMPLATE) -> Renderer:
    return Renderer(tiny_tokenizer(chat_template=chat_template), max_length)


def one(r: Renderer, example: Example, instruction: str = "Do.", suffix: str = "S.") -> Encoded:
    return r.encode(instruction, suffix, [example])[0]


# Too long.


def test_an_exchange_without_text_that_is_dropped_is_counted_too() -> None:
    encoded = one(renderer(len(one(renderer(), Example("u3", "a3")).ids)), Example("u3", "a3", (("", ""),)))
    assert encoded.ids == one(renderer(), Example("u3", "a3")).ids
    assert encoded.cut > 0


# Huge.

HUGE = 5_000_000


def counted(r: Renderer, patch: pytest.MonkeyPatch) -> list[int]:
    """How many characters of each text are tokenised from now on."""
    read: list[int] = []
    inner = r.token_ids

    def counting(texts: list[str]) -> list[list[int]]:
        read.extend(map(len, texts))
        return inner(texts)

    patch.setattr(r, "token_ids", counting)
    return read


@pytest.mark.parametrize(
    ("example", "cut"),
    [
        (Example("x" * HUGE, "yes", HISTORY), None),
        (Example("北 " * (HUGE // 2), "yes"), None),
        (Example("u3", "yes", (("x" * HUGE, "a1"), ("u2", "a2"))), HUGE + 2),
        (Example("u3", "yes", (("u1", "a1"), ("u2", "x" * HUGE))), HUGE + 6),
    ],
    ids=["input", "input in words", "oldest user turn", "latest answer"],
)
def test_a_huge_text_is_cut_without_being_tokenised(
    example: Example, cut: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = renderer()
    read = counted(r, monkeypatch)
    encoded = one(r, example)
    (prompt,) = r.prompts("Do.", "S.", [example], 8)
    assert len(encoded.ids) <= 512 and len(prompt) <= 504 and sum(read) < 300_000
    with pytest.raises(RenderError, match=r"alone have 50000\d\d characters, and 512 tokens fit: shorten"):
        one(r, Example("x", "a"), "Do.", "x" * HUGE)
    assert encoded.cut == cut or (cut is None and HUGE - 512 < encoded.cut <= HUGE + 8)


def test_a_long_conversation_takes_little_longer_than_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    r = renderer()
    read = counted(r, monkeypatch)
    history = tuple((f"user turn {n}", f"answer {n}") for n in range(100))
    whole = sum(len(user) + len(reply) for user, reply in history)
    encoded = one(r, Example("u", "a", history))
    assert 0 < encoded.cut < whole
    # Text and answer are read for each try; halving the number of exchanges needs seven.
    assert sum(read) < 20 * whole
