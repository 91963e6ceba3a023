"""Data sets through the datasets library: saved by it, directories that it reads, and hub ids.

The library is imported inside functions: it takes longer to load than most files take to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sapo.core.errors import DataError
from sapo.tasks.files import ENDINGS, Raw, named_files, quoted
from sapo.tasks.tables import arrow_table, joined, read_table, with_class_names

# Characters of the library's own message that are passed on.
_SHOWN = 400
# What a description says of a data set besides how its files are read.
_PLACE = frozenset({"name", "version", "data_dir", "data_files", "description", "features"})


def saved(path: Path) -> Raw:
    """Return what ``save_to_disk`` of the datasets library wrote."""
    from datasets import load_from_disk

    return _load(str(path), lambda: load_from_disk(str(path)), "Save it again, or give its rows as a file.")


def is_described(path: Path) -> bool:
    """Return whether a directory's README tells its data files or classes, as data sets of the hub do."""
    readme = path / "README.md"
    if not readme.is_file():
        return False
    head = readme.read_text(encoding="utf-8", errors="replace")
    told = head.partition("---")[2].partition("\n---")[0] if head.startswith("---") else ""
    return "data_files" in told or "class_label" in told


def directory(path: Path, subset: str | None, files: Sequence[Path]) -> Raw:
    """Return what ``datasets.load_dataset`` finds in a directory; those of its data files that it leaves are named."""
    advice = f"Allowed: files named train, validation and test, ending in {', '.join(ENDINGS)}; or give one file."
    found, read = _resolved(str(path), str(path.absolute()), subset, advice)
    taken = {Path(address).resolve() for address in read}
    left = [file for file in files if file.resolve() not in taken]
    if not taken or not left:
        return found
    note = f"files that are not used, as the directory's description does not name them: {named_files(path, left)}"
    return replace(found, notes=(*found.notes, note))


def hub(name: str, subset: str | None) -> Raw:
    """Return a data set of the hub; code that a data set brings along is never run."""
    advice = (
        "There is no such file or directory here either. Without a network, download it where there is one "
        f"(hf download {name} --repo-type dataset --local-dir DIR) and give the directory, or give a file."
    )
    return _resolved(f"{name} (hub)", name, subset, advice)[0]


def in_memory(where: str, data: Any) -> Raw:
    """Return rows of a list, a `datasets.Dataset`, an IterableDataset or a pandas DataFrame, spelled as from a file."""
    from datasets import Dataset, IterableDataset
    from pandas import DataFrame

    if isinstance(data, (list, tuple)):
        for number, row in enumerate(data, start=1):
            if not isinstance(row, Mapping):
                raise DataError(f"row {number}: {quoted(row)} instead of columns: give one split of a data set")
        if not data:
            raise DataError("the data set has no rows")
        return Raw({"train": [{str(key): _plain(value) for key, value in row.items()} for row in data]})
    if not isinstance(data, (Dataset, DataFrame, IterableDataset)):
        raise DataError(
            f"rows in a {type(data).__name__}: allowed are one split of a Dataset, a DataFrame or a list of rows"
        )

    def table() -> Any:
        if isinstance(data, DataFrame):
            return Dataset.from_pandas(data, preserve_index=False)
        # Its features hold the names of classes.
        if isinstance(data, Dataset):
            return data
        rows = list(data)
        return Dataset.from_list(rows, features=data.features if rows else None)

    return _load(where, table, "Give rows with texts, all values of a column of one kind.")


def _plain(value: Any) -> Any:
    """Return a value of numpy or pandas as one of Python: a float as the shortest decimal of its own width."""
    from pandas import NA, NaT, Timestamp

    if isinstance(value, np.datetime64):
        value = Timestamp(value)
    if value is NA or value is NaT or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(member) for member in value]
    if isinstance(value, np.floating):
        return float(str(value))
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _resolved(where: str, name: str, subset: str | None, advice: str) -> tuple[Raw, frozenset[str]]:
    """Return what the library finds and the addresses of the files, read here where it would guess values' types."""
    from datasets import DownloadManager, load_dataset, load_dataset_builder
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    with _quiet(), _explained(where, advice):
        builder = load_dataset_builder(name, subset)
        found = builder.config.data_files or {}
        urls = {str(split): [str(url) for url in files] for split, files in found.items()}
        endings = {split: [_ending(url) for url in files] for split, files in urls.items()}
        kinds = {ending for there in endings.values() for ending in there}
        plain = (
            isinstance(builder, (Csv, Json, Parquet)) and kinds <= {*ENDINGS} and not _options(builder.config, kinds)
        )
        manager = DownloadManager()
        paths = {split: manager.download_and_extract(files) for split, files in found.items()} if plain else {}
    read = frozenset(url for files in urls.values() for url in files)
    if not paths:
        loaded = _load(where, lambda: load_dataset(name, subset), advice)
        if isinstance(builder, (Csv, Json, Parquet)) and (told := _options(builder.config, kinds)):
            note = f"read by datasets, as the description sets {', '.join(told)}: it decides what is a number"
            loaded = replace(loaded, notes=(*loaded.notes, note))
        return loaded, read
    tables = {
        str(split): [read_table(Path(path), ending) for path, ending in zip(there, endings[str(split)], strict=True)]
        for split, there in paths.items()
    }
    # What a description says of classes stands in no file.
    declared = {} if builder.info.features is None else builder.info.features.to_dict()
    return with_class_names(joined(where, tables), declared), read


def _options(config: Any, endings: Collection[str]) -> tuple[str, ...]:
    """Return how a description asks for its files to be read, where that is not the usual way."""
    usual = {**vars(type(config)()), **({"sep": "\t"} if {*endings} == {".tsv"} else {})}
    return tuple(sorted(key for key, value in vars(config).items() if key not in _PLACE and value != usual.get(key)))


def _ending(url: str) -> str:
    return PurePosixPath(url.lower().removesuffix(".gz")).suffix


def _load(where: str, load: Callable[[], Any], advice: str) -> Raw:
    from datasets import Dataset

    with _quiet(), _explained(where, advice):
        loaded = load()
        parts = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
        # As Arrow: decoding would ask for image and audio packages, even for columns that nobody reads.
        tables = {str(name): part.with_format("arrow")[:] for name, part in parts.items()}
    if not any(part.num_rows for part in parts.values()):
        raise DataError(f"{where} has no rows. {advice}")
    return joined(
        where, {name: [arrow_table(where, table, parts[name].features.to_dict())] for name, table in tables.items()}
    )


@contextmanager
def _explained(where: str, advice: str) -> Iterator[None]:
    try:
        yield
    # What is raised here comes from readers, YAML and HTTP packages that change from version to version, and for a
    # damaged description file also as KeyError, TypeError or AttributeError.
    except Exception as error:
        raise DataError(f"{where} cannot be loaded: {_message(error)}. {advice}") from error


def _message(error: Exception) -> str:
    # The library wraps a reader's error in one that says only that there was one.
    text = f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
    line = " ".join(text.split()).rstrip(".") or type(error).__name__
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars and log lines off the terminal; what goes wrong is said in our error."""
    import datasets
    from huggingface_hub import utils

    barred = [library for library in (datasets, utils) if not library.are_progress_bars_disabled()]
    levels = {logger: logger.level for logger in map(logging.getLogger, ("datasets", "huggingface_hub"))}
    for library in barred:
        library.disable_progress_bars()
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        for library in barred:
            library.enable_progress_bars()
