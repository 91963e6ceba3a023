"""Work for workers, in a module that a new process imports within seconds."""

import os
import signal
from pathlib import Path
from typing import Any

from sapo.core.errors import SapoError
from sapo.core.progress import Reporter


def work(value: Any, progress: Reporter) -> Any:
    """Give a value, fail with it, or be killed: the first time, or every time."""
    progress.note("one file is not used")
    if isinstance(value, SapoError):
        raise value
    if value == "resources":
        import ray

        return ray.get_runtime_context().get_assigned_resources()
    if value == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(value, Path) and not value.exists():
        value.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getcwd() if value == "where" else value
