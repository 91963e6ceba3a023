"""The command `sapo`.

Comes in: arguments and options. Goes out: what the rooms return, printed, and an exit code.
Must not know: how anything is computed. Rooms are imported inside commands, so that help answers before torch is
loaded.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys

from rich.console import Console

from sapo.cli.app import app
from sapo.core.errors import SapoError, SweepError, ToldError
from sapo.core.processes import joined, leave

# In the order in which help lists them.
from sapo.cli import run, select, check, paraphrase, tasks, study, stages, data  # noqa: F401 # isort: skip


# Errors of the disk and its rights, which name the path; others are faults of ours.
_OF_PATHS = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def main() -> None:
    """Run the command line: exit 0 on success, 1 if a check fails, 2 for the user's mistakes, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has not all letters shows others instead of ending the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Imported, it warns that it lacks a fast path, which `sapo.models.load` switches off.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # As `launched` reads it: a rank among one process is left over from elsewhere.
    rank = int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0
    try:
        app()
    except (SapoError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _OF_PATHS:
            raise
        # Before the processes join, all of them find the same mistakes, and one of them says so.
        if rank == 0 or (joined() and not isinstance(error, (SweepError, ToldError))):
            errors = Console(stderr=True)
            who = "" if rank == 0 else f"process {rank}: "
            errors.print(f"{who}error: ", style="bold red", end="")
            errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    finally:
        leave()
