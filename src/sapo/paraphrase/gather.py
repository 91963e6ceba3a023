"""Candidates for a task of a run: from the user's file, or the ones that come with the library."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from sapo.errors import CandidateError
from sapo.paraphrase.checks import admit, why_none
from sapo.paraphrase.files import candidates_file
from sapo.tasks import BUILTIN, builtin_paraphrases
from sapo.types import Instruction, Rejection, Task


def gather(task: Task, file: Path | None, count: int | None) -> tuple[tuple[Instruction, ...], tuple[Rejection, ...]]:
    """Return the original followed by at most ``count`` paraphrases, and the rejected texts.

    Without a file, built-in tasks and those of the published sequences have 20 hand-written paraphrases each.

    Raises:
        CandidateError: if there is no valid paraphrase.
    """
    if file is not None:
        texts = candidates_file(file, task.name)
    elif task.name in BUILTIN:
        texts = builtin_paraphrases(task.name)
    elif task.name in _published():
        texts = _published()[task.name]
    else:
        raise CandidateError(
            f"no paraphrases come with the library for task {task.name!r}: give candidates.file (--candidates), "
            "a JSON list, JSONL, or a JSON object keyed by task"
        )
    kept, rejected = admit(task, texts, "builtin" if file is None else "file", count)
    if len(kept) == 1:
        raise CandidateError(
            f"task {task.name!r} has no valid candidate beside the original instruction ({why_none(rejected)})"
        )
    return kept, rejected


@cache
def _published() -> dict[str, tuple[str, ...]]:
    content = files("sapo.paraphrase").joinpath("published.json").read_text(encoding="utf-8")
    return {task: tuple(texts) for task, texts in json.loads(content).items()}
