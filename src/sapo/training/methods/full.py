"""Full fine-tuning: every weight of the model is trained, on task after task; a stage is a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sapo.core.errors import ModelError
from sapo.models.load import quantised
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Training


class Full(SeqLora):
    """Trains W itself. Weights are held in float32: bfloat16 rounds updates of this size away."""

    name = "full"
    whole = True

    def settings(self) -> dict[str, Any]:
        """Return its name: nothing else decides what it does."""
        return {"method": self.name}

    def start(self, model: Any) -> Any:
        """Return the stage-0 model; refuse one with an adapter, or with weights that are quantised or not float32."""
        if isinstance(model, PeftModel):
            raise ModelError(
                f"method {self.name} trains the model's own weights and cannot continue from an adapter: merge it "
                "first (sapo export STAGE --merge OUT) and give OUT as model.base"
            )
        if quantised(model):
            raise ModelError(
                f"method {self.name} trains the model's own weights, and quantised weights have no gradient: leave "
                "model.quantization out, or take a method that trains an adapter, such as seq-lora"
            )
        if model.dtype != torch.float32:
            raise ModelError(
                f"method {self.name} needs model.dtype float32, not {str(model.dtype).removeprefix('torch.')}: small "
                "updates of the weights would be rounded away"
            )
        return model

    def prepare(self, model: Any, training: Training) -> Any:
        """Make every weight trainable."""
        return model.requires_grad_(True)

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """Write the model."""
        model.save_pretrained(directory)
        return model

    def resume(self, model: Any, directory: Path) -> Any:
        """Put the weights that the directory holds into the model, wherever its layers are."""
        model = model.merge_and_unload() if isinstance(model, PeftModel) else model
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict())
        return model.eval()
