"""`sapo export-data`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from sapo.cli.app import app, demand_new, one_process, say
from sapo.cli.options import Columns, DataDir, Given, Subset, Suffix, Train, renderer_of, roles
from sapo.core.errors import ConfigError


@app.command("export-data")
def export_data_command(
    task: Annotated[str, typer.Option(help="As given to sapo select: a task's name, or your own data.")],
    form: Annotated[Literal["llamafactory", "axolotl"], typer.Option("--format", help="Tool to write files for.")],
    out: Annotated[Path, typer.Option(help="Directory to write to; made if it does not exist.")],
    selection: Annotated[
        Path | None, typer.Option(help="What sapo select --json wrote: the chosen instruction is taken.")
    ] = None,
    text: Annotated[str | None, typer.Option("--chosen", help="Or the instruction to train with, as text.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For axolotl: write this model's token ids and labels, exactly what is scored, not texts."),
    ] = None,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Suffix = None,
    column: Columns = None,
    train: Train = None,
    subset: Subset = None,
) -> None:
    """Write a task's training rows with the chosen instruction for LLaMA-Factory or axolotl."""
    if (selection is None) == (text is None):
        raise ConfigError("give either --selection FILE (from sapo select --json FILE) or --chosen TEXT")
    if model is not None and form != "axolotl":
        raise ConfigError(f"--model {model}: {form} takes texts and makes tokens itself; leave it out")
    one_process("sapo export-data")
    from sapo.integrations.exports import export_data
    from sapo.selection.selection import Chosen, Selection, trained
    from sapo.tasks.findings import warnings_of
    from sapo.tasks.inspection import inspect_rows, lengths_of
    from sapo.tasks.load import load_task

    given: Chosen = text or ""
    loaded = load_task(
        task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), train=train, subset=subset
    )
    if selection is not None:
        if not selection.is_file():
            raise ConfigError(f"--selection {selection} does not exist: write it with sapo select --json {selection}")
        given = Selection.load(selection)
    if text is not None and not text.strip():
        raise ConfigError("--chosen is empty: give the instruction to train with")
    loaded, instructed = trained(loaded, given)
    target = out / f"{loaded.name.replace('/', '-')}.{'jsonl' if form == 'axolotl' else 'json'}"
    demand_new(target, "--out", Path(task))
    renderer = None if model is None else renderer_of(model)
    # Only training rows are written.
    written = replace(loaded, instruction=instructed, test=())
    found = inspect_rows(loaded, lengths=None if renderer is None else lengths_of(written, renderer))
    files = export_data(loaded, instructed, form, out, renderer)
    say(*loaded.notes, *warnings_of(found))
    say(*(f"written: {file}" for file in files), f"{len(loaded.train)} rows, trained with: {instructed}")
    if form == "axolotl":
        say(f"Into axolotl's YAML: what {files[1]} holds")
    else:
        say(
            f"In LLaMA-Factory's YAML: dataset_dir: {out}, dataset: {files[0].stem}, mask_history: true, and no "
            "template, so that the model's own is taken"
        )
