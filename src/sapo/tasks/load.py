"""Where tasks come from: built in, a benchmark directory, or the user's own data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from sapo.core.errors import DataError, nearest
from sapo.core.storage import fingerprint
from sapo.core.types import Example, Task
from sapo.tasks.benchmark import benchmark_names, benchmark_source
from sapo.tasks.builtin import BUILTIN, builtin_task
from sapo.tasks.files import ENDINGS, demand_whole, is_data
from sapo.tasks.make import make_task
from sapo.tasks.own import DataSource, own_source, own_splits
from sapo.tasks.sequences import SEQUENCES

_NO_TASKS: Mapping[str, DataSource] = MappingProxyType({})


def load_task(
    name: str | PathLike[str],
    data_dir: str | PathLike[str] | None = None,
    *,
    instruction: str | None = None,
    suffix: str | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    train: str | None = None,
    test: str | None = None,
    subset: str | None = None,
) -> Task:
    """Return a task by exact name, or from the user's own data.

    Args:
        name: a built-in task; or, with ``data_dir``, a task of that benchmark; or a data file, a directory or a
            hub id, whose last part names the task.
        data_dir: directory with `instructions.json` and one folder per task. Next to it, only a name with the
            ending of a data file stands for the user's own data.
        instruction: replaces the task's instruction; needed where own data hold none.
        suffix: replaces the task's suffix.
        columns: for own data only, as are the following: role -> column, see `sapo.tasks.own.DataSource`.
        labels: the closed set of answers.
        metric: name of the primary metric.
        train: name of the split with the training rows, where its name does not say so.
        test: another file with the test rows, or the name of a split.
        subset: configuration name of a hub data set.

    Raises:
        DataError: if there is no such task, its data cannot be used, or a setting is not for this kind of task.
    """
    if not isinstance(name, (str, PathLike)):
        raise DataError(
            f"task = {type(name).__name__}: allowed is a task's name, or where your own data are: a file, a directory "
            "or a hub id. sapo.select and sapo.score take rows in memory too."
        )
    if not (data_dir is None or isinstance(data_dir, (str, PathLike))):
        raise DataError(f"data_dir = {data_dir!r:.60}: must be a path")
    name, data_dir = os.fspath(name), Path(data_dir) if data_dir is not None else None
    if not name.strip():
        return _named(name, None)
    own = {"columns": columns, "labels": labels, "metric": metric, "train": train, "test": test, "subset": subset}
    texts = {"instruction": instruction, "suffix": "" if suffix is None else suffix}
    source = own_source({"data": name, **texts, **own, "columns": columns or {}})
    if name not in BUILTIN and (name.lower().endswith(ENDINGS) if data_dir is not None else is_data(name)):
        return data_task(_last_part(name), source)
    task = _named(name, data_dir)
    extra = [key for key, value in own.items() if value is not None]
    if extra:
        raise DataError(
            f"task {name!r} is {'built in' if name in BUILTIN else f'one of {data_dir}'}: {', '.join(extra)} can be "
            "given for your own data only. Leave out what is given, or give a file, a directory or a hub id."
        )
    changes = {key: value for key, value in (("instruction", instruction), ("suffix", suffix)) if value is not None}
    if not changes.get("instruction", task.instruction).strip():
        raise DataError(f"task {task.name!r}: the instruction is empty")
    for key, text in changes.items():
        demand_whole(text, f"the {key}")
    return dataclasses.replace(task, **{key: text.strip() for key, text in changes.items()})  # type: ignore[arg-type]


def data_task(name: str, source: DataSource) -> Task:
    """Return a task from the user's own data, see `sapo.tasks.make.make_task`."""
    return make_task(name, source, own_splits(source))


def _named(name: str, data_dir: Path | None) -> Task:
    """Return a built-in task, or one of a benchmark."""
    if name in BUILTIN:
        return builtin_task(name)
    if data_dir is not None:
        return make_task(name, *benchmark_source(data_dir, name))
    what = "no task is named." if not name.strip() else f"there is no task {name!r}.{nearest(name, BUILTIN)}"
    if name in SEQUENCES:
        what = f"{name!r} is a sequence, not a task: in a configuration `sequence: {name}`."
    raise DataError(
        f"{what} Built-in tasks: {', '.join(BUILTIN)}. "
        f"For another task give data_dir, a directory with instructions.json; or your own data: a file "
        f"({', '.join(ENDINGS)}), a directory, or a hub id owner/name."
    )


def _last_part(data: str) -> str:
    """Return what own data are called: a file's name without ending, a directory's name, a hub id's last part."""
    path = Path(data)
    if path.name in ("", "..", "~"):
        path = path.expanduser().resolve()
    return path.stem if path.suffix.lower() in ENDINGS else path.name


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


def load_sequence(
    sequence: str | Sequence[str],
    data_dir: str | PathLike[str] | None = None,
    own: Mapping[str, DataSource] = _NO_TASKS,
) -> tuple[Task, ...]:
    """Return the tasks of a sequence, all missing ones named in one error.

    Args:
        sequence: name of a published sequence, or task names in order.
        data_dir: as in `load_task`.
        own: the user's own tasks by name.

    Raises:
        DataError: as in `load_task` and `sequence_names`, and if an own task has the name of another one.
    """
    data_dir = Path(data_dir) if data_dir is not None else None
    names = sequence_names(sequence)
    there = benchmark_names(data_dir) if data_dir is not None else BUILTIN
    taken = [name for name in own if name in there or name in BUILTIN]
    if taken:
        kind = "built-in task" if taken[0] in BUILTIN else f"task of {data_dir}"
        raise DataError(f"tasks: {taken[0]!r} is the name of a {kind} too. Give your own task another name.")
    missing = [name for name in names if name not in there and name not in BUILTIN and name not in own]
    if missing:
        raise DataError(_missing(missing, data_dir, there, own))
    return tuple(data_task(name, own[name]) if name in own else _named(name, data_dir) for name in names)


def _missing(missing: Sequence[str], data_dir: Path | None, there: Sequence[str], own: Mapping[str, DataSource]) -> str:
    close = nearest(missing[0], (*own, *there, *BUILTIN))
    advice = "Leave out what is missing by giving `sequence` as a list."
    if data_dir is None:
        advice = "For other tasks give data_dir, a directory with instructions.json and a folder per task."
    advice += " Your own data are named under `tasks:`"
    file = next((name for name in missing if is_data(name)), None)
    if file is not None:
        named = _last_part(file)
        advice += f", such as `tasks: {{{named}: {{data: {file}}}}}`, and stand in `sequence` by that name: {named}"
    return f"{data_dir or 'sapo'} has no {', '.join(missing)}.{close} It has: {', '.join((*own, *there))}. {advice}."


def data_fingerprint(rows: Sequence[Example]) -> str:
    """Return a hash of everything in rows that a result depends on."""
    return fingerprint(_values(rows))


def task_fingerprint(task: Task) -> str:
    """Return a hash of everything in a task that a run depends on: instruction, suffix, labels, metric and rows."""
    rows = [_values(split) for split in (task.train, task.dev, task.test)]
    return fingerprint([task.name, task.instruction, task.suffix, task.labels, task.metric, rows])


def _values(rows: Sequence[Example]) -> list[list[object]]:
    return [[row.input, row.answer, row.history, row.references] for row in rows]
