"""The renderer: exact ids by hand, and invariants that hold for any text and any template."""

from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_tokenizer
from sapo.models.render import Renderer

# Ids of the tiny tokenizer, worked out by hand: a printable ASCII character is its code point minus 33, the blank
# is 220, the line feed 198, and the two special tokens follow the 256 bytes.
BLANK, LINE_FEED, TURN, END = 220, 198, 256, 257


def renderer(max_length: int = 512, *, chat_template: str | None = CHAT_TEMPLATE) -> Renderer:
    return Renderer(tiny_tokenizer(chat_template=chat_template), max_length)


def asked(*texts: str) -> list[Example]:
    return [Example(text, "") for text in texts]


def one(r: Renderer, instruction: str, text: str, suffix: str, answer: str) -> Encoded:
    return r.encode(instruction, suffix, [Example(text, answer)])[0]


def spelled(ids: tuple[int, ...]) -> str:
    """The text of ids, special tokens included."""
    return str(tiny_tokenizer().decode(list(ids), skip_special_tokens=False))


def conversation(turn: str, answer: str) -> str:
    return f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def test_ids_and_supervised_positions_are_those_worked_out_by_hand() -> None:
    encoded = one(renderer(), "Do.", "x", "S.", "yes")
    user = (84, 82, 68, 81)
    text = (51, 68, 87, 83, 25)
    assistant = (64, 82, 82, 72, 82, 83, 64, 77, 83)
    assert encoded.prompt == (
        TURN, *user, LINE_FEED,
        35, 78, 13, LINE_FEED, LINE_FEED, *text, LINE_FEED, 87, LINE_FEED, LINE_FEED, 50, 13, END, LINE_FEED,
        TURN, *assistant, LINE_FEED,
    )  # fmt: skip
    assert encoded.ids[encoded.prompt_length :] == (88, 68, 82, END, LINE_FEED)
    assert encoded.supervised == 5 and encoded.cut == 0


LONG = "".join(chr(ord("a") + n % 26) for n in range(90)) + "".join(chr(ord("A") + n % 26) for n in range(90))


@pytest.mark.parametrize("max_length", [110, 111, 112])
@pytest.mark.parametrize(("text", "size"), [(LONG, 1), ("北" * 100, 3)], ids=["ascii", "three tokens a character"])
def test_no_more_than_needed_is_cut(text: str, size: int, max_length: int) -> None:
    # That the middle is cut, and counted to the character, test_render_properties.py holds.
    encoded = one(renderer(max_length), "Do this.", text, "Say so.", "yes")
    assert encoded.cut > 0 and max_length - size < len(encoded.ids) <= max_length
    (prompt,) = renderer(max_length).prompts("Do this.", "Say so.", asked(text), 9)
    assert max_length - 9 - size < len(prompt) <= max_length - 9


def test_fixed_parts_that_do_not_fit_are_an_error_that_says_how_long_they_are() -> None:
    bare = one(renderer(), "Do this.", "", "Say so.", "yes")
    long = Example(LONG, "yes")
    assert renderer(len(bare.ids)).encode("Do this.", "Say so.", [long])[0].ids == bare.ids
    with pytest.raises(RenderError, match=rf"answer alone take {len(bare.ids)} tokens.* at most {len(bare.ids) - 1} "):
        renderer(len(bare.ids) - 1).encode("Do this.", "Say so.", [long])
    with pytest.raises(RenderError, match=rf"suffix alone take {bare.prompt_length} tokens"):
        renderer(bare.prompt_length + 9).prompts("Do this.", "Say so.", asked(LONG), 10)


def test_the_plain_layout_begins_as_the_tokenizer_itself_begins_a_text() -> None:
    tokenizer = tiny_tokenizer(chat_template=None)
    tokenizer.bos_token = "<|im_start|>"
    without = one(Renderer(tokenizer, 512), "Do.", "x", "", "yes")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", TURN)]
    )
    with_bos = one(Renderer(tokenizer, 512), "Do.", "x", "", "yes")
    assert TURN not in without.ids
    assert with_bos.ids == (TURN, *without.ids) and with_bos.supervised == without.supervised
    assert Renderer(tokenizer, 512).prompts("Do.", "", asked("x"), 4) == [with_bos.prompt]


def test_a_tokenizer_with_neither_template_nor_end_of_text_is_refused() -> None:
    tokenizer = tiny_tokenizer(chat_template=None)
    tokenizer.eos_token = None
    with pytest.raises(RenderError, match="neither a chat template nor an end-of-text token"):
        Renderer(tokenizer, 512)


