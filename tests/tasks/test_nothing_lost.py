"""Random data sets: every cell is in a prompt or an answer, or named; texts are as the file spells them."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_data import dump, own

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.core.untrusted import visible
from sapo.integrations.exports import export_data
from sapo.integrations.testing import toy_task
from sapo.integrations.trl import Rows
from sapo.models.layout import TAKEN_OUT, turns_of
from sapo.tasks.given import given_task
from sapo.tasks.layouts import exchange
from sapo.tasks.load import load_task

# How a cell is spelled in JSON, and the text that is to come of it; rows of them by column.
Cell = tuple[str, str]
Table = list[dict[str, Cell]]
NOTHING = ("null", "")

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and visible(text).strip()
)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
CELLS: st.SearchStrategy[Cell] = st.one_of(
    TEXTS.map(lambda text: (json.dumps(text), text)),
    NUMBERS.map(lambda number: (number, number)),
    st.booleans().map(lambda value: (json.dumps(value), json.dumps(value))),
)
PAIRS = st.sampled_from(
    [("input", "output"), ("Text", "Label"), ("prompt", "response"), ("question", "answer"), ("problem", "solution")]
)
OTHERS = st.sampled_from(["id", "url", "topic", "difficulty", "lang", "source_file", "Größe"])


def rows_of(cells: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows of all columns, in their order."""
    row = st.tuples(*cells.values()).map(lambda drawn: dict(zip(cells, drawn, strict=True)))
    return st.lists(row, min_size=2, max_size=most)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    others = draw(st.lists(OTHERS, unique=True, max_size=3))
    cells = {**dict.fromkeys(draw(PAIRS), CELLS), **dict.fromkeys(others, st.just(NOTHING) | CELLS)}
    return draw(rows_of(cells, 5))


def as_jsonl(table: Table) -> str:
    lines = (", ".join(f"{json.dumps(column)}: {cell[0]}" for column, cell in row.items()) for row in table)
    return "\n".join(f"{{{line}}}" for line in lines)


def as_json(table: Table) -> str:
    return "[" + ",\n".join(as_jsonl(table).split("\n")) + "]"


def as_csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([list(table[0]), *([text for _, text in row.values()] for row in table)])
    return out.getvalue()


