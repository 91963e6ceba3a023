"""Sequential LoRA: one adapter, trained on task after task. The baseline that other methods are diffs of.

And what a sequence is compared with: all tasks at once, and each task alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sapo.core.errors import ModelError
from sapo.core.settings import Settings
from sapo.training.methods.adapters import SAFE_INIT, activate, save_adapter, smallest_dimension, targets_of
from sapo.training.objective import Objective
from sapo.training.schedule import Order, Training
from sapo.training.settings import LoraSettings


class SeqLora:
    """h = W x + (alpha / r) B A x, with the same A and B for all tasks.

    ``own`` are the settings of a method that has some besides those of the adapter.

    Attributes:
        order: in which tasks are trained.
        whole: whether a stage directory holds a model of its own instead of an adapter.
        remembers: whether it holds more of the past than weights.
        continues: whether the user's adapter is trained further, with its own settings instead of ``lora``.
    """

    name = "seq-lora"
    order: Order = "sequence"
    whole = False
    remembers = False
    _own: Settings | None = None
    continues = True

    def __init__(self, lora: LoraSettings, own: Settings | None = None) -> None:
        self._lora = lora
        if own is not None:
            self._own = own

    def settings(self) -> dict[str, Any]:
        """Return everything that decides what this method does, for fingerprints."""
        own = {} if self._own is None else self._own.model_dump()
        return {"method": self.name, **self._lora.model_dump(), **own}

    def start(self, model: Any) -> Any:
        """Return the stage-0 model, from one that may carry the user's adapter.

        Raises:
            ModelError: if this method cannot continue from that adapter, or the target modules do not exist.
        """
        if isinstance(model, PeftModel):
            own = model.peft_config["default"]
            if not isinstance(own, LoraConfig):
                kind = own.peft_type.value
                raise ModelError(f"method {self.name} cannot continue from a {kind} adapter: allowed is LoRA")
            if (how := own.init_lora_weights) not in SAFE_INIT:
                raise ModelError(
                    f"method {self.name} cannot continue from an adapter whose loading changes the base: {how}"
                )
            if self.continues:
                return model
        widest = smallest_dimension(model, self._targets(model))
        if self._lora.r > widest:
            raise ModelError(f"lora.r = {self._lora.r}: allowed is at most {widest}, the width of the target layers")
        return model

    def prepare(self, model: Any, training: Training) -> Any:
        """Return the model in which exactly the parameters that this task trains are trainable.

        ``model`` is as `start` or `finish` left it. The training's seed is that of new parameters; the global random
        state is left alone.
        """
        if isinstance(model, PeftModel):
            activate(model, [], "default")
            return model
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            return get_peft_model(model, self._config(model))

    def objective(self, model: Any, training: Training) -> Objective | None:
        """Return what is minimised in place of the NLL, from the prepared model; None for the NLL itself."""
        return None

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """Write the stage's adapter and return the model in the state that the directory alone reproduces."""
        save_adapter(model, "default", directory)
        return model

    def resume(self, model: Any, directory: Path) -> Any:
        """Return the stage-0 model in the state after the stage that ``directory`` holds."""
        if isinstance(model, PeftModel):
            model = model.unload()
        return PeftModel.from_pretrained(model, directory)

    def _targets(self, model: Any) -> tuple[str, ...]:
        return targets_of(model, self._lora.target_modules)

    def _config(self, model: Any) -> LoraConfig:
        return LoraConfig(
            r=self._lora.r,
            lora_alpha=self._lora.alpha,
            lora_dropout=self._lora.dropout,
            target_modules=list(self._targets(model)),
            task_type="CAUSAL_LM",
        )


class Multitask(SeqLora):
    """As many updates as the sequence would take, on the rows of all tasks mixed; only the final row is defined.

    What a sequence could reach if nothing had to be remembered.
    """

    name = "multitask"
    order: Order = "joint"


class Single(SeqLora):
    """One model for each task, from the start; only the diagonal of the performance matrix is defined.

    What a task reaches if nothing was learned before it.
    """

    name = "single"
    order: Order = "apart"
