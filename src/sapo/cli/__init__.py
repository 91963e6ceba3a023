"""The command `sapo`. Rooms are imported inside commands, so that help answers before torch is loaded."""

from __future__ import annotations

import sys

from rich.console import Console

from sapo.cli import run, select, stages, tasks
from sapo.cli.app import app
from sapo.errors import SapoError
from sapo.processes import leave

# In the order in which help lists them.
COMMANDS = (run, select, tasks, stages)


def main() -> None:
    """Run the command line: exit 0 on success, 2 for the user's mistakes, 130 when interrupted."""
    try:
        app()
    except SapoError as error:
        errors = Console(stderr=True)
        errors.print("error: ", style="bold red", end="")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    finally:
        leave()
