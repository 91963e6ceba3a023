"""Reading task rows from JSON and JSONL files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapo.errors import DataError
from sapo.types import Example, Task

# Names of the input and answer columns that are recognised, first match wins.
COLUMNS = (
    ("input", "output"),
    ("sentence", "label"),
    ("input", "answer"),
    ("text", "label"),
    ("prompt", "completion"),
)


def file_task(path: Path, instruction: str | None, suffix: str) -> Task:
    """Return a task from one file; its rows are the training rows, there is no test split.

    Raises:
        DataError: if the file cannot be read or used, or no instruction is given.
    """
    if instruction is None or not instruction.strip():
        raise DataError(f"task file {path} has no instruction of its own: give one with --instruction")
    demand_whole(instruction + suffix, "the instruction or suffix")
    rows = read_rows(path)
    return Task(
        name=path.stem, instruction=instruction, suffix=suffix, labels=(), metric="rouge_l",
        train=rows, dev=(), test=(),
    )  # fmt: skip


def read_rows(path: Path) -> tuple[Example, ...]:
    """Return the examples of a JSON list or JSONL file of objects with an input and an answer column.

    Raises:
        DataError: naming the file, and line or row, for what cannot be used.
    """
    rows = _parse(path, read_text(path))
    if not rows:
        raise DataError(f"{path} has no rows")
    source, target = _columns(path, rows[0])
    return tuple(
        Example(_cell(path, n, row, source), _cell(path, n, row, target, empty=False)) for n, row in enumerate(rows, 1)
    )


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: if it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} cannot be read. Convert it first.") from error


def read_json(path: Path) -> Any:
    """Return a parsed JSON file.

    Raises:
        DataError: as `read_text`, and if it is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def demand_whole(text: str, what: str) -> None:
    """Refuse text that no tokenizer can encode.

    Raises:
        DataError: if it holds half a character.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{what} holds half a character (a lone surrogate): repair the text")


def _parse(path: Path, text: str) -> Sequence[Any]:
    if path.suffix == ".json":
        parsed = read_json(path)
        if not isinstance(parsed, list):
            raise DataError(f"{path} holds a JSON {type(parsed).__name__}: allowed is a list of objects")
        return parsed
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def _columns(path: Path, row: Any) -> tuple[str, str]:
    if isinstance(row, dict):
        for source, target in COLUMNS:
            if source in row and target in row:
                return source, target
    found = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
    allowed = "; ".join(" and ".join(map(repr, pair)) for pair in COLUMNS)
    raise DataError(f"{path}: no input and answer columns in the first row ({found}). Allowed: {allowed}")


def _cell(path: Path, number: int, row: Any, column: str, *, empty: bool = True) -> str:
    value = row.get(column) if isinstance(row, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{path}, row {number}: {column!r} is {type(value).__name__}: allowed is text or a number")
    demand_whole(value, f"{path}, row {number}: {column!r}")
    if not empty and not value.strip():
        raise DataError(f"{path}, row {number}: the answer {column!r} is empty, so nothing could be learned from it")
    return value
