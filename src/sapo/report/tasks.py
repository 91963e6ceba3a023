"""What tasks and sequences there are, and what one task is."""

from __future__ import annotations

from pathlib import Path

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.report.blocks import NOTHING, Block, Command, Listing, Note, Page, Section, Table, one_line
from sapo.report.data import data_blocks
from sapo.tasks.benchmark import benchmark_names
from sapo.tasks.builtin import BUILTIN
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.load import load_task
from sapo.tasks.sequences import SEQUENCES

# Characters of an instruction, and of a list of labels, that the table of tasks shows.
_SHOWN = 60
_LABELS = 40
# Characters of a text that is shown in full.
_HUGE = 4000
_TURNS = ("User", "Assistant")


def tasks_page(data_dir: Path | None) -> Page:
    """Return the page of the built-in tasks, or of those of a benchmark directory, and of the named sequences.

    Raises:
        DataError: if the directory is no benchmark. A task of it that cannot be used is shown with the reason.
    """
    names = BUILTIN if data_dir is None else benchmark_names(data_dir)
    columns = ("task", "train", "dev", "test", "metric", "labels", "instruction")
    legend = (
        "train, dev, test: rows; metric: the score of an answer, 0 to 100, higher is better; labels: the allowed "
        f"answers, {NOTHING} where they are free text.",
    )
    table = Table(columns, tuple(_task_row(name, data_dir) for name in names), legend=legend, text=(0, 4, 5, 6))
    sections = [
        Section("Tasks", (table,)),
        Section("Named sequences", (_sequences({*BUILTIN, *names}),)),
        Section(
            "Next",
            (
                Command(("sapo", "tasks", names[0], *_data(data_dir)), "Look at one task:")
                if names
                else Note("No tasks."),
                Note("Your own data: `sapo tasks FILE --instruction TEXT`; in `sapo run` they go under `tasks:`."),
            ),
        ),
    ]
    return Page("Built-in tasks" if data_dir is None else f"Tasks of {data_dir}", tuple(sections))


def task_page(task: Task) -> Page:
    """Return the page of one task."""
    rows = ", ".join(f"{name} {len(split)}" for name, split in _splits(task))
    blocks: list[Block] = [
        Listing("Instruction, the text that is optimised:", _shortened(task.instruction)),
        Listing("Suffix, fixed, behind the input:", task.suffix) if task.suffix else Note("Suffix: none."),
        Note(f"Labels: {', '.join(task.labels) if task.labels else 'none, answers are free text'}."),
        Note(f"Metric: {task.metric}, 0 to 100, higher is better."),
        Note(f"Rows: {rows}."),
        *map(Note, task.notes),
    ]
    example = next((split[0] for _, split in _splits(task) if split), None)
    shown: tuple[Block, ...] = (Note("The task has no rows."),)
    if example is not None:
        turns = [
            Listing(f"{who}, earlier:", _shortened(text))
            for pair in example.history
            for who, text in zip(_TURNS, pair, strict=True)
        ]
        others = [Listing("Also right:", _shortened(text)) for text in example.references]
        shown = (
            *turns,
            Listing("Input:", _shortened(example.input)),
            Listing("Answer:", _shortened(example.answer)),
            *others,
        )
    sections = [Section("Task", tuple(blocks)), Section("First example", shown)]
    if example is not None or task.unused:
        sections.append(Section("Data", data_blocks([inspect_rows(task)])))
    return Page(f"Task {task.name}", tuple(sections))


def _shortened(text: str) -> str:
    """Return a text that fits on a screen: the middle of a huge one is left out, and counted."""
    if len(text) <= _HUGE:
        return text
    return f"{text[: _HUGE // 2]}\n[... {len(text) - _HUGE} characters ...]\n{text[-_HUGE // 2 :]}"


def _splits(task: Task) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    return (("train", task.train), ("dev", task.dev), ("test", task.test))


def _task_row(name: str, data_dir: Path | None) -> tuple[str, ...]:
    try:
        task = load_task(name, data_dir)
    except DataError as error:
        return (name, *[NOTHING] * 5, f"cannot be used: {error}")
    return (
        name,
        *(str(len(split)) for _, split in _splits(task)),
        task.metric,
        one_line(", ".join(task.labels), _LABELS) or NOTHING,
        one_line(task.instruction, _SHOWN),
    )


def _sequences(available: set[str]) -> Table:
    rows = []
    for name, tasks in SEQUENCES.items():
        missing = [task for task in tasks if task not in available]
        state = (
            "ready" if not missing else "needs data_dir" if len(missing) == len(tasks) else f"{len(missing)} missing"
        )
        rows.append((name, state, ", ".join(tasks)))
    legend = "data: ready, or what is missing; the published sequences need --data-dir with their benchmark's files."
    return Table(("sequence", "data", "tasks in order"), tuple(rows), legend=(legend,), text=(0, 1, 2))


def _data(data_dir: Path | None) -> tuple[str, ...]:
    return () if data_dir is None else ("--data-dir", str(data_dir))
