"""`sapo study`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from sapo.cli.app import again, app, console, one_process, working
from sapo.cli.options import Configuration, Overrides, Ray
from sapo.core.errors import ConfigError, SweepError


@app.command("study")
def study_command(
    config: Configuration,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained; write nothing.")] = False,
    ray: Ray = None,
) -> None:
    """Test the method's claims on your model and tasks: train from one state with every candidate and seed."""
    from sapo.runs.config.loading import load_study

    one_process("sapo study")
    settings = load_study(config, overrides or [])
    from sapo.experiments.study.records import STUDY
    from sapo.experiments.study.run import planned, run_study
    from sapo.experiments.where import on_ray
    from sapo.report.forecast import study_dry_run_page
    from sapo.report.publish import print_report
    from sapo.report.terminal import show

    if dry_run and ray is not None:
        raise ConfigError("--ray trains, and --dry-run only plans: leave one of them out")
    if dry_run:
        with working() as progress:
            records, lacking = planned(settings, progress)
        show(console(), study_dry_run_page(settings, records, lacking))
        return

    def saved() -> str:
        file = settings.run_dir / STUDY
        count = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0
        return f"Saved in {settings.run_dir}: {count} trainings, and the finished steps of the states. {again()}"

    failed = None
    with working(saved) as progress:
        try:
            run_study(settings, progress, None if ray is None else partial(on_ray, ray, settings.resources))
        except SweepError as error:
            failed = error
    if failed is None or (settings.run_dir / STUDY).is_file():
        print_report(console(), [settings.run_dir])
    if failed is not None:
        # Below the table, where it is seen.
        raise failed
