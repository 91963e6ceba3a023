"""The results of a sweep, one JSON line each: read with errors that name the line, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from sapo.core.storage import read_lines, write_text
from sapo.runs.results import RunResult

RECORDS = "records.jsonl"
_AGAIN = "Delete the line: the same `sapo run` command records that run again."


def read_records(path: Path) -> tuple[RunResult, ...]:
    """Return the results in a file in its order; of several with one name the last one counts.

    A last line without its end is what a crash or a copy cut off: it is ignored.

    Raises:
        RecordError: if the file cannot be read, or a line is damaged, naming both.
    """
    return tuple({record.name: record for record in read_lines(path, _named, _AGAIN)}.values())


def append_record(path: Path, record: RunResult) -> None:
    """Put a result at the end of a file, or in the place of the one with its name; the file is written whole.

    Nothing is written if the file holds an equal one. One process at a time may do this.

    Raises:
        RecordError: if the file holds a damaged line, or cannot be read or written.
    """
    records = {known.name: known for known in read_records(path)} if path.exists() else {}
    if records.get(record.name) == record:
        return
    records[record.name] = record
    lines = (json.dumps(known.to_json(), ensure_ascii=False, allow_nan=False) for known in records.values())
    write_text(path, "".join(f"{line}\n" for line in lines))


def _named(data: object) -> RunResult:
    """Return the result of a line: in a sweep each has a name."""
    found = RunResult.from_json(data)
    if not found.name:
        raise ValueError("name: it has none")
    return found
