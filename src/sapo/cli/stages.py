"""What is done with finished runs and their stages: `sapo generate`, `sapo export`, `sapo report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sapo.cli.app import app, console, demand_writable, one_process, quiet_libraries, say
from sapo.cli.options import StageDir
from sapo.core.errors import ConfigError
from sapo.models.settings import DeviceMap


@app.command("generate")
def generate_command(
    stage_dir: StageDir,
    text: Annotated[str | None, typer.Option("--input", help="One input.")] = None,
    file: Annotated[Path | None, typer.Option(help="One input per line; one answer per line comes out.")] = None,
    task: Annotated[str | None, typer.Option(help="A task of the stage; the last one if left out.")] = None,
    device_map: Annotated[DeviceMap | None, typer.Option(help="Spread the model over all GPUs.")] = None,
) -> None:
    """Answer inputs with a trained stage, applying the instruction and suffix stored with it."""
    if (text is None) == (file is None):
        raise ConfigError("give either --input TEXT or --file FILE")
    one_process("sapo generate")
    from sapo.models.adapter import UNCONFIRMED
    from sapo.runs.stage import load_stage
    from sapo.tasks.files import read_text

    lines = [text] if text is not None else read_text(file or Path()).rstrip("\n").split("\n")
    inputs = [line for line in lines if line.strip()]
    if not inputs:
        raise ConfigError(f"{file or '--input'} holds no input: one per line is needed")
    with quiet_libraries():
        stage = load_stage(stage_dir, device_map)
        if not stage.loaded.confirmed:
            Console(stderr=True).print(Text(f"note: {stage_dir}: {UNCONFIRMED}"))
        answers = iter(stage.generate(inputs, task))
    for line in lines:
        answer = next(answers) if line.strip() else ""
        # One line per input: an empty one, or an answer of several lines, must not shift the rest.
        sys.stdout.write((answer if text is not None else "\\n".join(answer.splitlines())) + "\n")


@app.command("export")
def export_command(
    stage_dir: StageDir,
    merge: Annotated[Path, typer.Option("--merge", help="Directory to write, new or empty.", show_default=False)],
) -> None:
    """Write a trained stage as a plain model, its adapter merged in; refuse where that would not be exact."""
    from sapo.runs.export import export_merged

    one_process("sapo export")
    with quiet_libraries():
        merged = export_merged(stage_dir, merge)
    confirmed = "Base model and adapter are those of the run, by their fingerprint."
    if not merged.confirmed:
        confirmed = (
            "NOT confirmed that the base model is the one of the run: the fingerprint of base and adapter differs. The "
            "base has changed since, or the libraries have."
        )
    out = shlex.quote(str(merge))
    say(
        f"written to {merge}: model in float32, tokenizer, sapo.json, README.md",
        f"Largest logit difference to base and adapter: {merged.difference:.1e}, where the largest logit is "
        f"{merged.scale:.1f} ({merged.prompts} prompts, after saving).",
        confirmed,
        "Next, answer with it, or give it to a run or to select as the model (model.base in a configuration):",
        f"  sapo generate {out} --input TEXT",
        f"  sapo run CONFIG.yaml model.base={out} run_dir=ANOTHER_DIRECTORY",
    )


@app.command("report")
def report_command(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(
            help="A run directory, or several to compare; or sweeps: directories or records.jsonl files; or a study."
        ),
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Write it as one HTML file with figures too.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print everything, not only what fits on one screen.")] = False,
) -> None:
    """Show what runs, sweeps or a study found, side by side; write all of it as Markdown, and as HTML if asked."""
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {html} is not the name of an HTML file: it must end in .html or .htm")
    demand_writable(html, "--html")
    from sapo.report.publish import print_report

    print_report(console(), run_dirs, html, full=full)
