"""The model of a run, brought into a state only when a step must be computed in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from sapo.core.errors import RecordError, TrainError
from sapo.core.storage import write_json, write_text
from sapo.core.types import Trained
from sapo.models.fingerprint import state_fingerprint
from sapo.models.losses import Scorer
from sapo.runs.card import model_card
from sapo.runs.directory import Record
from sapo.runs.lineage import library_versions, lineage
from sapo.runs.prepare import Setup
from sapo.training.methods.assignment import Assignment


@dataclass(frozen=True, slots=True)
class State:
    """The model after a stage; stage 0 is the start. Equal fingerprints mean equal weights.

    Attributes:
        stage: number of the stage.
        name: of its directory.
        fingerprint: of its weights.
        history: hash of all that it was trained from; methods may remember more than weights.
    """

    stage: int
    name: str
    fingerprint: str
    history: str = ""


class Live:
    """Holds the model in one state at a time.

    Attributes:
        start: the state before any training.
    """

    def __init__(self, setup: Setup, record: Record) -> None:
        self._setup, self._record, self._method = setup, record, setup.method
        self._model = setup.loaded.model
        self._scorer = Scorer(self._model, setup.config.selection.batch_tokens, setup.processes)
        self.start = State(0, "start", state_fingerprint(self._model))
        self._live = self.start

    @property
    def scorer(self) -> Scorer:
        """Scores the model in the state that was brought last."""
        self._scorer = self._scorer.on(self._model)
        return self._scorer

    def bring(self, state: State) -> Any:
        """Return the model in this state, loading the stage unless the model is there already.

        Raises:
            RecordError: if the stage's directory does not hold what was trained.
        """
        if self._live == state:
            return self._model
        if state == self.start:
            self._model, self._live = self._setup.fresh(), state
            return self._model
        directory = self._record.stage_directory(state.name)
        again = self._record.directory / "training" / f"{state.name}.json"
        afresh = f"and a step after it is not finished. Delete {again} to train that task again."
        # A large model is written in several files.
        stem = "model" if self._method.whole else "adapter_model"
        if not any(directory.glob(f"{stem}*.safetensors")):
            missing = directory / f"{stem}.safetensors" if directory.is_dir() else directory
            raise RecordError(f"{missing} is missing, {afresh}")
        try:
            self._model = self._method.resume(self._model, directory)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise RecordError(f"{directory} cannot be loaded ({error}), {afresh}") from error
        if state_fingerprint(self._model) != state.fingerprint:
            raise RecordError(f"{directory} does not hold the weights that were trained, {afresh}")
        self._live = state
        return self._model

    def prepare(self, state: State, task: Assignment) -> Any:
        """Return the model in this state, with what the task trains trainable."""
        self._model = self._method.prepare(self.bring(state), task)
        # Until the stage is saved, it is in none.
        self._live = State(-1, "", "")
        return self._model

    def save(self, name: str, task: Assignment, history: str, trained: Sequence[Trained]) -> State:
        """Write the stage that the model was trained to, beside its lineage, and return its state."""
        setup, after = self._setup, ""
        limits = {"max_length": setup.config.max_length, "max_new_tokens": setup.config.evaluate.max_new_tokens}

        def write(directory: Any) -> None:
            nonlocal after
            directory.mkdir(parents=True, exist_ok=True)
            self._model = self._method.finish(self._model, task, directory)
            after = state_fingerprint(self._model)
            if self._method.whole:
                setup.loaded.tokenizer.save_pretrained(directory)
            data = lineage(
                base=setup.loaded.name, method=self._method.name, policy=setup.config.policy, trained=trained,
                state=after, limits=limits, template=setup.renderer.fingerprint(), versions=library_versions(),
                earlier=setup.earlier, whole=self._method.whole,
            )  # fmt: skip
            write_json(directory / "sapo.json", data)
            write_text(directory / "README.md", model_card(data))

        self._record.save_stage(name, write)
        if len(set(setup.processes.gather(after))) > 1:
            raise TrainError(f"stage {name}: the processes ended with different weights; run it in one process")
        self._live = State(task.stage, name, after, history)
        return self._live

    def demand(self, name: str, step: str, files: dict[str, str], *, dropped: bool) -> None:
        """Refuse a stage directory that is not as it was written; ``dropped``: it may be gone.

        Raises:
            RecordError: naming the file.
        """
        directory = self._record.stage_directory(name)
        gone = dropped and not directory.exists()
        found = {} if gone else self._record.stage_files(name)
        changed = [] if gone else [file for file, digest in files.items() if found.get(file) != digest]
        if changed:
            what = directory / changed[0] if directory.is_dir() else directory
            why = "was changed since" if changed[0] in found else "is missing"
            raise RecordError(
                f"{what} {why}. Put it back as it was, or delete {self._record.directory / step} to train that task "
                "again."
            )
