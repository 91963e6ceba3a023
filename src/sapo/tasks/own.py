"""A user's own data as a task: any table, conversations, or a data set of the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from sapo.core.errors import DataError, nearest
from sapo.core.settings import Settings
from sapo.core.types import Split, Task, Unused
from sapo.tasks.columns import find_columns
from sapo.tasks.files import demand_whole, is_data
from sapo.tasks.instructions import settle_instruction
from sapo.tasks.labels import labels_of, metric_of
from sapo.tasks.rows import Row, read_split, unused_keys
from sapo.tasks.sources import find
from sapo.tasks.splits import assign

# The names of `sapo.models.text_metrics.TEXT_METRICS`, a room that comes after this one; a test compares them.
METRICS = ("exact_match", "rouge_l", "list_f1")


class DataSource(Settings):
    """Where a task's own data are, and what they mean.

    Attributes:
        data: a file, a directory, or a hub id.
        train: name of the split with the training rows; None recognises it by its name.
        test: another file with the test rows, or the name of a split.
        subset: configuration name of a hub data set.
        instruction: the task's instruction; None takes the one that the data hold, if it is the same everywhere.
        suffix: a fixed sentence about the answer's format, may be empty.
        columns: role (input, answer, instruction, system, history, messages, ignore) -> column, or several for input
            and ignore; roles left out are recognised.
        labels: the closed set of answers, empty for free text; None takes them from the answers, where they are
            few.
        metric: name of the primary metric; None takes exact_match where there are labels, else rouge_l.
    """

    data: Annotated[str, Field(min_length=1)]
    train: str | None = None
    test: str | None = None
    subset: str | None = None
    instruction: str | None = None
    suffix: str = ""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    metric: str | None = None


def data_task(name: str, source: DataSource) -> Task:
    """Return a task from the user's own data; rows that cannot be used are left out and listed in it.

    Args:
        name: of the task; it is also a file's name.
        source: where the data are.

    Returns:
        The task. It has no test rows where the data have none, see `sapo.tasks.holdout.hold_out`. Its notes
        name every decision that was taken.

    Raises:
        DataError: if the data cannot be read, no row of them can be used, or there is no one instruction.
    """
    _demand_name(name)
    _demand_settings(source)
    # White space at its ends would be scored and trained on, but candidates have none there.
    given = source.instruction.strip() if source.instruction is not None else None
    found = find(source.data, source.subset)
    test = source.test
    other = find(test, None) if test is not None and test not in found.splits and is_data(test) else None
    splits = assign(source.data, found, source.train, test, other)
    columns = find_columns(source.data, splits.rows.values(), source.columns)
    used: dict[Split, list[Row]] = {}
    unused: list[Unused] = []
    notes = [*splits.notes, *columns.recognised, *columns.unused]
    keys = sum((unused_keys(rows, columns) for rows in splits.rows.values()), Counter[str]())
    if keys:
        notes.append("keys of messages that are not used: " + ", ".join(f"{k!r} ({n})" for k, n in keys.items()))
    for split, rows in splits.rows.items():
        used[split], left_out = read_split(split, rows, columns, alternatives=splits.alternatives)
        unused += left_out
        if left_out and not used[split]:
            reason = f"none of the {len(left_out)} {split} rows can be used, most often because {_commonest(left_out)}"
            if split == "train" or (split == "test" and test is not None):
                where = test if split == "test" and test is not None else source.data
                raise DataError(f"{where}: {reason}. Mend them, or name other columns with columns.")
            notes.append(reason)
    settled = settle_instruction(source.data, given, splits.instruction, used, columns)
    examples = settled.examples
    labels, label_notes = labels_of(source.labels, splits.classes.get(columns.answer or "", ()), examples)
    listed = sum(row.listed for row in used["train"])
    if listed:
        notes.append(
            f"lists in {columns.answer!r} ({listed} of {len(used['train'])} training rows) are learned as one answer, "
            "their members joined by commas"
        )
    metric, why = metric_of(labels, examples["train"], listed)
    metric_note = "" if source.metric else f"metric: {metric}, as {why}"
    metric = source.metric or metric
    notes += [*settled.notes, *label_notes, metric_note]
    return Task(
        name=name, instruction=settled.text.strip(), suffix=source.suffix.strip(), labels=labels, metric=metric,
        train=examples["train"], dev=examples.get("dev", ()), test=examples.get("test", ()),
        unused=tuple(unused), notes=tuple(note for note in notes if note),
    )  # fmt: skip


def _demand_name(name: str) -> None:
    if not name or name[0] in ".-" or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 100:
        raise DataError(
            f"task {name[:120]!r}: a task's name is also a file's name, so it must not be empty, start with a dot or "
            "a hyphen, hold a slash or control characters, or be longer than 100 bytes. Give it another name."
        )
    demand_whole(name, "a task's name")


def _demand_settings(source: DataSource) -> None:
    if source.instruction is not None and not source.instruction.strip():
        raise DataError(f"{source.data}: the instruction given is empty: give a text, or leave it out")
    if source.metric is not None and source.metric not in METRICS:
        raise DataError(
            f"{source.data}: metric: there is no {source.metric!r}.{nearest(source.metric, METRICS)} "
            f"Allowed: {', '.join(METRICS)}"
        )
    labels = source.labels or ()
    for label in labels:
        if not label.strip() or labels.count(label) > 1:
            raise DataError(f"labels: {label!r} {'occurs twice' if label.strip() else 'is empty'}. Leave it out.")
    for what, text in (
        ("instruction", source.instruction or ""),
        ("suffix", source.suffix),
        ("labels", "".join(labels)),
    ):
        demand_whole(text, f"the {what}")


def _commonest(unused: Sequence[Unused]) -> str:
    return Counter(row.reason for row in unused).most_common(1)[0][0]