@pytest.mark.parametrize(("name", "write"), [("t.jsonl", as_jsonl), ("t.csv", as_csv)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_every_cell_is_used_as_it_is_spelled_or_its_column_is_named(
    name: str, write: Callable[[Table], str], table: Table, tmp_path: Path
) -> None:
    task = own(tmp_path / name, write(table))
    named = "; ".join(note for note in task.notes if note.startswith("columns that are not used"))
    left_out = {row.row for row in task.unused}
    used = [row for number, row in enumerate(table, start=1) if number not in left_out]
    assert len(task.train) + len(task.unused) == len(table)
    for row, example in zip(used, task.train, strict=True):
        for column, (_, text) in row.items():
            assert not text or text in (example.input, example.answer) or repr(column) in named
    for column in list(table[0])[2:]:
        count = sum(row[column] != NOTHING for row in table)
        assert (f"{column!r} ({count} values)" in named) == (count > 0)


# Every door.

# Cells of one column are of one kind, as in Parquet; 3.8 in 32 bits is not 3.8 in 64.
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXTS),
    "integer": (pa.int64(), st.integers(-(2**53), 2**53)),
    "float": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "narrow float": (pa.float32(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
    "boolean": (pa.bool_(), st.booleans()),
}


def spelled(value: Any, kind: str) -> str:
    """A value as JSON spells it; of a narrow float, the shortest decimal that means it."""
    if kind == "narrow float":
        value = float(np.format_float_scientific(np.float32(value), unique=True))
    return value if isinstance(value, str) else json.dumps(value)


@st.composite
def typed_tables(draw: st.DrawFn) -> tuple[Table, pa.Table]:
    kinds = {column: draw(st.sampled_from(list(KINDS))) for column in (*draw(PAIRS), "id")}
    rows = draw(rows_of({column: KINDS[kind][1] for column, kind in kinds.items()}, 4))

    def cell(value: Any, kind: str) -> Cell:
        text = spelled(value, kind)
        return (json.dumps(text) if kind == "text" else text, text)

    arrays = {column: pa.array([row[column] for row in rows], KINDS[kind][0]) for column, kind in kinds.items()}
    return [{column: cell(row[column], kind) for column, kind in kinds.items()} for row in rows], pa.table(arrays)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Task]:
    """Load a directory as if it were the data set owner/name of the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    build, load = datasets.load_dataset_builder, datasets.load_dataset

    def task(folder: Path) -> Task:
        with (
            patch("datasets.load_dataset_builder", lambda name, subset: build(str(folder), subset)),
            patch("datasets.load_dataset", lambda name, subset: load(str(folder), subset)),
        ):
            return load_task("owner/name", instruction="Do it.")

    return task


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed=typed_tables())
def test_a_cell_gives_the_same_text_whatever_door_it_comes_through(
    typed: tuple[Table, pa.Table], hub: Callable[[Path], Task]
) -> None:
    table, columns = typed
    wanted = tuple(Example(asked, answer) for asked, answer, _ in ([text for _, text in row.values()] for row in table))
    with TemporaryDirectory() as parent:
        for ending, write in (("jsonl", as_jsonl), ("json", as_json), ("csv", as_csv), ("parquet", None)):
            folder = Path(parent) / ending / "data"
            folder.mkdir(parents=True)
            file = folder / f"train-00000-of-00001.{ending}"
            if write is None:
                pq.write_table(columns, file)
            else:
                file.write_text(write(table), encoding="utf-8", newline="")
            for task in (*(load_task(str(p), instruction="Do it.") for p in (file, folder.parent)), hub(folder.parent)):
                assert task.train == wanted
                assert any(note.startswith("columns that are not used: 'id'") for note in task.notes)


def test_decimals_are_the_shortest_text_that_means_them(tmp_path: Path) -> None:
    given = ["0", "0.0000001", "12.5", "100", "-3.10", "12345678901234567890.5"]
    table = pa.table({"input": ["a"] * 6, "output": pa.array(map(Decimal, given), pa.decimal128(38, 18))})
    pq.write_table(table, tmp_path / "d.parquet")
    task = load_task(str(tmp_path / "d.parquet"), instruction="Do it.")
    shown = ["0", "0.0000001", "12.5", "100", "-3.1", "12345678901234567890.5"]
    assert [row.answer for row in task.train] == shown


@pytest.mark.parametrize(
    ("told", "text", "answers"),
    [
        ('quotechar: "\'"', "text,label\n'a, b','yes'\nc,'no'\n", ["yes", "no"]),
        ("sep: '|'", "text|label\na|yes\nb|no\n", ["yes", "no"]),
        ("names: [text, label]", "a,yes\nb,no\n", ["yes", "no"]),
        # The usual ones are read here, as the file spells them.
        ("sep: ','", "text,label\na,007\nb,1.50\n", ["007", "1.50"]),
    ],
)
def test_files_are_read_as_their_description_asks(
    told: str, text: str, answers: list[str], tmp_path: Path, hub: Callable[[Path], Task]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text(text)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  {told}\n---\n"
    )
    for task in (load_task(str(folder), instruction="Do it."), hub(folder)):
        assert [row.answer for row in task.train] == answers
        key, usual = told.split(":")[0], answers[0] == "007"
        assert any(note.startswith(f"read by datasets, as the description sets {key}") for note in task.notes) != usual


def describe_classes(folder: Path, names: Sequence[str]) -> None:
    """Write a README that declares the classes of the column label, as the hub's do."""
    lines = "".join(f"          '{n}': '{name}'\n" for n, name in enumerate(names))
    features = "  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    dump(folder / "README.md", f"---\ndataset_info:\n  features:\n{features}{lines}---\n")


@pytest.mark.parametrize(("cells", "answers"), [("01234", "12345"), ("12345", "12345"), ("1212", "1212")])
def test_the_number_of_one_class_may_be_the_name_of_another(cells: str, answers: str, tmp_path: Path) -> None:
    """Cells of a CSV are texts: numbers unless all of them are names; of names alone nothing tells them apart."""
    describe_classes(tmp_path, "12345")
    dump(tmp_path / "train.csv", "text,label\n" + "".join(f"t{n},{cell}\n" for n, cell in enumerate(cells)))
    task = load_task(str(tmp_path), instruction="Do it.")
    assert [row.answer for row in task.train] == list(answers) and sorted(task.labels) == list("12345")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_the_classes_that_a_description_declares_are_labels_through_every_door(
    ending: str, tmp_path: Path, hub: Callable[[Path], Task]
) -> None:
    names = [f"intent {n}" for n in range(30)]
    numbers = [*range(30), 3, -1]
    described = datasets.Dataset.from_dict({"text": [f"t{n}" for n in numbers], "label": numbers})
    if ending == "parquet":
        described = described.cast_column("label", datasets.ClassLabel(names=names))
    describe_classes(tmp_path / "data", names)
    file = tmp_path / "data" / f"train.{ending}"
    getattr(described, f"to_{ending}")(file)
    tasks = [load_task(str(tmp_path / "data"), instruction="Do it."), hub(tmp_path / "data")]
    tasks += [load_task(str(file), instruction="Do it.")] if ending == "parquet" else []
    for task in tasks:
        assert task.labels == ("intent 3", *names[:3], *names[4:])
        assert [row.answer for row in task.train] == [*names, "intent 3"] and len(task.unused) == 1
        assert task.metric == "exact_match"


TALK = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=2).map(tuple)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.builds(Example, TEXTS, TEXTS), min_size=2, max_size=4)
    | st.lists(st.builds(Example, TEXTS, TEXTS, TALK), min_size=2, max_size=4, unique_by=lambda row: row.input),
    suffix=st.just("") | TEXTS,
    form=st.sampled_from(["llamafactory", "axolotl"]),
)
def test_what_is_exported_is_read_back_unchanged(rows: list[Example], suffix: str, form: Any) -> None:
    task = replace(toy_task(), train=tuple(rows), suffix=suffix)
    with TemporaryDirectory() as folder:
        file, _ = export_data(task, "Sort them.", form, Path(folder))
        again = load_task(file, instruction="Sort them.")
    assert len(again.train) == len(rows)
    for row, back in zip(rows, again.train, strict=True):
        turns = [text for pair in back.history for text in pair] + [back.input]
        if form == "llamafactory" and not row.history:
            # Its trainer puts instruction and input together with a line break.
            turns[-1] = f"Sort them.\n{turns[-1]}"
        assert turns == turns_of("Sort them.", row, suffix) and back.answer == row.answer


