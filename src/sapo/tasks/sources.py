"""Where a user's own data are: one file, a directory, or a hub id; and which of their splits are taken."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sapo.core.errors import DataError, nearest
from sapo.core.types import Split
from sapo.tasks.raw import Raw, Rows
from sapo.tasks.tables import ENDINGS, read_table

# What a split may be called, by what it is used for.
SPLIT_NAMES: Mapping[str, Split] = MappingProxyType(
    {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "val": "dev", "test": "test"}
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of a data set by what they are used for.

    Attributes:
        rows: the training rows, and dev and test rows where there are any.
        instruction: a text that the data set as a whole gives as its instruction.
        notes: decisions taken for the user, one sentence each.
    """

    rows: Mapping[Split, Rows]
    instruction: str | None
    notes: tuple[str, ...]


def is_data(name: str) -> bool:
    """Return whether a name can only mean a user's own data: a path that exists or looks like one, or a hub id."""
    return (
        name.lower().endswith(ENDINGS)
        or (bool(name) and os.path.exists(name))
        or name.startswith((".", "/", "~"))
        or "/" in name.rstrip("/")
    )


def load_splits(data: str, test: str | None, subset: str | None) -> Splits:
    """Return the splits of a file, directory or hub id.

    Args:
        data: where the data are.
        test: other data with the test rows, or the name of a split of ``data``.
        subset: configuration name, for a hub id or a directory with several.

    Raises:
        DataError: if there are no data, they cannot be read, or no split holds the training rows.
    """
    raw = _find(data, subset)
    if test is None or test in raw.splits:
        rows, notes = _assign(data, raw.splits, test)
        return Splits(rows, raw.instruction, notes)
    if not is_data(test):
        raise DataError(
            f"test: {data} has no split {test!r}, and there is no such file.{nearest(test, raw.splits)} "
            f"Its splits: {_listed(raw.splits)}"
        )
    other = _find(test, None)
    if other.instruction is not None and other.instruction != raw.instruction:
        raise DataError(f"test: the Definition of {test} is not the one of {data}: one task has one instruction")
    own = {name: rows for name, rows in raw.splits.items() if SPLIT_NAMES.get(name.lower()) != "test"}
    rows, notes = _assign(data, own or raw.splits, None)
    return Splits({**rows, "test": _test_rows(test, other.splits)}, raw.instruction, notes)


def _find(data: str, subset: str | None) -> Raw:
    if not data:
        raise DataError("data: the name is empty. Give a file, a directory, or a hub id owner/name.")
    path = Path(os.path.expanduser(data))
    if os.path.isdir(path):
        return _directory(path, subset)
    if not os.path.exists(path) and _HUB_ID.fullmatch(data) and not data.lower().endswith(ENDINGS):
        from sapo.tasks.library import hub

        return hub(data, subset)
    if subset is not None:
        raise DataError(f"subset = {subset!r}: {data} is a file, and only hub data sets have subsets. Leave it out.")
    if not os.path.exists(path) and "\0" not in data:
        raise DataError(f"No such file or directory: {data!r}. Allowed: a file ({', '.join(ENDINGS)}), a directory, "
                        "or a hub id owner/name")  # fmt: skip
    return read_table(path)


def _directory(path: Path, subset: str | None) -> Raw:
    from sapo.tasks import library

    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return library.saved(path)
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    files = [file for file in inside if file.suffix.lower() in ENDINGS and file.is_file()]
    named = [file for file in files if file.stem.lower() in SPLIT_NAMES]
    if len(files) == 1 and not any(other.is_dir() for other in inside):
        named = files
    if subset is None and named:
        twice = sorted({a.name for a in named if sum(a.stem == b.stem for b in named) > 1})
        if twice:
            raise DataError(f"{path} holds {' and '.join(twice)}: one file per split. Remove or rename one of them.")
        tables = {file.stem: read_table(file) for file in named}
        definitions = {raw.instruction for raw in tables.values()} - {None}
        if len(definitions) > 1:
            raise DataError(f"{path}: its files hold different Definitions: one task has one instruction")
        return Raw({name: raw.splits["train"] for name, raw in tables.items()}, next(iter(definitions), None))
    if (path / "instructions.json").is_file():
        raise DataError(f"{path} holds a benchmark (instructions.json): give it as data_dir (--data-dir), with a "
                        "task's name")  # fmt: skip
    return library.directory(path, subset)


def _assign(data: str, splits: Mapping[str, Rows], test: str | None) -> tuple[dict[Split, Rows], tuple[str, ...]]:
    taken: dict[Split, str] = {}
    for name in splits:
        split = "test" if name == test else SPLIT_NAMES.get(name.lower())
        if split is None or (split == "test" and test is not None and name != test):
            continue
        if split in taken:
            raise DataError(f"{data} has two {split} splits, {taken[split]!r} and {name!r}: remove one of them")
        taken[split] = name
    notes = []
    only = next(iter(splits))
    if len(splits) == 1 and only != test and "train" not in taken:
        taken = {"train": only}
        notes.append(f"the only split, {only!r}, is taken as training rows")
    if "train" not in taken:
        raise DataError(
            f"{data} has no training rows: its splits are {_listed(splits)}"
            f"{f', and {test!r} is for testing' if test else ''}. Name one of them 'train'."
        )
    if not splits[taken["train"]]:
        raise DataError(f"{data} has no training rows: the split {taken['train']!r} is empty")
    left = [name for name in splits if name not in taken.values()]
    if left:
        notes.append(f"splits that are not used: {_listed(left)}")
    return {split: splits[name] for split, name in taken.items()}, tuple(notes)


def _test_rows(test: str, splits: Mapping[str, Rows]) -> Rows:
    named = [name for name in splits if SPLIT_NAMES.get(name.lower()) == "test"]
    if len(splits) > 1 and len(named) != 1:
        raise DataError(f"test: {test} has the splits {_listed(splits)}: give the file with the test rows")
    return splits[(named or list(splits))[0]]


def _listed(names: Mapping[str, Rows] | list[str]) -> str:
    return ", ".join(map(repr, names))
