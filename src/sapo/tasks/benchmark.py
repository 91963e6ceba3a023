"""The layout of the SuperNI and TRACE subsets on which the method was published.

<data_dir>/instructions.json            task -> {instruction, suffix, labels}
<data_dir>/<task>/{train,dev,test}.json [{"sentence": input, "label": answer}, ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapo.core.errors import DataError, nearest
from sapo.tasks.files import Raw, parse_json, read_text
from sapo.tasks.own import DataSource, own_source
from sapo.tasks.tables import read_table


def benchmark_names(data_dir: Path) -> tuple[str, ...]:
    """Return the names of a benchmark's tasks, in the order of its instructions.json."""
    return tuple(_index(data_dir))


def benchmark_source(data_dir: Path, name: str) -> tuple[DataSource, Raw]:
    """Return what a benchmark says of a task by exact name, and its rows; ROUGE-L is the metric, as published."""
    index = _index(data_dir)
    if name not in index:
        raise DataError(f"{data_dir} has no task {name!r}.{nearest(name, index)} It has: {', '.join(index)}")
    entry = index[name]
    if name in (".", "..") or set(name) & set("/\\\0"):
        raise DataError(f"{data_dir / 'instructions.json'}: task {name!r}: a task's name is also a folder's name")
    there = {split: data_dir / name / f"{split}.json" for split in ("train", "dev", "test")}
    # A task without dev rows has no such file; without the others it could not be trained or tested.
    rows = {
        split: read_table(path).splits["train"] for split, path in there.items() if split != "dev" or path.is_file()
    }
    documented = all(isinstance(row, dict) and row.keys() >= {"sentence", "label"} for row in rows["train"])
    columns = {"input": "sentence", "answer": "label"} if documented else {}
    if unknown := sorted(entry.keys() - {"instruction", "suffix", "labels"}):
        raise DataError(
            f"{data_dir / 'instructions.json'}: task {name!r}: {unknown[0]} is no key of a benchmark's task. Allowed: "
            "instruction, suffix, labels; for others give the task as your own data"
        )
    texts = {"instruction": None, "suffix": None, **entry, "labels": entry.get("labels") or ()}
    place = {"data": str(data_dir / name), "test": str(there["test"])}
    return own_source({**place, "columns": columns, "metric": "rouge_l", **texts}), Raw(rows)


def _index(data_dir: Path) -> dict[str, Any]:
    path = data_dir / "instructions.json"
    if not path.is_file():
        raise DataError(f"data_dir {data_dir} has no instructions.json: give a directory with it and the task folders")
    try:
        index = parse_json(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(index, dict) or not all(isinstance(entry, dict) for entry in index.values()):
        raise DataError(f"{path} must map task names to objects with instruction, suffix and labels")
    return index
