"""`sapo study`."""

from __future__ import annotations

import shlex
from functools import partial

from sapo.cli.app import again, app, console, one_process, say, working
from sapo.cli.options import Configuration, Overrides, Ray


@app.command("study")
def study_command(config: Configuration, overrides: Overrides = None, ray: Ray = None) -> None:
    """Test the method's claims on your model and tasks: train from one state with every candidate and seed."""
    from sapo.runs.config.loading import load_study

    one_process("sapo study")
    settings = load_study(config, overrides or [])
    from sapo.experiments.study.records import STUDY
    from sapo.experiments.study.run import run_study
    from sapo.experiments.where import on_ray
    from sapo.report.publish import print_report

    def saved() -> str:
        file = settings.run_dir / STUDY
        count = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0
        return f"Saved in {settings.run_dir}: {count} trainings, and the finished steps of the states. {again()}"

    with working(saved) as progress:
        run_study(settings, progress, None if ray is None else partial(on_ray, ray, settings.resources))
    print_report(console(), [settings.run_dir])
    say(f"With figures: {shlex.join(['sapo', 'report', str(settings.run_dir), '--html', 'report.html'])}")
