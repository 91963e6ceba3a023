"""The public doors that these tests go through: a name that changes is changed here alone."""

from __future__ import annotations

import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked

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


def start_command(*arguments: object, directory: Path) -> BaseProcess:
    """Start the command line as a process of its own, with a cache of its own in the directory."""
    return forked.start(forked.command, *arguments, directory=directory, name="command")
