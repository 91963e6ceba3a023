"""`sapo export-data`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapo.cli.app import Columns, DataDir, Given, Subset, app, console, one_process, roles
from sapo.core.errors import ConfigError

if TYPE_CHECKING:
    from sapo.models.render import Encoder


class _Format(StrEnum):
    llamafactory = "llamafactory"
    axolotl = "axolotl"


@app.command("export-data")
def export_data_command(
    task: Annotated[str, typer.Option(help="As given to sapo select: a task's name, or your own data.")],
    form: Annotated[_Format, typer.Option("--format", help="Whose files to write.")],
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
    suffix: Annotated[str | None, typer.Option(help="Replaces the task's suffix.")] = None,
    column: Columns = None,
    subset: Subset = None,
) -> None:
    """Write a task's training rows with the chosen instruction for LLaMA-Factory or axolotl."""
    if (selection is None) == (text is None):
        raise ConfigError("give either --selection FILE (from sapo select --json FILE) or --chosen TEXT")
    if model is not None and form != _Format.axolotl:
        raise ConfigError(f"--model {model}: {form.value} takes texts and makes tokens itself; leave it out")
    one_process("sapo export-data")
    from sapo.core.storage import read_json, undamaged
    from sapo.core.types import Selection
    from sapo.integrations.exports import export_data
    from sapo.integrations.layouts import Chosen, chosen
    from sapo.tasks.load import load_task

    given: Chosen = text or ""
    loaded = load_task(task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), subset=subset)
    if selection is not None:
        if not selection.is_file():
            raise ConfigError(f"--selection {selection} is no file: write one with sapo select --json {selection}")
        again = "Write it again with sapo select --json."
        with undamaged(selection, again):
            given = Selection.from_json(read_json(selection, again))
    if text is not None and not text.strip():
        raise ConfigError("--chosen is empty: give the instruction to train with")
    instructed = chosen(loaded, given)
    ending = {"llamafactory": "json", "axolotl": "jsonl"}[form.value]
    target = out / f"{loaded.name.replace('/', '-')}.{ending}"
    if target.exists() and Path(task).exists() and target.samefile(task):
        raise ConfigError(f"--out {out}: {target} is the data that this command reads; give another directory")
    files = export_data(loaded, instructed, form.value, out, None if model is None else _renderer(model))
    show = console().print
    for file in files:
        show(f"written: {file}", markup=False, highlight=False, soft_wrap=True)
    show(f"{len(loaded.train)} rows, trained with: {instructed.text}", markup=False, highlight=False, soft_wrap=True)
    name = files[0].stem
    following = {
        "llamafactory": f"In LLaMA-Factory's YAML: dataset_dir: {out}, dataset: {name}, mask_history: true, and no "
        "template, so that the model's own is taken",
        "axolotl": f"Into axolotl's YAML: what {files[1]} holds",
    }
    show(following[form.value], markup=False, highlight=False, soft_wrap=True)


def _renderer(model: str) -> Encoder:
    from sapo.models.load import load_config, load_tokenizer
    from sapo.models.render import Renderer
    from sapo.selection.rows import MAX_LENGTH, configured_length

    return Renderer(load_tokenizer(model), min(MAX_LENGTH, configured_length(load_config(model))))
