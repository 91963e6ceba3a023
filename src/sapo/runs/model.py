"""The model of a run, brought into a stage only when a step must be computed in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sapo.core.errors import RecordError, TrainError
from sapo.core.storage import write_json, write_text
from sapo.models.fingerprint import state_fingerprint
from sapo.models.load import LoadedModel
from sapo.models.losses import Scorer
from sapo.runs.card import model_card
from sapo.runs.directory import RunDirectory
from sapo.selection.selection import Choice
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Stage, Training

# The lineage of a stage from its choices and the fingerprint of its weights.
Lineage = Callable[[Sequence[Choice], str], dict[str, Any]]


class Model:
    """A model that the caller brings into its stages."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def scorer(self) -> Scorer:
        """The scorer of the model in its present stage."""
        return Scorer(self.model)

    def bring(self, stage: Stage) -> Any:
        """Return the model in a stage, into which the caller has brought it."""
        return self.model

    def stage(self, number: int, name: str, choices: Sequence[Choice]) -> Stage:
        """Return the stage that the model is in now."""
        return Stage(number, name, state_fingerprint(self.model), choices=tuple(choices))


class RunModel(Model):
    """Holds the model of a run in one stage at a time.

    ``loaded`` is in the method's stage 0, which ``fresh`` loads once more; ``lineage`` is written with every stage.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        fresh: Callable[[], Any],
        method: SeqLora,
        directory: RunDirectory,
        lineage: Lineage,
        batch_tokens: int | None,
    ) -> None:
        super().__init__(loaded.model)
        self._tokenizer, self._fresh = loaded.tokenizer, fresh
        self._method, self._directory, self._lineage = method, directory, lineage
        self._batch_tokens = batch_tokens
        self._scorer: Scorer | None = None
        self.start = self.stage(0, "start", ())
        self._now: Stage | None = self.start
        # The training that the model is prepared for, and the stage that it begins at.
        self._ready: tuple[Stage, str] | None = None

    @property
    def scorer(self) -> Scorer:
        """The scorer of the model in its present stage."""
        if self._scorer is None:
            self._scorer = Scorer(self.model, self._batch_tokens, self._directory.processes)
        self._scorer = self._scorer.on(self.model)
        return self._scorer

    def bring(self, stage: Stage) -> Any:
        """Return the model in a stage, loaded unless it is there already.

        Raises:
            RecordError: if the stage's directory does not hold what was trained.
        """
        if self._now == stage:
            return self.model
        self._ready = None
        if stage == self.start:
            # The model of before must not be in memory with the next one.
            self.model = self._scorer = None
            self.model, self._now = self._fresh(), stage
            return self.model
        directory = self._directory.stage_directory(stage.name)
        again = self._directory.path / "training" / f"{stage.name}.json"
        afresh = f"and a step after it is not finished. Delete {again} to train that task again."
        # Whether it holds what was written was looked at when its training was read back.
        if not directory.is_dir():
            raise RecordError(f"{directory} is missing, {afresh}")
        try:
            self.model = self._method.resume(self.model, directory)
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise RecordError(f"{directory} cannot be loaded ({error}), {afresh}") from error
        if state_fingerprint(self.model) != stage.fingerprint:
            raise RecordError(f"{directory} does not hold the weights that were trained, {afresh}")
        self._now = stage
        return self.model

    def prepare(self, stage: Stage, training: Training) -> Any:
        """Return the model in a stage, with what a training changes trainable."""
        if self._ready != (stage, training.name):
            self.model = self._method.prepare(self.bring(stage), training)
        # Until the next stage is saved, it is in none.
        self._now = self._ready = None
        return self.model

    def restored(self, stage: Stage, training: Training) -> None:
        """Hear that the model is again as `prepare` left it."""
        self._ready = stage, training.name

    def save(self, training: Training, history: str, choices: Sequence[Choice]) -> str:
        """Write the stage that the model was trained to, with its lineage, and return its fingerprint."""
        after = ""

        def write(directory: Path) -> None:
            nonlocal after
            self.model = self._method.finish(self.model, training, directory)
            after = state_fingerprint(self.model)
            # Its chat template may be that of the adapter which the run started from, not its base's.
            self._tokenizer.save_pretrained(directory)
            data = self._lineage(choices, after)
            write_json(directory / "sapo.json", data)
            write_text(directory / "README.md", model_card(data))

        self._directory.save_stage(training.name, write)
        if len(set(self._directory.processes.gather(after))) > 1:
            raise TrainError(
                f"stage {training.name}: the processes ended with different weights; run it in one process"
            )
        self._now = Stage(training.stage, training.name, after, history)
        return after
