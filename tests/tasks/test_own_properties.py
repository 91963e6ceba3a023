"""Whatever rows are written to a file: a task in which no text is lost and every row is accounted for, or one error."""

import csv
import json
from collections.abc import Mapping
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.tasks.holdout import hold_out
from sapo.tasks.load import data_task
from sapo.tasks.own import DataSource

ROLES = {"input": "in", "answer": "out"}
often = settings(max_examples=30, deadline=None, derandomize=True, database=None)

any_text = st.text(max_size=12)
# What UTF-8 can hold; quotes, separators and line ends more often than by chance.
whole_text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(list('",;\t\r\n\0\ufeff')), max_size=12)
numbers = st.integers() | st.floats()
scalars = st.none() | st.booleans() | numbers | any_text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3))
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool"]) | values,
            "from": st.sampled_from(["human", "gpt"]),
            "content": any_text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": any_text}) | values),
            "value": any_text,
        },
    )
    | st.none(),
    max_size=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def load(path: Path, named: dict[str, str]) -> Task | None:
    try:
        return data_task("own", DataSource(data=str(path), instruction="Do.", columns=dict(named)))
    except DataError:
        return None


def used(task: Task, rows: list[Any]) -> list[tuple[Any, Example]]:
    """Each row of the file that is used, with its example; every other one has a reason."""
    left_out = [row.row for row in task.unused]
    assert left_out == sorted(set(left_out)) and all(row.reason for row in task.unused)
    kept = [row for number, row in enumerate(rows, start=1) if number not in left_out]
    assert len(kept) == len(task.train) and len(left_out) + len(kept) == len(rows)
    return list(zip(kept, task.train, strict=True))


def text_of(cell: Any) -> str:
    if isinstance(cell, date):
        return cell.isoformat()
    assert isinstance(cell, (str, int, float))
    assert not isinstance(cell, float) or isfinite(cell)
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def check(task: Task | None, rows: list[dict[str, Any]]) -> None:
    """Check rows with the columns in, out and perhaps instruction."""
    if task is None:
        return
    for row, example in used(task, rows):
        own = text_of(row.get("instruction", ""))
        assert example.input in (text_of(row["in"]), f"{own}\n\n{row['in']}", own)
        assert text_of(row["in"]) in example.input
        right = row["out"]["text"] if isinstance(row["out"], dict) else row["out"]
        alternatives = isinstance(row["out"], dict)
        answers = [text_of(a) for a in right] if isinstance(right, list) else [text_of(right)]
        if alternatives:
            assert {a for a in answers if a.strip()} == {example.answer, *example.references}
        else:
            said = [text for text in answers if text.strip()] if isinstance(right, list) else answers
            assert example.answer == ", ".join(said) and not example.references
        assert example.answer.strip() and not example.history


cells = st.fixed_dictionaries(
    {"in": any_text | numbers | values, "out": any_text | numbers | values | st.lists(any_text, max_size=3)},
    optional={"instruction": any_text},
)


@often
@given(st.lists(cells, max_size=6))
def test_json_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    # Lists of objects are conversations, which have a test of their own.
    rows = [r for r in rows if not any(isinstance(v, list) and v and isinstance(v[0], dict) for v in r.values())]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "m.json").write_text(json.dumps(rows))
    lines, whole = load(folder / "m.jsonl", ROLES), load(folder / "m.json", ROLES)
    assert whole == lines
    assume(lines is not None)
    check(lines, rows)


@often
@given(
    st.lists(st.tuples(whole_text, whole_text), max_size=6),
    st.sampled_from([(".csv", ","), (".csv", ";"), (".tsv", "\t")]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_separated_rows(folder: Path, rows: list[tuple[str, str]], kind: tuple[str, str], end: str) -> None:
    ending, delimiter = kind
    path = folder / f"m{ending}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("in", "out"), *rows])
    task = load(path, ROLES)
    assert (task is None) == (not any(answer.strip() for _, answer in rows))
    check(task, [{"in": a, "out": b} for a, b in rows])


@often
@given(st.text(st.sampled_from('ab",;\t\r\n \0'), max_size=40), st.sampled_from([".csv", ".tsv", ".json", ".jsonl"]))
def test_any_text_at_all_is_rows_or_an_error(folder: Path, text: str, ending: str) -> None:
    path = folder / f"t{ending}"
    path.write_bytes(f"input,output\n{text}".encode())
    task = load(path, {})
    # What is tested besides: nothing but an error of ours is raised.
    if task is not None:
        assert all(row.input.replace('"', "") in text.replace('"', "") for row in task.train)


kinds = st.sampled_from([
    (pa.string(), whole_text), (pa.int64(), st.integers(-(2**63), 2**63 - 1)), (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()), (pa.binary(), st.binary(max_size=4)), (pa.list_(pa.string()), st.lists(whole_text)),
    (pa.date32(), st.dates()), (pa.dictionary(pa.int32(), pa.string()), whole_text),
])  # fmt: skip


@often
@given(st.data(), kinds, kinds, st.integers(0, 6))
def test_parquet_rows(folder: Path, data: st.DataObject, source: Any, target: Any, size: int) -> None:
    drawn = {
        name: data.draw(st.lists(st.none() | strategy, min_size=size, max_size=size))
        for name, (_, strategy) in (("in", source), ("out", target))
    }
    table = pa.table({"in": pa.array(drawn["in"], source[0]), "out": pa.array(drawn["out"], target[0])})
    pq.write_table(table, folder / "m.parquet")
    rows = [{"in": a, "out": b} for a, b in zip(drawn["in"], drawn["out"], strict=True)]
    task = load(folder / "m.parquet", ROLES)
    assume(task is not None)
    check(task, rows)


def spoken(message: Mapping[str, Any]) -> str:
    content = message.get("content") if message.get("content") is not None else message.get("value")
    return content if isinstance(content, str) else "".join(part["text"] for part in content or [])


@often
@given(st.lists(messages, min_size=1, max_size=6))
def test_conversations(folder: Path, talks: list[list[Any]]) -> None:
    good = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": talk} for talk in [good, *talks]]
    (folder / "c.json").write_text(json.dumps(rows))
    task = load(folder / "c.json", {})
    assert task is not None
    for row, example in used(task, rows):
        said = [*(text for pair in example.history for text in pair), example.input, example.answer]
        texts = [spoken(message) for message in row["messages"]]
        system, turns = texts[: len(texts) - len(said)], texts[len(texts) - len(said) :]
        assert len(system) <= 1 and said[1:] == turns[1:]
        assert said[0] in (turns[0], "\n\n".join([*system, turns[0]]), *system)


@often
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy")), max_size=40), st.booleans())
def test_holding_out_divides_the_rows_and_never_leaks(pairs: list[tuple[str, str]], labelled: bool) -> None:
    rows = tuple(Example(a, b) for a, b in pairs)
    task = Task("own", "Do.", "", ("x", "y") if labelled else (), "rouge_l", rows, (), ())
    if len({a for a, _ in pairs}) < 2:
        with pytest.raises(DataError, match=r"'own' has no test rows, and its training rows have \d different inputs"):
            hold_out(task)
        return
    held = hold_out(task)
    tested = {row.input for row in held.test}
    assert held.test == tuple(row for row in rows if row.input in tested)
    assert held.train == tuple(row for row in rows if row.input not in tested)
    assert held.train and held.test
