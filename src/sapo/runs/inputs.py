"""What the user gave, read and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sapo.candidates.gather import Gathered
from sapo.core.errors import ConfigError
from sapo.core.types import Example, Task
from sapo.runs.config.schema import Config, TaskConfig
from sapo.runs.gathering import Gathering
from sapo.selection.rows import selection_rows
from sapo.tasks.holdout import hold_out
from sapo.tasks.inspection import drop_overlap
from sapo.tasks.load import load_sequence
from sapo.tasks.own import DataSource

# Every run is tested on the same rows, whatever its seed.
_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class Given:
    """Tasks and candidates of a run.

    Attributes:
        tasks: of the sequence, with the rows that the run uses.
        watch: tasks that are only evaluated.
        dropped: per task, training rows left out because they are also tested.
        gathered: per task, its candidates.
        held_rows: per task, rows that are neither trained on nor tested; empty unless the policy needs them.
    """

    tasks: tuple[Task, ...]
    watch: tuple[Task, ...]
    dropped: Mapping[str, int]
    gathered: Mapping[str, Gathered]
    held_rows: Mapping[str, tuple[Example, ...]]


def read_given(config: Config, gathering: Gathering) -> Given:
    """Return the tasks and candidates of a run.

    Raises:
        SapoError: for data or candidates that cannot be used, or that contradict each other.
    """
    own = {name: _source(task) for name, task in config.tasks.items()}
    tasks = load_sequence(config.sequence, config.data_dir, own)
    watch = load_sequence(config.watch, config.data_dir, own)
    both = sorted({t.name for t in tasks} & {t.name for t in watch})
    if both:
        raise ConfigError(f"watch: {', '.join(both)} is trained on in this sequence; watch other tasks")
    unread = [name for name in own if name not in {t.name for t in (*tasks, *watch)}]
    if unread:
        raise ConfigError(
            f"tasks: {', '.join(unread)} is neither in sequence nor in watch: add it there, or leave it out"
        )
    split = [hold_out(task) for task in tasks]
    apart = [drop_overlap(task) if config.data.drop_overlap else (task, 0) for task in split]
    dropped = {task.name: rows for task, rows in apart}
    held_rows = {task.name: _held_rows(task, config) for task, _ in apart} if config.policy == "reselect" else {}
    tasks = tuple(_used_rows(task, config) for task, _ in apart)
    watch = tuple(_used_rows(hold_out(task), config) for task in watch)
    gathered = {task.name: gathering(task, number) for number, task in enumerate(tasks, start=1)}
    return Given(tasks, watch, dropped, gathered, held_rows)


def _source(task: TaskConfig) -> DataSource:
    return DataSource(
        task.data,
        task.test,
        task.subset,
        task.instruction,
        task.suffix,
        {str(role): name for role, name in task.columns.items()},
        task.labels,
        task.metric,
    )


def _used_rows(task: Task, config: Config) -> Task:
    """Return the task with only the rows that the run uses, in the file's order."""
    rows = config.train.rows or len(task.train)
    picked = selection_rows(task, rows, "stratified", config.seed)
    tested = replace(task, train=task.test)
    shown = selection_rows(tested, config.evaluate.rows or len(task.test), "stratified", _TEST_SEED)
    return replace(
        task,
        train=tuple(task.train[i] for i in picked),
        test=tuple(task.test[i] for i in shown),
    )


def _held_rows(task: Task, config: Config) -> tuple[Example, ...]:
    """Return rows of a task that are neither trained on nor tested: its dev rows, or training rows that are not used.

    Raises:
        ConfigError: if there are none.
    """
    used = set(selection_rows(task, config.train.rows or len(task.train), "stratified", config.seed))
    rows = task.dev or tuple(row for i, row in enumerate(task.train) if i not in used)
    if not rows:
        raise ConfigError(
            f"policy reselect scores on rows that are not trained on, but {task.name} has no dev rows and all its "
            f"{len(task.train)} training rows are used: set train.rows to fewer, or give dev rows"
        )
    there = replace(task, train=rows)
    return tuple(rows[i] for i in selection_rows(there, config.reselect.rows, "stratified", config.seed))
