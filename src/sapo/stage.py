"""A trained stage, loaded from its directory alone: the model, and how each of its tasks is to be prompted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo.errors import ModelError, nearest
from sapo.evaluate import generate
from sapo.model import LoadedModel, load_model
from sapo.record import read_json, undamaged
from sapo.render import Renderer
from sapo.selection import context_length


@dataclass(frozen=True, slots=True)
class Stage:
    """The state after a task.

    Attributes:
        loaded: base model with the stage's adapter.
        lineage: the content of its `sapo.json`.
    """

    loaded: LoadedModel
    lineage: Mapping[str, Any]

    @classmethod
    def load(cls, directory: Path) -> Stage:
        """Return the stage in a directory that a run wrote.

        Raises:
            ModelError: if it is none, or its base model cannot be loaded.
        """
        path = directory / "sapo.json"
        if not path.is_file():
            raise ModelError(f"{directory} is not a stage directory (no sapo.json): allowed is RUN_DIR/stages/K-TASK")
        lineage = read_json(path)
        with undamaged(path, "Take the stage directory from the run again."):
            base = lineage["base_model"]
            kept = [lineage["max_length"], lineage["max_new_tokens"], lineage["tasks"][-1]["task"]]
            kept += [(entry["task"], entry["instruction"], entry["suffix"]) for entry in lineage["tasks"]]
        return cls(load_model(base, str(directory)), lineage)

    def answer(self, inputs: Sequence[str], task: str | None = None) -> list[str]:
        """Return the greedy answer to each input, prompted as the task was trained.

        Raises:
            ModelError: if the stage was not trained on ``task``; the last one is used where it is None.
        """
        entries = {entry["task"]: entry for entry in self.lineage["tasks"]}
        name = self.lineage["tasks"][-1]["task"] if task is None else task
        if name not in entries:
            raise ModelError(
                f"this stage was not trained on {name!r}.{nearest(name, entries)} Its tasks: {', '.join(entries)}"
            )
        limit = min(self.lineage["max_length"], context_length(self.loaded.model))
        return generate(
            self.loaded.model,
            Renderer(self.loaded.tokenizer, limit),
            entries[name]["instruction"],
            entries[name]["suffix"],
            inputs,
            self.lineage["max_new_tokens"],
        )
