"""`sapo run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapo.cli.app import app, console, one_process, quiet_libraries, resumable, saved_in, saved_in_sweep, terminal
from sapo.core.processes import launched

if TYPE_CHECKING:
    from sapo.runs.config.schema import Config


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(help="YAML file, see docs/config.md.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.epochs=1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, tokens and time; write nothing.")] = False,
) -> None:
    """Train a task sequence, each task with the instruction that fits the model best; go on if interrupted.

    With `sweep` in the configuration: every combination of its methods, policies, seeds and sequences.
    """
    from sapo.runs.config.loading import load_config

    settings = load_config(config, overrides or [])
    if settings.sweep is not None:
        _sweep(settings, dry_run)
        return
    from sapo.report.forecast import print_dry_run
    from sapo.report.publish import print_report

    if dry_run:
        one_process("sapo run --dry-run")
        from sapo.runs.forecast import estimate

        with quiet_libraries(), terminal() as progress:
            forecast = estimate(settings, progress)
        print_dry_run(console(), settings, forecast)
        return
    with resumable(lambda: saved_in(settings.run_dir)), terminal() as progress:
        from sapo.sequence import run

        with quiet_libraries():
            run(settings, progress)
    if launched().first:
        print_report(console(), [settings.run_dir])


def _sweep(settings: Config, dry_run: bool) -> None:
    from sapo.core.errors import SweepError
    from sapo.experiments.sweep import planned, run_sweep
    from sapo.report.forecast import print_dry_run
    from sapo.report.publish import print_report
    from sapo.runs.records import RECORDS

    if dry_run:
        one_process("sapo run --dry-run")
        from sapo.report.numbers import duration
        from sapo.runs.forecast import estimate

        runs = planned(settings)
        with quiet_libraries(), terminal() as progress:
            forecast = estimate(runs[0].config, progress)
        print_dry_run(console(), runs[0].config, forecast)
        whole = duration(forecast.seconds(forecast.run.plan.cost) * len(runs))
        lines = [f"This is the first of {len(runs)} runs. If all take as long: {whole}.", *(one.name for one in runs)]
        for line in lines:
            console().print(line, markup=False, highlight=False, soft_wrap=True)
        return
    failed: SweepError | None = None
    with resumable(lambda: saved_in_sweep(settings.run_dir)), terminal() as progress, quiet_libraries():
        try:
            run_sweep(settings, progress)
        except SweepError as error:
            failed = error
    if launched().first and (settings.run_dir / RECORDS).is_file():
        print_report(console(), [settings.run_dir])
    if failed is not None:
        # Below the table, where it is seen.
        raise failed
