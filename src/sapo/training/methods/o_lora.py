"""O-LoRA: incremental LoRA whose new directions are kept orthogonal to the old ones.

Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning", arXiv 2310.14152.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel

from sapo.training.methods.adapters import down_up, lora_layers
from sapo.training.methods.inc_lora import NEW, PAST, IncLora
from sapo.training.objective import Objective, Part
from sapo.training.schedule import Training
from sapo.training.settings import OLoraSettings


class OLora(IncLora):
    """Adds lambda * sum over modules of sum |A_old A_new^T|, A_old the stacked A of all earlier tasks (section 3.2)."""

    name = "o-lora"
    _own: OLoraSettings = OLoraSettings()

    def objective(self, model: Any, training: Training) -> Objective | None:
        """Return the NLL plus the penalty; where no layer has old directions there is nothing to keep away from."""
        if not any(PAST in layer.r and NEW in layer.r for layer in lora_layers(model)):
            return None

        def penalised(loss: torch.Tensor, part: Part) -> torch.Tensor:
            return loss + self._own.weight / part.parts * self.penalty(part.model)

        return penalised

    def penalty(self, model: PeftModel) -> torch.Tensor:
        """Return the overlap of old and new directions, not weighted: a scalar with gradients for the new ones."""
        products = []
        for layer in lora_layers(model):
            if PAST in layer.r and NEW in layer.r:
                old, new = down_up(layer, PAST)[0], down_up(layer, NEW)[0]
                products.append((old.detach() @ new.T).abs())
        total = torch.stack([product.sum().to(model.device) for product in products]).sum()
        return total / sum(product.numel() for product in products) if self._own.normalise else total
