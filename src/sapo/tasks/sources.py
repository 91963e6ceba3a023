"""Where a user's own data are: one file, a directory, or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sapo.core.errors import DataError
from sapo.tasks import library
from sapo.tasks.files import ENDINGS, named_files
from sapo.tasks.raw import Raw
from sapo.tasks.splits import SPLIT_NAMES, split_word
from sapo.tasks.tables import joined, read_table

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")


def find(data: str, subset: str | None) -> Raw:
    """Return what a file, a directory or a hub id holds.

    Args:
        data: where the data are.
        subset: configuration name, for a hub id or a directory with several.

    Raises:
        DataError: if there are no data, or they cannot be read.
    """
    path = Path(data)
    if os.path.isdir(path):
        return _directory(path, subset)
    if not os.path.exists(path) and _HUB_ID.fullmatch(data) and not data.lower().endswith(ENDINGS):
        return library.hub(data, subset)
    if subset is not None:
        raise DataError(f"subset = {subset!r}: {data} is a file, and only hub data sets have subsets. Leave it out.")
    if not os.path.exists(path):
        raise DataError(f"No such file or directory: {data!r}. Allowed: a file ({', '.join(ENDINGS)}), a directory, "
                        "or a hub id owner/name")  # fmt: skip
    return read_table(path)


def _directory(path: Path, subset: str | None) -> Raw:
    """Return every data file of a directory: each in the split that its name tells, the others named as unused."""
    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return library.saved(path)
    if (path / "instructions.json").is_file():
        raise DataError(f"{path} holds a benchmark (instructions.json): give it as data_dir (--data-dir), with a "
                        "task's name")  # fmt: skip
    try:
        there = sorted(file for file in path.rglob("*") if file.is_file())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    there = [file for file in there if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    files = [file for file in there if file.suffix.lower() in ENDINGS]
    others = [file for file in there if file.suffix.lower() not in (*ENDINGS, ".md")]
    if subset is not None or not files or library.is_described(path):
        return library.directory(path, subset, files)
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_word(file.relative_to(path)), []).append(file)
    unnamed = found.pop("", [])
    notes = [f"files that are not read, as they end otherwise: {named_files(path, others)}"] if others else []
    if unnamed and "train" not in {SPLIT_NAMES[name] for name in found}:
        found = {"train": unnamed, **found}
        if len(files) > 1:
            notes.append(f"training rows: {named_files(path, unnamed)}")
    elif unnamed:
        notes.append(f"files that are not used, as their names tell no split: {named_files(path, unnamed)}")
    _demand_shards(path, found)
    return joined(
        str(path), {name: [read_table(file) for file in parts] for name, parts in found.items()}, tuple(notes)
    )


def _demand_shards(path: Path, found: Mapping[str, list[Path]]) -> None:
    """Refuse one table in two formats, which would count its rows twice."""
    for files in found.values():
        tables: dict[Path, list[Path]] = {}
        for file in files:
            tables.setdefault(file.with_name(_SHARD.sub("", file.stem)), []).append(file)
        for parts in tables.values():
            if len({file.suffix.lower() for file in parts}) > 1:
                raise DataError(
                    f"{path} holds {named_files(path, parts)}: one file per split. Remove or rename one of them."
                )
