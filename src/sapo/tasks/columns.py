"""Which columns hold what, named by the user or recognised; and what one row says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sapo.core.errors import DataError, nearest
from sapo.tasks.files import COLUMNS
from sapo.tasks.raw import Broken, Rows

ROLES = ("input", "answer", "instruction", "messages")
MESSAGES = ("messages", "conversations")
# Columns named in an error, and characters of one name there: a file without header has its first row as names.
_LISTED = 20
_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a data set, None where a role is not filled.

    Attributes:
        input, answer, instruction, messages: names of columns; either messages, or answer with input or
            instruction.
        input_may_lack: an input cell without value counts as an empty input, as in Alpaca's layout.
        recognised: the roles that were found, not named by the user.
    """

    input: str | None
    answer: str | None
    instruction: str | None
    messages: str | None
    input_may_lack: bool
    recognised: tuple[str, ...]

    @property
    def note(self) -> str:
        """One sentence on the recognised columns, "" where all were named."""
        names = {role: name for role, name in self.by_role().items() if role in self.recognised}
        return "columns recognised: " + ", ".join(f"{r} = {n!r}" for r, n in names.items()) if names else ""

    def by_role(self) -> dict[str, str]:
        """Return role -> column, only the roles that are filled."""
        pairs = zip(ROLES, (self.input, self.answer, self.instruction, self.messages), strict=True)
        return {role: name for role, name in pairs if name is not None}


def find_columns(where: str, splits: Iterable[Rows], named: Mapping[str, str]) -> Columns:
    """Return the columns of all rows together, the named roles as named and the others recognised.

    Args:
        where: names the data in errors.
        splits: rows of all splits.
        named: role -> column, as the user gave them.

    Raises:
        DataError: if a named column is not there, or no input and answer can be recognised.
    """
    filled: dict[str, bool] = {}
    for rows in splits:
        for row in rows:
            if not isinstance(row, Broken):
                for key, value in row.items():
                    filled[key] = value is not None or filled.get(key, False)
    _demand_named(where, filled, named)
    if named.get("input") is not None and named.get("input") == named.get("answer"):
        raise DataError(f"{where}: the column {named['input']!r} is named as input and as answer: name two columns")
    free = [name for name in filled if name not in named.values()]
    found = dict(named)
    for pool in ([name for name in free if filled[name]], free):
        # A column without a single value is taken only where nothing else fits.
        found = {**_recognise(pool, named), **named}
        if _complete(found):
            break
    else:
        raise DataError(_unrecognised(where, list(filled), found))
    return Columns(
        input=found.get("input"),
        answer=found.get("answer"),
        instruction=found.get("instruction"),
        messages=found.get("messages"),
        input_may_lack="instruction" in found and found.get("input") == "input" and "input" not in named,
        recognised=tuple(role for role in found if role not in named),
    )


def _demand_named(where: str, there: Mapping[str, bool], named: Mapping[str, str]) -> None:
    for role, name in named.items():
        if role not in ROLES:
            raise DataError(
                f"columns of {where}: there is no role {role!r}.{nearest(role, ROLES)} Allowed: {', '.join(ROLES)}"
            )
        if name not in there:
            raise DataError(
                f"columns: {where} has no column {name!r} for {role}.{nearest(name, there)} "
                f"It has: {_listed(list(there))}"
            )
    if "messages" in named and named.keys() & {"input", "answer"}:
        raise DataError("columns: messages hold input and answer already: name either messages, or input and answer")


def _recognise(free: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return role -> column for the roles that can be filled from the free columns."""
    if "messages" in named:
        return {}
    if not named.keys() & {"input", "answer"}:
        messages = [name for name in MESSAGES if name in free]
        if messages:
            return {"messages": messages[0]}
    found = {"instruction": "instruction"} if "instruction" in free and "instruction" not in named else {}
    pair = _pair(free, named)
    if "output" in free and (found or "instruction" in named):
        # Alpaca's layout, where the input is optional.
        pair = ("input", "output")
    if pair is not None:
        found |= {role: name for role, name in zip(("input", "answer"), pair, strict=True) if name in free}
    return found


def _pair(free: list[str], named: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first known pair that is there; a named column first looks for its usual partner."""
    for source, target in COLUMNS:
        if all(name == named.get(role, name) for role, name in (("input", source), ("answer", target))) and all(
            name in free or name in named.values() for name in (source, target)
        ):
            return source, target
    for source, target in COLUMNS:
        if ("input" in named or source in free) and ("answer" in named or target in free):
            return source, target
    return None


def _complete(found: Mapping[str, str]) -> bool:
    return "messages" in found or ("answer" in found and ("input" in found or "instruction" in found))


def _unrecognised(where: str, there: list[str], found: Mapping[str, str]) -> str:
    pairs = "; ".join(" and ".join(map(repr, pair)) for pair in COLUMNS)
    lacking = " and ".join(role for role in ("input", "answer") if role not in found)
    return (
        f"{where}: no {lacking} column is recognised among {_listed(there)}. Name them with columns, such as "
        f"input=COLUMN and answer=COLUMN. Recognised: {pairs}; 'instruction' and 'output'; "
        f"{' or '.join(map(repr, MESSAGES))}. The first line of a CSV or TSV file must name the columns."
    )


def _listed(names: list[str]) -> str:
    shown = [repr(name if len(name) <= _WIDTH else name[:_WIDTH] + "...") for name in names[:_LISTED]]
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join(shown + more) or "no columns at all"
