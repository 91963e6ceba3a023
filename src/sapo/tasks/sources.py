"""Where a user's own data are: one file, a directory, or a hub id; and which of their splits are taken."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sapo.core.errors import DataError, nearest
from sapo.core.settings import expanded
from sapo.core.types import Split
from sapo.tasks.raw import Raw, Rows
from sapo.tasks.tables import ENDINGS, read_table

# What a split may be called, by what it is used for.
SPLIT_NAMES: Mapping[str, Split] = MappingProxyType(
    {
        "train": "train", "training": "train",
        "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "eval": "dev", "evaluation": "dev",
        "test": "test", "testing": "test",
    }
)  # fmt: skip
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")
_ADVICE = "name the split or file with the training rows with train (train: in a configuration, --train)"


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of a data set by what they are used for.

    Attributes:
        rows: the training rows, and dev and test rows where there are any.
        instruction: a text that the data set as a whole gives as its instruction.
        alternatives: whether a list of answers holds answers that are all right, as in Natural-Instructions.
        notes: decisions taken for the user, one sentence each.
    """

    rows: Mapping[Split, Rows]
    instruction: str | None
    alternatives: bool
    notes: tuple[str, ...]


def is_data(name: str) -> bool:
    """Return whether a name can only mean a user's own data: a path that exists or looks like one, or a hub id."""
    return (
        name.lower().endswith(ENDINGS)
        or (bool(name) and os.path.exists(name))
        or name.startswith((".", "/", "~"))
        or "/" in name.rstrip("/")
    )


def load_splits(data: str, train: str | None, test: str | None, subset: str | None) -> Splits:
    """Return the splits of a file, directory or hub id.

    Args:
        data: where the data are.
        train: name of the split of ``data`` that holds the training rows; None recognises it by its name.
        test: other data with the test rows, or the name of a split of ``data``.
        subset: configuration name, for a hub id or a directory with several.

    Raises:
        DataError: if there are no data, they cannot be read, or no split holds the training rows.
    """
    raw = _find(data, subset)
    if train is not None and train not in raw.splits:
        raise DataError(
            f"train: {data} has no split {train!r}.{nearest(train, raw.splits)} Its splits: {_listed(raw.splits)}"
        )
    if test is None or test in raw.splits:
        rows, notes = _assign(data, raw.splits, train, test)
        return Splits(rows, raw.instruction, raw.instruction is not None, (*raw.notes, *notes))
    if not is_data(test):
        raise DataError(
            f"test: {data} has no split {test!r}, and there is no such file.{nearest(test, raw.splits)} "
            f"Its splits: {_listed(raw.splits)}"
        )
    other = _find(test, None)
    if other.instruction is not None and other.instruction != raw.instruction:
        raise DataError(f"test: the Definition of {test} is not the one of {data}: one task has one instruction")
    rows, notes = _assign(data, raw.splits, train, None, elsewhere=test)
    tested = _test_rows(test, other.splits)
    notes = (*raw.notes, *other.notes, *notes)
    return Splits({**rows, "test": tested}, raw.instruction, raw.instruction is not None, notes)


def _find(data: str, subset: str | None) -> Raw:
    if not data:
        raise DataError("data: the name is empty. Give a file, a directory, or a hub id owner/name.")
    try:
        path = Path(expanded(data))
    except ValueError as error:
        raise DataError(f"data: {error}") from error
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
    """Return every data file of a directory: each in the split that its name tells, the others named as unused."""
    from sapo.tasks import library

    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return library.saved(path)
    if (path / "instructions.json").is_file():
        raise DataError(f"{path} holds a benchmark (instructions.json): give it as data_dir (--data-dir), with a "
                        "task's name")  # fmt: skip
    try:
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if subset is not None or not files or _is_described(path):
        return library.directory(path, subset)
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_split_of(file.relative_to(path)), []).append(file)
    unnamed = found.pop("", [])
    notes: list[str] = []
    if unnamed and "train" not in {SPLIT_NAMES[name] for name in found}:
        found = {"train": unnamed, **found}
        if len(files) > 1:
            notes.append(f"training rows: {_files(path, unnamed)}")
    elif unnamed:
        notes.append(f"files that are not used, as their names tell no split: {_files(path, unnamed)}")
    _demand_shards(path, found)
    tables = {name: [read_table(file) for file in parts] for name, parts in found.items()}
    definitions = {raw.instruction for parts in tables.values() for raw in parts} - {None}
    if len(definitions) > 1:
        raise DataError(f"{path}: its files hold different Definitions: one task has one instruction")
    splits = {name: [row for raw in parts for row in raw.splits["train"]] for name, parts in tables.items()}
    return Raw(splits, next(iter(definitions), None), tuple(notes))