ROWS = datasets.Dataset.from_dict({"prompt": ["Sort: a"], "completion": ["b"]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ROWS}, "task = Dataset: allowed is a task's name, or where .* rows in memory too"),
        ({"name": None}, "task = NoneType"),
        ({"name": "a\0b.jsonl"}, "data: holds a NUL character"),
        ({"columns": ["input"]}, r"columns = \['input'\]: must be a mapping"),
        ({"columns": {"input": 3}}, r"columns\.input = 3: must be a text"),
        ({"labels": "yes"}, "labels = 'yes': must be a list"),
        ({"test": "$NOT_SET_HERE/t.csv"}, r"test: .* names the environment variable \$NOT_SET_HERE, which is not set"),
        ({"name": "date-format", "instruction": 3}, "instruction = 3: must be a text"),
        ({"name": "date-format", "data_dir": 3}, "data_dir = 3: must be a path"),
    ],
)
def test_what_is_no_data_is_refused_in_our_words(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = dump(tmp_path / "t.jsonl", [{"input": "a", "output": "b"}])
    with pytest.raises(DataError, match=words):
        load_task(**{"name": path, "instruction": "Do it.", **given})


def test_of_two_columns_for_a_system_message_the_first_known_name_is_one(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": "b", "system_prompt": "Not this.", "system": "This."}]
    task = load_task(dump(tmp_path / "t.jsonl", rows))
    assert task.instruction == "This." and any("system_prompt" in note for note in task.notes)


ASKED = [{"instruction": "Sort.", "question": f"a{n}", "response": "b"} for n in range(3)]


def test_an_input_beside_an_instruction_is_used_or_asked_for(tmp_path: Path) -> None:
    found = load_task(dump(tmp_path / "t.jsonl", ASKED))
    assert found.instruction == "Sort." and [row.input for row in found.train] == ["a0", "a1", "a2"]
    pairs = [{"instruction": "Same?", "premise": "a", "hypothesis": "b", "label": "yes"}] * 2
    assert load_task(dump(tmp_path / "p.jsonl", pairs)).instruction == "Same?"
    # No known pair: nothing that is called like an input is left out without a word.
    odd = [{"instruction": "Sort.", "text": "a", "output": "b"}]
    with pytest.raises(DataError, match=r"'text' \(1 values\) is called like an input.*input=text.*ignore=text"):
        load_task(dump(tmp_path / "o.jsonl", odd))
    assert load_task(tmp_path / "o.jsonl", columns={"ignore": "text"}).train[0].input == ""
    with pytest.raises(DataError, match="'question' is called like an input"):
        given_task([{"instruction": "Sort.", "question": "a", "output": "b"}])


def test_a_text_beside_its_answer_is_an_input_also_in_memory() -> None:
    task = given_task([{"text": "Sort. b a", "label": "x"}] * 2, "Sort.")
    assert isinstance(task, Task) and (task.train[0].input, task.train[0].answer) == ("Sort. b a", "x")


@pytest.mark.parametrize("answer", [5, True, ["a", "b"]])
def test_answers_in_memory_that_are_no_texts_are_read_as_in_files(answer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "Sort. x", "completion": answer}, {"prompt": "Sort. y", "completion": "c"}]
    alpaca = [{"instruction": "Sort.", "input": "x", "output": answer}]
    for known in (rows, alpaca):
        found = Rows(known, "Sort.").task.train[0]
        assert found.answer == load_task(dump(tmp_path / "t.jsonl", known), instruction="Sort.").train[0].answer
        assert json.loads(found.input)[1] in (found.answer, [{"role": "assistant", "content": found.answer}])


def test_rows_that_do_not_hold_the_instruction_are_told_the_way_out() -> None:
    rows = [{"prompt": "x", "completion": "y"}]
    with pytest.raises(DataError, match=r"does not hold the instruction.*columns=\{'input': 'prompt'"):
        given_task(rows, "Sort.")
    found = given_task(rows, "Sort.", columns={"input": "prompt", "answer": "completion"})
    assert isinstance(found, Task) and found.train[0].input == "x"


def test_quotes_in_a_tsv_merge_no_rows(tmp_path: Path) -> None:
    text = 'input\toutput\nfine\tyes\n"Loved it\tyes\nThe TV is 32"\tno\n"a ""b"" c"\tno\n'
    inputs = ["fine", '"Loved it', 'The TV is 32"', 'a "b" c']
    for more, unused in (("", []), ("short row\n", [5])):
        task = own(tmp_path / "t.tsv", text + more)
        assert [row.input for row in task.train] == inputs and [one.row for one in task.unused] == unused
    assert own(tmp_path / "t.tsv", 'input\toutput\n"two\nlines"\tyes\n').train[0].input == "two\nlines"


def test_right_answers_of_a_natural_instructions_file_without_its_definition_are_alternatives(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"Instances": [{"input": "q", "output": ["paris", "Paris, France"]}]}))
    (row,) = load_task(path, instruction="Where?").train
    assert (row.answer, row.references) == ("paris", ("Paris, France",))


