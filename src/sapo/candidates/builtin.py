"""Paraphrases that come with the library: for the built-in tasks and those of the published sequences."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from sapo.candidates.source import Advance, Rounds, Source, unheard
from sapo.core.types import Origin, Task
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases


class Builtin(Source):
    """Hand-written paraphrases, 20 for a task that the library knows by name."""

    origin: Origin = "builtin"

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield all of them, or nothing for a task that has none."""
        texts = builtin_paraphrases(task.name) if task.name in BUILTIN else _published().get(task.name, ())
        if texts:
            advance(len(texts))
            yield texts


@cache
def _published() -> dict[str, tuple[str, ...]]:
    content = files("sapo.candidates").joinpath("published.json").read_text(encoding="utf-8")
    return {task: tuple(texts) for task, texts in json.loads(content).items()}
