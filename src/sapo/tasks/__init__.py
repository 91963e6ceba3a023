"""Where tasks come from: built in, a benchmark directory, or a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sapo.errors import DataError, nearest
from sapo.tasks.benchmark import benchmark_names, benchmark_task
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases, builtin_task
from sapo.tasks.files import demand_whole, file_task
from sapo.tasks.sequences import SEQUENCES
from sapo.types import Task

__all__ = [
    "BUILTIN",
    "SEQUENCES",
    "builtin_paraphrases",
    "load_sequence",
    "load_task",
    "sequence_names",
    "task_fingerprint",
]

_FILES = (".json", ".jsonl")


def load_task(
    name: str, data_dir: Path | None = None, *, instruction: str | None = None, suffix: str | None = None
) -> Task:
    """Return a task by exact name, or from a file.

    Args:
        name: a built-in task; or, with ``data_dir``, a task of that benchmark; or the path of a .json or .jsonl file.
        data_dir: directory with `instructions.json` and one folder per task.
        instruction: replaces the task's instruction; required for a file.
        suffix: replaces the task's suffix.

    Raises:
        DataError: if there is no such task, or its data cannot be used.
    """
    if name.endswith(_FILES):
        return file_task(Path(name), instruction, suffix or "")
    if data_dir is not None and name not in BUILTIN:
        task = benchmark_task(data_dir, name)
    elif name in BUILTIN:
        task = builtin_task(name)
    else:
        raise DataError(
            f"there is no task {name!r}.{nearest(name, BUILTIN)} Built-in tasks: {', '.join(BUILTIN)}. "
            "For another task give data_dir, a directory with instructions.json, or the path of a .json or .jsonl file."
        )
    changes = {key: value for key, value in (("instruction", instruction), ("suffix", suffix)) if value is not None}
    return task if not changes else replace_text(task, changes)


def replace_text(task: Task, changes: dict[str, str]) -> Task:
    """Return the task with another instruction or suffix."""
    import dataclasses

    if not changes.get("instruction", task.instruction).strip():
        raise DataError(f"task {task.name!r}: the instruction is empty")
    for key, text in changes.items():
        demand_whole(text, f"the {key}")
    return dataclasses.replace(task, **changes)  # type: ignore[arg-type]


def sequence_names(sequence: str | Sequence[str]) -> tuple[str, ...]:
    """Return the task names of a published sequence, or of a list as it is.

    Raises:
        DataError: if there is no sequence of this name, or a task occurs twice.
    """
    if isinstance(sequence, str):
        if sequence not in SEQUENCES:
            raise DataError(
                f"there is no sequence {sequence!r}.{nearest(sequence, SEQUENCES)} "
                f"Sequences: {', '.join(SEQUENCES)}; or give a list of task names."
            )
        return SEQUENCES[sequence]
    twice = sorted({name for name in sequence if list(sequence).count(name) > 1})
    if twice:
        raise DataError(f"a sequence holds each task once; more than once: {', '.join(twice)}")
    return tuple(sequence)


def load_sequence(sequence: str | Sequence[str], data_dir: Path | None = None) -> tuple[Task, ...]:
    """Return the tasks of a sequence, all missing ones named in one error.

    Raises:
        DataError: as in `load_task` and `sequence_names`.
    """
    names = sequence_names(sequence)
    there = benchmark_names(data_dir) if data_dir is not None else BUILTIN
    missing = [name for name in names if name not in there and name not in BUILTIN]
    if missing:
        close = nearest(missing[0], (*there, *BUILTIN))
        advice = "Leave out what is missing by giving `sequence` as a list."
        if data_dir is None:
            advice = "For other tasks give data_dir, a directory with instructions.json and a folder per task."
        raise DataError(
            f"{data_dir or 'sapo'} has no {', '.join(missing)}.{close} It has: {', '.join(there)}. {advice}"
        )
    return tuple(load_task(name, data_dir) for name in names)


def task_fingerprint(task: Task) -> str:
    """Return a hash of everything in a task: instruction, suffix, labels, metric and rows."""
    rows = [[[e.input, e.answer] for e in split] for split in (task.train, task.dev, task.test)]
    parts = [task.name, task.instruction, task.suffix, task.labels, task.metric, rows]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
