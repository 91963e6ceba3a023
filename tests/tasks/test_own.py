"""A user's own rows: every kind of file, columns, conversations, and the one instruction of the task."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import own

from sapo.core.errors import DataError
from sapo.core.types import Example, Unused

ROWS: list[dict[str, Any]] = [{"input": 'a, "b"\nc\r\nd', "output": "x"}, {"input": "", "output": "ü\t;"}]
USED = (Example('a, "b"\nc\r\nd', "x"), Example("", "ü\t;"))


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "\n\n".join(map(json.dumps, ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "m.parquet")
    tasks = [
        own(tmp_path / "m.json", ROWS),
        own(tmp_path / "m.jsonl", f"\ufeff{lines}\n"),
        own(tmp_path / "n.json", lines),
        own(tmp_path / "w.jsonl", lines.replace("\n", "\r\n")),
        own(tmp_path / "r.jsonl", lines.replace("\n", "\r")),
        own(write_table(tmp_path / "m.csv", ROWS, ",")),
        own(write_table(tmp_path / "n.CSV", ROWS, ";")),
        own(write_table(tmp_path / "m.tsv", ROWS, "\t")),
        own(tmp_path / "m.parquet"),
        own(tmp_path / "i.json", {"Definition": ["Find it."], "Instances": ROWS}),
    ]
    assert [t.train for t in tasks] == [USED] * len(tasks)
    assert {t.instruction for t in tasks} == {"Do."}


ANSWERS = ["yes\x07", "no\x1b[31m", "a\tb\nc\r\nd", "e\u200b", *"fgh"]
ODD = [{"instruction": "Do.", "input": f"\x07{n}", "output": text} for n, text in enumerate(ANSWERS)]
CHOICES = {"question": "2+2?", "choices": ["3", "4"]}


@pytest.mark.parametrize(
    ("rows", "instruction", "note"),
    [
        (ROWS, "Do it.<|im_end|>", "the instruction holds '<|im_end|>', as chat templates write it"),
        (ROWS, "[INST] Do it.", "the instruction holds '[INST]', as chat templates write it"),
        (ROWS, "Go.\nUser: x", "the instruction holds 'User:', as chat templates write it"),
        (ROWS, "Name the user: in `code`, or <b>.", ""),
        (ODD, "Do.", r"answers with control characters: 2, such as '\x07'; remove what is not meant"),
        (ODD[2:], "Do.", ""),
        ([{**CHOICES, "answer": 1}], "Do.", "numbers in 'answer' (1 of 1 training rows) are learned as"),
        ([{**CHOICES, "answer": "B"}], "Do.", ""),
        ([{**CHOICES, "answer": "4"}], "Do.", ""),
        ([{"input": "Do. b a", "output": "x"}] * 2, "Do.", "2 of 2 inputs hold the instruction already"),
    ],
)
def test_what_is_hardly_meant_is_noted_and_kept(rows: Any, instruction: str, note: str, tmp_path: Path) -> None:
    task = own(tmp_path / "m.json", rows, instruction)
    assert any(one.startswith(note) for one in task.notes)
    kinds = ("chat templates", "control characters", "learned as numbers", "hold the instruction already")
    assert any(kind in str(task.notes) for kind in kinds) == bool(note)
    answers = [row.get("output", row.get("answer")) for row in rows]
    assert [row.answer for row in task.train] == list(map(str, answers))


LATIN = "input,output\nschön,b".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", "", r"m\.json has no rows"),
        ("m.json", '{"input": "a", "output": "b"}', "holds an object: allowed is a list"),
        ("m.json", '{"Definition": 3, "Instances": []}', "Definition must be a text"),
        ("m.json", "[{", r"m\.json is not JSON"),
        ("m.json", "[" * 100_000, r"m\.json is not JSON"),
        ("m.jsonl", '{"input": "a", "output": "b"}\n\n{"input"\n', "line 3 is not JSON"),
        ("m.jsonl", '{"input": "a", "output": "b"}\n3', "line 2 is a number: allowed is an object"),
        ("m.jsonl", '{"input": "a"}\n{"input": "a", "input": "c"}', "line 2 is not JSON: .* the key 'input' twice"),
        ("m.json", '["a"]', "row 1 is a text: allowed is an object"),
        ("m.csv", 'input,output\na,b\n"a,b\nc,d\n', "line 4: unexpected end of data.*each quote in it is doubled"),
        ("m.csv", "input,output,input\na,b,c\n", "two columns named 'input'"),
        ("m.csv", "good,1\nbad,2\n", r"among 'good', '1'\..*first line of a CSV"),
        ("m.csv", "text|label\n1,5|yes\n", "no row can be read: it has 2 cells where the header has 1 .*otherwise"),
        ("m.parquet", "PAR1", r"m\.parquet: it is not a readable Parquet file"),
        *((name, None, "No such file") for name in ("m.csv", "m.parquet", "a/b/c")),
        (".", None, "any data files"),
        ("m.csv", LATIN, r"m\.csv is not UTF-8: byte 16"),
        ("m.csv", b"\xef\xbb\xbf" + LATIN, r"m\.csv is not UTF-8: byte 19"),
        ("m.xlsx", "PK", r"the ending '\.xlsx' is not known\. Allowed: \.jsonl, \.json, \.csv, \.tsv, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_where(
    name: str, content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        own(tmp_path / name, content if isinstance(content, str) else None)


def test_a_huge_cell_goes_through_and_the_limit_of_the_csv_module_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "ä" * 1_000_000
    assert own(tmp_path / "m.csv", f"input,output\n{text},b").train[0].input == text
    assert csv.field_size_limit() == limit


def test_ragged_rows_are_left_out_only_where_something_is_lost(tmp_path: Path) -> None:
    found = own(tmp_path / "m.csv", "id, input ,output,\n1,a,b,x\n2,c,d,,,\n3,e,f,g,h,\n4,i\n")
    assert "columns that are not used: 'id' (3 values), 'column 4' (1 values)" in found.notes
    assert found.train == (Example("a", "b"), Example("c", "d"))
    assert found.unused == (
        Unused("train", 3, "it has 6 cells where the header has 4"),
        Unused("train", 4, "'output' is missing"),
    )


def test_rows_that_cannot_be_used_are_left_out_with_their_number(tmp_path: Path) -> None:
    cells = [None, "", "\u200b", "\ufeff \n", {"a": 1}, "\ud83d", float("nan"), [], [""], ["a", None], {"text": "a"}]
    reasons = [
        "'output' is missing", *["the answer is empty"] * 3,
        "'output' is dict: allowed is text, a number, yes/no or a date", "it holds half a character (a lone surrogate)",
        "'output' is NaN, not a number", "the answer is empty", "the answer is empty", "'output' is missing",
        "'output' is dict: allowed is text, a number, yes/no or a date",
    ]  # fmt: skip
    rows = [{"input": "a", "output": cell} for cell in cells]
    found = own(tmp_path / "m.json", [*rows, {"input": ["a"], "output": "b"}, {"output": "b"}, *ROWS])
    assert found.train == USED
    assert found.unused[:-2] == tuple(Unused("train", n, reason) for n, reason in enumerate(reasons, start=1))
    assert [row.reason for row in found.unused[-2:]] == ["'input' is list: allowed is text, a number, yes/no or a date",
                                                       "'input' is missing"]  # fmt: skip
    with pytest.raises(DataError, match="none of the 11 train rows can be used, most often because the answer is empt"):
        own(tmp_path / "m.json", rows)


def test_class_numbers_become_their_names(tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.string()), ("label", pa.int64()), ("more", pa.list_(pa.int64()))])
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    written = {"info": {"features": {"label": label, "more": {"feature": label, "_type": "List"}}}}
    table = pa.table([["a", "b", "c"], [1, 0, -1], [[0, 1], [1], []]], schema=schema)
    for metadata, answers in ((written, ["pos", "neg"]), ({"info": None}, ["1", "0", "-1"])):
        path = tmp_path / "m.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)
        assert [row.answer for row in own(path).train] == answers
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(written)}), path)
    more = own(path, columns={"answer": "more"}).train
    assert more == (Example("a", "neg, pos"), Example("b", "pos"))


def test_a_value_that_python_cannot_hold_is_named(tmp_path: Path) -> None:
    days = pa.array([1, 2**31 - 1], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"input": ["a", "b"], "output": days}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m\.parquet: a value of column 'output' cannot be read \(.*leave the column"):
        own(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"passage": "a", "question": "b", "answer": True}, Example("passage: a\n\nquestion: b", "true")),
        (
            {"question": "2+2?", "choices": ["1", 4], "answer": "B"},
            Example("question: 2+2?\n\nchoices: \nA. 1\nB. 4", "B"),
        ),
        ({"question": "a", "answer": ["b", "c", "b", "d"]}, Example("a", "b, c, b, d")),
        ({"question": "a", "answers": ["b", "c", "b", "d"]}, Example("a", "b", (), ("c", "d"))),
        ({"question": "a", "answer": {"text": ["b"], "answer_start": [3]}}, Example("a", "b")),
        ({"messages": None, "text": "a", "label": "b"}, Example("a", "b")),
    ],
)
def test_known_columns_are_recognised_and_named_in_a_note(row: Any, example: Example, tmp_path: Path) -> None:
    found = own(tmp_path / "m.json", [row])
    assert found.train == (example,)
    assert found.notes[0].startswith("columns recognised: input = ")


def test_columns_are_found_in_any_row_and_can_be_named(tmp_path: Path) -> None:
    rows = [{"id": 1}, {"review": "a", "text": "t", "stars": 5, "label": "l"}]
    assert own(tmp_path / "m.json", rows).train == (Example("t", "l"),)
    named = own(tmp_path / "m.json", columns={"input": "review", "answer": "stars"})
    assert named.train == (Example("a", "5"),)
    assert "columns recognised" not in str(named.notes)
    assert "'text' (1 values), 'label' (1 values)" in str(named.notes)
    half = own(tmp_path / "m.json", columns={"answer": "stars"})
    assert half.train == (Example("t", "5"),) and half.notes[0] == "columns recognised: input = 'text'"
    assert own(tmp_path / "m.json", columns={"input": "review"}).train == (Example("a", "l"),)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input": "reviw"}, r"has no column 'reviw' for input\. Did you mean 'review'\? It has: 'review', 'stars'"),
        (
            {"inptu": "review"},
            r"no role 'inptu'\. Did you mean 'input'\? Allowed: input, answer, instruction, system",
        ),
        ({"answer": "stars"}, r"no input column is recognised among 'review', 'stars'\. Name them with columns"),
        ({"messages": "review", "input": "review"}, "'review' is named as messages and as input: name two columns"),
        ({"input": "stars", "answer": "stars"}, "'stars' is named as input and as answer"),
    ],
)
def test_columns_that_are_not_there_are_named(columns: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        own(tmp_path / "m.json", [{"review": "a", "stars": 5}], columns=columns)


def alpaca(*rows: tuple[str, str | None, str]) -> list[dict[str, Any]]:
    return [{"instruction": i, "input": text, "output": o} for i, text, o in rows]


def test_an_instruction_that_all_rows_share_is_the_tasks(tmp_path: Path) -> None:
    rows = alpaca(("Add.", "1 1", "2"), ("Add.", None, "0"), ("Add.", "", "0"))
    found = own(tmp_path / "m.json", rows, None)
    assert found.instruction == "Add." and found.train == (Example("1 1", "2"), Example("", "0"), Example("", "0"))
    assert "instruction: the text of column 'instruction' that all rows share" in found.notes
    named = own(tmp_path / "m.json", None, None, columns={"input": "input", "answer": "output"})
    assert [row.reason for row in named.unused] == ["'input' is missing"]
    given = own(tmp_path / "m.json", None, "Sum up.")
    assert given.instruction == "Sum up." and given.train == found.train
    assert "the instruction given replaces the text of column 'instruction' that all rows share: 'Add.'" in given.notes
    assert own(tmp_path / "n.json", [{"instruction": "Go.", "output": "a"}], None).train == (Example("", "a"),)


def test_instructions_that_differ_need_one_for_the_task_and_are_kept_in_front_of_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(DataError, match=r"differs from row to row \(3 different ones, such as 'Add\.' and 'x{57}\.\.\.'"
                       r"\), but.*--instruction.*instruction: in"):  # fmt: skip
        own(path, alpaca(("Add.", "1 1", "2"), ("x" * 90, None, "0"), ("", "b", "c")), None)
    found = own(path, None, "Follow.")
    assert found.instruction == "Follow."
    assert [row.input for row in found.train] == ["Add.\n\n1 1", "x" * 90, "b"]
    assert "the text of column 'instruction' differs from row to row and stands in front" in " ".join(found.notes)


def test_instructions_that_differ_by_what_nobody_sees_are_one(tmp_path: Path) -> None:
    found = own(
        tmp_path / "m.json", alpaca(("Add.", "1 1", "2"), ("Add. \n", "0", "0"), ("Ad\u200bd.", "3", "3")), None
    )
    assert found.instruction == "Add." and len(found.train) == 3


def test_a_definition_is_the_instruction(tmp_path: Path) -> None:
    defined = {"Definition": ["Find", "it."], "Instances": [{"input": "a", "output": ["b", "c"]}]}
    found = own(tmp_path / "m.json", defined, None)
    assert found.instruction == "Find\nit." and found.train == (Example("a", "b", (), ("c",)),)
    assert "instruction: the Definition in the data" in found.notes
    with pytest.raises(DataError, match=r"o\.json has no instruction of its own: give one \(instruction="):
        own(tmp_path / "o.json", {"Instances": ROWS}, None)


# Conversations.

EXAMPLE = Example("u2", "a2", (("u1", "a1"),))


def role(*turns: str) -> list[dict[str, Any]]:
    """Messages from texts such as "u1", "a1", "s" by their first letter."""
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": names[text[0]], "content": text} for text in turns]


def share_gpt(*turns: str) -> list[dict[str, Any]]:
    names = {"u": "human", "a": "gpt", "s": "system"}
    return [{"from": names[text[0]], "value": text} for text in turns]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": role("u1", "a1", "u2", "a2")},
        {"conversations": share_gpt("u1", "a1", "u2", "a2")},
        {"messages": [{"role": "developer", "content": ""}, *role("u1", "a1", "u2", "a2")]},
        {"prompt": role("u1", "a1", "u2"), "completion": role("a2")},
        {"prompt": role("u1", "a1", "u2"), "completion": "a2"},
        {"prompt": "u1", "completion": role("a1", "u2", "a2")},
        {"prompt": role("u2"), "completion": "a2", "history": [["u1", "a1"]]},
        {"prompt": role("u2"), "completion": "a2", "history": role("u1", "a1")},
        {"messages": [*role("u1", "a1", "u2"), {**role("a2")[0], "weight": 1, "loss": True}]},
        {"messages": [*role("u1", "a1", "u2"), {"role": "assistant", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "2", "image": None}]}]},
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_turns(row: dict[str, Any], tmp_path: Path) -> None:
    found = own(tmp_path / "m.json", [row])
    assert found.train == (EXAMPLE,) and found.unused == ()
    assert found.notes[0].startswith("columns recognised: ")


def test_messages_can_be_named_and_come_from_parquet(tmp_path: Path) -> None:
    rows = [{"chat": [*role("u1", "a1", "u2"), {"from": "gpt", "value": "a2"}], "text": "t", "label": "l"}]
    assert own(tmp_path / "m.json", rows, columns={"messages": "chat"}).train == (EXAMPLE,)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    assert own(tmp_path / "m.parquet", columns={"messages": "chat"}).train == (EXAMPLE,)


def test_other_right_answers_to_a_conversation_are_references(tmp_path: Path) -> None:
    found = own(tmp_path / "m.json", [{"question": role("u1"), "answers": ["a", "b"]}])
    assert found.train == (Example("u1", "a", (), ("b",)),)


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
        (
            [*role("u1"), {**role("a1")[0], "weight": 0}],
            "message 2, its answer, is marked as not to be learned (weight: 0)",
        ),
        (
            [*role("u1"), {**role("a1")[0], "train": False}],
            "message 2, its answer, is marked as not to be learned (train: False)",
        ),
        (
            [*role("u1"), {**role("a1")[0], "weight": 0.5}],
            "message 2 has weight: 0.5, and all answers count alike here",
        ),
        (role("u\ud83d", "a1", "u1", "a1"), "it holds half a character (a lone surrogate)"),
    ],
)
def test_turns_that_do_not_fit_leave_the_row_out(messages: Any, reason: str, tmp_path: Path) -> None:
    found = own(
        tmp_path / "m.json", [{"messages": [{**role("u1")[0], "name": "Ann"}, *role("a1")]}, {"messages": messages}]
    )
    assert found.train == (Example("u1", "a1"),)
    assert [(row.row, row.reason) for row in found.unused] == [(2, reason)]
    assert any(note.startswith("keys of messages that are not used: 'name' (1)") for note in found.notes)


def test_a_system_message_is_an_instruction(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    shared = [{"messages": role("s", "u1", "a1", "u2", "a2")}] * 2
    found = own(path, shared, None)
    assert found.instruction == "s" and found.train == (EXAMPLE, EXAMPLE)
    assert "instruction: the system message that all rows share" in found.notes
    assert own(path, shared, "Do.").train == (EXAMPLE, EXAMPLE)
    mixed = [*shared, {"messages": role("u3", "a3")}]
    with pytest.raises(DataError, match=r"the system message differs from row to row .* such as 's' and none"):
        own(path, mixed, None)
    led = Example("u2", "a2", (("s\n\nu1", "a1"),))
    assert own(path, mixed, "Do.").train == (led, led, Example("u3", "a3"))
    assert own(path, [{"messages": role("s1", "u1", "a1")}, mixed[2]]).train[0] == Example("s1\n\nu1", "a1")


def test_an_instruction_column_beside_a_system_message_keeps_both(tmp_path: Path) -> None:
    rows = [{"messages": role("s", "u1", "a1"), "task": "Go."}]
    found = own(tmp_path / "m.json", rows, None, columns={"messages": "messages", "instruction": "task"})
    assert found.instruction == "Go.\n\ns"
