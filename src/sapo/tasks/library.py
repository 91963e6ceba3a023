"""Data sets through the datasets library: saved by it, directories that it reads, and hub ids.

The library is imported inside functions: it takes longer to load than most files take to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sapo.core.errors import DataError
from sapo.tasks.raw import Raw
from sapo.tasks.tables import ENDINGS, arrow_rows, read_table

# Characters of the library's own message that are passed on.
_SHOWN = 400


def saved(path: Path) -> Raw:
    """Return what ``save_to_disk`` of the datasets library wrote.

    Raises:
        DataError: if it cannot be read.
    """
    from datasets import load_from_disk

    return _load(str(path), lambda: load_from_disk(str(path)), "Save it again, or give its rows as a file.")


def directory(path: Path, subset: str | None) -> Raw:
    """Return what ``datasets.load_dataset`` finds in a directory.

    Raises:
        DataError: if it finds no data, or cannot read them.
    """
    advice = f"Allowed: files named train, validation and test, ending in {', '.join(ENDINGS)}; or give one file."
    return _resolved(str(path), str(path.absolute()), subset, advice)


def hub(name: str, subset: str | None) -> Raw:
    """Return a data set of the hub; code that a data set brings along is never run.

    Raises:
        DataError: if there is none of this name, or the hub cannot be reached.
    """
    advice = (
        "There is no such file or directory here either. Without a network, download it where there is one "
        f"(hf download {name} --repo-type dataset --local-dir DIR) and give the directory, or give a file."
    )
    return _resolved(f"{name} (hub)", name, subset, advice)


def _resolved(where: str, name: str, subset: str | None, advice: str) -> Raw:
    """Return the files that the library finds, read here where it would only guess the types of their values."""
    from datasets import DownloadManager, load_dataset, load_dataset_builder
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    with _quiet(), _explained(where, advice):
        builder = load_dataset_builder(name, subset)
        found = builder.config.data_files
        # Class names that a data set declares stand in no file.
        named = "ClassLabel" in repr(builder.info.features)
        plain = isinstance(builder, (Csv, Json)) and not named and bool(found)
        urls = {str(split): [str(url) for url in files] for split, files in found.items()} if plain else {}
        paths = {split: [Path(path) for path in DownloadManager().download(files)] for split, files in urls.items()}
    endings = {split: [PurePosixPath(url).suffix.lower() for url in files] for split, files in urls.items()}
    if not plain or any(ending not in ENDINGS for files in endings.values() for ending in files):
        return _load(where, lambda: load_dataset(name, subset), advice)
    return Raw(
        {
            split: [
                row
                for path, ending in zip(files, endings[split], strict=True)
                for row in read_table(path, ending).splits["train"]
            ]
            for split, files in paths.items()
        }
    )


def _load(where: str, load: Callable[[], Any], advice: str) -> Raw:
    from datasets import Dataset

    with _quiet(), _explained(where, advice):
        loaded = load()
        parts = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
        # As Arrow: decoding would ask for image and audio packages, even for columns that nobody reads.
        tables = {str(name): part.with_format("arrow")[:] for name, part in parts.items()}
    if not any(part.num_rows for part in parts.values()):
        raise DataError(f"{where} has no rows. {advice}")
    return Raw({name: arrow_rows(where, table, parts[name].features.to_dict()) for name, table in tables.items()})


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
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not datasets.are_progress_bars_disabled()
    hub_bars = not are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    if bars:
        datasets.disable_progress_bars()
    if hub_bars:
        disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            enable_progress_bars()
