"""One task from rows as they are found: its texts, its labels, its metric, and its one instruction.

The instruction is the one given, or the one that the data hold for all rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sapo.core.errors import DataError
from sapo.core.types import Example, Split, Task, Unused
from sapo.core.untrusted import visible
from sapo.models.layout import CHAT_PIECE
from sapo.tasks.columns import Columns, find_columns
from sapo.tasks.files import Broken, Raw, demand_whole, quoted
from sapo.tasks.labels import labels_of, metric_of
from sapo.tasks.own import DataSource, demand_settings
from sapo.tasks.rows import Row, read_split, unused_keys

_CHAT = re.compile(CHAT_PIECE, re.IGNORECASE | re.MULTILINE)
# Characters of an answer that are hardly meant; line breaks and tabs are.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def make_task(name: str, source: DataSource, found: Raw) -> Task:
    """Return a task from rows by what they are used for; those that cannot be used are left out and listed in it.

    It has no test rows where the data have none, see `sapo.tasks.holdout.hold_out`. Its notes name every decision that
    was taken.
    """
    _demand_name(name)
    demand_settings(source)
    # White space at its ends would be scored and trained on, but candidates have none there.
    given = source.instruction.strip() if source.instruction is not None else None
    columns = find_columns(source.data, found.splits.values(), source.columns)
    used: dict[Split, list[Row]] = {}
    unused: list[Unused] = []
    notes = [*found.notes, *columns.notes]
    keys = sum((unused_keys(rows, columns) for rows in found.splits.values()), Counter[str]())
    if keys:
        notes.append("keys of messages that are not used: " + ", ".join(f"{k!r} ({n})" for k, n in keys.items()))
    demanded = {"train": source.data, **({} if source.test is None else {"test": source.test})}
    for split in (split for split in SPLITS if split in found.splits):
        read, left_out = read_split(split, found.splits[split], columns, alternatives=found.alternatives)
        used[split] = list(read.values())
        unused += left_out
        if left_out and not used[split]:
            ((commonest, _),) = Counter(row.reason for row in left_out).most_common(1)
            reason = f"none of the {len(left_out)} {split} rows can be used, most often because {commonest}"
            if split in demanded:
                raise DataError(f"{demanded[split]}: {reason}. Mend them, or name other columns with columns.")
            notes.append(reason)
    text, examples, text_notes = _settled(source.data, given, found.instruction, used, columns)
    labels, label_notes = labels_of(source.labels, found.classes.get(columns.answer or "", ()), examples)
    listed = sum(row.listed for row in used["train"])
    if listed:
        notes.append(
            f"lists in {columns.answer!r} ({listed} of {len(used['train'])} training rows) are learned as one answer, "
            "their members joined by commas"
        )
    counted = sum(_counts_choices(row, columns) for row in found.splits["train"])
    if counted:
        notes.append(
            f"numbers in {columns.answer!r} ({counted} of {len(found.splits['train'])} training rows) are learned as "
            "numbers, while the prompt lists choices as A, B, ...: write letters, if they count the choices"
        )
    metric, why = metric_of(labels, examples["train"], listed)
    metric_notes = [] if source.metric else [f"metric: {metric}, as {why}"]
    if piece := _CHAT.search(text):
        notes.append(
            f"the instruction holds {piece.group()!r}, as chat templates write it, and the model reads it as ordinary "
            "text: leave it out, the model's own template is applied"
        )
    if text.strip():
        first = [row.history[0][0] if row.history else row.input for row in examples["train"]]
        inside = sum(text.strip() in one for one in first)
        if 2 * inside > len(first):
            notes.append(
                f"{inside} of {len(first)} inputs hold the instruction already, and it is put in front of them once "
                "more: take it out of them; or, with sapo.select, load the rows and give them as they are"
            )
    odd = [hit.group() for rows in examples.values() for row in rows if (hit := _CONTROL.search(row.answer))]
    if odd:
        notes.append(f"answers with control characters: {len(odd)}, such as {odd[0]!r}; remove what is not meant")
    return Task(
        name=name, instruction=text.strip(), suffix=source.suffix.strip(), labels=labels,
        metric=source.metric or metric,
        train=examples["train"], dev=examples.get("dev", ()), test=examples.get("test", ()),
        unused=tuple(unused), notes=(*notes, *text_notes, *label_notes, *metric_notes),
    )  # fmt: skip


def _counts_choices(row: dict[str, Any] | Broken, columns: Columns) -> bool:
    """Whether an answer is a number that is none of the choices, which stand in the prompt behind letters."""
    if isinstance(row, Broken) or len(columns.input) < 2:
        return False
    choices = [str(choice) for name in columns.input if isinstance(row.get(name), list) for choice in row[name]]
    answer = str(row.get(columns.answer or ""))
    return bool(choices) and answer.isdecimal() and answer not in choices


def _demand_name(name: str) -> None:
    if not name or name[0] in ".-" or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 100:
        raise DataError(
            f"task {name[:120]!r}: a task's name is also a file's name, so it must not be empty, start with a dot or "
            "a hyphen, hold a slash or control characters, or be longer than 100 bytes. Give it another name."
        )
    demand_whole(name, "a task's name")


def _settled(
    where: str, given: str | None, definition: str | None, used: Mapping[Split, Sequence[Row]], columns: Columns
) -> tuple[str, Mapping[Split, tuple[Example, ...]], tuple[str, ...]]:
    """Return the task's one instruction, the rows by split, and where it came from, one sentence each.

    It is the one ``given`` by the user, else the one that all rows share, else the ``definition`` of the data set as a
    whole. Where rows have instructions of their own, their inputs begin with them.
    """
    own: dict[str, str] = {}
    for text in (_lead(row.system, row.instruction) for rows in used.values() for row in rows):
        # White space at the ends and characters that nobody sees make no other text.
        own.setdefault(visible(text).strip(), text)
    kind = "system message" if columns.instruction is None else f"text of column {columns.instruction!r}"
    plain = {split: tuple(row.example for row in rows) for split, rows in used.items()}
    shared = next(iter(own.values())) if len(own) == 1 else ""
    if len(own) > 1:
        if given is None:
            raise DataError(_several(where, kind, list(own.values())))
        led = {split: tuple(_led(row) for row in rows) for split, rows in used.items()}
        return given, led, (f"the {kind} differs from row to row and stands in front of each row's input",)
    inside = shared if shared.strip() else definition or ""
    source = f"the {kind} that all rows share" if shared.strip() else "the Definition in the data"
    if given is not None:
        replaced = f"the instruction given replaces {source}: {quoted(inside)}"
        return given, plain, (replaced,) if inside.strip() and inside != given else ()
    if not inside.strip():
        raise DataError(
            f"{where} has no instruction of its own: give one (instruction=... in Python, --instruction on the command "
            "line, instruction: in a configuration)"
        )
    return inside, plain, (f"instruction: {source}",)


def _several(where: str, kind: str, texts: Sequence[str]) -> str:
    first, second = (quoted(text) if text else "none" for text in texts[:2])
    return (
        f"{where}: the {kind} differs from row to row ({len(texts)} different ones, such as {first} and {second}), but "
        "a task has one instruction. Give it with --instruction, or with instruction: in a configuration; each row's "
        "own text then stands in front of its input."
    )


def _led(row: Row) -> Example:
    """Return the example with its system message before all turns and its own instruction before its question."""
    example = replace(row.example, input=_lead(row.instruction, row.example.input))
    if not example.history:
        return replace(example, input=_lead(row.system, example.input))
    (said, reply), *later = example.history
    return replace(example, history=((_lead(row.system, said), reply), *later))


def _lead(first: str, text: str) -> str:
    return "\n\n".join(part for part in (first, text) if part)
