"""Where a user's own data are (one file, a directory, or a hub id), what they mean, and the rows that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from sapo.core.errors import DataError, nearest
from sapo.core.settings import Settings, expanded, explained
from sapo.models.text_metrics import TEXT_METRICS
from sapo.tasks import library
from sapo.tasks.files import ENDINGS, demand_whole, is_data, named_files
from sapo.tasks.raw import Raw
from sapo.tasks.splits import SPLIT_NAMES, assign, split_word
from sapo.tasks.tables import joined, read_table

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")


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
    """Return where own data are and what they mean.

    Raises:
        DataError: naming the setting that is not allowed.
    """
    try:
        return DataSource.model_validate(given)
    except ValidationError as error:
        raise DataError(f"{given['data']}: {explained(DataSource, error.errors()[0])}") from error


def own_splits(source: DataSource) -> Raw:
    """Return the rows of a user's own data by what they are used for.

    Raises:
        DataError: if the data cannot be read or hold no training rows.
    """
    found, test = _find(source.data, source.subset), source.test
    other = _find(test, None) if test is not None and test not in found.splits and is_data(test) else None
    return assign(source.data, found, source.train, test, other)


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
                raise DataError(f"{path} holds {named_files(path, parts)}: one file per split. Remove or rename one.")
