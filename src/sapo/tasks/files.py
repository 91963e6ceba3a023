"""Reading text and JSON files, and the rows of a benchmark's tasks."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapo.core.errors import DataError
from sapo.core.types import Example

# Names of the input and answer columns that are recognised, first match wins.
COLUMNS = (
    ("input", "output"),
    ("sentence", "label"),
    ("input", "answer"),
    ("text", "label"),
    ("prompt", "completion"),
    ("question", "answer"),
)
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def read_rows(path: Path) -> tuple[Example, ...]:
    """Return the examples of a JSON list or JSONL file of objects with an input and an answer column.

    Raises:
        DataError: naming the file, and line or row, for what cannot be used.
    """
    rows = _parse(path)
    if not rows:
        raise DataError(f"{path} has no rows")
    source, target = _columns(path, rows[0])
    return tuple(
        Example(_cell(path, n, row, source), _cell(path, n, row, target, empty=False)) for n, row in enumerate(rows, 1)
    )


def read_text(path: Path) -> str:
    r"""Return a file's text, every line end as ``\n``.

    Raises:
        DataError: if it is missing, unreadable or not UTF-8.
    """
    return read_verbatim(path).replace("\r\n", "\n").replace("\r", "\n")


def read_verbatim(path: Path) -> str:
    """Return a file's text without its byte order mark, line ends as they are.

    Raises:
        DataError: if it is missing, unreadable or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no path: {error}") from error
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {mark + error.start} cannot be read. Convert it first.") from error


def read_json(path: Path) -> Any:
    """Return a parsed JSON file.

    Raises:
        DataError: as `read_text`, and if it is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def json_lines(path: Path, text: str) -> list[tuple[int, Any]]:
    r"""Return the parsed lines of a JSONL text that are not blank, each with its number from 1.

    Only ``\n`` ends a line: other separators of Unicode may stand within a JSON text.

    Raises:
        DataError: naming the first line that is not JSON.
    """
    parsed = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                parsed.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    return parsed


def demand_whole(text: str, what: str) -> None:
    """Refuse text that no tokenizer can encode.

    Raises:
        DataError: if it holds half a character.
    """
    if HALF_CHARACTER.search(text):
        raise DataError(f"{what} holds half a character (a lone surrogate): repair the text")


def quoted(text: str, most: int = 60) -> str:
    """Return the text in quotes, cut to ``most`` characters."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def _parse(path: Path) -> Sequence[Any]:
    if path.suffix == ".json":
        parsed = read_json(path)
        if not isinstance(parsed, list):
            raise DataError(f"{path} holds a JSON {type(parsed).__name__}: allowed is a list of objects")
        return parsed
    return [row for _, row in json_lines(path, read_text(path))]


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
