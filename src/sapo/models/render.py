"""The only place where text becomes tokens: (instruction, example) -> ids and supervised positions.

Layout of the user turn (paper section 3; only the instruction is ever paraphrased):

    INSTRUCTION
    (blank line)
    Text:
    INPUT
    (blank line)
    SUFFIX

without the last two lines where the suffix is empty, and without the first three where there is no instruction. The
turn goes through the model's own chat template and the assistant turn is the answer. Everything after the generation
prompt is supervised: the answer and the tokens that end its turn.

A conversation keeps its turns: the first user turn begins with the instruction, the last one ends with the
suffix, and only the last assistant turn is supervised.

A model without a chat template gets the plain layout: the user turn, a blank line, "Answer:", a space, the answer,
end of text; earlier turns of a conversation likewise, a blank line after each answer.

Nothing is ever formatted into a template by us (`str.format`, `%`), so braces are only characters; special
tokens spelled out in data or instructions are tokenised as ordinary text and cannot end a turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jinja2

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example
from sapo.models.fit import fit
from sapo.models.layout import ROLES, plain_prompt, turns_of

_PROBE = "SAPO-PROBE"
_FIXED_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro +%}"
# Plane 16 is private use: its characters stand in for special tokens that content spells out.
_FIRST = 0x100000
_STAND_IN = re.compile("([\U00100000-\U0010fffd])")


class Encoder(Protocol):
    """Turns examples into what a model is trained and scored on."""

    def encode(self, instruction: str, suffix: str, examples: Sequence[Example]) -> list[Encoded]:
        """Return prompt and answer of every example as token ids, in order."""


class Renderer:
    """Turns prompts into token ids for one tokenizer and one length limit.

    Args:
        tokenizer: a transformers tokenizer; it is not changed.
        max_length: most tokens of prompt and answer together. Longer inputs are cut in the middle, so that
            instruction, suffix and answer stay whole.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._chat = bool(tokenizer.chat_template)
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        longest_first = sorted(special, key=len, reverse=True)
        self._markers = re.compile("|".join([*map(re.escape, longest_first), _STAND_IN.pattern]))
        self._hidden: list[str] = []
        if not self._chat and tokenizer.eos_token is None:
            raise RenderError("this tokenizer has neither a chat template nor an end-of-text token: set eos_token")

    def encode(self, instruction: str, suffix: str, examples: Sequence[Example]) -> list[Encoded]:
        """Return prompt and answer of every example as token ids, in order.

        The ids before ``prompt_length`` are exactly those that `prompts` gives for the same input, so that
        a model is trained and scored on what it is later asked. (An input that must be cut may be cut a little
        elsewhere there, where room is left for a generated answer instead of the true one.)

        Raises:
            RenderError: if instruction, suffix and answer alone exceed ``max_length``, or the model's chat
                template loses text.
        """

        def whole(examples: Sequence[Example]) -> list[Encoded]:
            return self._encode_pairs([self._texts(instruction, e, suffix, e.answer) for e in examples])

        return _fitting(examples, self.max_length, whole, "instruction, suffix and answer")

    def prompts(
        self, instruction: str, suffix: str, examples: Sequence[Example], max_new_tokens: int
    ) -> list[tuple[int, ...]]:
        """Return the token ids that generation starts from, leaving room for ``max_new_tokens``.

        The examples' answers are not used.
        """
        return [e.ids for e in self.asked(instruction, suffix, examples, max_new_tokens)]

    def asked(self, instruction: str, suffix: str, examples: Sequence[Example], max_new_tokens: int) -> list[Encoded]:
        """Return the same with what was cut."""

        def whole(examples: Sequence[Example]) -> list[Encoded]:
            rows = self.token_ids([self._texts(instruction, e, suffix)[0] for e in examples])
            return [Encoded(tuple(ids), len(ids)) for ids in rows]

        limit = self.max_length - max_new_tokens
        return _fitting(examples, limit, whole, "instruction and suffix")

    def stop_tokens(self) -> tuple[int, ...]:
        """Return the ids that end an answer: the first special token after it in its turn, and end of text."""
        _, tail = self._texts("i", Example("x", ""), "", _PROBE)
        after = self.token_ids([tail[tail.index(_PROBE) + len(_PROBE) :]])[0]
        special = set(self._tokenizer.all_special_ids)
        # Some templates put a blank before the token that ends the turn; some end it in plain text.
        ends = [next((i for i in after if i in special), after[0])] if after else []
        if self._tokenizer.eos_token_id is not None:
            ends.append(self._tokenizer.eos_token_id)
        return tuple(dict.fromkeys(ends))

    def fingerprint(self) -> str:
        """Return a hash of layout, template and vocabulary: equal where the same text gives the same ids."""
        probe = self._encode_pairs([self._texts("Do {it}.", Example("naïve 北京 x1", ""), "Say so.", "yes")])[0]
        parts = (self._tokenizer.chat_template, len(self._tokenizer), self.max_length, probe.ids)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens or surrounding blanks."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(ids), **options)).strip()

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens included, for display."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _texts(self, instruction: str, example: Example, suffix: str, answer: str | None = None) -> tuple[str, str]:
        """Return (generation prompt, assistant turn after it) as text; special tokens in content are hidden."""
        turns = [self._hide(turn) for turn in turns_of(instruction, example, suffix)]
        reply = None if answer is None else self._hide(answer)
        if not self._chat:
            prompt = self.beginning + plain_prompt(turns)
            return prompt, "" if reply is None else f" {reply}{self._tokenizer.eos_token}"
        messages = [{"role": ROLES[n % 2], "content": turn} for n, turn in enumerate(turns)]
        prompt = self._template(messages, add_generation_prompt=True)
        lost = next((n for n, turn in enumerate(turns) if turn.strip() not in prompt), None)
        if lost is not None:
            raise RenderError(f"the model's chat template changes or drops the text of the {ROLES[lost % 2]} turn")
        if reply is None:
            return prompt, ""
        full = self._template([*messages, {"role": "assistant", "content": reply}], add_generation_prompt=False)
        if not full.startswith(prompt):
            raise RenderError(
                "the model's chat template renders an answered conversation differently from its own generation "
                f"prompt, so it is unclear which tokens are the answer. It ends {prompt[-40:]!r} for generation. "
                "Give the tokenizer another chat_template; or, before a trainer of your own, score the tokens that it "
                "makes (renderer=... of sapo.select)."
            )
        if reply.strip() not in full[len(prompt) :]:
            raise RenderError("the model's chat template changes or drops the text of the assistant turn")
        return prompt, full[len(prompt) :]

    def _template(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        template = None
        if "strftime_now" in self._tokenizer.get_chat_template():
            # Templates that print today's date would give other prompts tomorrow than were trained on.
            template = _FIXED_DATE + self._tokenizer.get_chat_template()
        # enable_thinking is a variable of reasoning models' templates; others ignore it. Answers are trained
        # without a reasoning block, so generation must not open one either.
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    enable_thinking=False,
                )
            )
        except jinja2.TemplateError as error:
            raise RenderError(f"the model's chat template fails on a user turn and its answer: {error}") from error

    @property
    def beginning(self) -> str:
        """What the tokenizer puts in front of a text; of a chat, the template does."""
        ids = self._tokenizer("x").input_ids
        starts = self._tokenizer.bos_token_id is not None and ids[:1] == [self._tokenizer.bos_token_id]
        return str(self._tokenizer.bos_token) if starts else ""

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
        prompts = self.token_ids([prompt for prompt, _ in pairs])
        wholes = self.token_ids([prompt + tail for prompt, tail in pairs])
        encoded = []
        for (_, tail), prompt, whole in zip(pairs, prompts, wholes, strict=True):
            if whole[: len(prompt)] != prompt:
                # The answer's first characters merge with the end of the prompt. Generation starts from the
                # prompt's own ids, so training must too.
                whole = prompt + self.token_ids([tail])[0]
            encoded.append(Encoded(tuple(whole), len(prompt)))
        return encoded

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise rendered texts; hidden special tokens come back as ordinary text."""
        plain = [i for i, text in enumerate(texts) if _STAND_IN.search(text) is None]
        ids: list[list[int]] = [[] for _ in texts]
        if plain:
            batch = self._tokenizer([texts[i] for i in plain], add_special_tokens=False).input_ids
            for i, row in zip(plain, batch, strict=True):
                ids[i] = list(row)
        for i in sorted(set(range(len(texts))).difference(plain)):
            # re.split with a group: ordinary text at even places, one stand-in at odd places.
            for n, piece in enumerate(_STAND_IN.split(texts[i])):
                if n % 2:
                    spelled = self._hidden[ord(piece) - _FIRST]
                    ids[i] += self._tokenizer(spelled, add_special_tokens=False, split_special_tokens=True).input_ids
                elif piece:
                    ids[i] += self._tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    def _hide(self, text: str) -> str:
        """Replace special tokens spelled out in ``text`` by stand-ins that no template or tokenizer knows."""
        return self._markers.sub(self._stand_in, text)

    def _stand_in(self, found: re.Match[str]) -> str:
        if found.group() not in self._hidden:
            self._hidden.append(found.group())
        return chr(_FIRST + self._hidden.index(found.group()))


def _fitting(
    examples: Sequence[Example], limit: int, whole: Callable[[Sequence[Example]], list[Encoded]], parts: str
) -> list[Encoded]:
    """Return the examples as ``whole`` encodes them, those that are too long cut to ``limit`` tokens.

    ``parts`` names what is never cut.
    """
    rows = whole(examples)
    for n, example in enumerate(examples):
        if len(rows[n].ids) > limit:
            try:
                rows[n] = fit(example, limit, lambda e: whole([e])[0], parts)
            except RenderError as error:
                raise RenderError(
                    f"the row with the input {example.input[:40]!r} and the answer {example.answer[:40]!r}: {error}"
                ) from error
    return rows
