"""What all commands share: consoles, progress, what is said when work is interrupted."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sapo import __version__
from sapo.cli.progress import Stopped, Terminal
from sapo.core.errors import ConfigError, ProcessError
from sapo.core.processes import is_lost, launched
from sapo.core.progress import Reporter, Silent

app = typer.Typer(
    name="sapo", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_INTERRUPTED = 130


def console() -> Console:
    """Return the console for results: standard output."""
    return Console()


def say(*lines: str) -> None:
    """Print lines of plain text to standard output, each unbroken."""
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def _version(asked: bool) -> None:
    if asked:
        say(f"sapo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """State-Adaptive Prompt Optimization: train with the instruction that fits the model's current state."""


def one_process(command: str) -> None:
    """Refuse a command that several processes would only repeat."""
    if launched().count > 1:
        raise ConfigError(f"{command} works in one process: start it without torchrun or accelerate")


def demand_writable(path: Path | None, option: str, *read: Path | None) -> None:
    """Refuse a file that could not be written after the work is done, or that holds what the command reads.

    Raises:
        ConfigError: naming the option.
    """
    if path is None:
        return
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"{option} {path} cannot be written: give the path of a file")
    # A file is put in place whole, and would replace a link or a device.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{option} {path} is a link or a device: give the path of a file")
    if path.exists() and any(other is not None and other.exists() and other.samefile(path) for other in read):
        raise ConfigError(f"{option} {path} is a file that this command reads: give another one")


def demand_new(path: Path | None, option: str, *read: Path | None) -> None:
    """Refuse likewise, and also a file that exists: what an earlier command wrote is not replaced."""
    demand_writable(path, option, *read)
    if path is not None and path.exists():
        raise ConfigError(f"{option} {path} exists already: choose another one, or delete it first")


def saved_in(run_dir: Path) -> str:
    """Return what the directory of a run or sweep holds, and how to resume."""
    if not run_dir.is_dir():
        return "Nothing was computed yet. The same command starts again."
    kinds = {"selections/*.json": "selections", "training/*.json": "trained tasks", "cells/*/*.json": "test results"}
    if not (run_dir / "config.yaml").exists():
        kinds = {"*/*/results.json": "finished runs, and the finished steps of others"}
    counts = [f"{len(list(run_dir.glob(pattern)))} {what}" for pattern, what in kinds.items()]
    lost = "The step in progress was discarded"
    if any(run_dir.glob("**/unfinished/*/checkpoint-*")):
        lost = "Trainings resume from their last checkpoint; other steps in progress were discarded"
    return f"Saved in {run_dir}: {', '.join(counts)}. {lost}. {again()}"


def again() -> str:
    """Return how to resume."""
    launcher = ", with its launcher" if launched().count > 1 else ""
    return f"To resume, give the same command again{launcher}: sapo {shlex.join(sys.argv[1:])}"


@contextmanager
def working(saved: Callable[[], str] = str) -> Iterator[Reporter]:
    """Show progress and keep libraries quiet; if interrupted, say what is saved and how to resume.

    Progress goes to standard error, so that results can be piped, and comes from the first process.
    """
    first, alone = launched().first, launched().count == 1
    errors = Console(stderr=True)
    try:
        with quiet_libraries():
            if first:
                # With several processes no point is safe for all of them but the end of a step.
                with Terminal(errors, stops_at_once=not alone) as progress:
                    yield progress
            else:
                yield Silent()
    except KeyboardInterrupt as stop:
        if first:
            errors.print(f"interrupted. {saved()}".rstrip(), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(128 + stop.signal if isinstance(stop, Stopped) else _INTERRUPTED) from None
    except RuntimeError as error:
        if alone or not is_lost(error):
            raise
        raise ProcessError(f"another process of this job has ended, see its message. {saved()}") from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and advice out of ours; their errors still come through."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers a question whose name is about to change.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            # peft's advice about adapters on embeddings: they are saved whole, as it would.
            warnings.filterwarnings("ignore", ".*(save_embedding_layers|tie_word_embeddings).*", UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
