"""One task from rows as they are found: its texts, its instruction, its labels and its metric."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sapo.core.errors import DataError
from sapo.core.types import Split, Task, Unused
from sapo.models.layout import CHAT_PIECE
from sapo.tasks.columns import find_columns
from sapo.tasks.files import demand_whole
from sapo.tasks.instructions import settle_instruction
from sapo.tasks.labels import labels_of, metric_of
from sapo.tasks.own import DataSource
from sapo.tasks.raw import Raw
from sapo.tasks.rows import Row, read_split, unused_keys

_CHAT = re.compile(CHAT_PIECE, re.IGNORECASE | re.MULTILINE)
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def make_task(name: str, source: DataSource, found: Raw) -> Task:
    """Return a task; rows that cannot be used are left out and listed in it.

    Args:
        name: of the task; it is also a file's name.
        source: what the data mean.
        found: their rows by what they are used for.

    Returns:
        The task. It has no test rows where the data have none, see `sapo.tasks.holdout.hold_out`. Its notes
        name every decision that was taken.

    Raises:
        DataError: if no row can be used, or there is no one instruction.
    """
    _demand_name(name)
    # White space at its ends would be scored and trained on, but candidates have none there.
    given = source.instruction.strip() if source.instruction is not None else None
    columns = find_columns(source.data, found.splits.values(), source.columns)
    used: dict[Split, list[Row]] = {}
    unused: list[Unused] = []
    notes = [*found.notes, *columns.recognised, *columns.unused]
    keys = sum((unused_keys(rows, columns) for rows in found.splits.values()), Counter[str]())
    if keys:
        notes.append("keys of messages that are not used: " + ", ".join(f"{k!r} ({n})" for k, n in keys.items()))
    demanded = {"train": source.data, **({} if source.test is None else {"test": source.test})}
    for split in (split for split in SPLITS if split in found.splits):
        # In Natural-Instructions, which define their task, a list of answers holds answers that are all right.
        alternatives = found.instruction is not None
        used[split], left_out = read_split(split, found.splits[split], columns, alternatives=alternatives)
        unused += left_out
        if left_out and not used[split]:
            reason = f"none of the {len(left_out)} {split} rows can be used, most often because {_commonest(left_out)}"
            if split in demanded:
                raise DataError(f"{demanded[split]}: {reason}. Mend them, or name other columns with columns.")
            notes.append(reason)
    settled = settle_instruction(source.data, given, found.instruction, used, columns)
    examples = settled.examples
    labels, label_notes = labels_of(source.labels, found.classes.get(columns.answer or "", ()), examples)
    listed = sum(row.listed for row in used["train"])
    if listed:
        notes.append(
            f"lists in {columns.answer!r} ({listed} of {len(used['train'])} training rows) are learned as one answer, "
            "their members joined by commas"
        )
    metric, why = metric_of(labels, examples["train"], listed)
    metric_notes = [] if source.metric else [f"metric: {metric}, as {why}"]
    if piece := _CHAT.search(settled.text):
        notes.append(
            f"the instruction holds {piece.group()!r}, as chat templates write it, and the model reads it as ordinary "
            "text: leave it out, the model's own template is applied"
        )
    return Task(
        name=name, instruction=settled.text.strip(), suffix=source.suffix.strip(), labels=labels,
        metric=source.metric or metric,
        train=examples["train"], dev=examples.get("dev", ()), test=examples.get("test", ()),
        unused=tuple(unused), notes=(*notes, *settled.notes, *label_notes, *metric_notes),
    )  # fmt: skip


def _demand_name(name: str) -> None:
    if not name or name[0] in ".-" or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 100:
        raise DataError(
            f"task {name[:120]!r}: a task's name is also a file's name, so it must not be empty, start with a dot or "
            "a hyphen, hold a slash or control characters, or be longer than 100 bytes. Give it another name."
        )
    demand_whole(name, "a task's name")


def _commonest(unused: Sequence[Unused]) -> str:
    return Counter(row.reason for row in unused).most_common(1)[0][0]
