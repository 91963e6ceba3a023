"""`sapo tasks`."""

from __future__ import annotations

from typing import Annotated

import typer

from sapo.cli.app import app, console, quiet_libraries
from sapo.cli.options import Columns, DataDir, Given, Model, Subset, Train, demand_read, renderer_of, roles


@app.command("tasks")
def tasks_command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show one task.")] = None,
    data_dir: DataDir = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Render one row, the supervised tokens marked.")
    ] = False,
    model: Model = "embedded",
    instruction: Given = None,
    column: Columns = None,
    train: Train = None,
    subset: Subset = None,
) -> None:
    """List tasks and sequences, or show one task (or your own data) and how the model sees it."""
    from sapo.report.tasks import print_prompt, task_page, tasks_page
    from sapo.report.terminal import show
    from sapo.tasks.load import load_task

    of_task = dict.fromkeys(("show_prompt", "instruction", "column", "train", "subset"), (name, "a task: name it"))
    demand_read(context, {**of_task, "model": (show_prompt, "--show-prompt: add that")})
    if name is None:
        show(console(), tasks_page(data_dir))
        return
    with quiet_libraries():
        task = load_task(name, data_dir, instruction=instruction, columns=roles(column), train=train, subset=subset)
    show(console(), task_page(task))
    if show_prompt:
        with quiet_libraries():
            renderer = renderer_of(model)
            encoded = renderer.encode(task.instruction, task.suffix, task.train[:1])[0]
        print_prompt(console(), renderer, encoded)
