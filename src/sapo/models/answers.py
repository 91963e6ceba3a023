"""How well a model does a task: greedy answers, scored by the task's metrics, and the answer's NLL.

Next to every metric stands the teacher-forced NLL of the true answer: twenty rows of accuracy are noise, twenty losses
are less so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from peft import PeftModel
from transformers import GenerationConfig

from sapo.core.errors import ScoreError
from sapo.core.processes import ALONE, Processes
from sapo.core.storage import Stored
from sapo.core.types import Example, Floats, Losses, Task
from sapo.models.losses import Scorer
from sapo.models.memory import unless_out_of_memory
from sapo.models.passes import untouched
from sapo.models.render import Renderer
from sapo.models.text_metrics import TEXT_METRICS

# Tokens of a generation batch, padding and new tokens included.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ACCELERATOR = 32768


@dataclass(frozen=True, slots=True)
class Evaluation(Stored):
    """One cell of the performance matrix, row by row.

    Attributes:
        scores: per metric the score of each row in percent, shape [rows].
    """

    predictions: tuple[str, ...]
    scores: dict[str, Floats]
    losses: Losses


def evaluate(
    model: Any,
    renderer: Renderer,
    task: Task,
    instruction: str,
    rows: Sequence[Example],
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda rows: None,
    scorer: Scorer | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Return greedy answers, their scores and the true answers' NLL; the model is left as it was.

    ``advance`` takes the number of rows after each batch: every row counts twice, once for its answer and
    once for its loss. ``scorer`` is the model's, where there is one that has chosen its route already.
    ``processes`` share the rows out.
    """
    predictions = generate(model, renderer, instruction, task.suffix, rows, max_new_tokens, advance, processes)
    scores = {
        # The best match among all right answers, as where several are given they are equally right.
        name: np.array(
            [max(score(p, a) for a in (row.answer, *row.references)) for p, row in zip(predictions, rows, strict=True)]
        )
        for name, score in TEXT_METRICS.items()
    }
    losses = (scorer or Scorer(model, processes=processes))(renderer.encode(instruction, task.suffix, rows), advance)
    return Evaluation(tuple(predictions), scores, losses)


def generate(
    model: Any,
    renderer: Renderer,
    instruction: str,
    suffix: str,
    rows: Sequence[Example],
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda rows: None,
    processes: Processes = ALONE,
) -> list[str]:
    """Return the greedy answer to each row, decoded from the generated tokens alone, in order.

    Raises:
        ScoreError: if the answer to one row alone does not fit the memory.
    """
    prompts, stops = renderer.prompts(instruction, suffix, rows, max_new_tokens), stop_tokens(model, renderer)
    mine = processes.share(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
    told = processes.telling(advance, len(prompts))
    answered: list[tuple[int, str]] = []
    # Where memory runs out, batches are halved from then on.
    most = len(prompts)
    with untouched(model), greedy(model, max_new_tokens, stops):
        for batch in batches([prompts[i] for i in mine], max_new_tokens, model.device.type):
            while batch:
                part = batch[:most]
                found = unless_out_of_memory(lambda: continued(model, [prompts[mine[n]] for n in part], stops))  # noqa: B023
                if found is None:
                    clear_device_cache()
                    most = _halved(model, part, prompts[mine[part[0]]])
                    continue
                answered += [(mine[n], renderer.decode(ids)) for n, ids in zip(part, found, strict=True)]
                told(len(part))
                batch = batch[most:]
    everyones = dict(pair for part in processes.gather(answered) for pair in part)
    return [everyones[i] for i in range(len(prompts))]


def _halved(model: Any, batch: Sequence[int], prompt: Sequence[int]) -> int:
    """Return half the size of a batch for which memory did not suffice; refuse a single prompt."""
    if len(batch) == 1:
        raise ScoreError(
            f"the answer to a prompt of {len(prompt)} tokens does not fit the memory of the device "
            f"{str(model.device)!r} next to the model ({model.dtype}). Lower max_length or evaluate.max_new_tokens, or "
            "take a smaller model or a smaller dtype."
        )
    return len(batch) // 2


def stop_tokens(model: Any, renderer: Renderer) -> tuple[int, ...]:
    """Return the ids that end an answer: those of the chat template, and the model's own."""
    own = model.generation_config.eos_token_id
    ids = own if isinstance(own, list) else [own]
    return tuple(dict.fromkeys(i for i in (*renderer.stop_tokens(), *ids) if i is not None))


def teaches_to_stop(model: Any, renderer: Renderer) -> bool:
    """Whether what is supervised ends with a token that ends an answer."""
    supervised = renderer.encode("i", "", [Example("x", "y")])[0]
    return bool(set(supervised.ids[supervised.prompt_length :]) & set(stop_tokens(model, renderer)))


def continued(model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], **options: Any) -> list[list[int]]:
    """Return the ids that a model writes after each prompt, up to a stop token; options are those of `generate`."""
    width = max(len(p) for p in prompts)
    # Left padding, masked: which token fills it does not matter, so the tokenizer needs no pad token.
    ids = torch.full((len(prompts), width), stops[0], dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    output = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **options)
    return [list(takewhile(lambda token: token not in stops, row)) for row in output[:, width:].tolist()]


@contextmanager
def greedy(model: Any, max_new_tokens: int, stops: Sequence[int]) -> Iterator[None]:
    """Decode greedily whatever sampling or penalties the model's own generation config asks for."""
    holders = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]
    before = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=stops[0]
        )
    try:
        yield
    finally:
        for holder, config in zip(holders, before, strict=True):
            holder.generation_config = config


def batches(prompts: Sequence[Sequence[int]], max_new_tokens: int, device: str) -> Iterator[list[int]]:
    """Yield the numbers of prompts in batches of similar length that a kind of device has room for, long ones first."""
    batch: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if batch and len(batch) == batch_rows(len(prompts[batch[0]]) + max_new_tokens, device):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def batch_rows(tokens: int, device: str) -> int:
    """Return how many rows of so many tokens, new ones included, a kind of device answers together."""
    return max(1, _BATCH_TOKENS.get(device, _BATCH_TOKENS_ACCELERATOR) // tokens)
