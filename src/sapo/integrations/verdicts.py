"""What is wrong with a training before it begins: one function for each question.

Everything is read off the tokens that the trainer's collator gives to the model, and off the tokenizer as it is saved:
what is not in these two is not trained and not asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jinja2 import TemplateError

from sapo.core.errors import DataError
from sapo.core.types import Encoded, Example, Task
from sapo.models.batches import IGNORED
from sapo.models.fit import context_length
from sapo.tasks.files import quoted
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.layouts import layout_of, sides

Level = Literal["ok", "warning", "error"]
_PROBE = "SAPO-PROBE"
# Templates put at most a line break behind the token that ends a turn.
_LAST = 3
# How one may ask a model that can reason, the default first.
_THINKING: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": False}, {"enable_thinking": True})
_EMPTY = r"<think>\s*</think>\s*"
_MESSAGES = ("messages", "prompt", "completion")
# Longest prompt that a verdict shows as a whole.
_SHOWN = 600
_HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding: a sentence that names the thing, its value and, unless it is fine, what to do."""

    level: Level
    text: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8}{self.about}: {self.text}"


ok = partial(Verdict, "ok")
warning = partial(Verdict, "warning")
error = partial(Verdict, "error")


@dataclass(frozen=True)
class Row:
    """A row as the model is given it: its tokens, and as labels the same, but IGNORED where nothing is learned.

    ``cut`` characters of the input are left out of the middle.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut: int = 0

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The supervised stretches, as (start, end). No model predicts the first token of a row."""
        learned = [False, *(label != IGNORED for label in self.labels[1:]), False]
        edges = [n for n in range(1, len(learned)) if learned[n] != learned[n - 1]]
        return tuple(zip(edges[::2], edges[1::2], strict=True))

    @property
    def encoded(self) -> tuple[Encoded, ...]:
        """The stretches as prompts and answers; their losses together are the row's."""
        return tuple(Encoded(self.ids[:end], start) for start, end in self.spans)


