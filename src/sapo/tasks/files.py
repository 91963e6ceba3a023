"""Data as they are found, before it is known which columns matter; reading text and JSON, numbers as spelled."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapo.core.errors import DataError

# The kinds of data files that are read.
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
# Characters of a value that a message shows.
_QUOTED = 60
# Files that one note names.
_NAMED = 10
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Number(str):
    """A number as its file spells it: 1.10 stays 1.10."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands for a row that could not be read; the reason is one clause."""

    reason: str


Rows = Sequence[dict[str, Any] | Broken]


@dataclass(frozen=True, slots=True)
class Raw:
    """A data set before its columns are known.

    Attributes:
        splits: rows by the split's own name, in the order found; later by what they are used for.
        instruction: a text that the data set as a whole gives as its instruction.
        classes: column -> the names of its classes, where the data declare them.
        notes: what was decided about its files, one sentence each.
        alternatives: whether a list of answers holds answers that are all right, as in Natural-Instructions.
    """

    splits: Mapping[str, Rows]
    instruction: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alternatives: bool = False


def is_data(name: str) -> bool:
    """Return whether a name can only mean a user's own data: a path that exists or looks like one, or a hub id."""
    return (
        name.lower().endswith(ENDINGS)
        or (bool(name) and os.path.exists(name))
        or name.startswith((".", "/", "~"))
        or "/" in name.rstrip("/")
    )


def named_files(folder: Path, files: Sequence[Path]) -> str:
    """Return the first files by their place in a folder, and how many more there are."""
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(str(file.relative_to(folder)) for file in files[:_NAMED]) + more


def kind_of(value: Any) -> str:
    """Return what a parsed value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "a number" if isinstance(value, Number) else kinds.get(type(value), type(value).__name__)


def parse_json(text: str) -> Any:
    """Return parsed JSON whose numbers are `Number`.

    Raises:
        ValueError, RecursionError: if it is not JSON, or an object has one key twice, of which one would be lost.
    """
    return json.loads(
        text, parse_int=Number, parse_float=Number, parse_constant=Number, object_pairs_hook=_of_distinct_keys
    )


def _of_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def read_text(path: Path) -> str:
    r"""Return a file's text, every line end as ``\n``; errors as in `read_verbatim`."""
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
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {mark + error.start} cannot be read. Convert it first.") from error


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
                parsed.append((number, parse_json(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    return parsed


def demand_whole(text: str, what: str) -> None:
    """Refuse text with half a character, which no tokenizer can encode."""
    if HALF_CHARACTER.search(text):
        raise DataError(f"{what} holds half a character (a lone surrogate): repair the text")


def quoted(value: Any) -> str:
    """Return a value as a message shows it: a text in quotes, both cut to 60 characters."""
    shown = value if isinstance(value, str) else repr(value)
    short = shown if len(shown) <= _QUOTED else shown[: _QUOTED - 3] + "..."
    return repr(short) if isinstance(value, str) else short