CONTENT = "message['content']"
BOT = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHAT_TEMPLATE.replace(CONTENT, "''"), "text of the user turn"),
        (CHAT_TEMPLATE.replace(CONTENT, f"{CONTENT}|replace('\\n', ' ')"), "text of the user turn"),
        (CHAT_TEMPLATE.replace(CONTENT, f"{CONTENT}|replace('<', '&lt;')"), "text of the user turn"),
        (CHAT_TEMPLATE.replace(CONTENT, f"'' if loop.index == 2 else {CONTENT}"), "text of the assistant turn"),
        (CHAT_TEMPLATE.replace(CONTENT, f"{CONTENT}|upper if loop.index == 2 else {CONTENT}"), "the assistant turn"),
        (CHAT_TEMPLATE.replace(BOT, "<|im_start|>bot\n"), "differently from its own generation prompt"),
        (CHAT_TEMPLATE.replace(BOT, f"{BOT}<think>\n"), "differently from its own generation prompt"),
        ("{{ raise_exception('roles must alternate') }}" + CHAT_TEMPLATE, "roles must alternate"),
    ],
)
def test_a_template_that_fails_or_changes_a_text_is_an_error(template: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        one(renderer(chat_template=template), "Do.", "a < b", "S.", "yes")


def test_a_template_that_trims_takes_outer_blanks_only() -> None:
    r = renderer(chat_template=CHAT_TEMPLATE.replace(CONTENT, f"{CONTENT}|trim"))
    encoded = one(r, " Do. ", " a  b \n", "", "\tyes, sir \n")
    assert spelled(encoded.ids) == conversation("Do. \n\nText:\n a  b", "yes, sir")
    assert [encoded.prompt] == r.prompts(" Do. ", "", asked(" a  b \n"), 4)


def test_stop_tokens_are_the_end_of_the_turn_and_the_end_of_text() -> None:
    assert renderer().stop_tokens() == (END,)
    assert renderer(chat_template=None).stop_tokens() == (END,)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|im_start|>"
    assert Renderer(tokenizer, 512).stop_tokens() == (END, TURN)
    tokenizer.eos_token = None
    assert Renderer(tokenizer, 512).stop_tokens() == (END,)
    # A blank before the end, as in Llama 2, would stop every answer after its first word.
    assert renderer(chat_template=CHAT_TEMPLATE.replace("<|im_end|>", " <|im_end|>")).stop_tokens() == (END,)


def merging_tokenizer() -> Any:
    """As the tiny one, but a colon and the blank after it are one token, also across words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, ":Ġ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(":", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_an_answer_that_would_merge_with_the_end_of_the_prompt_is_kept_apart() -> None:
    tokenizer = merging_tokenizer()
    merged = tokenizer("Answer: yes", add_special_tokens=False).input_ids
    r = Renderer(tokenizer, 512)
    encoded = one(r, "Do.", "x", "", "yes")
    # The premise: tokenised in one go, prompt and answer share a token.
    assert 256 in merged and 256 not in encoded.ids
    assert r.prompts("Do.", "", asked("x"), 4) == [encoded.prompt]
    assert tokenizer.decode(encoded.prompt).endswith("Answer:")
    assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == " yes<eos>"


def test_the_fingerprint_is_stable_and_changes_with_whatever_changes_ids() -> None:
    first = renderer()
    before = first.fingerprint()
    one(first, "Do.", LONG, "S.", "yes")
    assert first.fingerprint() == before == renderer().fingerprint()
    larger = tiny_tokenizer()
    larger.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    others = [
        renderer(511).fingerprint(),
        renderer(chat_template=None).fingerprint(),
        renderer(chat_template=" " + CHAT_TEMPLATE).fingerprint(),
        Renderer(larger, 512).fingerprint(),
    ]
    assert len({before, *others}) == 5


def test_prompts_and_fingerprint_are_the_same_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    # Templates may print today's date (Llama 3.2, SmolLM3): a run would then differ from day to day.
    template = "<|im_start|>system\n{{ strftime_now('%d %b %Y') }}<|im_end|>\n" + CHAT_TEMPLATE

    seen = []
    for day in (1, 2):
        clock = SimpleNamespace(now=partial(datetime, 2030, 1, day))
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)
        r = renderer(chat_template=template)
        seen.append((r.fingerprint(), r.prompts("Do.", "S.", asked("x"), 4)))
    assert seen[0] == seen[1]


def test_decoding_generated_ids_leaves_out_special_tokens_and_outer_blanks() -> None:
    r = renderer()
    assert r.decode((BLANK, 88, 68, 82, BLANK, END, LINE_FEED)) == "yes"
    assert r.text((88, END, LINE_FEED)) == "y<|im_end|>\n"


# What goes first when a conversation is too long.


def row(r: Renderer, example: Example) -> Encoded:
    return r.encode("Do.", "S.", [example])[0]


def test_an_exchange_without_text_that_is_dropped_is_counted_too() -> None:
    whole = row(renderer(), Example("u3", "a3"))
    encoded = row(renderer(len(whole.ids)), Example("u3", "a3", (("", ""),)))
    assert encoded.ids == whole.ids and encoded.cut > 0


def counted(r: Renderer, patch: pytest.MonkeyPatch) -> list[int]:
    """How many characters of each text are tokenised from now on."""
    read: list[int] = []
    inner = r.token_ids

    def counting(texts: list[str]) -> list[list[int]]:
        read.extend(map(len, texts))
        return inner(texts)

    patch.setattr(r, "token_ids", counting)
    return read


def test_a_huge_input_is_not_tokenised_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    r, huge = renderer(300), "x" * 200_000
    read = counted(r, monkeypatch)
    assert len(r.prompts("Do it.", "", [Example(huge, "")], 8)[0]) == 300 - 8
    assert sum(read) < 2 * len(huge)


def test_a_long_conversation_takes_little_longer_than_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    r = renderer()
    read = counted(r, monkeypatch)
    history = tuple((f"user turn {n}", f"answer {n}") for n in range(100))
    whole = sum(len(user) + len(reply) for user, reply in history)
    encoded = row(r, Example("u", "a", history))
    assert 0 < encoded.cut < whole
    # Text and answer are read for each try; halving the number of exchanges needs seven.
    assert sum(read) < 20 * whole
