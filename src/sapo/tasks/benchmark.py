"""The layout of the SuperNI and TRACE subsets on which the method was published.

<data_dir>/instructions.json            task -> {instruction, suffix, labels}
<data_dir>/<task>/{train,dev,test}.json [{"sentence": input, "label": answer}, ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapo.core.errors import DataError, nearest
from sapo.core.types import Split, Task
from sapo.tasks.columns import find_columns
from sapo.tasks.files import demand_whole, read_json
from sapo.tasks.rows import read_split
from sapo.tasks.tables import read_table

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def benchmark_names(data_dir: Path) -> tuple[str, ...]:
    """Return the names of a benchmark's tasks, in the order of its instructions.json."""
    return tuple(_index(data_dir))


def benchmark_task(data_dir: Path, name: str) -> Task:
    """Return a task by exact name; ROUGE-L is the primary metric, as published.

    Raises:
        DataError: if the directory has no such task, or its files cannot be used.
    """
    index = _index(data_dir)
    if name not in index:
        raise DataError(f"{data_dir} has no task {name!r}.{nearest(name, index)} It has: {', '.join(index)}")
    entry = index[name]
    if name in (".", "..") or set(name) & set("/\\\0"):
        raise DataError(f"{data_dir / 'instructions.json'}: task {name!r}: a task's name is also a folder's name")
    texts = {key: entry.get(key) for key in ("instruction", "suffix")}
    bad = [key for key, value in texts.items() if not isinstance(value, str)]
    if bad or not texts["instruction"].strip():
        raise DataError(
            f"{data_dir / 'instructions.json'}: task {name!r} has no usable {' and '.join(bad) or 'instruction'}"
        )
    for key, text in texts.items():
        demand_whole(text, f"{data_dir / 'instructions.json'}: the {key} of task {name!r}")
    there = {split: data_dir / name / f"{split}.json" for split in SPLITS}
    # A task without dev rows has no such file; without the others it could not be trained or tested.
    raw = {split: read_table(path) for split, path in there.items() if split != "dev" or path.is_file()}
    columns = find_columns(str(data_dir / name), [one.splits["train"] for one in raw.values()], {})
    read = {split: read_split(split, one.splits["train"], columns) for split, one in raw.items()}
    empty = [split for split, (used, _) in read.items() if not used]
    if empty:
        raise DataError(f"{there[empty[0]]}: no row of it can be used: {read[empty[0]][1][0].reason}")
    rows = {split: tuple(row.example for row in used) for split, (used, _) in read.items()}
    return Task(
        name=name,
        instruction=texts["instruction"].strip(),
        suffix=texts["suffix"].strip(),
        labels=_labels(data_dir, name, entry.get("labels")),
        metric="rouge_l",
        train=rows["train"],
        dev=rows.get("dev", ()),
        test=rows["test"],
        unused=tuple(row for _, unused in read.values() for row in unused),
        notes=columns.unused,
    )


def _labels(data_dir: Path, name: str, labels: Any) -> tuple[str, ...]:
    if labels is not None and not isinstance(labels, list):
        raise DataError(f"{data_dir / 'instructions.json'}: labels of task {name!r} must be a list, not {labels!r}")
    return tuple(str(label) for label in labels or ())


def _index(data_dir: Path) -> dict[str, Any]:
    path = data_dir / "instructions.json"
    if not path.is_file():
        raise DataError(
            f"data_dir {data_dir} has no instructions.json: allowed is a directory with it and the task folders"
        )
    index = read_json(path)
    if not isinstance(index, dict) or not all(isinstance(entry, dict) for entry in index.values()):
        raise DataError(f"{path} must map task names to objects with instruction, suffix and labels")
    return index
