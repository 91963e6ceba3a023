"""Which columns hold what: named by the user, or recognised; and what becomes of all others.

A column whose name has a known meaning is used where the meaning is plain, and refused where it is not: a passage that
the model never sees, a preference label, or an image would otherwise be lost in silence. Every other column that is not
used is named. docs/data.md has the table of meanings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sapo.core.errors import DataError, nearest
from sapo.tasks.files import Broken, Rows

# Names of the input and answer columns that are recognised, first match wins.
COLUMNS = (
    ("input", "output"), ("sentence", "label"), ("input", "answer"), ("text", "label"), ("prompt", "completion"),
    ("question", "answer"), ("question", "answers"), ("prompt", "response"), ("query", "response"),
    ("question", "response"), ("problem", "solution"), ("problem", "answer"), ("input", "target"),
    ("source", "target"), ("inputs", "targets"), ("input", "label"), ("prompt", "answer"), ("text", "answer"),
)  # fmt: skip
ANSWERS = frozenset(target for _, target in COLUMNS)
# "source" more often tells where a row is from.
INPUTS = frozenset(source for source, _ in COLUMNS) - {"source"}
ROLES = ("input", "answer", "instruction", "system", "history", "messages", "ignore")
# These may be several columns.
_SEVERAL = ("input", "ignore")
_MESSAGES = ("messages", "conversations", "conversation")
# Columns beside all others, the first known name of each.
_BESIDE = (("system", ("system", "system_prompt")), ("history", ("history",)))
# Layouts whose input is several columns: all of them there, with one of the answers.
_LAYOUTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("context", "question"), "answers"), (("context", "question"), "answer"),
    (("passage", "question"), "answers"), (("passage", "question"), "answer"),
    (("question", "choices"), "answer"),
    (("premise", "hypothesis"), "label"), (("premise", "hypothesis"), "answer"),
    (("sentence1", "sentence2"), "label"), (("sentence1", "sentence2"), "answer"),
    (("question1", "question2"), "label"), (("question1", "question2"), "answer"),
)  # fmt: skip
_PAIRS: tuple[tuple[tuple[str, ...], str], ...] = tuple(((source,), target) for source, target in COLUMNS)
# Alpaca's layout, where the input is optional.
_ALPACA = ((("input",), "output"), (("input",), "response"))
# Names of columns that change what a row means: refused unless the user says what they are.
_PLACE = (
    "it belongs to the input: name all of it, such as columns: {{input: [{column}, ...]}} (--column input={column})"
)
_MEANINGS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({
    "a part of the input": (_PLACE, (
        "context", "contexts", "passage", "passages", "document", "documents", "article", "paragraph",
        "background", "evidence", "choices", "options", "table", "premise", "hypothesis", "sentence1",
        "sentence2", "question1", "question2", "text2", "text_b", "text_pair", "sentence_b",
    )),
    "earlier turns": ("messages hold all turns: put them there", ("history",)),
    "tools": ("tools are not put into prompts here", ("tools", "functions", "tool_calls", "function_call")),
    "media": ("only text is used", ("image", "images", "audio", "audios", "video", "videos")),
    "reasoning": (
        "reasoning that stands apart from the answer is not learned: put it into the answer",
        ("reasoning", "reasoning_content", "thinking", "rationale", "cot", "chain_of_thought"),
    ),
    "a preference": (
        "preferences are not learned: keep the rows with good answers, and give prompt and completion",
        ("chosen", "rejected", "preference"),
    ),
    "a mark of what is learned": (
        "rows count alike: leave out the rows that are not to be learned",
        ("weight", "train", "loss", "mask", "loss_mask"),
    ),
})  # fmt: skip
_IGNORE = "; or say that it is not used, columns: {{ignore: [{column}]}} (--column ignore={column})"
# Columns named in an error, and characters of one name there: a file without header has its first row as names.
_LISTED = 20
_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a data set, None or () where a role is not filled.

    Attributes:
        input: what the model is asked, one column or several.
        answer, instruction, system, history, messages: names of columns; either messages, or answer with input or
            instruction.
        input_may_lack: an input cell without value counts as an empty input, as in Alpaca's layout.
        notes: what was found, not named by the user, and the columns that are not used, with their number of values.
    """

    input: tuple[str, ...] = ()
    answer: str | None = None
    instruction: str | None = None
    system: str | None = None
    history: str | None = None
    messages: str | None = None
    input_may_lack: bool = False
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str | None, ...]:
        """All columns that fill a role."""
        return (*self.input, self.answer, self.instruction, self.system, self.history, self.messages)