def test_an_empty_input_is_one_whatever_the_case_of_its_column_and_the_kind_of_nothing(tmp_path: Path) -> None:
    rows = [{"Instruction": "Sort.", "Input": text, "Output": "b"} for text in ("a", None)]
    assert [row.input for row in load_task(dump(tmp_path / "t.jsonl", rows)).train] == ["a", ""]
    nothing = [{"instruction": "Sort.", "input": text, "output": "b"} for text in ("a", math.nan)]
    assert len(Rows(nothing).task.train) == 2


def test_rows_in_memory_keep_the_names_of_classes_and_the_width_of_numbers() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    for data in (rows, rows.to_iterable_dataset()):
        task = given_task(data, "Judge it.")
        assert isinstance(task, Task) and [row.answer for row in task.train] == ["neg", "pos"]
    values = [
        np.float32(3.8),
        [np.float64(0.1)],
        np.int8(2),
        np.bool_(True),
        np.array([1.5, 3.8], np.float32),
        np.datetime64("2020-01-02", "ns"),
    ]
    task = given_task([{"input": "a", "output": value} for value in values], "Judge it.")
    assert isinstance(task, Task)
    assert [row.answer for row in task.train] == ["3.8", "0.1", "2", "true", "1.5, 3.8", "2020-01-02T00:00:00"]


