"""The command `sapo`. Rooms are imported inside commands, so that help answers before torch is loaded."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from sapo.errors import ConfigError, SapoError
from sapo.progress import Terminal

app = typer.Typer(
    name="sapo",
    help="State-Adaptive Prompt Optimization: train with the instruction that fits the model's current state.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Rule = Literal["lowest", "confident"]
Sample = Literal["stratified", "first"]
DataDir = Annotated[Path | None, typer.Option(help="Directory with instructions.json and one folder per task.")]
Model = Annotated[str, typer.Option(help="'embedded', a local directory, or a hub id.")]


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(help="YAML file, see docs/config.md.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.epochs=1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, tokens and time; write nothing.")] = False,
) -> None:
    """Train a task sequence, each task with the instruction that fits the model best; go on if interrupted."""
    from sapo.config import load_config

    settings = load_config(config, overrides or [])
    from sapo.report import print_dry_run, print_run

    with _quiet_libraries(), _terminal() as progress:
        if dry_run:
            from sapo.estimate import estimate

            forecast = estimate(settings, progress)
        else:
            from sapo.sequence import run

            run(settings, progress)
    if dry_run:
        print_dry_run(console(), settings, forecast)
    else:
        print_run(console(), settings.run_dir)


@app.command("select")
def select_command(
    task: Annotated[str, typer.Option(help="A task's name, or a .json or .jsonl file.")],
    candidates: Annotated[
        Path | None, typer.Option(help="JSON list, JSONL, or JSON object keyed by task; built-in ones if left out.")
    ] = None,
    model: Model = "embedded",
    adapter: Annotated[str | None, typer.Option(help="Adapter on the model: its current state.")] = None,
    data_dir: DataDir = None,
    instruction: Annotated[str | None, typer.Option(help="Replaces the task's instruction.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Replaces the task's suffix.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Training rows to score on.")] = 250,
    rule: Annotated[Rule, typer.Option(help="lowest loss, or leave the original only with confidence.")] = "lowest",
    sample: Annotated[Sample, typer.Option(help="Rows by label shares, or the first ones.")] = "stratified",
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the intervals.")] = 42,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the selection to this file.")] = None,
) -> None:
    """Score candidate instructions under a model and choose one; trains nothing."""
    from sapo.formats import selection_to_json
    from sapo.paraphrase import gather
    from sapo.record import write_json
    from sapo.report import print_selection
    from sapo.tasks import load_task

    if json_out is not None:
        above = next(folder for folder in json_out.absolute().parents if folder.exists())
        if json_out.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
            raise ConfigError(f"--json {json_out} cannot be written: give the path of a file")
    loaded_task = load_task(task, data_dir, instruction=instruction, suffix=suffix)
    kept, rejected = gather(loaded_task, candidates, None)
    with _quiet_libraries(), _terminal() as progress:
        from sapo.model import load_model
        from sapo.render import Renderer
        from sapo.score import Scorer
        from sapo.selection import MAX_LENGTH, context_length, score_candidates, selection_rows

        loaded = load_model(model, adapter)
        for note in loaded.notes:
            progress.note(note)
        rows = selection_rows(loaded_task, examples, sample, seed)
        total = len(rows) * len(kept)
        progress.plan(total)
        with progress.step(f"{loaded_task.name}: scoring {len(kept)} candidates", total, total) as advance:
            selection = score_candidates(
                Scorer(loaded.model),
                Renderer(loaded.tokenizer, min(MAX_LENGTH, context_length(loaded.model))),
                loaded_task, kept, rows, rule=rule, sample=sample, seed=seed, rejected=rejected, advance=advance,
            )  # fmt: skip
    print_selection(console(), selection)
    if json_out is not None:
        write_json(json_out, {"model": loaded.name, **selection_to_json(selection)})
        console().print(f"written to {json_out}", markup=False, highlight=False)


@app.command("tasks")
def tasks_command(
    name: Annotated[str | None, typer.Argument(help="Show one task.")] = None,
    data_dir: DataDir = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Render one row, the supervised tokens marked.")
    ] = False,
    model: Model = "embedded",
) -> None:
    """List tasks and sequences, or show one task and how the model sees it."""
    from sapo.report import print_prompt, print_task, print_tasks
    from sapo.tasks import load_task

    if name is None:
        if show_prompt:
            raise ConfigError("--show-prompt needs the name of a task")
        print_tasks(console(), data_dir)
        return
    task = load_task(name, data_dir)
    print_task(console(), task)
    if show_prompt:
        with _quiet_libraries():
            from sapo.model import load_tokenizer
            from sapo.render import Renderer
            from sapo.selection import MAX_LENGTH

            renderer = Renderer(load_tokenizer(model), MAX_LENGTH)
            encoded = renderer.encode(task.instruction, task.suffix, task.train[:1])[0]
        print_prompt(console(), renderer, encoded)


@app.command("generate")
def generate_command(
    stage_dir: Annotated[Path, typer.Argument(help="A stage directory of a run: RUN_DIR/stages/K-TASK.")],
    text: Annotated[str | None, typer.Option("--input", help="One input.")] = None,
    file: Annotated[Path | None, typer.Option(help="One input per line; one answer per line comes out.")] = None,
    task: Annotated[str | None, typer.Option(help="A task of the stage; the last one if left out.")] = None,
) -> None:
    """Answer inputs with a trained stage, applying the instruction and suffix stored beside it."""
    if (text is None) == (file is None):
        raise ConfigError("give either --input TEXT or --file FILE")
    from sapo.stage import Stage
    from sapo.tasks.files import read_text

    lines = [text] if text is not None else read_text(file or Path()).rstrip("\n").split("\n")
    inputs = [line for line in lines if line.strip()]
    if not inputs:
        raise ConfigError(f"{file or '--input'} holds no input: one per line is needed")
    with _quiet_libraries():
        answers = iter(Stage.load(stage_dir).answer(inputs, task))
    for line in lines:
        answer = next(answers) if line.strip() else ""
        # One line per input: an empty one, or an answer of several lines, must not shift the rest.
        sys.stdout.write((answer if text is not None else answer.replace("\n", "\\n")) + "\n")


@app.command("report")
def report_command(
    run_dirs: Annotated[list[Path], typer.Argument(help="One run directory, or several to compare.")],
) -> None:
    """Show what runs found, side by side, and write the same as Markdown."""
    from sapo.report import print_report

    print_report(console(), run_dirs)


def console() -> Console:
    """Return the console for results: standard output."""
    return Console()


@contextmanager
def _terminal() -> Iterator[Terminal]:
    # Progress goes to standard error, so that results can be piped.
    with Terminal(Console(stderr=True)) as progress:
        yield progress


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and advice out of ours; their errors still come through."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers a question whose name is about to change.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def main() -> None:
    """Run the command line: exit 0 on success, 2 for the user's mistakes, 130 when interrupted."""
    errors = Console(stderr=True)
    try:
        app()
    except SapoError as error:
        errors.print("error: ", style="bold red", end="")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            errors.print("interrupted. `sapo run` goes on from its last finished step with the same command.")
        raise


_INTERRUPTED = 130

if __name__ == "__main__":
    main()
