"""A user's own data: written to a file, and loaded as the task "own"."""

import json
from pathlib import Path
from typing import Any

from sapo.core.types import Task
from sapo.tasks.load import data_task
from sapo.tasks.own import DataSource


def dump(path: Path, content: Any) -> Path:
    """Write a file, text as it is and all else as JSON, of a list in a .jsonl file one member a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl" and isinstance(content, list):
        content = "\n".join(map(json.dumps, content))
    path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return path


def own(data: Path | str, content: Any = None, instruction: str | None = "Do.", **changes: Any) -> Task:
    """The task of a file, of a directory or of a hub id; what is not None is written to the file first."""
    if content is not None:
        dump(Path(data), content)
    return data_task("own", DataSource(data=str(data), instruction=instruction, **changes))