def test_tables_of_pandas_are_read_or_refused_in_our_words() -> None:
    frame = pd.DataFrame({"input": ["a", "b"], "output": pd.array(["x", None], "string"), 3: pd.NaT})
    for data in (frame, frame.to_dict("records")):
        task = given_task(data, "Do it.")
        assert isinstance(task, Task) and task.train == (Example("a", "x"),)
        assert [row.reason for row in task.unused] == ["'output' is missing"] and "'3'" not in str(task.notes)
    nothing = datasets.IterableDataset.from_generator(lambda: iter(()), features=datasets.Features({}))
    with pytest.raises(DataError, match="has no rows"):
        given_task(nothing, "Do it.")
    mixed = {"input": ["a", "b"], "output": ["x", 3]}
    mixed_rows = [dict(zip(mixed, row, strict=True)) for row in zip(*mixed.values(), strict=True)]
    for wrong in (
        pd.DataFrame(mixed),
        pd.DataFrame([["a", "b", "c"]], columns=["input", "output", "input"]),
        datasets.IterableDataset.from_generator(lambda: iter(mixed_rows)),
    ):
        with pytest.raises(DataError, match=r"rows cannot be loaded: .*all values of a column of one kind"):
            given_task(wrong, "Do it.")
    chats = pd.DataFrame([{"instruction": "Do it.", "input": "a", "output": "b", 0: "z"}])
    assert exchange(chats, "Do it.", "Go.").to_dict("records") == [
        {"instruction": "Go.", "input": "a", "output": "b", 0: "z"}
    ]
    turns = np.array([{"role": "user", "content": "Do it."}, {"role": "assistant", "content": "b"}])
    frame = pd.DataFrame({"messages": [turns], "vector": [np.ones(2)], "n": pd.array([None], "Int64")})
    changed = exchange(frame, "Do it.", "Go.")
    assert isinstance(changed["vector"][0], np.ndarray) and changed["n"].dtype == "Int64"
    assert changed["messages"][0] == [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "b"}]


