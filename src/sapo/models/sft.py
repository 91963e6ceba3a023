"""Tokens of rows as TRL's SFTTrainer makes them, so that what is scored is what it trains on.

TRL itself is not needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from jinja2 import TemplateError

from sapo.core.errors import RenderError, first_line
from sapo.core.types import Encoded, Example
from sapo.models.layout import Side, messages, plain_prompt, turns_of

# SFTConfig's own.
MAX_LENGTH = 1024
# What SFTTrainer does to rows after they were scored, by the field of its SFTConfig that asks for it.
_CHANGES = {
    "chat_template_path": "it gives the tokenizer another template, and may give it tokens too",
    "assistant_only_loss": "it trains on every turn of the assistant, where the last one is scored",
    "packing": "it joins and cuts rows",
    "padding_free": "it joins the rows of a batch",
    "dataset_kwargs": "it prepares rows in another way",
}
_SHOWN = 60


def demand_scored(args: Any) -> None:
    """Refuse a `trl.SFTConfig` with which SFTTrainer would train on other tokens or labels than were scored.

    Raises:
        RenderError: naming the field, its value and what is allowed.
    """
    for field, why in _CHANGES.items():
        value = vars(args).get(field)
        if value:
            raise RenderError(f"{field} = {value} of SFTConfig: {why}, so other tokens are trained; leave it out")
    if vars(args).get("completion_only_loss") is False:
        raise RenderError("completion_only_loss = False of SFTConfig: it trains on prompts too; leave it out")


class SftRenderer:
    """Encodes rows as SFTTrainer tokenizes them, so that what is scored is what it trains on.

    The answer begins where the tokens of the prompt and those of the whole part. A row that is longer than
    ``max_length`` would lose its answer there, and is refused here.

    Args:
        tokenizer: of the model.
        max_length: of SFTConfig; None: none.
        args: the trainer's SFTConfig, in place of ``max_length``: its end of text is used too.
        layout: how a row is asked and answered; by default in the library's own words.
    """

    def __init__(
        self, tokenizer: Any, max_length: int | None = MAX_LENGTH, layout: Any = None, *, args: Any = None
    ) -> None:
        if args is not None:
            demand_scored(args)
            max_length, tokenizer = args.max_length, _as_configured(tokenizer, args)
        self._tokenizer, self._max_length = tokenizer, max_length
        self._layout = layout or partial(own_sides, chat=bool(tokenizer.chat_template))
        self._own = layout is None

    def encode(self, instruction: str, suffix: str, examples: Sequence[Example]) -> list[Encoded]:
        """Return prompt and answer of every example as token ids, in order.

        Raises:
            RenderError: if a row is too long, or nothing of it would be supervised.
        """
        found = []
        for example in examples:
            prompt, completion = self._layout(instruction, suffix, example)
            encoded = self._tokens(prompt, completion)
            limit = len(encoded.ids) if self._max_length is None else self._max_length
            if len(encoded.ids) > limit or not encoded.supervised:
                raise RenderError(
                    f"the row with the answer {example.answer[:_SHOWN]!r} has {len(encoded.ids)} tokens, "
                    f"{encoded.supervised} of them supervised, and max_length is {self._max_length}: SFTTrainer would "
                    "cut it. Raise max_length here and in SFTConfig, or leave the row out"
                )
            found.append(encoded)
        return found

    def _tokens(self, prompt: Side, completion: Side) -> Encoded:
        if isinstance(prompt, str):
            if self._tokenizer.eos_token is None:
                raise RenderError("the tokenizer has no eos_token, with which SFTTrainer ends an answer: give it one")
            end = "" if str(completion).endswith(self._tokenizer.eos_token) else self._tokenizer.eos_token
            asked = self._tokenizer(prompt).input_ids
            whole = self._tokenizer(f"{prompt}{completion}{end}").input_ids
        else:
            variables = template_variables(self._tokenizer) if self._own else {}
            asked = self._chat(prompt, add_generation_prompt=True, **variables)
            whole = self._chat([*prompt, *completion], **variables)
        pairs = enumerate(zip(asked, whole, strict=False))
        start = next((n for n, (a, b) in pairs if a != b), min(len(asked), len(whole)))
        return Encoded(tuple(whole), start)

    def _chat(self, messages: Any, **options: Any) -> list[int]:
        apply = self._tokenizer.apply_chat_template
        try:
            return list(apply(messages, tokenize=True, return_dict=True, **options).input_ids)
        # A template refuses roles that it does not know; a base model has none.
        except (TemplateError, ValueError) as error:
            raise RenderError(
                f"the tokenizer's chat template cannot render these messages ({first_line(error)}): give the "
                "tokenizer a chat_template that can, or rows without the turns that it refuses"
            ) from error


def own_sides(instruction: str, suffix: str, example: Example, *, chat: bool) -> tuple[Side, Side]:
    """Return what a row asks and answers in the library's own words, see `sapo.models.render`."""
    if chat:
        *asked, answer = messages(instruction, suffix, example)
        return asked, [answer]
    return plain_prompt(turns_of(instruction, example, suffix)), f" {example.answer}"


def prompt_and_completion(prompt: Side, completion: Side, variables: dict[str, Any]) -> dict[str, Any]:
    """Return a row as SFTTrainer takes it, with the variables of its chat template."""
    return {"prompt": prompt, "completion": completion, **({"chat_template_kwargs": variables} if variables else {})}


def template_variables(tokenizer: Any) -> dict[str, Any]:
    """Return the variables of a template: answers are trained without a reasoning block."""
    template = None if tokenizer is None else tokenizer.chat_template
    return {"enable_thinking": False} if isinstance(template, str) and "enable_thinking" in template else {}


def _as_configured(tokenizer: Any, args: Any) -> Any:
    """Return a copy of a tokenizer with the end of text that SFTTrainer gives it."""
    own = deepcopy(tokenizer)
    if args.eos_token is not None:
        if tokenizer.convert_tokens_to_ids(args.eos_token) in (None, tokenizer.unk_token_id):
            raise RenderError(f"eos_token = {args.eos_token!r} of SFTConfig: the vocabulary has no such token")
        own.eos_token = args.eos_token
    return own
