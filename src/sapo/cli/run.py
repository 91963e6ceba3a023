"""`sapo run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sapo.cli.app import app, console, one_process, quiet_libraries, resumable, saved_in, terminal
from sapo.processes import launched


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(help="YAML file, see docs/config.md.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.epochs=1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, tokens and time; write nothing.")] = False,
) -> None:
    """Train a task sequence, each task with the instruction that fits the model best; go on if interrupted."""
    from sapo.config import load_config

    settings = load_config(config, overrides or [])
    from sapo.report import print_dry_run, print_run

    if dry_run:
        one_process("sapo run --dry-run")
        from sapo.estimate import estimate

        with quiet_libraries(), terminal() as progress:
            forecast = estimate(settings, progress)
        print_dry_run(console(), settings, forecast)
        return
    with resumable(lambda: saved_in(settings.run_dir)), terminal() as progress:
        from sapo.sequence import run

        with quiet_libraries():
            run(settings, progress)
    if launched().first:
        print_run(console(), settings.run_dir)