def find_columns(where: str, splits: Iterable[Rows], named: Mapping[str, str | Sequence[str]]) -> Columns:
    """Return the columns of all rows together, the named roles (role -> columns) as named, the others recognised."""
    there: Counter[str] = Counter()
    texts: set[str] = set()
    broken: Counter[str] = Counter()
    for rows in splits:
        for row in rows:
            if isinstance(row, Broken):
                broken[row.reason] += 1
            else:
                there.update({key: int(holds(value)) for key, value in row.items()})
                texts.update(key for key, value in row.items() if holds(value) and not isinstance(value, bool))
    if broken and not there:
        ((reason, count),) = broken.most_common(1)
        raise DataError(f"{where}: no row can be read: {reason} ({count} rows). Are its cells separated otherwise?")
    given = {role: (names,) if isinstance(names, str) else tuple(names) for role, names in named.items()}
    _demand_named(where, there, given)
    taken = {name for names in given.values() for name in names}
    free = [name for name in there if name not in taken]
    for pool in ([name for name in free if there[name]], free):
        # A column without a single value is taken only where nothing else fits.
        found = {**_recognise(pool, given), **given}
        if "messages" in found or ("answer" in found and found.keys() & {"input", "instruction"}):
            break
    else:
        raise DataError(_unrecognised(where, there, found, broken))
    used = {name for names in found.values() for name in names}
    unused = {name: count for name, count in there.items() if count and name not in used}
    lower = {name.lower(): name for name in unused}
    for role, known in _BESIDE:
        beside = next((lower[name] for name in known if name in lower), None)
        if beside is not None and role not in found and not (role == "history" and "messages" in found):
            found[role] = (beside,)
            del unused[beside]
    for column, count in unused.items():
        if lost := _lost(column, texts):
            raise DataError(f"{where}: the column {column!r} ({count} values) {lost}{_IGNORE.format(column=column)}")
    called = [name for name in unused if name.lower() in INPUTS]
    if called and not found.keys() & {"input", "messages"}:
        raise DataError(
            f"{where}: the column {called[0]!r} ({unused[called[0]]} values) is called like an input, and would not be "
            f"used: say that it is one, columns: {{input: {called[0]}}} (--column input={called[0]})"
            f"{_IGNORE.format(column=called[0])}"
        )
    recognised = {role: " + ".join(map(repr, found[role])) for role in ROLES if role in found and role not in given}
    return Columns(
        input=found.get("input", ()),
        **{role: found[role][0] for role in found.keys() - {*_SEVERAL}},
        input_may_lack=found.keys() >= {"instruction", "input"}
        and [name.lower() for name in found["input"]] == ["input"]
        and "input" not in given,
        notes=(
            *_sentence("columns recognised", (f"{role} = {names}" for role, names in recognised.items())),
            *_sentence("columns that are not used", (f"{name!r} ({n} values)" for name, n in unused.items())),
        ),
    )


def meaning_of(column: str, texts: Set[str]) -> str | None:
    """Return the known meaning of a column that is not one of the roles, None where it has none.

    ``texts`` are the columns that hold something else than yes or no: a label that does not is a preference.
    """
    if column.lower() == "label" and column not in texts:
        return "a preference"
    return next((kind for kind, (_, names) in _MEANINGS.items() if column.lower() in names), None)


def _lost(column: str, texts: Set[str]) -> str:
    """Return what would be lost with a column that has a meaning, and what to do; "" for any other."""
    kind = meaning_of(column, texts)
    return f"is {kind}, and would not be used: {_MEANINGS[kind][0].format(column=column)}" if kind else ""


