"""Orthogonal subspace fine-tuning: only the weak singular directions of the weights are trained, ever fewer of them.

Nayak et al. 2025, "Sculpting Subspaces", arXiv 2504.07097; layers, gradients and their projection are peft's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import OSFConfig, get_peft_model

from sapo.core.errors import ModelError
from sapo.training.methods.adapters import smallest_dimension
from sapo.training.methods.full import Full
from sapo.training.schedule import Training


class Osf(Full):
    """W = U S V; at task k of N the top k / (N + 1) of the singular directions are frozen.

    After each task the update is merged and W decomposed anew, so that what was learned can be among what is
    frozen, and every task leaves as many directions to the later ones as it takes away. The layers are
    ``lora.target_modules``.
    """

    name = "osf"

    def settings(self) -> dict[str, Any]:
        """Return its name and layers."""
        return {"method": self.name, "target_modules": self._lora.target_modules}

    def start(self, model: Any) -> Any:
        """As for full fine-tuning; the layers must exist and be linear."""
        targets = self._targets(super().start(model))
        named = ((path.rsplit(".", 1)[-1], module) for path, module in model.named_modules())
        # peft would leave them as they are, without a word.
        others = {n for n, m in named if n in targets and not isinstance(m, torch.nn.Linear)}
        if others:
            raise ModelError(
                f"method {self.name} decomposes linear layers only, which {', '.join(sorted(others))} of this model "
                "is not: name others in lora.target_modules, or use method full"
            )
        return model

    def prepare(self, model: Any, training: Training) -> Any:
        """Decompose the weights; the weak directions are trainable."""
        smallest = smallest_dimension(model, self._targets(model))
        if smallest < training.stages + 1:
            raise ModelError(
                f"method {self.name}: the target layers' smaller side is {smallest}, too few directions to share among "
                f"{training.stages} tasks: allowed are at most {smallest - 1}"
            )
        frozen = training.stage / (training.stages + 1)
        config = OSFConfig(effective_rank=frozen, target_modules=list(self._targets(model)), task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """Merge the update and write the model."""
        return super().finish(model.merge_and_unload(), training, directory)
