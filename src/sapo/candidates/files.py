"""Candidates written by hand: a JSON list, JSONL, or a JSON object keyed by task."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from sapo.candidates.source import Source
from sapo.core.errors import CandidateError, nearest
from sapo.core.types import Origin, Task


class FromFile(Source):
    """The user's own paraphrases.

    Args:
        path: see `candidates_file`.
        origin: "unchecked" for texts that are taken as they are.
    """

    def __init__(self, path: Path, origin: Origin = "file") -> None:
        self._path, self.origin = path, origin

    def paraphrases(
        self, task: Task, wanted: int, advance: Callable[[int], None] = lambda texts: None
    ) -> Generator[Sequence[str], None, None]:
        """Yield all that the file holds for the task.

        Raises:
            CandidateError: if the file cannot be read, or has nothing for this task.
        """
        texts = candidates_file(self._path, task.name)
        advance(len(texts))
        yield texts


def candidates_file(path: Path, task: str) -> tuple[str, ...]:
    """Return the paraphrases that a file holds for one task, in the file's order.

    A JSON list or a JSONL file (strings, or objects with "text" or "instruction") is for whichever task asks; a
    JSON object maps task names to lists.

    Raises:
        CandidateError: if the file cannot be read, or has nothing for this task.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CandidateError(f"candidates file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CandidateError(f"candidates file {path} is not UTF-8 (byte {error.start})") from error
    if not content.strip():
        raise CandidateError(f"candidates file {path} is empty")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        # One JSON document per line is the other allowed form; more than one line, or it is neither.
        if len(content.strip().split("\n")) < 2:
            raise CandidateError(f"candidates file {path} is neither JSON nor JSONL: {error}") from error
        parsed = _lines(content, path)
    if isinstance(parsed, dict) and not {"text", "instruction"} & set(parsed):
        if task not in parsed:
            raise CandidateError(
                f"candidates file {path} has nothing for task {task!r}.{nearest(task, parsed)} "
                f"It has: {', '.join(map(repr, parsed))}"
            )
        parsed = parsed[task]
    rows = parsed if isinstance(parsed, list) else [parsed]
    return tuple(_text(row, n, path) for n, row in enumerate(rows, start=1))


def _lines(content: str, path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise CandidateError(f"candidates file {path}, line {number} is not JSON: {error}") from error
    return rows


def _text(row: Any, number: int, path: Path) -> str:
    value = row.get("text", row.get("instruction")) if isinstance(row, dict) else row
    if not isinstance(value, str):
        raise CandidateError(
            f"candidates file {path}, entry {number} is {type(value).__name__}: allowed is a string, "
            'or an object with "text" or "instruction"'
        )
    return value
