"""Where a user's own data are (one file, a directory, or a hub id), what they mean, and the rows that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from sapo.core.errors import DataError, nearest
from sapo.core.settings import Settings, expanded, explained
from sapo.core.types import Split
from sapo.models.text_metrics import TEXT_METRICS
from sapo.tasks import library
from sapo.tasks.files import ENDINGS, Raw, Rows, demand_whole, is_data, named_files
from sapo.tasks.tables import joined, read_table

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")
# What a split may be called, by what it is used for.
_SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        "train": "train", "training": "train",
        "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "eval": "dev", "evaluation": "dev",
        "test": "test", "testing": "test",
    }
)  # fmt: skip
_ADVICE = "name the split with the training rows with train (train: in a configuration, --train)"


def _place(text: str) -> str:
    """Return a path without ~ and environment variables; what exists by this name is meant as it is."""
    return text if os.path.exists(text) else expanded(text)


class DataSource(Settings):
    """Where a task's own data are, and what they mean.

    Attributes:
        data: a file, a directory, or a hub id.
        train: name of the split with the training rows; None recognises it by its name.
        test: another file with the test rows, or the name of a split.
        subset: configuration name of a hub data set.
        instruction: the task's instruction; None takes the one that the data hold, if it is the same everywhere.
        suffix: a fixed sentence about the answer's format, may be empty.
        columns: role (input, answer, instruction, system, history, messages, ignore) -> column, or several for input
            and ignore; roles left out are recognised.
        labels: the closed set of answers, empty for free text; None takes them from the answers, where they are
            few.
        metric: name of the primary metric; None takes one that suits the answers, see `sapo.tasks.labels.metric_of`.
    """

    data: Annotated[str, Field(min_length=1), AfterValidator(_place)]
    train: str | None = None
    test: Annotated[str, AfterValidator(_place)] | None = None
    subset: str | None = None
    instruction: str | None = None
    suffix: str = ""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    metric: str | None = None


def own_source(given: Mapping[str, Any]) -> DataSource:
    """Return where own data are and what they mean."""
    try:
        return DataSource.model_validate(given)
    except ValidationError as error:
        raise DataError(f"{given['data']}: {explained(DataSource, error.errors()[0])}") from error


def own_splits(source: DataSource) -> Raw:
    """Return the rows of a user's own data by what they are used for: train, and dev and test where there are any."""
    data, train, test = source.data, source.train, source.test
    found = _find(data, source.subset)
    other = _find(test, None) if test is not None and test not in found.splits and is_data(test) else None
    for role, name in (("train", train), ("test", test if other is None else None)):
        if name is not None and name not in found.splits:
            no_file = ", and there is no such file" if role == "test" else ""
            raise DataError(
                f"{role}: {data} has no split {name!r}{no_file}.{nearest(name, found.splits)} "
                f"Its splits: {_listed(found.splits)}"
            )
    if other is None:
        rows, notes = _by_use(data, found.splits, train, test)
        return replace(found, splits=rows, notes=(*found.notes, *notes))
    if other.instruction is not None and other.instruction != found.instruction:
        raise DataError(f"test: the Definition of {test} is not the one of {data}: one task has one instruction")
    rows, notes = _by_use(data, found.splits, train, None, elsewhere=True)
    named = [name for name in other.splits if _SPLITS.get(name.lower()) == "test"]
    if len(other.splits) > 1 and len(named) != 1:
        raise DataError(f"test: {test} has the splits {_listed(other.splits)}: give the file with the test rows")
    rows["test"] = other.splits[(named or list(other.splits))[0]]
    return replace(found, splits=rows, notes=(*found.notes, *other.notes, *notes))


def demand_settings(source: DataSource) -> None:
    """Refuse settings that no data could be read with."""
    if source.instruction is not None and not source.instruction.strip():
        raise DataError(f"{source.data}: the instruction given is empty: give a text, or leave it out")
    if source.metric is not None and source.metric not in TEXT_METRICS:
        raise DataError(
            f"{source.data}: metric: there is no {source.metric!r}.{nearest(source.metric, TEXT_METRICS)} "
            f"Allowed: {', '.join(TEXT_METRICS)}"
        )
    labels = source.labels or ()
    for label in labels:
        if not label.strip() or labels.count(label) > 1:
            raise DataError(f"labels: {label!r} {'occurs twice' if label.strip() else 'is empty'}. Leave it out.")
    for what, text in (
        ("instruction", source.instruction or ""),
        ("suffix", source.suffix),
        ("labels", "".join(labels)),
    ):
        demand_whole(text, f"the {what}")


def _find(data: str, subset: str | None) -> Raw:
    """Return what a file, a directory or a hub id holds."""
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
        found.setdefault(_split_word(file.relative_to(path)), []).append(file)
    unnamed = found.pop("", [])
    notes = [f"files that are not read, as they end otherwise: {named_files(path, others)}"] if others else []
    if unnamed and "train" not in {_SPLITS[name] for name in found}:
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
                raise DataError(f"{path} holds {named_files(path, parts)}: one file per split. Remove or rename one.")


def _split_word(file: Path) -> str:
    """Return the word for a split that a file's name, or a folder's above it, holds; "" where none does."""
    for part in (file.stem, *reversed(file.parent.parts)):
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in _SPLITS]
        if len({_SPLITS[word] for word in words}) > 1:
            raise DataError(f"the name of {file} holds two splits ({' and '.join(words)}): rename it, or give it alone")
        if words:
            return words[0]
    return ""


def _by_use(
    data: str, splits: Mapping[str, Rows], train: str | None, test: str | None, *, elsewhere: bool = False
) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Return the rows by what they are used for, and what was decided; ``elsewhere``: other data hold the test rows."""
    named: dict[str, Split] = {name: use for name, use in ((train, "train"), (test, "test")) if name in splits}  # type: ignore[misc]
    asked = {*named.values(), *(("test",) if elsewhere else ())}
    taken: dict[Split, str] = {}
    for name in splits:
        split = named.get(name) or _SPLITS.get(name.lower())
        if split is None or (split in asked and name not in named):
            continue
        if split in taken:
            raise DataError(f"{data} has two {split} splits, {taken[split]!r} and {name!r}: remove one of them")
        taken[split] = name
    notes = []
    only = next(iter(splits))
    if len(splits) == 1 and only != test and only.lower() not in _SPLITS:
        taken = {"train": only}
        notes.append(f"the only split, {only!r}, is taken as training rows")
    if "train" not in taken:
        tested = f", and {test!r} is for testing" if test in splits else ""
        raise DataError(
            f"{data} has no training rows: its splits are {_listed(splits)}{tested}. Rows for testing are not trained "
            f"on unless you say so: {_ADVICE}"
        )
    if not splits[taken["train"]]:
        raise DataError(f"{data} has no training rows: the split {taken['train']!r} is empty")
    notes += [f"the split {name!r} is empty" for name in taken.values() if not splits[name]]
    left = [f"{name!r} ({len(splits[name])} rows)" for name in splits if name not in taken.values()]
    if left:
        notes.append(f"splits that are not used: {', '.join(left)}")
    return {split: splits[name] for split, name in taken.items()}, tuple(notes)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
