"""The results of a sweep, one JSON line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sapo.core.errors import RecordError
from sapo.core.storage import Lines
from sapo.runs.results import RunResult

RECORDS = "records.jsonl"


def _named(data: object) -> RunResult:
    """Return the result of a line: in a sweep each has a name."""
    if isinstance(data, dict) and not {"format", "matrices"} & data.keys():
        raise RecordError("it is not a record of a run. Give a run's or a sweep's directory, or its records.jsonl")
    found = RunResult.from_json(data)
    if not found.name:
        raise ValueError("name: missing")
    return found


_LINES = Lines(
    parse=_named,
    dump=RunResult.to_json,
    key=lambda record: record.name,
    advice="Delete the line: the same `sapo run` command records that run again.",
)
append_record = _LINES.append


def read_records(path: Path, note: Callable[[str], None] = lambda text: None) -> tuple[RunResult, ...]:
    """Return the results in a sweep's `records.jsonl`, the last one of each run, in the order of the file.

    ``note`` is told of a last line that was cut off, which is ignored.

    Raises:
        RecordError: if the file cannot be read or a line is damaged, naming both.
    """
    return _LINES.read(path, note)
