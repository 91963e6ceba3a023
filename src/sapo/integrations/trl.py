"""TRL's SFTTrainer: rows that it takes as they are, and its tokens for `sapo.select`.

    task = sapo.load_task(...)                                       # the library's own layout of prompts
    selection = sapo.select(model, tokenizer, task, renderer=trl.SftRenderer(tokenizer))
    trainer = SFTTrainer(model, args, trl.dataset(task, selection, tokenizer), ...)

    rows = trl.Rows(dataset)                                         # a data set with a layout of its own
    selection = sapo.select(model, tokenizer, rows.task, renderer=rows.renderer(tokenizer))
    trainer = SFTTrainer(model, args, rows.completions(selection), ...)

TRL is not needed here: rows are `datasets.Dataset`, and what SFTTrainer makes of them is done the same way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from sapo.core.errors import DataError, ModelError, RenderError
from sapo.core.types import Encoded, Example, Task
from sapo.integrations.layouts import (
    Chosen,
    Side,
    answer_of,
    chosen,
    demand_readable,
    layout_of,
    messages,
    quoted,
    reworded,
    shared_instruction,
    sides,
    unused_columns,
)
from sapo.models.layout import TAKEN_OUT, plain_prompt, turns_of
from sapo.models.load import load_tokenizer
from sapo.tasks.labels import metric_of, recognised_labels

# SFTConfig's own.
MAX_LENGTH = 1024
# What SFTTrainer does to rows after they were scored, by the field of its SFTConfig that asks for it.
_CHANGES = {
    "assistant_only_loss": "it trains on every turn of the assistant, where the last one is scored",
    "packing": "it joins and cuts rows",
    "padding_free": "it joins the rows of a batch",
    "dataset_kwargs": "it prepares rows in another way",
}


def dataset(task: Task, selection: Chosen, tokenizer: Any = None) -> Any:
    """Return a task's training rows with an instruction, as a `datasets.Dataset` of prompts and completions.

    SFTTrainer makes other tokens than our `Renderer` of texts that spell special tokens, and drops or cuts
    what is longer than its `max_length`: choose with ``renderer=SftRenderer(tokenizer)``, which does as it does.

    Args:
        task: its rows, and its suffix.
        selection: the chosen instruction, or a text.
        tokenizer: of the model. Rows are conversational unless it has no chat template; then they are plain text,
            whose end-of-text token SFTTrainer adds. By default they are conversational.

    Raises:
        CandidateError: if the selection is of another task.
        RenderError: if the rows are those of `Rows`, which have a layout of their own.
    """
    from datasets import Dataset

    text = chosen(task, selection).text
    layout = partial(_own, chat=tokenizer is None or bool(tokenizer.chat_template))
    return Dataset.from_list([_row(*layout(text, task.suffix, row), _variables(tokenizer)) for row in task.train])


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
        raise RenderError(
            "completion_only_loss = False of SFTConfig: it trains on prompts too, and answers are scored; leave it out"
        )


class Rows:
    """A data set in a layout of its own, whose instruction can be exchanged in place.

    Attributes:
        dataset: as it was given.
        task: the same rows for `sapo.select`. Their inputs are only read by this object's renderer.
        layout: how rows are asked: "system" (the instruction as system message, then one turn of the user), "alpaca",
            or "other".

    Args:
        dataset: a `datasets.Dataset`, or a list of rows: messages, conversations, prompt and completion, or alpaca.
        instruction: text that stands in the system message, the leading user turn or the column instruction of
            every row; by default what all rows share there.
        held_out: more rows in that layout, which are not trained on, for `sapo.integrations.SapoCallback`.
        name: of the task, in messages and reports.

    Raises:
        DataError: if the layout is not known, or a row does not hold the instruction, or has no answer.
    """

    def __init__(
        self, dataset: Any, instruction: str | None = None, held_out: Any = None, *, name: str = "rows"
    ) -> None:
        rows, others = _readable(dataset, "row"), _readable([] if held_out is None else held_out, "held-out row")
        if not rows:
            raise DataError("the data set has no rows")
        self.dataset = dataset
        original = shared_instruction(rows) if instruction is None else instruction
        if not isinstance(original, str) or not original.strip():
            raise DataError(f"instruction = {original!r:.80}: give the text that stands in every row")
        train, dev = _examples(rows, original, "row"), _examples(others, original, "held-out row")
        self.layout = layout_of(rows, original)
        labels = recognised_labels(train)
        metric, why = metric_of(labels, train)
        unused = Counter(column for row in (*rows, *others) for column in unused_columns(row))
        named = ", ".join(f"{column!r} ({count} values)" for column, count in unused.items())
        notes = ([f"columns that are not used: {named}"] if named else []) + [f"metric: {metric}, as {why}"]
        self.task = Task(name, original, "", labels, metric, train, dev, (), notes=tuple(notes))

    def renderer(self, tokenizer: Any, max_length: int | None = MAX_LENGTH, *, args: Any = None) -> SftRenderer:
        """Return what encodes these rows as SFTTrainer does; see `SftRenderer`."""
        return SftRenderer(tokenizer, max_length, _taken_out, args=args)

    def reworded(self, selection: Chosen) -> Any:
        """Return the data set with the chosen instruction in place of the original, all else as it was.

        SFTTrainer trains on what is scored if these are prompts and completions; of `messages` and `conversations` it
        trains on all turns, and alpaca rows it does not take: `completions` is for those.

        Raises:
            CandidateError: if the selection is of other rows.
        """
        from datasets import Dataset

        text, original = chosen(self.task, selection).text, self.task.instruction
        if isinstance(self.dataset, (list, tuple)):
            return Dataset.from_list([reworded(row, original, text) for row in self.dataset])
        return self.dataset.map(lambda row: reworded(row, original, text))

    def completions(self, selection: Chosen) -> Any:
        """Return the rows as prompts and completions, of which SFTTrainer trains on the completions alone, as scored.

        Raises:
            CandidateError: if the selection is of other rows.
        """
        from datasets import Dataset

        text = chosen(self.task, selection).text
        return Dataset.from_list([_row(*_taken_out(text, "", row), {}) for row in self.task.train])


class SftRenderer:
    """Encodes rows as SFTTrainer tokenizes them, so that what is scored is what it trains on.

    The answer begins where the tokens of the prompt and those of the whole part. A row that is longer than
    ``max_length`` would lose its answer there, and is refused here.

    Args:
        tokenizer: of the model.
        max_length: of SFTConfig; None: none.
        args: the trainer's SFTConfig, in place of ``max_length``: its chat template and end of text are used too.
        layout: how a row is asked and answered; by default in the library's own words, as `dataset` does.
    """

    def __init__(
        self, tokenizer: Any, max_length: int | None = MAX_LENGTH, layout: Any = None, *, args: Any = None
    ) -> None:
        if args is not None:
            demand_scored(args)
            max_length, tokenizer = args.max_length, _as_configured(tokenizer, args)
        self._tokenizer, self._max_length = tokenizer, max_length
        self._layout = layout or partial(_own, chat=bool(tokenizer.chat_template))
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
                    f"the row with the answer {quoted(example.answer)} has {len(encoded.ids)} tokens, "
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
            variables = _variables(self._tokenizer) if self._own else {}
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
                f"the tokenizer's chat template cannot render these messages ({str(error).splitlines()[0]}): give the "
                "tokenizer a chat_template that can, or rows without the turns that it refuses"
            ) from error


def _own(instruction: str, suffix: str, example: Example, *, chat: bool) -> tuple[Side, Side]:
    # The library's own layout of a prompt, see `sapo.models.render`.
    if chat:
        *asked, answer = messages(instruction, suffix, example)
        return asked, [answer]
    return plain_prompt(turns_of(instruction, example, suffix)), f" {example.answer}"


def _row(prompt: Side, completion: Side, variables: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, **({"chat_template_kwargs": variables} if variables else {})}


def _variables(tokenizer: Any) -> dict[str, Any]:
    """Return what a template is told: answers are trained without a reasoning block."""
    template = None if tokenizer is None else tokenizer.chat_template
    return {"enable_thinking": False} if isinstance(template, str) and "enable_thinking" in template else {}


def _readable(dataset: Any, what: str) -> list[Any]:
    """Return the rows of a data set, each checked for itself."""
    from datasets import Dataset, IterableDataset

    if not isinstance(dataset, (Dataset, IterableDataset, list, tuple)):
        raise DataError(f"{what}s in a {type(dataset).__name__}: give one split of a data set, or a list of rows")
    rows = list(dataset)
    for number, row in enumerate(rows, start=1):
        try:
            demand_readable(row)
        except DataError as error:
            raise DataError(f"{what} {number}: {error}") from error
    return rows


def _examples(rows: Sequence[Any], original: str, what: str) -> tuple[Example, ...]:
    """Return rows as examples: what is asked as JSON, with the instruction taken out, and the answer."""
    found = []
    for number, row in enumerate(rows, start=1):
        open_ = reworded(row, original, TAKEN_OUT)
        if open_ is None:
            raise DataError(f"{what} {number} does not hold the instruction {quoted(original)}")
        prompt, completion = sides(open_)
        found.append(Example(json.dumps([prompt, completion], ensure_ascii=False), answer_of(completion)))
    return tuple(found)


def _taken_out(instruction: str, suffix: str, example: Example) -> tuple[Side, Side]:
    prompt, completion = json.loads(example.input)
    if isinstance(prompt, str):
        return prompt.replace(TAKEN_OUT, instruction, 1), completion
    return [{**turn, "content": turn["content"].replace(TAKEN_OUT, instruction, 1)} for turn in prompt], completion


def _as_configured(tokenizer: Any, args: Any) -> Any:
    """Return a copy of a tokenizer with the chat template and end of text that SFTTrainer gives it.

    Raises:
        RenderError: if there is no such template or token.
    """
    own = deepcopy(tokenizer)
    if args.eos_token is not None:
        if tokenizer.convert_tokens_to_ids(args.eos_token) in (None, tokenizer.unk_token_id):
            raise RenderError(f"eos_token = {args.eos_token!r} of SFTConfig: the vocabulary has no such token")
        own.eos_token = args.eos_token
    if args.chat_template_path is not None:
        path = Path(args.chat_template_path)
        try:
            template = path.read_text(encoding="utf-8") if path.is_file() else load_tokenizer(str(path)).chat_template
        except (OSError, UnicodeError, ModelError) as error:
            raise RenderError(f"chat_template_path = {args.chat_template_path} of SFTConfig: {error}") from error
        own.chat_template = template
    return own
