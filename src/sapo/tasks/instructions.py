"""One instruction per task: the one given, or the one that the data hold for all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sapo.core.errors import DataError
from sapo.core.types import Example, Split
from sapo.core.untrusted import visible
from sapo.tasks.columns import Columns
from sapo.tasks.files import quoted
from sapo.tasks.rows import Row


def settle_instruction(
    where: str, given: str | None, definition: str | None, used: Mapping[Split, Sequence[Row]], columns: Columns
) -> tuple[str, Mapping[Split, tuple[Example, ...]], tuple[str, ...]]:
    """Return the task's one instruction, the rows by split, and where it came from, one sentence each.

    It is the one ``given`` by the user, else the one that all rows share, else the ``definition`` of the data set as a
    whole. Where rows have instructions of their own, their inputs begin with them.

    Raises:
        DataError: if none is given and the data hold none, or several.
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
