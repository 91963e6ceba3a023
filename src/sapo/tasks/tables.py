"""Rows of one file: JSONL, JSON, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sapo.core.errors import DataError
from sapo.tasks.files import (
    ENDINGS,
    Broken,
    Number,
    Raw,
    Rows,
    json_lines,
    kind_of,
    parse_json,
    read_text,
    read_verbatim,
)


def read_table(path: Path, ending: str | None = None) -> Raw:
    """Return the rows of a file as the split "train"; rows of a table that do not fit its header are `Broken`.

    ``ending`` tells the kind of a file whose name does not.
    """
    reader = _READERS.get(ending or path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: the ending {path.suffix!r} is not known. Allowed: {', '.join(ENDINGS)}, a directory with such "
            "files, or a hub id owner/name. Convert or rename the file."
        )
    raw = reader(path)
    if not raw.splits["train"]:
        raise DataError(f"{path} has no rows")
    return raw


def joined(where: str, tables: Mapping[str, Sequence[Raw]], notes: tuple[str, ...] = ()) -> Raw:
    """Return the files of each split, one behind the other, as one data set."""
    every = [raw for parts in tables.values() for raw in parts]
    definitions = {raw.instruction for raw in every} - {None}
    if len(definitions) > 1:
        raise DataError(f"{where}: its files hold different Definitions: one task has one instruction")
    classes: dict[str, tuple[str, ...]] = {}
    for raw in every:
        for column, names in raw.classes.items():
            classes[column] = tuple(dict.fromkeys((*classes.get(column, ()), *names)))
    splits = {name: [row for raw in parts for row in raw.splits["train"]] for name, parts in tables.items()}
    alternatives = all(raw.alternatives for raw in every)
    return Raw(splits, next(iter(definitions), None), classes, notes, alternatives)


def arrow_table(where: str, table: Any, features: Mapping[str, Any]) -> Raw:
    """Return the rows of a `pyarrow.Table` as the split "train", with the names of their classes.

    ``features`` are those of the datasets library by column, in their JSON form.
    """
    from pyarrow import ArrowException

    _demand_distinct(where, table.column_names)
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        try:
            columns[name] = [_spelled(value, table[name].type) for value in table[name].to_pylist()]
        except (ArrowException, ValueError, OverflowError) as error:
            # Python holds no year beyond 9999.
            raise DataError(
                f"{where}: a value of column {name!r} cannot be read ({error}): leave the column out"
            ) from error
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return with_class_names(Raw({"train": rows}), features)


def with_class_names(raw: Raw, features: Mapping[str, Any]) -> Raw:
    """Return the data with names in place of the numbers of classes; a number without a name, such as -1, is missing.

    Columns whose classes are known already stay as they are.
    """
    known = {column: _class_names(feature) for column, feature in features.items() if column not in raw.classes}
    kinds = {column: names for column, names in known.items() if names}
    if not kinds:
        return raw
    every = [row for rows in raw.splits.values() for row in rows if not isinstance(row, Broken)]
    # As a whole: the number of one class may be the name of another.
    numbered = {column for column, names in kinds.items() if not all(_is_named(r.get(column), names) for r in every)}

    def named(row: dict[str, Any] | Broken) -> dict[str, Any] | Broken:
        if isinstance(row, Broken):
            return row
        return {key: _class_name(cell, kinds[key]) if key in numbered else cell for key, cell in row.items()}

    splits = {split: list(map(named, rows)) for split, rows in raw.splits.items()}
    # An answer of a list of classes may be several names: those are not labels.
    single = {column: names for column, names in kinds.items() if "names" in features[column]}
    return replace(raw, splits=splits, classes={**raw.classes, **single})


def _json(path: Path) -> Raw:
    text = read_text(path)
    try:
        parsed = parse_json(text)
    except (ValueError, RecursionError) as error:
        # Many data sets name JSONL files .json: a second object follows the first one.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _lines(path)
        raise DataError(f"{path} is not JSON: {error}" if text.strip() else f"{path} has no rows") from error
    definition, alternatives = None, False
    if isinstance(parsed, dict) and isinstance(parsed.get("Instances"), list):
        value = parsed.get("Definition")
        parts = value if isinstance(value, list) else [] if value is None else [value]
        if any(kind_of(part) != "a text" for part in parts):
            raise DataError(f"{path}: the Definition must be a text or a list of texts, not {kind_of(value)}")
        definition, parsed, alternatives = "\n".join(parts) or None, parsed["Instances"], True
    if not isinstance(parsed, list):
        raise DataError(
            f"{path} holds {kind_of(parsed)}: allowed is a list of objects, or a task of "
            "Natural-Instructions with Definition and Instances"
        )
    rows = _objects(path, "row", enumerate(parsed, start=1))
    return Raw({"train": rows}, definition, alternatives=alternatives)


def _lines(path: Path) -> Raw:
    return Raw({"train": _objects(path, "line", json_lines(path, read_text(path)))})


def _objects(path: Path, unit: str, numbered: Iterable[tuple[int, Any]]) -> Rows:
    rows = []
    for number, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{path}, {unit} {number} is {kind_of(row)}: allowed is an object, column: value")
        rows.append(row)
    return rows


def _comma_separated(path: Path) -> Raw:
    text = read_verbatim(path)
    header = text.lstrip().partition("\n")[0]
    # Spreadsheets of many countries write semicolons; with commas such a file would have one column.
    other = [mark for mark in ";\t" if mark in header and "," not in header]
    return _with_header(path, _cells(path, text, other[0] if other else ","))


def _tab_separated(path: Path) -> Raw:
    """Return the rows of a file with one row a line, if that fits: a quote inside a cell is then only a character.

    A cell that begins and ends with a quote, and whose quotes within are doubled, is taken out of them.
    """
    text = read_verbatim(path)
    lines = [line.split("\t") for line in read_text(path).split("\n") if line.strip()]
    found = [[_unquoted(cell) for cell in cells] for cells in lines]
    if any(len(cells) != len(found[0]) for cells in found) and '"' in text:
        # A cell in quotes may go over several lines, as spreadsheets write them: then all rows fit. Else a stray quote
        # would join rows.
        with suppress(DataError):
            quoted = _cells(path, text, "\t")
            if all(len(cells) == len(quoted[0]) for cells in quoted):
                found = quoted
    return _with_header(path, found)


def _unquoted(cell: str) -> str:
    inside = cell[1:-1]
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if quoted else cell


def _cells(path: Path, text: str, delimiter: str) -> list[list[str]]:
    """Return the cells of the lines that are not empty."""
    # No cell is longer than the file; the limit is the whole process's, so it is put back.
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # Strict: otherwise one quote too few silently swallows all rows behind it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [cells for cells in reader if cells]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. A cell that holds a quote is itself in quotes, and each quote "
            'in it is doubled: "say ""yes"""'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _with_header(path: Path, lines: list[list[str]]) -> Raw:
    """Return the rows below a header; a column without a name, as pandas writes for its index, is called by its place.

    A row is broken where cells beyond the header hold something.
    """
    if not lines:
        raise DataError(f"{path} has no rows: its first line names the columns, the rows follow")
    header = [name.strip() or f"column {place}" for place, name in enumerate(lines[0], start=1)]
    _demand_distinct(str(path), header)
    rows = list[Any]()
    for cells in lines[1:]:
        if any(cells[len(header) :]):
            rows.append(Broken(f"it has {len(cells)} cells where the header has {len(header)}"))
        else:
            rows.append(dict(zip(header, cells, strict=False)))
    return Raw({"train": rows})


