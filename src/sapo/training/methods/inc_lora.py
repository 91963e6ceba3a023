"""Incremental LoRA: a new adapter per task, the older ones frozen and active.

h = W x + (alpha / r) * sum_j B_j A_j x. The older ones run as one concatenated adapter `past`, whose forward
pass costs the same however many tasks it holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model

from sapo.core.errors import ModelError
from sapo.training.methods.adapters import activate, concatenate, freeze, save_adapter, unusual_features
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Training

PAST, NEW, _BOTH = "default", "increment", "sum"


class IncLora(SeqLora):
    """A stage directory holds the concatenation of all adapters so far, and `increment/`, the task's own."""

    name = "inc-lora"
    continues = False

    def start(self, model: Any) -> Any:
        """As for seq-lora; the user's adapter becomes the frozen past."""
        model = super().start(model)
        if isinstance(model, PeftModel):
            unusual = unusual_features(model.peft_config[PAST])
            if unusual:
                raise ModelError(
                    f"method {self.name} cannot add to an adapter with {', '.join(unusual)}: allowed is plain LoRA"
                )
            freeze(model, PAST)
        return model

    def prepare(self, model: Any, training: Training) -> Any:
        """Add the task's adapter; only it is trainable."""
        with torch.random.fork_rng():
            # Another one for each task: the same A would begin along the old ones.
            torch.manual_seed(training.seed + 1_000_003 * (training.stage - 1))
            if not isinstance(model, PeftModel):
                return get_peft_model(model, self._config(model), adapter_name=NEW)
            model.add_adapter(NEW, self._config(model))
        activate(model, [PAST], NEW)
        return model

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """Write the increment, fold it into the past, and write that."""
        save_adapter(model, NEW, directory / "increment")
        concatenate(model, [name for name in (PAST, NEW) if name in model.peft_config], _BOTH)
        # peft keeps adapters under the name they were made with: one more move gives `past` its name back.
        concatenate(model, [_BOTH], PAST)
        save_adapter(model, PAST, directory)
        return model

    def resume(self, model: Any, directory: Path) -> Any:
        """Load the concatenation as the frozen past."""
        model = super().resume(model, directory)
        freeze(model, PAST)
        return model
