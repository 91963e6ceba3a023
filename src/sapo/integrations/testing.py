"""Public fakes for tests of code that uses this library: a tiny model, its tokenizer, a toy task, a list of texts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sapo.core.types import Example, Origin, Task

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|im_start|>", "<|im_end|>")


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a byte-level tokenizer that can spell any text: 256 bytes and two special tokens, no pad token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = chat_template
    return fast


def tiny_model(*, seed: int = 0, context: int = 512) -> Any:
    """Return a random Llama of two layers for `tiny_tokenizer`, in eval mode; the global random state is kept."""
    config = LlamaConfig(
        vocab_size=256 + len(_SPECIAL),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=None,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def toy_task(name: str = "toy", *, rows: int = 16) -> Task:
    """Return a task of ``rows`` training rows, half as many dev and test rows, and two balanced labels."""

    def split(start: int, size: int) -> tuple[Example, ...]:
        return tuple(
            Example(f"{name} row {i} has {'many' if i % 2 else 'few'} words", "yes" if i % 2 else "no")
            for i in range(start, start + size)
        )

    return Task(
        name=name,
        instruction="Say yes if the text has many words, or no if it has few.",
        suffix="Answer yes or no.",
        labels=("yes", "no"),
        metric="exact_match",
        train=split(0, rows),
        dev=split(rows, rows // 2),
        test=split(2 * rows, rows // 2),
    )


class ListSource:
    """A `sapo.candidates.source.Source` that gives the texts it was made of.

    Args:
        rounds: texts, round by round.

    Attributes:
        asked: what it was asked for so far: the number of texts wanted, each time.
        given: number of rounds taken.
    """

    origin: Origin = "given"

    def __init__(self, *rounds: Sequence[str]) -> None:
        self._rounds = rounds
        self.asked: list[int] = []
        self.given = 0

    def cost(self, task: Task, wanted: int) -> str:
        """Return nothing: lists are free."""
        return ""

    def paraphrases(
        self, task: Task, wanted: int, advance: Callable[[int], None] = lambda texts: None
    ) -> Generator[Sequence[str], None, None]:
        """Yield the texts, whoever asks."""
        self.asked.append(wanted)
        for texts in self._rounds:
            self.given += 1
            advance(len(texts))
            yield texts