def _demand_distinct(where: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} has two columns named {twice[0]!r}: rename one of them")


def _parquet(path: Path) -> Raw:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        # Not read_table: it would add columns from folder names such as "year=2024".
        with ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        why = "No such file" if isinstance(error, FileNotFoundError) else f"it is not a readable Parquet file: {error}"
        raise DataError(f"{path}: {why}") from error
    return arrow_table(str(path), table, _written_features(table.schema.metadata))


def _written_features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """Return the features that the datasets library writes into its Parquet files, or none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...]:
    """Return the names of a ClassLabel feature, also within a list of them; () for any other."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if len(feature) == 1 else ()
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return tuple(map(str, feature["names"]))
    return _class_names(feature.get("feature"))


def _is_named(value: Any, names: tuple[str, ...]) -> bool:
    """Whether a cell without value, or with the name of a class; separated files have no numbers, only texts."""
    if isinstance(value, list):
        return all(_is_named(member, names) for member in value)
    return not value or (value in names and not isinstance(value, Number))


def _class_name(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_class_name(member, names) for member in value]
    if not isinstance(value, str) or not value.removeprefix("-").isdecimal():
        return value
    return names[int(value)] if 0 <= int(value) < len(names) else None


def _spelled(value: Any, kind: Any) -> Any:
    """Return a cell of an Arrow column with its numbers as the shortest text that means them: float32 3.8 is 3.8."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_dictionary(kind):
        return _spelled(value, kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_spelled(member, kind.value_type) for member in value]
    if types.is_struct(kind):
        return {name: _spelled(member, kind.field(name).type) for name, member in value.items()}
    if types.is_floating(kind):
        # The shortest decimal of the column's own width, spelled as everywhere: 16777216.0, not 1.6777216e+07.
        return Number(float(str(np.dtype(kind.to_pandas_dtype()).type(value))))
    if types.is_decimal(kind):
        return Number(format(value.normalize(), "f"))
    return Number(value) if types.is_integer(kind) else value


_READERS: Mapping[str, Callable[[Path], Raw]] = MappingProxyType(
    dict(zip(ENDINGS, (_lines, _json, _comma_separated, _tab_separated, _parquet), strict=True))
)