def _sentence(what: str, parts: Iterable[str]) -> tuple[str, ...]:
    named = ", ".join(parts)
    return (f"{what}: {named}",) if named else ()


def holds(value: Any) -> bool:
    """Whether a cell has a value."""
    return value is not None and value != "" and value != [] and value != {}


def _demand_named(where: str, there: Mapping[str, int], named: Mapping[str, Sequence[str]]) -> None:
    roles: dict[str, str] = {}
    for role, names in named.items():
        if role not in ROLES:
            raise DataError(
                f"columns of {where}: there is no role {role!r}.{nearest(role, ROLES)} Allowed: {', '.join(ROLES)}"
            )
        if not names or (len(names) > 1 and role not in _SEVERAL):
            raise DataError(f"columns: {role} = {list(names)}: allowed is one column; several may be input or ignore")
        for name in names:
            if name not in there:
                raise DataError(
                    f"columns: {where} has no column {name!r} for {role}.{nearest(name, there)} "
                    f"It has: {_listed(list(there))}"
                )
            if before := roles.get(name):
                raise DataError(f"{where}: the column {name!r} is named as {before} and as {role}: name two columns")
            roles[name] = role
    if "messages" in named and named.keys() & {"input", "answer"}:
        raise DataError("columns: messages hold input and answer already: name either messages, or input and answer")


def _recognise(free: Sequence[str], named: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return role -> columns for the roles that can be filled from the free columns."""
    lower = {name.lower(): name for name in reversed(free)}
    if "messages" in named:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    if "instruction" in lower and "instruction" not in named:
        found["instruction"] = (lower["instruction"],)
    layouts = _PAIRS
    if not named.keys() & {"input", "answer"}:
        if talk := next((lower[name] for name in _MESSAGES if name in lower), None):
            return {"messages": (talk,)}
        layouts = (*_LAYOUTS, *_PAIRS)

    def fits(role: str, names: Sequence[str], *, usual: bool) -> bool:
        """Whether columns are there, or others are named for them; ``usual``: only those themselves."""
        if role in named:
            return not usual or [name.lower() for name in named[role]] == [*names]
        return all(name in lower for name in names)

    # A named column first looks for its usual partner.
    fitting = [
        (inputs, answer)
        for usual in (True, False)
        for inputs, answer in layouts
        if fits("input", inputs, usual=usual) and fits("answer", (answer,), usual=usual)
    ]
    if "answer" not in named and (found or "instruction" in named):
        fitting += [(inputs, answer) for inputs, answer in _ALPACA if answer in lower]
    for inputs, answer in fitting[:1]:
        roles = {"input": inputs, "answer": (answer,)}
        there = {role: tuple(lower[n] for n in names if n in lower) for role, names in roles.items()}
        found |= {role: names for role, names in there.items() if names}
    return found


def _unrecognised(
    where: str, there: Mapping[str, int], found: Mapping[str, Sequence[str]], broken: Counter[str]
) -> str:
    pairs = "; ".join(" and ".join(map(repr, pair)) for pair in COLUMNS)
    lacking = " and ".join(role for role in ("input", "answer") if role not in found)
    meant = [f" The column {name!r} {lost}." for name in there if there[name] and (lost := _lost(name, there.keys()))]
    lost = "".join(f" {n} rows cannot be read: {reason}." for reason, n in broken.most_common(1))
    return (
        f"{where}: no {lacking} column is recognised among {_listed(list(there))}.{lost}{''.join(meant)} "
        "Name them with columns: input=COLUMN and answer=COLUMN (--column on the command line). "
        f"Recognised: {pairs}; 'instruction' and 'output'; "
        f"{' or '.join(map(repr, _MESSAGES))}. The first line of a CSV or TSV file must name the columns."
    )


def _listed(names: list[str]) -> str:
    shown = [repr(name if len(name) <= _WIDTH else name[:_WIDTH] + "...") for name in names[:_LISTED]]
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join(shown + more) or "no columns at all"
