"""What tasks and sequences there are, what one task is, and one prompt as the model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sapo.core.errors import DataError
from sapo.core.types import Encoded, Example, Task
from sapo.core.untrusted import one_line, plain
from sapo.models.render import Renderer
from sapo.report.blocks import NOTHING, Block, Command, Listing, Note, Page, Section, Table
from sapo.report.data import data_blocks
from sapo.tasks.benchmark import benchmark_names
from sapo.tasks.builtin import BUILTIN
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.load import load_task
from sapo.tasks.sequences import SEQUENCES

# Characters of an instruction, and of a list of labels, that the table of tasks shows.
_SHOWN = 60
_LABELS = 40
# Characters of a text that is shown in full: about a screen.
_HUGE = 1000
_TURNS = ("User", "Assistant")
# What a token decodes to that holds only part of a character.
_PART = "\ufffd"


def tasks_page(data_dir: Path | None) -> Page:
    """Return the page of the built-in tasks, or of those of a benchmark directory, and of the named sequences.

    Raises:
        DataError: if the directory is not a benchmark. A task of it that cannot be used is shown with the reason.
    """
    names = BUILTIN if data_dir is None else benchmark_names(data_dir)
    columns = ("task", "train", "dev", "test", "metric", "labels", "instruction")
    legend = (
        "train, dev, test: rows; metric: the score of an answer, 0 to 100, higher is better; labels: the allowed "
        f"answers, {NOTHING} where they are free text.",
    )
    table = Table(columns, tuple(_task_row(name, data_dir) for name in names), legend=legend, text=(0, 4, 5, 6))
    where = () if data_dir is None else ("--data-dir", str(data_dir))
    look = [Command(("sapo", "tasks", names[0], *where), "Look at one task:")] if names else [Note("No tasks.")]
    own = Note("Your own data: `sapo tasks FILE --instruction TEXT`; in `sapo run` they go under `tasks:`.")
    sections = (
        Section("Tasks", (table,)),
        Section("Named sequences", (_sequences({*BUILTIN, *names}),)),
        Section("Next", (*look, own)),
    )
    return Page("Built-in tasks" if data_dir is None else f"Tasks of {data_dir}", sections)


def task_page(task: Task) -> Page:
    """Return the page of one task."""
    blocks: tuple[Block, ...] = (
        _listing("Instruction, the text that is optimised:", task.instruction),
        _listing("Suffix, fixed, behind the input:", task.suffix) if task.suffix else Note("No suffix."),
        Note(f"Labels: {', '.join(task.labels)}." if task.labels else "No labels: answers are free text."),
        Note(f"Metric: {task.metric}, 0 to 100, higher is better."),
        Note(f"Rows: {', '.join(f'{name} {len(split)}' for name, split in _splits(task))}."),
        *map(Note, task.notes),
    )
    example = next((split[0] for _, split in _splits(task) if split), None)
    shown: tuple[Block, ...] = (Note("The task has no rows."),)
    if example is not None:
        earlier = (turn for pair in example.history for turn in zip(_TURNS, pair, strict=True))
        shown = (
            *(_listing(f"{speaker}, earlier:", text) for speaker, text in earlier),
            _listing("Input:", example.input),
            _listing("Answer:", example.answer),
            *(_listing("Also right:", text) for text in example.references),
        )
    data = [Section("Data", data_blocks([inspect_rows(task)]))] if example is not None or task.unused else []
    return Page(f"Task {task.name}", (Section("Task", blocks), Section("First example", shown), *data))


def _listing(label: str, text: str) -> Listing:
    """Return a text that fits on a screen: a longer one is cut, and its label says how long it is."""
    if len(text) > _HUGE:
        label, text = f"{label.rstrip(':')} ({len(text):,} characters, the first {_HUGE:,}):", f"{text[:_HUGE]} ..."
    return Listing(label, text)


def _splits(task: Task) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    return (("train", task.train), ("dev", task.dev), ("test", task.test))


def _task_row(name: str, data_dir: Path | None) -> tuple[str, ...]:
    try:
        task = load_task(name, data_dir)
    except DataError as error:
        return (name, *[NOTHING] * 5, f"cannot be used: {error}")
    labels, instruction = one_line(", ".join(task.labels), _LABELS), one_line(task.instruction, _SHOWN)
    return (name, *(str(len(split)) for _, split in _splits(task)), task.metric, labels or NOTHING, instruction)


def _sequences(available: set[str]) -> Table:
    rows = []
    for name, tasks in SEQUENCES.items():
        missing = [task for task in tasks if task not in available]
        lacks = "needs data_dir" if len(missing) == len(tasks) else f"{len(missing)} missing"
        state = lacks if missing else "ready"
        rows.append((name, state, ", ".join(tasks)))
    legend = "data: ready, or what is missing; the published sequences need --data-dir with their benchmark's files."
    return Table(("sequence", "data", "tasks in order"), tuple(rows), legend=(legend,), text=(0, 1, 2))


def print_prompt(console: Console, renderer: Renderer, encoded: Encoded) -> None:
    """Print the prompt as running text and each supervised token in brackets."""
    supervised = encoded.ids[encoded.prompt_length :]
    console.print()
    console.rule(Text("The prompt as the model sees it", style="bold"), align="left", style="dim")
    shown = Text(plain(renderer.text(encoded.prompt)), overflow="fold")
    for text, count in token_texts(renderer, supervised):
        # A line break is spelled out, or its bracket would close on the next line.
        content = plain(text).replace("\n", "\\n").replace("\t", "\\t")
        shown.append(f"[{content}]" + (f"x{count}" if count > 1 else ""), style="bold green")
    console.print(shown)
    console.rule(style="dim")
    console.print(
        Text(
            f"{encoded.prompt_length} prompt tokens, {encoded.supervised} supervised tokens. [...] marks a supervised "
            "token: the answer and what ends its turn; only these count in the loss. [...]x2: one piece of text that "
            "takes 2 tokens.",
            style="dim",
        )
    )
    if encoded.cut:
        console.print(Text(f"{encoded.cut} characters of the input's middle were cut to fit max_length.", style="bold"))


def token_texts(renderer: Renderer, ids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the text of each token and 1; tokens that make up characters only together come with their number."""
    split = [_PART in renderer.text([i]) for i in ids]
    start = 0
    while start < len(ids):
        end = start + 1
        while split[start] and end < len(ids) and split[end]:
            end += 1
        yield renderer.text(ids[start:end]), end - start
        start = end
