"""What happens between a candidate and its effects: how far parameters travel, how far outputs drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.func import functional_call

from sapo.core.types import Encoded
from sapo.experiments.study.indicators import norm
from sapo.models.batches import pad, supervised_positions
from sapo.models.passes import untouched
from sapo.training.methods.lwf import divergence
from sapo.training.methods.objective import trainable

_BATCH = 8


class Travel:
    """Measures the path of the trainable parameters; see `sapo.training.trainer.Watcher`.

    Attributes:
        path: summed length of all updates.
        start: the parameters before the first one, by name.
    """

    def __init__(self) -> None:
        self.path = 0.0
        self.start: dict[str, torch.Tensor] = {}
        self._last: dict[str, torch.Tensor] = {}

    def begin(self, model: Any) -> None:
        """Remember where it starts."""
        self.start = _copy(model)
        self._last = self.start

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Add the length of an update."""
        now = _copy(model)
        self.path += norm({name: now[name] - self._last[name] for name in now})
        self._last = now
        return False

    def state(self) -> Any:
        """Return the path so far."""
        return self.path

    def restore(self, model: Any, state: Any) -> None:
        """Go on from there."""
        self.path, self._last = float(state), _copy(model)

    @property
    def displacement(self) -> float:
        """Distance between the first and the last parameters."""
        return norm({name: self._last[name] - self.start[name] for name in self.start})


def drift(model: Any, before: dict[str, torch.Tensor], encoded: Sequence[Encoded]) -> float:
    """Return KL(before || now) of the predictions at the supervised positions of rows, in nats per token.

    Args:
        model: as it is now.
        before: other values of its trainable parameters, by name.
        encoded: the rows.
    """
    total = 0.0
    for start in range(0, len(encoded), _BATCH):
        part = encoded[start : start + _BATCH]
        ids, labels = (x.to(model.device) for x in pad([e.ids for e in part], [e.prompt_length for e in part]))
        keep, _ = supervised_positions(labels)
        inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": keep}
        with untouched(model):
            then = functional_call(model, before, kwargs=inputs).logits
            total += float(divergence(then, model(**inputs).logits, 1.0))
    return total / sum(e.supervised for e in encoded)


def _copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainable(model).items()}
