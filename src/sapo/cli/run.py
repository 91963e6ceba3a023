"""`sapo run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapo.cli.app import app, console, one_process, saved_in, say, working
from sapo.cli.options import Configuration, Overrides, Ray
from sapo.core.errors import ConfigError, SweepError
from sapo.core.processes import launched

if TYPE_CHECKING:
    from sapo.runs.config.schema import Config


@app.command("run")
def run_command(
    config: Configuration,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, tokens and time; write nothing.")] = False,
    ray: Ray = None,
) -> None:
    """Train a task sequence, each task with the instruction that fits the model best; resume if interrupted.

    With `sweep` in the configuration: every combination of its methods, policies, seeds and sequences.
    """
    from sapo.runs.config.loading import load_config

    settings = load_config(config, overrides or [])
    if ray is not None:
        one_process("sapo run --ray")
        if settings.sweep is None:
            raise ConfigError("--ray shares out the runs of a sweep, and this configuration is a single run")
    if dry_run and ray is not None:
        raise ConfigError("--ray trains, and --dry-run only plans: leave one of them out")
    if dry_run:
        one_process("sapo run --dry-run")
        _forecast(settings)
    elif settings.sweep is not None:
        _sweep(settings, ray)
    else:
        from sapo.report.publish import print_report
        from sapo.sequence import run

        before = _steps(settings.run_dir)
        with working(lambda: saved_in(settings.run_dir)) as progress:
            run(settings, progress)
        if launched().first:
            _say_if_idle(settings.run_dir, before)
            print_report(console(), [settings.run_dir])


def _steps(run_dir: Path) -> set[tuple[Path, int]]:
    """Return the files of finished steps, of a run or of the runs of a sweep, and when each was written."""
    kinds = ("selections", "training", "stages", "cells")
    return {(file, file.stat().st_mtime_ns) for kind in kinds for file in run_dir.glob(f"**/{kind}/**/*.json")}


def _say_if_idle(run_dir: Path, before: set[tuple[Path, int]]) -> None:
    if before and before == _steps(run_dir):
        say(f"Nothing was left to do: {run_dir} holds every result already.")


def _forecast(settings: Config) -> None:
    from sapo.experiments.sweep import planned
    from sapo.report.forecast import dry_run_page
    from sapo.report.numbers import duration
    from sapo.report.terminal import show
    from sapo.runs.prepare import estimate, unread

    runs = planned(settings) if settings.sweep is not None else ()
    first = runs[0].config if runs else settings
    with working() as progress:
        for note in unread(settings):
            progress.note(note)
        ready, speed = estimate(first, progress)
    show(console(), dry_run_page(first, ready, speed))
    if runs:
        whole = duration(ready.engine.plan.cost / speed * len(runs))
        say(f"This is the first of {len(runs)} runs. If all take as long: {whole}.", *(one.name for one in runs))


def _sweep(settings: Config, ray: str | None) -> None:
    from sapo.experiments.sweep import run_sweep
    from sapo.experiments.where import here, on_ray
    from sapo.report.publish import print_report
    from sapo.runs.records import RECORDS

    failed, before = None, _steps(settings.run_dir)
    with working(lambda: saved_in(settings.run_dir)) as progress:
        try:
            run_sweep(settings, progress, here if ray is None else partial(on_ray, ray, settings.resources))
        except SweepError as error:
            failed = error
    if launched().first and (settings.run_dir / RECORDS).is_file():
        if failed is None:
            _say_if_idle(settings.run_dir, before)
        print_report(console(), [settings.run_dir])
    if failed is not None:
        # Below the table, where it is seen.
        raise failed