def test_messages_in_parts_are_read_and_exchanged_like_texts() -> None:
    def turn(role: str, *parts: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": part} for part in parts]}

    row = {"messages": [turn("system", "Sort."), turn("user", "a", "b"), turn("assistant", "12")]}
    (plain,) = exchange([row], "Sort.", "Order.")
    assert plain["messages"] == [turn("system", "Order."), *row["messages"][1:]]
    in_arrays = pd.DataFrame({"messages": [[{**one, "content": np.array(one["content"])} for one in row["messages"]]]})
    assert exchange(in_arrays, "Sort.", "Order.")["messages"][0][0] == turn("system", "Order.")
    split = {"messages": [turn("system", "So", "rt."), *row["messages"][1:]]}
    assert exchange([split], "Sort.", "Order.")[0]["messages"][0] == turn("system", "Order.")
    assert Rows([split]).task.instruction == "Sort."
    found = Rows([row, row])
    assert found.task.train[0].answer == "12" and found.task.instruction == "Sort."
    assert found.completions("Order.")[0] == {
        "prompt": [{"role": "system", "content": "Order."}, {"role": "user", "content": "ab"}],
        "completion": [{"role": "assistant", "content": "12"}],
    }


@pytest.mark.parametrize("end", [" ", "\n", "\t "])
def test_instructions_that_differ_at_their_ends_only_count_as_one(end: str) -> None:
    rows = [{"instruction": f"Sort.{end * (n % 2)}", "input": f"{n}", "output": "a"} for n in range(4)]
    assert (Rows(rows).task.instruction, Rows(rows).layout) == ("Sort.", "alpaca")
    assert [row["instruction"] for row in exchange(rows, "Sort.", "Order.")] == ["Order.", f"Order.{end}"] * 2
    # Candidates have no white space at their ends, so the original has none either.
    turns = (("system", f"Sort.{end}"), ("user", "ab"), ("assistant", "1"))
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    for found in (Rows([talk] * 2), Rows([{"prompt": f"Sort.{end}ab", "completion": "1"}] * 2, f"Sort.{end}")):
        assert found.task.instruction == "Sort."
        (asked, _) = json.loads(found.task.train[0].input)
        assert f"{TAKEN_OUT}{end}" in (asked if isinstance(asked, str) else asked[0]["content"])


def test_alpaca_asks_its_instruction_last_and_its_system_message_first(tmp_path: Path) -> None:
    rows = [{"instruction": f"Q{n}", "output": "a", "history": [["h", "r"]], "system": f"S{n}"} for n in range(2)]
    found = own(tmp_path / "t.json", rows).train
    assert found == tuple(Example(f"Q{n}", "a", ((f"S{n}\n\nh", "r"),)) for n in range(2))


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    row = json.dumps({"input": "i", "output": "o"})
    for name in ("train.jsonl", "notes.txt", "more.jsonl.gz", ".hidden.txt", "README.md"):
        (tmp_path / name).write_text(row)
    notes = load_task(tmp_path, instruction="Do it.").notes
    assert "files that are not read, as they end otherwise: more.jsonl.gz, notes.txt" in notes
    (tmp_path / "left.jsonl").write_text(row)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.jsonl\n---\n"
    )
    notes = load_task(tmp_path, instruction="Do it.").notes
    assert "files that are not used, as the directory's description does not name them: left.jsonl" in notes


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("context", "a lake", "a part of the input"),
        ("images", ["x.png"], "media"),
        ("tools", [{"name": "f"}], "tools"),
        ("reasoning", "since", "reasoning"),
        ("rejected", "bad", "a preference"),
        ("weight", 0.5, "a mark of what is learned"),
        ("label", True, "a preference"),
    ],
)
def test_a_column_with_a_meaning_is_refused_unless_it_is_said_to_be_unused(
    tmp_path: Path, column: str, value: object, words: str
) -> None:
    rows = [{"prompt": f"Sort. {n}", "completion": "c", "id": 7} for n in range(3)]
    told = rf"the column '{column}' (\(1 values\) )?is {words}, and would not be used: "
    for read in (lambda rows: own(tmp_path / "t.jsonl", rows), lambda rows: Rows(rows, "Sort.").task):
        with pytest.raises(DataError, match=told):
            read([*rows, {**rows[0], column: value}])
        task = read(rows)
        assert "columns that are not used: 'id' (3 values)" in task.notes and task.metric == "exact_match"
    ignored = own(tmp_path / "t.jsonl", [{**row, column: value} for row in rows], columns={"ignore": [column]})
    assert [row.answer for row in ignored.train] == ["c"] * 3


def test_a_column_that_is_not_used_is_no_half_of_a_pair(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "prompt": f"p{n}", "answer": "a"} for n in range(2)]
    found = own(tmp_path / "t.jsonl", rows, columns={"ignore": ["question"]})
    assert [row.input for row in found.train] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["-5", "5", "12"], "exact_match"),
        (["3.8", "1,000", "$4"], "exact_match"),
        (["def f(x): return {x: 1}", "f(2)", "[i for i in y]"], "exact_match"),
        (["The lake thaws in April.", "A lift was added to the tower.", "Cars may cross the bridge."], "rouge_l"),
        (["湖在四月解冻。", "塔上加了电梯。", "汽车可以过桥。"], "rouge_l"),
        ([["Ann", "Bob"], ["Eve"], ["Al", "Jo", "Cy"]], "list_f1"),
    ],
)
def test_the_metric_can_tell_right_from_wrong(tmp_path: Path, answers: list[object], metric: str) -> None:
    task = own(tmp_path / "t.jsonl", [{"input": f"i{n}", "output": a} for n, a in enumerate(answers)])
    assert task.metric == metric and any(note.startswith(f"metric: {metric}, as ") for note in task.notes)