@dataclass(frozen=True)
class Training:
    """What is about to be trained.

    Attributes:
        tokenizer: as it is after saving and loading.
        sets: rows by name; those that are trained on are "train".
        base: the tokenizer that the model came with, where that is on this machine.
        first: the columns of the first training row; empty where rows are packed, or there is no trainer.
        args: the trainer's arguments; empty without a trainer.
        dropped: training rows that the trainer left out because their whole answer was cut away.
    """

    model: Any
    tokenizer: Any
    sets: Mapping[str, Sequence[Row]]
    base: Any
    first: Mapping[str, Any]
    args: Mapping[str, Any]
    dropped: int = 0

    @cached_property
    def learned(self) -> list[Row]:
        """The training rows of which something is learned."""
        return [row for row in self.sets["train"] if row.spans]

    @cached_property
    def stops(self) -> frozenset[int]:
        """The tokens at which generation ends."""
        own = self.model.generation_config.eos_token_id
        return frozenset({self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    @cached_property
    def tails(self) -> tuple[str, ...]:
        """What the template may put between the user's text and the answer."""
        found = set()
        for options in _THINKING:
            try:
                asked = self.render([{"role": "user", "content": _PROBE}], add_generation_prompt=True, **options)
            except (TemplateError, ValueError):
                continue
            found |= set(asked.split(_PROBE)[1:])
        return tuple(sorted(found - {""}, key=len))

    @cached_property
    def examples(self) -> dict[str, tuple[Example, ...]]:
        """Every row as the texts of what it asks and what it answers last."""
        return {name: tuple(map(self._example, rows)) for name, rows in self.sets.items()}

    def _example(self, row: Row) -> Example:
        text, start = self.text(row.ids), row.spans[-1][0] if row.spans else len(row.ids)
        ends = [text.rfind(tail) + len(tail) for tail in self.tails if tail in text]
        cut = max(ends, default=len(self.text(row.ids[:start])))
        return Example(text[:cut], text[cut:])

    @property
    def prompt(self) -> str:
        """What must be sent at inference for the first row, to the letter."""
        return self.examples["train"][0].input

    def is_long(self, row: Row) -> bool:
        """Whether a row is as long as the trainer allows."""
        return len(row.ids) >= (self.args.get("max_length") or 1 << 30)

    def is_cut(self, row: Row) -> bool:
        """Whether such a row does not end as an answer does."""
        return self.is_long(row) and not self.stops & set(row.ids[-_LAST:])

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, special ones spelled out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def render(self, messages: Any, **options: Any) -> str:
        """Return messages in the saved template's words, as their tokens read."""
        apply = self.tokenizer.apply_chat_template
        return self.text(apply(messages, tokenize=True, return_dict=True, **options).input_ids)


def verdicts_of(training: Training) -> list[Verdict]:
    """Return the answers to all questions, in the order in which to read them."""
    return [replace(found, about=about) for about, ask in _QUESTIONS.items() for found in ask(training)]


def _answers(t: Training) -> Iterator[Verdict]:
    """Which tokens are supervised, and whether they say anything."""
    special, total = {*t.tokenizer.all_special_ids, *t.stops}, len(t.sets["train"])
    said = [
        row for row in t.learned if t.text(i for a, b in row.spans for i in row.ids[a:b] if i not in special).strip()
    ]
    if said:
        (start, end), count = said[0].spans[-1], sum(b - a for a, b in said[0].spans)
        ids = said[0].ids
        yield ok(
            f"of the first row's {len(ids)} tokens, {count} are supervised; the last answer is "
            f"{quoted(t.text(ids[start:end]))}, its tokens {t.text(ids[start : start + 1])!r} to "
            f"{t.text(ids[end - 1 : end])!r}"
        )
    if len(said) < total:
        level = warning if said else error
        yield level(f"{total - len(said)} of {total} training rows supervise no text: mend labels, or remove them")


def _mask(t: Training) -> Iterator[Verdict]:
    """Whether the supervised tokens begin where the model begins at inference."""
    texts = [example.input + example.answer for example in t.examples["train"]]
    if t.tails and not any(tail in text for text in texts for tail in t.tails):
        yield warning(f"no row holds {t.tails[0]!r}, with which the saved template asks: train with it, or ask without")
        return
    wrong = list[Verdict]()
    for row, text in zip(t.sets["train"], texts, strict=True):
        ends = sorted(found.end() for tail in t.tails for found in re.finditer(re.escape(tail), text))
        for start, end in row.spans if t.tails else ():
            begin, stop = len(t.text(row.ids[:start])), len(t.text(row.ids[:end]))
            if begin not in ends:
                early = min((place for place in ends if begin < place <= stop), default=stop)
                skipped = [text[place:begin] for place in ends if place < begin][-1:]
                wrong.append(_misplaced(t, text[begin:early], skipped))
                break
    if wrong:
        worst = next((found for found in wrong if found.level == "error"), wrong[0])
        yield replace(worst, text=f"in {len(wrong)} of {len(texts)} rows {worst.text}")
    elif t.tails:
        met = max((tail for tail in t.tails if any(tail in text for text in texts)), key=len)
        yield ok(f"in every row it begins right behind {met!r}, with which the chat template asks")


def _misplaced(t: Training, learned: str, skipped: Sequence[str]) -> Verdict:
    """Return what to say of ``learned`` text; ``skipped`` is what stands between it and a generation prompt, if any."""
    asked = [name for name in ("assistant_only_loss", "completion_only_loss") if t.args.get(name)]
    if any(tail.endswith(learned) for tail in t.tails):
        return warning(
            f"the labels begin too early: {learned!r} is learned, but belongs to the prompt at inference. Mask it"
        )
    if any(not any(token in text for token in t.tokenizer.all_special_tokens) for text in skipped):
        return error(
            f"the labels begin too late: {skipped[0]!r} is not learned. Let them begin right behind the prompt"
        )
    if asked:
        return error(f"prompts are learned, despite {asked[0]}: mark answers with {{% generation %}} in the template")
    return warning(f"prompts are learned too, such as {quoted(learned)}: for answers only, assistant_only_loss=True")


def _end(t: Training) -> Iterator[Verdict]:
    """Whether the model learns to stop."""
    rows = [row for row in t.learned if not t.is_cut(row)]
    names = " or ".join(repr(t.text([i])) for i in sorted(t.stops)) or "no token (set eos_token)"
    wrong = [row for row in rows if not t.stops & set(row.encoded[-1].ids[row.spans[-1][0] :][-_LAST:])]
    if rows and not wrong:
        yield ok(f"every answer ends with {names}, where generation stops, and learns it")
    for row in wrong[:1]:
        end = row.spans[-1][1]
        behind = [i for i in row.ids[end : end + _LAST] if i in t.stops]
        why = f"generation stops at {names}: set eos_token to what ends an answer, or end answers with it"
        if behind:
            why = f"{t.text(behind[:1])!r} behind it is masked, so the model does not learn to stop: supervise it"
        if behind[:1] == [t.tokenizer.pad_token_id]:
            why = f"{t.text(behind[:1])!r} behind it is masked as padding: set a pad_token that ends no answer"
        yield error(f"in {len(wrong)} of {len(rows)} rows {t.text(row.ids[end - 1 : end])!r} is learned last; {why}")


def _length(t: Training) -> Iterator[Verdict]:
    """What is cut, or too long."""
    rows, context, limit = t.sets["train"], context_length(t.model), t.args.get("max_length")
    longest, cut = max(len(row.ids) for row in rows), sum(map(t.is_cut, rows))
    if longest > context:
        yield error(f"the longest row has {longest} tokens, the model takes {context}: set max_length={context}")
    if middle := sum(row.cut > 0 for row in rows):
        yield warning(f"{middle} rows lose the middle of their input to max_length: raise it, or shorten them")
    if t.args.get("packing") and t.args.get("packing_strategy") == "wrapped":
        yield warning("packing_strategy = wrapped cuts rows, and lets them see each other: set packing_strategy=bfd")
    elif cut or t.dropped:
        level = error if cut == len(rows) else warning
        yield level(
            f"at max_length = {limit}, {cut} rows lose the end of an answer and {t.dropped} all of it: raise it"
        )
    elif t.args.get("truncation_mode") == "keep_end" and any(map(t.is_long, rows)):
        yield warning(
            f"{sum(map(t.is_long, rows))} rows have {limit} tokens, and truncation_mode = keep_end cuts the beginning, "
            "with the instruction, of longer ones: raise max_length"
        )
    elif longest <= context and not middle:
        yield ok(f"the longest row has {longest} tokens; none is cut")


def _rows(t: Training) -> Iterator[Verdict]:
    """Repeated rows, contradictions, and other sets' rows that are trained on."""
    for name, rows in t.examples.items():
        found = inspect_rows(Task(name, "", "", (), "rouge_l", t.examples["train"], (), rows))
        if name == "train":
            level, what = (warning if found.duplicates or found.conflicts else ok), f"of {len(rows)} training rows, "
            yield level(f"{what}{found.duplicates} repeat an earlier one and {found.conflicts} contradict another one")
        elif found.overlap:
            yield warning(f"{found.overlap} of {len(rows)} prompts of {name!r} are trained on: remove them from either")
        else:
            yield ok(f"none of {len(rows)} prompts of {name!r} is trained on")


def _reasoning(t: Training) -> Iterator[Verdict]:
    if "<think>" not in f"{t.tokenizer.chat_template}" and "<think>" not in t.tokenizer.get_vocab():
        return
    texts = [example.input + example.answer for example in t.examples["train"]]
    twice = sum(bool(re.search(f"({_EMPTY}){{2}}", text)) for text in texts)
    empty = sum(bool(re.match(_EMPTY, t.text(row.ids[slice(*row.spans[-1])]).lstrip())) for row in t.learned)
    quiet = "set chat_template_kwargs={'enable_thinking': False} in every row and at inference"
    if twice:
        yield error(f"in {twice} of {len(texts)} rows an empty <think> block occurs twice: remove it from the answers")
    elif empty:
        yield warning(f"in {empty} of {len(texts)} rows an empty <think> block is learned, reasoning may go: {quiet}")
    elif all(re.search(f"{_EMPTY}$", t.text(row.ids[: row.spans[-1][0]])) for row in t.learned):
        yield ok(f"{len(texts)} rows are asked not to reason: ask so at inference (enable_thinking=False)")
    elif not any(re.search(r"<think>\s*[^\s<]", text) for text in texts):
        yield warning(f"the model can reason, and none of {len(texts)} rows does, reasoning may go: {quiet}")


def _template(t: Training) -> Iterator[Verdict]:
    """Whether the saved template renders what is trained, and asks as was trained."""
    bos, own = t.tokenizer.bos_token_id, t.tokenizer.chat_template
    if bos is not None and any(row.ids[:2] == (bos, bos) for row in t.sets["train"]):
        yield error(f"rows begin with {t.text([bos])!r} twice: tokenize rendered texts with add_special_tokens=False")
    if t.base is not None and t.base.chat_template not in (None, own):
        lost = [word for word in ("tools", "<think>") if word in t.base.chat_template and word not in f"{own}"]
        what = f" and does not know {' and '.join(lost)}" if lost else ""
        yield warning(f"the chat template is not the model's own{what}: put that one back, unless this is meant")
    row = t.sets["train"][0]
    try:
        first = {name: t.first[name] for name in _MESSAGES if t.first.get(name)}
        prompt, answer = sides(first, layout_of([first])[0])
        tools, variables = t.first.get("tools"), t.first.get("chat_template_kwargs") or {}
        options = {"tools": json.loads(tools) if isinstance(tools, str) else tools, **variables}
        if isinstance(prompt, str) or isinstance(answer, str) or answer[-1]["role"] != "assistant" or t.is_long(row):
            return
        whole = t.render([*prompt, *answer], **options)
        asked = [t.render(prompt, add_generation_prompt=True, **options | thinking) for thinking in _THINKING]
    except DataError:
        # Rows without messages were made into tokens elsewhere.
        return
    except (TemplateError, ValueError) as failure:
        yield error(f"the saved template cannot render the first row ({str(failure)[:80]}): save the one trained with")
        return
    trained = t.text(row.ids)
    # Some templates for training end the last turn, too.
    if not whole.startswith(trained) and not trained.startswith(whole):
        yield error(
            f"the saved template renders the first row differently: {_apart(trained, whole)}. Save the one trained with"
        )
    elif not trained.startswith(asked[0]):
        level, what = warning if trained.startswith(tuple(asked)) else error, _apart(trained, asked[0])
        so = next(
            (f"Ask with {how}" for how, text in zip(_THINKING, asked, strict=True) if trained.startswith(text)), ""
        )
        yield level(f"the saved template asks differently from training: {what}. {so or 'Mend its generation prompt'}")
    else:
        yield ok("the saved template renders the first row, and the prompt at inference, as in training")


def _apart(trained: str, other: str) -> str:
    """Return where two texts part."""
    place = max(len(_shared([trained, other])) - 20, 0)
    return f"trained {trained[place : place + 50]!r}, rendered {other[place : place + 50]!r}"


def _shared(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _prompt(t: Training) -> Iterator[Verdict]:
    """What must be sent at inference."""
    asked, options = [example.input for example in t.examples["train"]], t.first.get("chat_template_kwargs")
    shown = t.prompt if len(t.prompt) <= _SHOWN else f"{t.prompt[: _SHOWN // 2]} ... {t.prompt[-_SHOWN // 2 :]}"
    made = f", made with chat_template_kwargs={options}" if options else ""
    # Beyond the line, rows begin alike by chance.
    same = _shared(asked).rpartition("\n")[0]
    shared = f"; all {len(asked)} prompts begin alike, up to {same[-40:]!r}" if len(asked) > 1 and same else ""
    yield ok(f"for the first row send {shown!r}{made}{shared}")


def _weights(t: Training) -> Iterator[Verdict]:
    """Whether anything can be learned with these weights and arguments."""
    embeddings, used = t.model.get_input_embeddings(), {i for row in t.sets["train"] for i in row.ids}
    new = sorted(i for i in used if t.base is not None and i >= len(t.base))
    trained, rate = [p for p in t.model.parameters() if p.requires_grad], t.args.get("learning_rate")
    count, total = sum(p.numel() for p in trained), sum(p.numel() for p in t.model.parameters())
    if max(used) >= embeddings.weight.shape[0]:
        yield error(f"token {max(used)} has none of {embeddings.weight.shape[0]} embeddings: resize_token_embeddings")
    if not t.args:
        return
    if new and not any(p.requires_grad for p in embeddings.parameters()):
        what = f"{len(new)} tokens are new, such as {t.text(new[:1])!r}, and embeddings are frozen"
        yield error(f"{what}: set modules_to_save=['embed_tokens', 'lm_head']")
    if not trained:
        yield error(f"none of {total} weights is trainable: load adapters with is_trainable=True, or give peft_config")
    elif rate == 0:
        yield error("learning_rate = 0, so no weight changes: set one, such as 1e-4 for LoRA")
    else:
        yield ok(f"{count} of {total} are trained ({count / total:.1%}), learning_rate = {rate}")
    for kind in sorted({_HALF[p.dtype] for p in trained if p.dtype in _HALF}):
        yield warning(f"trained weights are {kind}, which rounds small updates away: load the model in float32")
    for name in ("fp16", "bf16"):
        if t.args.get(name) and t.model.device.type == "cpu":
            yield warning(f"{name} = True on a CPU, slower there than float32: set {name}=False")


_QUESTIONS = {
    "answers": _answers, "mask": _mask, "end of turn": _end, "length": _length, "rows": _rows, "reasoning": _reasoning,
    "template": _template, "prompt": _prompt, "weights": _weights,
}  # fmt: skip
