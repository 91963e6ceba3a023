"""Whatever the texts are: nothing of them is lost unseen, none of them ends a turn, and the length limit holds."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_tokenizer
from sapo.models.render import Renderer

often = settings(max_examples=40, deadline=None, derandomize=True, database=None)
MARK = "\n[...]\n"
SPECIAL = ("<|im_start|>", "<|im_end|>")
NASTY = (
    *SPECIAL, "<|im_", "end|>", "{", "}", "{}", "{0}", "{{ 7 * 7 }}", "{% if x %}", "{#", "#}", "%s", "%(a)s", "\\n",
    "\n", "\r\n", "\t", " ", "\x01", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\u200d", "\U00100000",
    "\U00100001", "\U0010fffd", "\U000f0000", "\ue000", "😀", "👩‍👩‍👧", "北京", "e\u0301", MARK, "Text:", "Answer:",
    "assistant", "user\n",
)  # fmt: skip
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.lists(st.sampled_from(NASTY) | st.text(characters, max_size=6), max_size=6).map("".join)
# An exchange without a character is not counted when it is dropped, see test_render.py.
exchanges = st.tuples(texts, texts).filter(any)
examples = st.builds(Example, input=texts, answer=texts, history=st.lists(exchanges, max_size=3).map(tuple))
with_template = st.sampled_from([CHAT_TEMPLATE, None])


@cache
def tokenizer(chat_template: str | None) -> Any:
    return tiny_tokenizer(chat_template=chat_template)


def renderer(chat_template: str | None, max_length: int = 1 << 20) -> Renderer:
    return Renderer(tokenizer(chat_template), max_length)


def spelled(ids: tuple[int, ...]) -> str:
    return str(tokenizer(None).decode(list(ids), skip_special_tokens=False))


def layout(template: str | None, instruction: str, suffix: str, example: Example) -> tuple[str, str]:
    """Prompt and answered turn by the words of the paper and of the package, put together here."""
    said = [text for exchange in example.history for text in exchange] + [example.input]
    said[0] = f"{instruction}\n\nText:\n{said[0]}" if instruction else said[0]
    said[-1] += f"\n\n{suffix}" if suffix else ""
    prompt = ""
    for n, text in enumerate(said):
        if template is None:
            prompt += f"{text}\n\nAnswer:" if n % 2 == 0 else f" {text}\n\n"
        else:
            prompt += f"<|im_start|>{'assistant' if n % 2 else 'user'}\n{text}<|im_end|>\n"
    if template is None:
        return prompt, f" {example.answer}<|im_end|>"
    return f"{prompt}<|im_start|>assistant\n", f"{example.answer}<|im_end|>\n"


def real_marks(template: str | None, example: Example) -> list[int]:
    """How many special tokens of each kind the layout itself has."""
    turns = 2 * len(example.history) + 2
    return [0, 1] if template is None else [turns, turns]


def counts(encoded: Encoded) -> list[int]:
    return [encoded.ids.count(256), encoded.ids.count(257)]


@often
@given(with_template, texts, texts, examples)
def test_an_uncut_row_spells_every_text_to_the_letter_and_supervises_the_answer(
    template: str | None, instruction: str, suffix: str, example: Example
) -> None:
    (encoded,) = renderer(template).encode(instruction, suffix, [example])
    prompt, tail = layout(template, instruction, suffix, example)
    assert (spelled(encoded.prompt), spelled(encoded.ids[encoded.prompt_length :])) == (prompt, tail)
    assert encoded.cut == 0
    for text in (instruction, suffix, example.input, example.answer, *(t for pair in example.history for t in pair)):
        assert text in spelled(encoded.ids)


@often
@given(with_template, texts, texts, examples)
def test_no_text_holds_a_special_token_or_ends_a_turn(
    template: str | None, instruction: str, suffix: str, example: Example
) -> None:
    (encoded,) = renderer(template).encode(instruction, suffix, [example])
    assert counts(encoded) == real_marks(template, example)
    # The answer ends where the model's turn does, not where its text says so.
    stop = 257
    answer = encoded.ids[encoded.prompt_length :]
    assert answer.index(stop) == len(answer) - (1 if template is None else 2)
    decoded = renderer(template).decode(answer[: answer.index(stop)])
    assert decoded == example.answer.strip()


@often
@given(with_template, texts, texts, st.lists(examples, max_size=4))
def test_generation_starts_from_the_prompts_of_training(
    template: str | None, instruction: str, suffix: str, rows: list[Example]
) -> None:
    r = renderer(template)
    encoded = r.encode(instruction, suffix, rows)
    assert [e.prompt for e in encoded] == r.prompts(instruction, suffix, rows, 16)
    assert encoded == [e for row in rows for e in renderer(template).encode(instruction, suffix, [row])]


def what_is_left(example: Example, cut: int) -> Example | None:
    """The example without so many characters: oldest exchanges first, then the middle of the input."""
    history, lost = example.history, 0
    while history and lost < cut:
        (user, reply), *later = history
        history, lost = tuple(later), lost + len(user) + len(reply)
    if lost == cut:
        return Example(example.input, example.answer, history)
    kept = len(example.input) - (cut - lost)
    if history or kept < 0:
        return None
    tail = kept // 2
    middle = example.input[: kept - tail] + MARK + example.input[len(example.input) - tail :]
    return Example(middle if kept else "", example.answer)


@often
@given(with_template, texts, texts, examples, st.text(characters, max_size=120), st.integers(20, 260))
def test_what_does_not_fit_is_cut_counted_to_the_character_and_within_the_limit(
    template: str | None, instruction: str, suffix: str, example: Example, more: str, limit: int
) -> None:
    example = Example(example.input + more, example.answer, example.history)
    r = renderer(template, limit)
    (whole,) = renderer(template).encode(instruction, suffix, [example])
    (bare,) = renderer(template).encode(instruction, suffix, [Example("", example.answer)])
    if len(bare.ids) > limit:
        with pytest.raises(RenderError, match="shorten them"):
            r.encode(instruction, suffix, [example])
        return
    (encoded,) = r.encode(instruction, suffix, [example])
    assert len(encoded.ids) <= limit
    assert (encoded.cut == 0) == (len(whole.ids) <= limit) == (encoded.ids == whole.ids)
    left = what_is_left(example, encoded.cut)
    assert left is not None and spelled(encoded.ids) == "".join(layout(template, instruction, suffix, left))
    assert encoded.supervised == whole.supervised and instruction in spelled(encoded.ids)


@often
@given(with_template, texts, texts, examples, st.integers(60, 260), st.integers(1, 40))
def test_prompts_leave_the_room_that_was_asked_for(
    template: str | None, instruction: str, suffix: str, example: Example, limit: int, room: int
) -> None:
    (bare,) = renderer(template).prompts(instruction, suffix, [Example("", "")], 1)
    r = renderer(template, limit)
    if len(bare) > limit - room:
        with pytest.raises(RenderError, match="instruction and suffix alone"):
            r.prompts(instruction, suffix, [example], room)
    else:
        assert len(r.prompts(instruction, suffix, [example], room)[0]) <= limit - room
