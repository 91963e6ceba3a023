"""`sapo study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sapo.cli.app import again, app, console, one_process, quiet_libraries, resumable, terminal


@app.command("study")
def study_command(
    config: Annotated[Path, typer.Argument(help="YAML file, see docs/study.md.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.epochs=1.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Make the trainings as tasks of a Ray cluster; auto: of this machine's."),
    ] = None,
) -> None:
    """Test the method's claims on your model and tasks: train from one state with every candidate and seed."""
    from sapo.runs.config.loading import load_study

    one_process("sapo study")
    settings = load_study(config, overrides or [])
    from sapo.experiments.study.records import STUDY
    from sapo.experiments.study.run import run_study
    from sapo.report.publish import print_report

    def saved() -> str:
        file = settings.run_dir / STUDY
        count = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0
        return f"Saved in {settings.run_dir}: {count} trainings, and what was finished of the states. {again()}"

    with resumable(saved), terminal() as progress, quiet_libraries():
        run_study(settings, progress, ray)
    print_report(console(), [settings.run_dir])
