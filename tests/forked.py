"""Processes of tests, forked from one that has imported the libraries, which takes a new process seven seconds."""

import gc
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Not `sapo`: the server does not have pytest's path, and could import an installed one.
LIBRARIES = ["accelerate", "datasets", "peft", "scipy.stats", "transformers.models.llama", "transformers.trainer"]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(LIBRARIES)


def start(work: Callable[..., object], *arguments: Any, directory: Path, name: str, **environment: str) -> BaseProcess:
    """Start work in a process of its own, and in a directory, where NAME.out and NAME.err hold what it prints.

    Its cache is there too, as NAME-cache.
    """
    # One thread, for torch and for accelerate, as in conftest.py.
    own = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "XDG_CACHE_HOME": str(directory / f"{name}-cache"), **environment}
    for kind in ("out", "err"):
        (directory / f"{name}.{kind}").touch()
    process = _forks.Process(target=_enter, args=(directory, name, own, work, arguments), daemon=True)
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def pair(work: Callable[..., object], *arguments: Any, directory: Path, name: str) -> tuple[BaseProcess, BaseProcess]:
    """Start a job of two processes, with the environment that torchrun makes for them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = (
        start(work, *arguments, directory=directory, name=name, RANK=rank, LOCAL_RANK=rank, **shared)
        for rank in ("0", "1")
    )
    return first, second


def ended(processes: Sequence[BaseProcess], patience: float = 240.0) -> tuple[int | None, ...]:
    """Wait for processes, kill those that do not end, and return their exit codes."""
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        process.kill()
        process.join()
    return tuple(process.exitcode for process in processes)


def command(*arguments: object) -> None:
    """Run `sapo` with arguments; ends the process."""
    from sapo.cli import main

    sys.argv = ["sapo", *map(str, arguments)]
    main()


def _enter(
    directory: Path, name: str, environment: dict[str, str], work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    import torch

    os.environ.update(environment)
    os.chdir(directory)
    for stream, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{kind}", os.O_WRONLY | os.O_APPEND), stream)
    torch.set_num_threads(1)
    gc.freeze()
    work(*arguments)
