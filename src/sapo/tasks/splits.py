"""Which splits of a user's data are trained on, which are tested, and which are not used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sapo.core.errors import DataError, nearest
from sapo.core.types import Split
from sapo.tasks.raw import Raw, Rows

# What a split may be called, by what it is used for.
SPLIT_NAMES: Mapping[str, Split] = MappingProxyType(
    {
        "train": "train", "training": "train",
        "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "eval": "dev", "evaluation": "dev",
        "test": "test", "testing": "test",
    }
)  # fmt: skip
_ADVICE = "name the split with the training rows with train (train: in a configuration, --train)"


def split_word(file: Path) -> str:
    """Return the word for a split that a file's name, or a folder's above it, holds; "" where none does.

    Raises:
        DataError: if it holds words for two splits.
    """
    for part in (file.stem, *reversed(file.parent.parts)):
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_NAMES]
        if len({SPLIT_NAMES[word] for word in words}) > 1:
            raise DataError(f"the name of {file} holds two splits ({' and '.join(words)}): rename it, or give it alone")
        if words:
            return words[0]
    return ""


def assign(data: str, found: Raw, train: str | None, test: str | None, other: Raw | None) -> Raw:
    """Return a data set with its splits by what they are used for: train, and dev and test where there are any.

    ``train`` and ``test`` name splits of it; None recognises them by their names. With ``other``, which are other data
    with the test rows, ``test`` says where those were found.

    Raises:
        DataError: if no split holds the training rows, or a name is not the one of a split.
    """
    for role, name in (("train", train), ("test", test if other is None else None)):
        if name is not None and name not in found.splits:
            no_file = ", and there is no such file" if role == "test" else ""
            raise DataError(
                f"{role}: {data} has no split {name!r}{no_file}.{nearest(name, found.splits)} "
                f"Its splits: {_listed(found.splits)}"
            )
    if other is not None and other.instruction is not None and other.instruction != found.instruction:
        raise DataError(f"test: the Definition of {test} is not the one of {data}: one task has one instruction")
    rows, notes = _by_use(data, found.splits, train, test, elsewhere=other is not None)
    if other is not None:
        named = [name for name in other.splits if SPLIT_NAMES.get(name.lower()) == "test"]
        if len(other.splits) > 1 and len(named) != 1:
            raise DataError(f"test: {test} has the splits {_listed(other.splits)}: give the file with the test rows")
        rows["test"] = other.splits[(named or list(other.splits))[0]]
    notes = (*found.notes, *(other.notes if other is not None else ()), *notes)
    return replace(found, splits=rows, notes=notes)


def _by_use(
    data: str, splits: Mapping[str, Rows], train: str | None, test: str | None, *, elsewhere: bool
) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Return the rows by what they are used for, and what was decided; ``elsewhere``: other data hold the test rows."""
    named: dict[str, Split] = {name: use for name, use in ((train, "train"), (test, "test")) if name in splits}  # type: ignore[misc]
    asked = {*named.values(), *(("test",) if elsewhere else ())}
    taken: dict[Split, str] = {}
    for name in splits:
        split = named.get(name) or SPLIT_NAMES.get(name.lower())
        if split is None or (split in asked and name not in named):
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
