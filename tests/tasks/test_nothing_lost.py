"""Random data sets: every cell is in a prompt or an answer, or named; texts are as the file spells them."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sapo.core.errors import DataError
from sapo.core.types import Task
from sapo.tasks.load import load_task

# How a cell is spelled in JSON, and the text that is to come of it.
Cell = tuple[str, str]

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text
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


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    pair = draw(PAIRS)
    columns = (*pair, *draw(st.lists(OTHERS, unique=True, max_size=3)))
    cell = [CELLS, CELLS, *[st.one_of(st.none(), CELLS)] * (len(columns) - 2)]
    return Table(columns, tuple(draw(st.lists(st.tuples(*cell), min_size=2, max_size=5))))


def as_jsonl(table: Table) -> str:
    lines = []
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        lines.append("{" + ", ".join(f"{json.dumps(c)}: {cell[0] if cell else 'null'}" for c, cell in cells) + "}")
    return "\n".join(lines)


def as_json(table: Table) -> str:
    return "[" + ",\n".join(as_jsonl(table).split("\n")) + "]"


def as_csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    writer.writerows([[cell[1] if cell else "" for cell in row] for row in table.rows])
    return out.getvalue()


def loaded(text: str, name: str) -> Task:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8", newline="")
        return load_task(str(path), instruction="Do it.")


@pytest.mark.parametrize(("name", "write"), [("t.jsonl", as_jsonl), ("t.json", as_json), ("t.csv", as_csv)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_cell_is_used_as_it_is_spelled_or_its_column_is_named(
    name: str, write: object, data: st.DataObject
) -> None:
    table = data.draw(tables())
    task = loaded(write(table), name)  # type: ignore[operator]
    named = "; ".join(note for note in task.notes if note.startswith("columns that are not used"))
    assert len(task.train) + len(task.unused) == len(table.rows)
    left_out = {row.row for row in task.unused}
    used = [row for number, row in enumerate(table.rows, start=1) if number not in left_out]
    for row, example in zip(used, task.train, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            if cell is not None:
                assert cell[1] in (example.input, example.answer) or repr(column) in named
    for place, column in enumerate(table.columns[2:], start=2):
        count = sum(row[place] is not None for row in table.rows)
        assert (f"{column!r} ({count} values)" in named) == (count > 0)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("context", "a lake", "a part of the input"),
        ("images", ["x.png"], "media"),
        ("tools", [{"name": "f"}], "tools"),
        ("reasoning", "since", "reasoning"),
        ("rejected", "bad", "a preference"),
        ("weight", 0.5, "a mark of what is learned"),
        ("label", True, "which answers are good"),
    ],
)
def test_a_column_with_a_meaning_is_refused_unless_it_is_said_to_be_unused(
    tmp_path: Path, column: str, value: object, words: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"p{n}", "completion": "c", column: value}) for n in range(3)))
    with pytest.raises(DataError, match=words):
        load_task(str(path), instruction="Do it.")
    task = load_task(str(path), instruction="Do it.", columns={"ignore": [column]})
    assert [row.answer for row in task.train] == ["c"] * 3


def test_several_columns_are_one_input_each_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"passage": f"Lake {n}.", "question": "Frozen?", "answer": True} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    for columns in ({}, {"input": ["passage", "question"]}):
        task = load_task(str(path), instruction="Do it.", columns=columns)
        assert task.train[1].input == "passage: Lake 1.\n\nquestion: Frozen?" and task.train[1].answer == "true"


def test_choices_stand_with_letters(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"question": "2+2?", "choices": ["1", 4], "answer": "B"}))
    assert load_task(str(path), instruction="Do it.").train[0].input == "question: 2+2?\n\nchoices: \nA. 1\nB. 4"


def test_a_turn_marked_as_not_learned_is_left_out(tmp_path: Path) -> None:
    def chat(**marks: object) -> str:
        answer = {"role": "assistant", "content": "Yes.", **marks}
        return json.dumps({"messages": [{"role": "user", "content": "So?"}, answer]})

    path = tmp_path / "t.jsonl"
    marks: list[dict[str, object]] = [
        {"weight": 0},
        {"train": False},
        {"weight": 1},
        {"loss": True},
        {"weight": 0.5},
        {"name": "Ann"},
    ]
    path.write_text("\n".join(chat(**mark) for mark in marks))
    task = load_task(str(path), instruction="Do it.")
    assert [row.row for row in task.unused] == [1, 2, 5] and len(task.train) == 3
    assert "keys of messages that are not used: 'name' (1)" in task.notes


def test_rows_for_testing_are_not_trained_on_unless_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    for name, text in (("data", "a"), ("test", "b")):
        (tmp_path / "reviews" / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"input": f"{text}{n}", "output": "x"}) for n in range(3))
        )
    task = load_task(str(tmp_path / "reviews"), instruction="Do it.")
    assert task.train[0].input == "a0" and task.test[0].input == "b0"
    (tmp_path / "reviews" / "data.jsonl").unlink()
    with pytest.raises(DataError, match="not trained on unless you say so"):
        load_task(str(tmp_path / "reviews"), instruction="Do it.")
    assert load_task(str(tmp_path / "reviews"), instruction="Do it.", train="test").train[0].input == "b0"


def test_files_of_a_directory_are_used_or_named(tmp_path: Path) -> None:
    row = json.dumps({"input": "i", "output": "o"})
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "extra.jsonl"):
        (tmp_path / name).write_text(row)
    task = load_task(str(tmp_path), instruction="Do it.")
    assert len(task.train) == 2
    assert "files that are not used, as their names tell no split: extra.jsonl" in task.notes


def test_quotes_in_a_tsv_merge_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('text\tlabel\nfine\tyes\n"Loved it\tyes\nThe TV is 32"\tno\n"a ""b"" c"\tno\n')
    task = load_task(str(path), instruction="Do it.")
    assert [row.input for row in task.train] == ["fine", '"Loved it', 'The TV is 32"', 'a "b" c']


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
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"input": f"i{n}", "output": a}) for n, a in enumerate(answers)))
    task = load_task(str(path), instruction="Do it.")
    assert task.metric == metric and any(note.startswith(f"metric: {metric}, as ") for note in task.notes)
