"""A trained stage, loaded from its directory alone: the model, and how each of its tasks is to be prompted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapo.errors import ModelError, nearest
from sapo.evaluate import generate
from sapo.model import LoadedModel, load_model
from sapo.record import read_json, undamaged
from sapo.render import Renderer
from sapo.selection import context_length


@dataclass(frozen=True, slots=True)
class Stage:
    """The state after a task, read from what a run wrote.

    Attributes:
        loaded: base model with the stage's adapter.
        prompts: (instruction, suffix) of each task so far, by name, in order.
        max_length: of the run, see `sapo.config.Config`.
        max_new_tokens: likewise.
    """

    loaded: LoadedModel
    prompts: Mapping[str, tuple[str, str]]
    max_length: int
    max_new_tokens: int

    @classmethod
    def load(cls, directory: Path) -> Stage:
        """Return the stage in a directory that a run wrote.

        Raises:
            ModelError: if it is none, or its base model cannot be loaded.
            RecordError: if its `sapo.json` is damaged.
        """
        path = directory / "sapo.json"
        if not path.is_file():
            raise ModelError(f"{directory} is not a stage directory (no sapo.json): allowed is RUN_DIR/stages/K-TASK")
        lineage = read_json(path)
        with undamaged(path, "Take the stage directory from the run again."):
            base, limits = lineage["base_model"], (int(lineage["max_length"]), int(lineage["max_new_tokens"]))
            prompts = {entry["task"]: (entry["instruction"], entry["suffix"]) for entry in lineage["tasks"]}
            if not prompts:
                raise ValueError("no tasks")
        return cls(load_model(base, str(directory)), prompts, *limits)

    def answer(self, inputs: Sequence[str], task: str | None = None) -> list[str]:
        """Return the greedy answer to each input, prompted as the task was trained.

        Raises:
            ModelError: if the stage was not trained on ``task``; the last one is used where it is None.
        """
        name = list(self.prompts)[-1] if task is None else task
        if name not in self.prompts:
            raise ModelError(
                f"this stage was not trained on {name!r}.{nearest(name, self.prompts)} "
                f"Its tasks: {', '.join(self.prompts)}"
            )
        renderer = Renderer(self.loaded.tokenizer, min(self.max_length, context_length(self.loaded.model)))
        instruction, suffix = self.prompts[name]
        return generate(self.loaded.model, renderer, instruction, suffix, inputs, self.max_new_tokens)
