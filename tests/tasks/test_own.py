"""A user's own rows: every kind of file, the columns in it, and the one instruction of the task."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapo.core.errors import DataError
from sapo.core.types import Example, Task, Unused
from sapo.tasks.load import data_task, load_task
from sapo.tasks.own import DataSource

ROWS: list[dict[str, Any]] = [{"input": 'a, "b"\nc\r\nd', "output": "x"}, {"input": "", "output": "ü\t;"}]
USED = (Example('a, "b"\nc\r\nd', "x"), Example("", "ü\t;"))


def task(path: Path, content: Any = None, instruction: str | None = "Do.", **changes: Any) -> Task:
    """The task of a file; text is written as it is, rows as JSON."""
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode())
    return data_task("own", DataSource(data=str(path), instruction=instruction, **changes))


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
        task(tmp_path / "m.json", ROWS),
        task(tmp_path / "m.jsonl", lines + "\n"),
        task(tmp_path / "n.json", lines),
        task(tmp_path / "w.jsonl", lines.replace("\n", "\r\n")),
        task(write_table(tmp_path / "m.csv", ROWS, ",")),
        task(write_table(tmp_path / "n.CSV", ROWS, ";")),
        task(write_table(tmp_path / "m.tsv", ROWS, "\t")),
        task(tmp_path / "m.parquet"),
        task(tmp_path / "i.json", {"Definition": ["Find it."], "Instances": ROWS}),
    ]
    assert [t.train for t in tasks] == [USED] * len(tasks)
    assert {t.instruction for t in tasks} == {"Do."}


def test_a_piece_of_a_chat_template_in_the_instruction_is_noted(tmp_path: Path) -> None:
    for text, piece in (("Do it.<|im_end|>", "<|im_end|>"), ("[INST] Do it.", "[INST]"), ("Go.\nUser: x", "User:")):
        notes = task(tmp_path / "m.json", ROWS, text).notes
        assert any(f"the instruction holds {piece!r}, as chat templates write it" in note for note in notes)
    assert "chat templates" not in str(task(tmp_path / "m.json", ROWS, "Name the user: in `code`, or <b>.").notes)


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
        ("m.json", '["a"]', "row 1 is a text: allowed is an object"),
        ("m.csv", 'input,output\na,b\n"a,b\nc,d\n', "line 4: unexpected end of data.*each quote in it is doubled"),
        ("m.csv", "input,output,input\na,b,c\n", "two columns named 'input'"),
        ("m.csv", "good,1\nbad,2\n", r"among 'good', '1'\..*first line of a CSV"),
        ("m.parquet", "PAR1", r"m\.parquet: it is not a readable Parquet file"),
        ("m.xlsx", "PK", r"the ending '\.xlsx' is not known\. Allowed: \.jsonl, \.json, \.csv, \.tsv, \.parquet"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        task(tmp_path / name, content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("m.csv", "No such file"), ("m.parquet", "No such file"), ("a/b/c", "No such file"), (".", "any data files"),
        ("a\0b.jsonl", "data = .*: holds a NUL character"),
    ],
)  # fmt: skip
def test_missing_data_are_named(data: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_task(str(tmp_path / data), instruction="Do.")


@pytest.mark.parametrize(("mark", "place"), [(b"", 16), (b"\xef\xbb\xbf", 19)], ids=["plain", "byte order mark"])
def test_bytes_that_are_not_utf_8_are_named_with_their_place(mark: bytes, place: int, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(mark + "input,output\nschön,b".encode("latin-1"))
    with pytest.raises(DataError, match=rf"latin\.csv is not UTF-8: byte {place}"):
        task(path)


def test_a_huge_cell_goes_through_and_the_limit_of_the_csv_module_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "ä" * 1_000_000
    assert task(tmp_path / "m.csv", f"input,output\n{text},b").train[0].input == text
    assert csv.field_size_limit() == limit


def test_ragged_rows_are_left_out_only_where_something_is_lost(tmp_path: Path) -> None:
    own = task(tmp_path / "m.csv", "id, input ,output,\n1,a,b\n2,c,d,,,\n3,e,f,g,h,\n4,i\n")
    assert own.train == (Example("a", "b"), Example("c", "d"))
    assert own.unused == (
        Unused("train", 3, "it has 6 cells where the header has 4"),
        Unused("train", 4, "'output' is missing"),
    )


def test_rows_that_cannot_be_used_are_left_out_with_their_number(tmp_path: Path) -> None:
    cells = [None, "", " \n", {"a": 1}, "\ud83d", float("nan"), [], [""], ["a", None], {"text": "a"}]
    reasons = [
        "'output' is missing", "the answer is empty", "the answer is empty",
        "'output' is dict: allowed is text, a number, yes/no or a date", "it holds half a character (a lone surrogate)",
        "'output' is NaN, not a number", "the answer is empty", "the answer is empty", "'output' is missing",
        "'output' is dict: allowed is text, a number, yes/no or a date",
    ]  # fmt: skip
    rows = [{"input": "a", "output": cell} for cell in cells]
    own = task(tmp_path / "m.json", [*rows, {"input": ["a"], "output": "b"}, {"output": "b"}, *ROWS])
    assert own.train == USED
    assert own.unused[:-2] == tuple(Unused("train", n, reason) for n, reason in enumerate(reasons, start=1))
    assert [row.reason for row in own.unused[-2:]] == ["'input' is list: allowed is text, a number, yes/no or a date",
                                                       "'input' is missing"]  # fmt: skip
    with pytest.raises(DataError, match="none of the 10 train rows can be used, most often because the answer is empt"):
        task(tmp_path / "m.json", rows)


def test_numbers_become_text_and_class_numbers_their_names(tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", [{"input": 3, "output": 1.0}, {"input": 1e30, "output": -7}])
    assert own.train == (Example("3", "1.0"), Example("1e+30", "-7"))
    own = task(tmp_path / "m.json", [{"input": "a", "output": True}, {"input": "b", "output": False}])
    assert [row.answer for row in own.train] == ["true", "false"]
    schema = pa.schema([("text", pa.string()), ("label", pa.int64()), ("more", pa.list_(pa.int64()))])
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    written = {"info": {"features": {"label": label, "more": {"feature": label, "_type": "List"}}}}
    table = pa.table([["a", "b", "c"], [1, 0, -1], [[0, 1], [1], []]], schema=schema)
    for metadata, answers in ((written, ["pos", "neg"]), ({"info": None}, ["1", "0", "-1"])):
        path = tmp_path / "m.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)
        assert [row.answer for row in task(path).train] == answers
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(written)}), path)
    more = task(path, columns={"answer": "more"}).train
    assert more == (Example("a", "neg, pos"), Example("b", "pos"))


def test_a_cell_that_python_cannot_hold_costs_its_row_only(tmp_path: Path) -> None:
    days = pa.array([1, 2**31 - 1], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"input": ["a", "b"], "output": ["c", "d"], "day": days}), tmp_path / "m.parquet")
    assert len(task(tmp_path / "m.parquet").train) == 2
    assert task(tmp_path / "m.parquet", columns={"answer": "day"}).train == (Example("a", "1970-01-02"),)
    pq.write_table(pa.table({"input": ["a"], "output": days[1:]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"because 'output' cannot be read: \w"):
        task(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"sentence": "a", "label": "b", "id": 1}, Example("a", "b")),
        ({"question": "a", "answer": "b"}, Example("a", "b")),
        ({"prompt": "a", "completion": "b"}, Example("a", "b")),
        ({"question": "a", "answer": ["b", "c", "b", "d"]}, Example("a", "b, c, b, d")),
        ({"question": "a", "answers": ["b", "c", "b", "d"]}, Example("a", "b", (), ("c", "d"))),
        ({"question": "a", "answer": {"text": ["b"], "answer_start": [3]}}, Example("a", "b")),
        ({"messages": None, "text": "a", "label": "b"}, Example("a", "b")),
    ],
)
def test_known_columns_are_recognised_and_named_in_a_note(row: Any, example: Example, tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", [row])
    assert own.train == (example,)
    assert own.notes[0].startswith("columns recognised: input = ")


def test_columns_are_found_in_any_row_and_can_be_named(tmp_path: Path) -> None:
    rows = [{"id": 1}, {"review": "a", "text": "t", "stars": 5, "label": "l"}]
    assert task(tmp_path / "m.json", rows).train == (Example("t", "l"),)
    named = task(tmp_path / "m.json", columns={"input": "review", "answer": "stars"})
    assert named.train == (Example("a", "5"),)
    assert "columns recognised" not in str(named.notes)
    assert "'text' (1 values), 'label' (1 values)" in str(named.notes)
    half = task(tmp_path / "m.json", columns={"answer": "stars"})
    assert half.train == (Example("t", "5"),) and half.notes[0] == "columns recognised: input = 'text'"
    assert task(tmp_path / "m.json", columns={"input": "review"}).train == (Example("a", "l"),)


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
        task(tmp_path / "m.json", [{"review": "a", "stars": 5}], columns=columns)


def alpaca(*rows: tuple[str, str | None, str]) -> list[dict[str, Any]]:
    return [{"instruction": i, "input": text, "output": o} for i, text, o in rows]


def test_an_instruction_that_all_rows_share_is_the_tasks(tmp_path: Path) -> None:
    rows = alpaca(("Add.", "1 1", "2"), ("Add.", None, "0"), ("Add.", "", "0"))
    own = task(tmp_path / "m.json", rows, None)
    assert own.instruction == "Add." and own.train == (Example("1 1", "2"), Example("", "0"), Example("", "0"))
    assert "instruction: the text of column 'instruction' that all rows share" in own.notes
    named = task(tmp_path / "m.json", None, None, columns={"input": "input", "answer": "output"})
    assert [row.reason for row in named.unused] == ["'input' is missing"]
    given = task(tmp_path / "m.json", None, "Sum up.")
    assert given.instruction == "Sum up." and given.train == own.train
    assert "the instruction given replaces the text of column 'instruction' that all rows share: 'Add.'" in given.notes
    assert task(tmp_path / "n.json", [{"instruction": "Go.", "output": "a"}], None).train == (Example("", "a"),)


def test_instructions_that_differ_need_one_for_the_task_and_are_kept_in_front_of_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(DataError, match=r"differs from row to row \(3 different ones, such as 'Add\.' and 'x{57}\.\.\.'"
                       r"\), but.*--instruction.*instruction: in"):  # fmt: skip
        task(path, alpaca(("Add.", "1 1", "2"), ("x" * 90, None, "0"), ("", "b", "c")), None)
    own = task(path, None, "Follow.")
    assert own.instruction == "Follow."
    assert [row.input for row in own.train] == ["Add.\n\n1 1", "x" * 90, "b"]
    assert "the text of column 'instruction' differs from row to row and stands in front" in " ".join(own.notes)


def test_instructions_that_differ_by_what_nobody_sees_are_one(tmp_path: Path) -> None:
    own = task(tmp_path / "m.json", alpaca(("Add.", "1 1", "2"), ("Add. \n", "0", "0"), ("Ad\u200bd.", "3", "3")), None)
    assert own.instruction == "Add." and len(own.train) == 3


def test_a_definition_is_the_instruction(tmp_path: Path) -> None:
    defined = {"Definition": ["Find", "it."], "Instances": [{"input": "a", "output": ["b", "c"]}]}
    own = task(tmp_path / "m.json", defined, None)
    assert own.instruction == "Find\nit." and own.train == (Example("a", "b", (), ("c",)),)
    assert "instruction: the Definition in the data" in own.notes
    with pytest.raises(DataError, match=r"o\.json has no instruction of its own: give one \(instruction="):
        task(tmp_path / "o.json", {"Instances": ROWS}, None)
