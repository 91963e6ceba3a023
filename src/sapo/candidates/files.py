"""Candidates written by hand: a JSON list, JSONL, or a JSON object keyed by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapo.core.errors import CandidateError, DataError, nearest
from sapo.tasks.files import json_lines, kind_of, parse_json, read_text


def candidates_file(path: Path, task: str) -> tuple[str, ...]:
    """Return the paraphrases that a file holds for one task, in the file's order.

    A JSON list or a JSONL file (strings, or objects with "text" or "instruction") is for whichever task asks; a
    JSON object maps task names to lists.

    Raises:
        CandidateError: if the file cannot be read, or has nothing for this task.
    """
    try:
        content = read_text(path)
        if not content.strip():
            raise DataError(f"{path} is empty")
        try:
            parsed = parse_json(content)
        except (ValueError, RecursionError) as error:
            # One JSON document per line is the other allowed form; more than one line, or it is neither.
            if len(content.strip().split("\n")) < 2:
                raise DataError(f"{path} is neither JSON nor JSONL: {error}") from error
            parsed = [value for _, value in json_lines(path, content)]
    except DataError as error:
        raise CandidateError(f"candidates file {error}") from error
    if isinstance(parsed, dict) and not {"text", "instruction"} & set(parsed):
        if task not in parsed:
            raise CandidateError(
                f"candidates file {path} has nothing for task {task!r}.{nearest(task, parsed)} "
                f"It has: {', '.join(map(repr, parsed))}"
            )
        parsed = parsed[task]
    rows = parsed if isinstance(parsed, list) else [parsed]
    return tuple(_text(row, n, path) for n, row in enumerate(rows, start=1))


def _text(row: Any, number: int, path: Path) -> str:
    value = row.get("text", row.get("instruction")) if isinstance(row, dict) else row
    if kind_of(value) != "a text":
        raise CandidateError(
            f"candidates file {path}, entry {number} is {kind_of(value)}: allowed is a text, "
            'or an object with "text" or "instruction"'
        )
    return str(value)