def _is_described(path: Path) -> bool:
    """Whether a directory's README names its data files, as data sets of the hub do."""
    readme = path / "README.md"
    if not readme.is_file():
        return False
    head = readme.read_text(encoding="utf-8", errors="replace")
    return head.startswith("---") and "data_files" in head.partition("---")[2].partition("\n---")[0]


def _split_of(file: Path) -> str:
    """Return the word for a split that a file's name, or a folder's above it, holds; "" where none does.

    Raises:
        DataError: if it holds words for two splits.
    """
    for part in (file.stem, *reversed(file.parent.parts)):
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_NAMES]
        if len({SPLIT_NAMES[word] for word in words}) > 1:
            raise DataError(
                f"the name of {file} tells two splits ({' and '.join(words)}): give it by itself, or rename it"
            )
        if words:
            return words[0]
    return ""


def _demand_shards(path: Path, found: Mapping[str, list[Path]]) -> None:
    """Refuse one table in two formats, which would count its rows twice."""
    for files in found.values():
        tables: dict[Path, list[Path]] = {}
        for file in files:
            tables.setdefault(file.with_name(_SHARD.sub("", file.stem)), []).append(file)
        for parts in tables.values():
            if len({file.suffix.lower() for file in parts}) > 1:
                raise DataError(
                    f"{path} holds {_files(path, parts)}: one file per split. Remove or rename one of them."
                )


def _assign(
    data: str, splits: Mapping[str, Rows], train: str | None, test: str | None, elsewhere: str | None = None
) -> tuple[dict[Split, Rows], tuple[str, ...]]:
    """Return the splits by what they are used for; ``elsewhere`` are other data with the test rows."""
    taken: dict[Split, str] = {}
    named = {train: "train", test: "test"}
    for name in splits:
        split: Split | None = named.get(name) or SPLIT_NAMES.get(name.lower())  # type: ignore[assignment]
        replaced = (split == "test" and (test is not None or elsewhere is not None) and name != test) or (
            split == "train" and train is not None and name != train
        )
        if split is None or replaced:
            continue
        if split in taken:
            raise DataError(f"{data} has two {split} splits, {taken[split]!r} and {name!r}: remove one of them")
        taken[split] = name
    notes = []
    only = next(iter(splits))
    if len(splits) == 1 and only != test and only.lower() not in SPLIT_NAMES:
        taken = {"train": only}
        notes.append(f"the only split, {only!r}, is taken as training rows")
    if "train" not in taken:
        raise DataError(
            f"{data} has no training rows: its splits are {_listed(splits)}"
            f"{f', and {test!r} is for testing' if test else ''}. Rows for testing are not trained on unless you say "
            f"so: {_ADVICE}"
        )
    if not splits[taken["train"]]:
        raise DataError(f"{data} has no training rows: the split {taken['train']!r} is empty")
    left = [f"{name!r} ({len(splits[name])} rows)" for name in splits if name not in taken.values()]
    if left:
        notes.append(f"splits that are not used: {', '.join(left)}")
    return {split: splits[name] for split, name in taken.items()}, tuple(notes)


def _test_rows(test: str, splits: Mapping[str, Rows]) -> Rows:
    named = [name for name in splits if SPLIT_NAMES.get(name.lower()) == "test"]
    if len(splits) > 1 and len(named) != 1:
        raise DataError(f"test: {test} has the splits {_listed(splits)}: give the file with the test rows")
    return splits[(named or list(splits))[0]]


def _files(path: Path, files: Iterable[Path]) -> str:
    return ", ".join(str(file.relative_to(path)) for file in files)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
