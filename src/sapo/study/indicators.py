"""What can be known of a candidate before anything is trained with it: its loss, other indicators, trivial controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch.nn.functional import cross_entropy

from sapo.methods.assignment import trainable
from sapo.render import Renderer
from sapo.score import Scorer, pad, supervised_positions, untouched
from sapo.types import Encoded, Example, Losses, Task

# Rows that go through the model at once, with gradients.
_BATCH = 4


@dataclass(frozen=True, slots=True)
class Indicators:
    """Of one candidate in one state of the model.

    Attributes:
        pre_update: pre-update loss, in nats per supervised token.
        answer_only: the same over the answers' own tokens, without those that end the turn.
        example_mean: mean over rows of each row's nats per token.
        pmi: pre-update loss minus that of the same answers behind an empty input: how much the input says about the
            answer under this instruction; lower is more.
        gradient_norm: norm of the gradient of the pre-update loss at the trainable parameters; None if left out.
        length: tokens of the instruction.
        edit: edit distance to the original, as a share of the longer one's characters.
    """

    pre_update: float
    answer_only: float
    example_mean: float
    pmi: float
    gradient_norm: float | None
    length: float
    edit: float


def indicators(
    model: Any, scorer: Scorer, renderer: Renderer, task: Task, text: str, rows: Sequence[Example], lean: bool = False
) -> tuple[Indicators, Losses]:
    """Return a candidate's indicators and the losses behind the pre-update loss; the model is left as it was.

    Args:
        model: with what the task trains trainable.
        scorer: of this model.
        renderer: of its prompts.
        task: whose instruction the candidate could be.
        text: the candidate.
        rows: that indicators are measured on.
        lean: leave out the gradient.
    """
    encoded = renderer.encode(text, task.suffix, rows)
    losses = scorer(encoded)
    end = _end_tokens(renderer)
    answers = scorer([replace(e, ids=e.ids[: len(e.ids) - end]) for e in encoded]) if end else losses
    blank = _blank(scorer, renderer.encode(text, task.suffix, [replace(row, input="", history=()) for row in rows]))
    found = Indicators(
        pre_update=losses.per_token,
        answer_only=answers.per_token,
        example_mean=float(np.mean(losses.nll / losses.tokens)),
        pmi=losses.per_token - blank,
        gradient_norm=None if lean else norm(gradient(model, encoded)),
        length=float(len(renderer.token_ids([text])[0])),
        edit=Levenshtein.normalized_distance(text, task.instruction),
    )
    return found, losses


def _blank(scorer: Scorer, encoded: Sequence[Encoded]) -> float:
    """Return the loss on rows without inputs, in nats per token: many of them are equal, and computed once."""
    different = list(dict.fromkeys(encoded))
    nll = dict(zip(different, scorer(different).nll, strict=True))
    return float(sum(nll[e] for e in encoded) / sum(e.supervised for e in encoded))


def _end_tokens(renderer: Renderer) -> int:
    """Return how many supervised tokens end the turn behind every answer."""
    one, other = renderer.encode("i", "", [Example("x", "yes"), Example("x", "7")])
    pairs = zip(reversed(one.ids[one.prompt_length :]), reversed(other.ids[other.prompt_length :]), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), 0)


def gradient(model: Any, encoded: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return the gradient of the loss on all rows, nats per supervised token, at the trainable parameters, by name."""
    weights = trainable(model)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    tokens = sum(e.supervised for e in encoded)
    for start in range(0, len(encoded), _BATCH):
        part = encoded[start : start + _BATCH]
        ids, labels = (x.to(model.device) for x in pad([e.ids for e in part], [e.prompt_length for e in part]))
        keep, targets = supervised_positions(labels)
        with untouched(model), torch.enable_grad():
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits.float()
            nll = cross_entropy(logits, targets, reduction="sum") / tokens
            found = torch.autograd.grad(nll, list(weights.values()))
        for name, part_of_it in zip(weights, found, strict=True):
            total[name] += part_of_it
    return total


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """Return the Euclidean norm of all numbers together."""
    # On the CPU, since not every accelerator has float64.
    total = sum((x.cpu().double().square().sum() for x in tensors.values()), torch.zeros(()).double())
    return float(total.sqrt())
