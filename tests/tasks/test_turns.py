"""Conversations in a user's own data: every layout gives the same turns; what does not fit is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.tasks.load import data_task
from sapo.tasks.own import DataSource

EXAMPLE = Example("u2", "a2", (("u1", "a1"),))


def role(*turns: str) -> list[dict[str, Any]]:
    """Messages from texts such as "u1", "a1", "s" by their first letter."""
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": names[text[0]], "content": text} for text in turns]


def share_gpt(*turns: str) -> list[dict[str, Any]]:
    names = {"u": "human", "a": "gpt", "s": "system"}
    return [{"from": names[text[0]], "value": text} for text in turns]


def task(path: Path, rows: list[dict[str, Any]], instruction: str | None = "Do.", **changes: Any) -> Task:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return data_task("own", DataSource(data=str(path), instruction=instruction, **changes))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": role("u1", "a1", "u2", "a2")},
        {"conversations": share_gpt("u1", "a1", "u2", "a2")},
        {"messages": [{"role": "developer", "content": ""}, *role("u1", "a1", "u2", "a2")]},
        {"prompt": role("u1", "a1", "u2"), "completion": role("a2")},
        {"prompt": role("u1", "a1", "u2"), "completion": "a2"},
        {"prompt": "u1", "completion": role("a1", "u2", "a2")},
        {"messages": [*role("u1", "a1", "u2"), {"role": "assistant", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "2", "image": None}]}]},
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_turns(row: dict[str, Any], tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", [row])
    assert own.train == (EXAMPLE,) and own.unused == ()
    assert own.notes[0].startswith("columns recognised: ")


def test_messages_can_be_named_and_come_from_parquet(tmp_path: Path) -> None:
    rows = [{"chat": [*role("u1", "a1", "u2"), {"from": "gpt", "value": "a2"}], "text": "t", "label": "l"}]
    assert task(tmp_path / "m.json", rows, columns={"messages": "chat"}).train == (EXAMPLE,)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    source = DataSource(data=str(tmp_path / "m.parquet"), instruction="Do.", columns={"messages": "chat"})
    assert data_task("own", source).train == (EXAMPLE,)


def test_other_right_answers_to_a_conversation_are_references(tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", [{"question": role("u1"), "answers": ["a", "b"]}])
    assert own.train == (Example("u1", "a", (), ("b",)),)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "'messages' is missing"),
        ("u1", "'messages' is str: allowed is a list of messages"),
        ([], "'messages' is an empty list: allowed is a list of messages"),
        (["u1"], "'messages' is list: allowed is a list of messages"),
        (role("s"), "it does not end with an assistant message"),
        (role("u1", "a1", "u2"), "it does not end with an assistant message"),
        (role("a1", "u1", "a2"), "message 1 is by the assistant where the user is due"),
        (role("s", "u1", "u2", "a2"), "message 3 is by the user where the assistant is due"),
        (role("u1", "s", "a1"), "message 2 is by the system where the assistant is due"),
        (role("u1", "t1", "a1"), "message 2 is by 'tool': allowed are system, user, assistant, human, gpt, developer"),
        ([{"content": "u1"}], "message 1 is by None: allowed are system, user, assistant, human, gpt, developer"),
        ([*role("u1"), {"role": "assistant", "content": "", "tool_calls": [{}]}], "message 2 calls a tool"),
        ([{"role": "user", "content": None}], "message 1 has NoneType as content: allowed is text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has a part that is not text (image)"),
        ([{"role": "user", "content": ["u1"]}], "message 1 has a part that is not text (str)"),
        ([*role("u1"), {"role": "assistant", "content": " "}], "the answer is empty"),
        (role("u\ud83d", "a1", "u1", "a1"), "it holds half a character (a lone surrogate)"),
    ],
)
def test_turns_that_do_not_fit_leave_the_row_out(messages: Any, reason: str, tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", [{"messages": role("u1", "a1")}, {"messages": messages}])
    assert own.train == (Example("u1", "a1"),)
    assert [(row.row, row.reason) for row in own.unused] == [(2, reason)]


def test_a_system_message_is_an_instruction(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    shared = [{"messages": role("s", "u1", "a1", "u2", "a2")}] * 2
    own = task(path, shared, None)
    assert own.instruction == "s" and own.train == (EXAMPLE, EXAMPLE)
    assert "instruction: the system message that all rows share" in own.notes
    assert task(path, shared, "Do.").train == (EXAMPLE, EXAMPLE)
    mixed = [*shared, {"messages": role("u3", "a3")}]
    with pytest.raises(DataError, match=r"the system message differs from row to row .* such as 's' and none"):
        task(path, mixed, None)
    led = Example("u2", "a2", (("s\n\nu1", "a1"),))
    assert task(path, mixed, "Do.").train == (led, led, Example("u3", "a3"))
    assert task(path, [{"messages": role("s1", "u1", "a1")}, mixed[2]]).train[0] == Example("s1\n\nu1", "a1")


def test_an_instruction_column_beside_a_system_message_keeps_both(tmp_path: Path) -> None:
    rows = [{"messages": role("s", "u1", "a1"), "task": "Go."}]
    own = task(tmp_path / "m.json", rows, None, columns={"messages": "messages", "instruction": "task"})
    assert own.instruction == "Go.\n\ns"
