"""What is measured of a candidate: before training, its loss, other indicators and trivial controls; then mediators.

Mediators are what happens between a candidate and its effects: how far parameters travel, how far outputs drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sapo.core.types import Encoded, Example, Losses, Task
from sapo.models.batches import pad, supervised_positions
from sapo.models.losses import Scorer
from sapo.models.passes import untouched
from sapo.models.render import Renderer
from sapo.training.methods.lwf import divergence
from sapo.training.objective import copies, trainable

# Rows that go through the model at once.
_BATCH = 4


def indicators(
    model: Any,
    scorer: Scorer,
    renderer: Renderer,
    task: Task,
    text: str,
    rows: Sequence[Example],
    *,
    lean: bool = False,
) -> tuple[dict[str, float | None], Losses]:
    """Return a candidate's indicators by name, as in `StudyRecord`, and its losses; the model is left as it was.

    "pmi" is the pre-update loss minus that of the same answers behind an empty input: how much the input says about
    the answer under this instruction; lower is more. "answer_only" leaves out the tokens that end the turn.

    ``model`` has what the task trains trainable; ``text`` is the candidate, measured on ``rows``; ``lean`` leaves out
    the gradient norm.
    """
    encoded = renderer.encode(text, task.suffix, rows)
    losses = scorer(encoded)
    end = _end_tokens(renderer)
    answers = scorer([replace(e, ids=e.ids[: len(e.ids) - end]) for e in encoded]) if end else losses
    blank = renderer.encode(text, task.suffix, [replace(row, input="", history=()) for row in rows])
    # Many rows without inputs are equal, and computed once.
    different = list(dict.fromkeys(blank))
    nll = dict(zip(different, scorer(different).nll, strict=True))
    without = float(sum(nll[e] for e in blank) / sum(e.supervised for e in blank))
    found: dict[str, float | None] = {
        "pre_update": losses.per_token,
        "answer_only": answers.per_token,
        "example_mean": float(np.mean(losses.nll / losses.tokens)),
        "pmi": losses.per_token - without,
        "gradient_norm": None if lean else norm(gradient(model, encoded)),
        "length": float(len(renderer.token_ids([text])[0])),
        "edit": Levenshtein.normalized_distance(text, task.instruction),
    }
    return found, losses


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
    for inputs, targets in _batches(model, encoded):
        with untouched(model), torch.enable_grad():
            logits = model(**inputs).logits.float()
            nll = cross_entropy(logits, targets, reduction="sum") / tokens
            found = torch.autograd.grad(nll, list(weights.values()))
        for name, part_of_it in zip(weights, found, strict=True):
            total[name] += part_of_it
    return total


def _batches(model: Any, encoded: Sequence[Encoded]) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    """Yield what a few rows are to the model, with the supervised tokens."""
    for start in range(0, len(encoded), _BATCH):
        part = encoded[start : start + _BATCH]
        ids, labels = (x.to(model.device) for x in pad([e.ids for e in part], [e.prompt_length for e in part]))
        keep, targets = supervised_positions(labels)
        yield {"input_ids": ids, "use_cache": False, "logits_to_keep": keep}, targets


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """Return the Euclidean norm of all numbers together."""
    # On the CPU, since not every accelerator has float64.
    total = sum((x.cpu().double().square().sum() for x in tensors.values()), torch.zeros(()).double())
    return float(total.sqrt())


class Travel:
    """Measures the path of the trainable parameters from ``start``, by name; see `sapo.training.trainer.Watcher`."""

    def __init__(self) -> None:
        self.path = 0.0
        self.start: dict[str, torch.Tensor] = {}
        self._last: dict[str, torch.Tensor] = {}

    def begin(self, model: Any) -> None:
        """Remember where it starts."""
        self.start = self._last = copies(model)

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Add the length of an update."""
        now = copies(model)
        self.path += norm({name: now[name] - self._last[name] for name in now})
        self._last = now
        return False

    def state(self) -> Any:
        """Return the path so far."""
        return self.path

    def restore(self, model: Any, state: Any) -> None:
        """Resume from there."""
        self.path, self._last = float(state), copies(model)

    @property
    def displacement(self) -> float:
        """Distance between the first and the last parameters."""
        return norm({name: self._last[name] - self.start[name] for name in self.start})


def drift(model: Any, before: dict[str, torch.Tensor], encoded: Sequence[Encoded]) -> float:
    """Return KL(before || now) of the predictions at the supervised positions of rows, in nats per token.

    ``before`` holds other values of the trainable parameters, by name.
    """
    total = 0.0
    for inputs, _ in _batches(model, encoded):
        with untouched(model):
            then = functional_call(model, before, kwargs=inputs).logits
            total += float(divergence(then, model(**inputs).logits, 1.0))
    return total / sum(e.supervised for e in encoded)
