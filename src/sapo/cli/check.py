"""`sapo check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from sapo.cli.app import app, one_process, say, working
from sapo.cli.options import Columns, DataDir, Given, Model, Overrides, Subset, Suffix, Train, demand_read, roles
from sapo.core.errors import ConfigError, DataError, RecordError

if TYPE_CHECKING:
    from sapo.core.progress import Reporter
    from sapo.integrations.check import Check


@app.command("check")
def check_command(
    context: typer.Context,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="As given to sapo select: a task's name, or your own data.")] = None,
    config: Annotated[Path | None, typer.Option(help="Or the configuration of sapo run: all of its tasks.")] = None,
    watch: Annotated[list[str] | None, typer.Option(help="A task that must not be lost, repeatable.")] = None,
    model: Model = "embedded",
    adapter: Annotated[str | None, typer.Option(help="Adapter on the model: its current state.")] = None,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Suffix = None,
    column: Columns = None,
    train: Train = None,
    subset: Subset = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each set whose losses are computed.")] = 64,
) -> None:
    """Say what would be trained and what is wrong with it, one verdict a line; exit 1 if there is an error."""
    one_process("sapo check")
    if (task is None) == (config is None):
        raise ConfigError("give either --task TASK or --config FILE")
    if task is not None and overrides:
        raise ConfigError(f"{overrides[0]} is not used with --task: it changes what --config gives")
    of_task = ("watch", "model", "adapter", "data_dir", "instruction", "suffix", "column", "train", "subset")
    demand_read(context, dict.fromkeys(of_task, (task, f"--task; with --config, set it in {config}")))
    from sapo.integrations.check import check_task
    from sapo.models.fit import MAX_LENGTH, context_length
    from sapo.models.load import load_model
    from sapo.models.render import Renderer
    from sapo.tasks.findings import unused_warning
    from sapo.tasks.holdout import hold_out
    from sapo.tasks.inspection import inspect_rows
    from sapo.tasks.load import load_task

    with working() as progress:
        if config is not None:
            found = _of_run(config, overrides or (), rows, progress)
        else:
            one = load_task(
                str(task), data_dir, instruction=instruction, suffix=suffix, columns=roles(column), train=train,
                subset=subset,
            )  # fmt: skip
            try:
                watched = [load_task(name, data_dir) for name in watch or ()]
            except DataError as failure:
                raise DataError(
                    f"--watch: {str(failure).rstrip('.')}. Allowed here: a task's name, or data that hold their "
                    "instruction in columns that are recognised (other options are for --task). For other data give "
                    "--config, with tasks and watch"
                ) from failure
            loaded = load_model(model, adapter)
            renderer = Renderer(loaded.tokenizer, min(MAX_LENGTH, context_length(loaded.model)))
            one = hold_out(one)
            found = {one.name: check_task(loaded, renderer, one, watched, rows)}
            # What is not trained on is named here; a run says it by itself.
            say(*one.notes, *unused_warning(inspect_rows(one)))
    for name, check in found.items():
        say(f"{name}:", str(check))
    if any(check.level == "error" for check in found.values()):
        raise typer.Exit(1)


def _of_run(file: Path, overrides: Sequence[str], rows: int, progress: Reporter) -> dict[str, Check]:
    """Return the check of each task of a run, from the state before the first one, and what its directory lacks."""
    from sapo.experiments.sweep import planned
    from sapo.integrations.check import Check, check_task
    from sapo.integrations.verdicts import error
    from sapo.runs.config.loading import load_config
    from sapo.runs.prepare import prepare, unread
    from sapo.training.policies import GIVEN, given_texts

    config = settings = load_config(file, overrides)
    found = {}
    if settings.sweep is not None:
        first, *more = planned(settings)
        config = first.config
        progress.note(f"a sweep of {len(more) + 1} runs: only the first one, {first.name}, is checked")
    for note in unread(settings):
        progress.note(note)
    try:
        run = prepare(config, progress, pays=False)
    except RecordError as reason:
        found[str(config.run_dir)] = Check((error(str(reason), "run_dir"),), "", None, {}, {})
        # Data and settings need none.
        with TemporaryDirectory() as empty:
            run = prepare(config.model_copy(update={"run_dir": Path(empty)}), progress, pays=False)
    if config.policy not in ("original", *GIVEN):
        progress.note(f"policy {config.policy} chooses the instruction later: the original one is checked")
    tasks, watch = run.inputs.tasks, run.inputs.watch
    names = [task.name for task in tasks]
    texts = given_texts(config.policy, config.fixed, names) if config.policy in GIVEN else {}
    tasks = tuple(replace(task, instruction=texts.get(task.name, task.instruction)) for task in tasks)
    loaded = replace(run.loaded, model=run.model.model)
    return found | {task.name: check_task(loaded, run.engine.renderer, task, watch, rows) for task in tasks}
