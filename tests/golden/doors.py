"""The public doors that these tests go through: a name that changes is changed here alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sapo
from sapo.cli import main
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task

TaskSequence = sapo.TaskSequence
run = sapo.run
make_config = sapo.make_config
select = sapo.select

__all__ = [
    "TaskSequence",
    "command",
    "make_config",
    "run",
    "select",
    "start_command",
    "tiny_model",
    "tiny_tokenizer",
    "toy_task",
]


def command(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["sapo", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def start_command(*arguments: object, cache: Path) -> subprocess.Popen[Any]:
    """Start the command line as a process of its own, with one thread and a cache of its own."""
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", "sapo.cli", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **own},
    )  # fmt: skip
