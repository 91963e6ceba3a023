"""Online elastic weight consolidation on the adapter: weights that mattered for earlier tasks are held.

Kirkpatrick et al. 2017, arXiv 1612.00796; the online form with one running Fisher matrix is equation 9 of Schwarz
et al. 2018, "Progress & Compress", arXiv 1805.06370.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from sapo.core.types import Encoded
from sapo.models.batches import pad, supervised_positions
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import Objective, Part, copies, trainable
from sapo.training.schedule import Training
from sapo.training.settings import EwcSettings

_FISHER = "fisher.safetensors"


class Ewc(SeqLora):
    """Adds lambda / 2 * sum_i F_i (theta_i - theta*_i)^2, theta* the weights after the previous task."""

    name = "ewc"
    remembers = True
    _own: EwcSettings = EwcSettings()

    def objective(self, model: Any, training: Training) -> Objective | None:
        """Return the NLL plus the penalty; at the first task nothing is held."""
        if training.before is None:
            return None
        fisher = load_file(training.before / _FISHER, device=str(model.device))
        anchor = copies(model)

        def held(loss: torch.Tensor, part: Part) -> torch.Tensor:
            # Layers may lie on several devices.
            pulls = [
                (fisher[name].to(p.device) * (p - anchor[name]) ** 2).sum().to(loss.device)
                for name, p in trainable(part.model).items()
            ]
            return loss + self._own.weight / 2 / part.parts * torch.stack(pulls).sum()

        return held

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """As for seq-lora, with F = gamma * F_before + F_task."""
        model = super().finish(model, training, directory)
        random = np.random.default_rng(training.seed)
        rows = random.permutation(len(training.rows))[: self._own.examples]
        found = diagonal_fisher(model, [training.rows[i] for i in rows], self._own.labels, training.seed)
        if training.before is not None:
            earlier = load_file(training.before / _FISHER, device=str(model.device))
            # A training that was taken back has no rows: nothing is added, and nothing fades.
            gamma = self._own.gamma if training.rows else 1.0
            found = {name: gamma * earlier[name].to(f.device) + f for name, f in found.items()}
        save_file({name: f.cpu().contiguous() for name, f in found.items()}, directory / _FISHER)
        return model


def diagonal_fisher(
    model: Any, rows: Sequence[Encoded], labels: Literal["gold", "sampled"], seed: int
) -> dict[str, torch.Tensor]:
    """Return the mean over rows of the squared gradient of each row's NLL, summed over its supervised tokens.

    Of every trainable parameter, by name, shaped like it; zeros where there are no rows. Squares are taken row by row:
    the square of a batch's gradient is another quantity. The model is left in eval mode, without gradients.
    """
    model.eval()
    weights = trainable(model)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    generator = torch.Generator(device=model.device).manual_seed(seed)
    for row in rows:
        ids, targets = pad([row.ids], [row.prompt_length])
        keep, gold = supervised_positions(targets.to(model.device))
        logits = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=keep).logits.float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        nll = cross_entropy(logits, gold if labels == "gold" else drawn, reduction="sum")
        # Text goes through no vision tower.
        gradients = torch.autograd.grad(nll, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient**2
    return {name: value / max(len(rows), 1) for name, value in total.items()}
