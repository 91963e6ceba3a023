"""The layout of the SuperNI and TRACE subsets on which the method was published.

<data_dir>/instructions.json            task -> {instruction, suffix, labels}
<data_dir>/<task>/{train,dev,test}.json [{"sentence": input, "label": answer}, ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapo.core.errors import DataError, nearest
from sapo.core.types import Task
from sapo.tasks.files import demand_whole, read_json, read_rows


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
    folder = data_dir / name
    dev = folder / "dev.json"
    return Task(
        name=name,
        instruction=texts["instruction"],
        suffix=texts["suffix"],
        labels=_labels(data_dir, name, entry.get("labels")),
        metric="rouge_l",
        train=read_rows(folder / "train.json"),
        dev=read_rows(dev) if dev.is_file() else (),
        test=read_rows(folder / "test.json"),
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
