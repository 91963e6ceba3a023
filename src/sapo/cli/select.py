"""`sapo select`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sapo.cli.app import Columns, DataDir, Given, Model, Subset, app, console, quiet_libraries, roles, terminal
from sapo.errors import ConfigError
from sapo.processes import join

if TYPE_CHECKING:
    from sapo.types import Instruction, Rejection, Task

Rule = Literal["lowest", "confident"]
Sample = Literal["stratified", "first"]


@app.command("select")
def select_command(
    task: Annotated[
        str,
        typer.Option(help="A task's name; or your own data: a JSON, JSONL, CSV or Parquet file, directory, hub id."),
    ],
    candidates: Annotated[
        Path | None, typer.Option(help="JSON list, JSONL, or JSON object keyed by task; built-in ones if left out.")
    ] = None,
    model: Model = "embedded",
    adapter: Annotated[str | None, typer.Option(help="Adapter on the model: its current state.")] = None,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Annotated[str | None, typer.Option(help="Replaces the task's suffix.")] = None,
    column: Columns = None,
    subset: Subset = None,
    examples: Annotated[int, typer.Option(min=1, help="Training rows to score on.")] = 250,
    rule: Annotated[Rule, typer.Option(help="lowest loss, or leave the original only with confidence.")] = "lowest",
    sample: Annotated[Sample, typer.Option(help="Rows by label shares, or the first ones.")] = "stratified",
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the intervals.")] = 42,
    use_cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Take losses computed earlier.")] = True,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the selection to this file.")] = None,
) -> None:
    """Score candidate instructions under a model and choose one; trains nothing."""
    from sapo.formats import selection_to_json
    from sapo.report import print_selection
    from sapo.storage import write_json

    _demand_writable(json_out)

    def read() -> tuple[Task, tuple[Instruction, ...], tuple[Rejection, ...]]:
        from sapo.paraphrase import gather
        from sapo.tasks import load_task

        loaded = load_task(task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), subset=subset)
        return loaded, *gather(loaded, candidates, None)

    processes = join(None)
    with quiet_libraries(), terminal() as progress:
        loaded_task, kept, rejected = processes.once(read)
        from sapo.cache import LossCache, cache_directory
        from sapo.inspection import data_table, inspect_rows, warnings_of
        from sapo.model import best_device, load_model
        from sapo.render import Renderer
        from sapo.score import Scorer
        from sapo.selection import MAX_LENGTH, context_length, score_candidates, selection_rows
        from sapo.state import state_fingerprint

        device = processes.device(best_device())
        loaded = processes.together(lambda: load_model(model, adapter, device=device))
        for note in (*loaded.notes, *loaded_task.notes):
            progress.note(note)
        cache = None
        if use_cache:
            state = state_fingerprint(loaded.model)
            cache = LossCache(cache_directory(), state, loaded.model.device.type, processes)
        renderer = Renderer(loaded.tokenizer, min(MAX_LENGTH, context_length(loaded.model)))
        rows = selection_rows(loaded_task, examples, sample, seed)
        inspection = inspect_rows(loaded_task, rows)
        progress.table("data", *data_table([inspection]))
        for warning in warnings_of(inspection):
            progress.note(f"note: {warning}")
        total = len(rows) * len(kept)
        progress.plan(total)
        with progress.step(f"{loaded_task.name}: scoring {len(kept)} candidates", total, total) as advance:
            selection = score_candidates(
                Scorer(loaded.model, processes=processes), renderer, loaded_task, kept, rows,
                rule=rule, sample=sample, seed=seed, rejected=rejected, advance=advance,
                cache=cache,
            )  # fmt: skip
    if not processes.first:
        return
    print_selection(console(), selection)
    if json_out is not None:
        write_json(json_out, {"model": loaded.name, **selection_to_json(selection)})
        console().print(f"written to {json_out}", markup=False, highlight=False)


def _demand_writable(path: Path | None) -> None:
    """Refuse a file that could not be written after the work is done."""
    if path is not None:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
            raise ConfigError(f"--json {path} cannot be written: give the path of a file")
