"""Own tasks among the others: names, settings, rows held out for testing, and selection rows drawn by hand."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_data
import pytest

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.integrations.testing import toy_task
from sapo.tasks.builtin import BUILTIN
from sapo.tasks.holdout import hold_out
from sapo.tasks.load import load_sequence, load_task
from sapo.tasks.own import DataSource
from sapo.tasks.sampling import selection_rows


def task(*examples: Example, labels: tuple[str, ...] = ()) -> Task:
    return Task("own", "Do.", "", labels, "rouge_l", examples, (), ())


def dump(path: Path) -> Path:
    return own_data.dump(path, [{"text": "a", "label": "b"}])


def test_a_fifth_of_the_rows_is_held_out_by_label_shares_and_the_rest_keeps_its_order() -> None:
    rows = [Example(f"{i}", "no" if i % 4 == 0 else "yes") for i in range(200)]
    held = hold_out(task(*rows, labels=("yes", "no")))
    assert Counter(row.answer for row in held.test) == {"yes": 30, "no": 10}
    assert held.train == tuple(row for row in rows if row not in held.test)
    assert held.test == tuple(row for row in rows if row not in held.train)
    assert held.notes == (
        "no test split: 40 of 200 training rows are held out for testing, the same ones in every run",
    )
    assert held == hold_out(task(*rows, labels=("yes", "no")))
    assert [row.input for row in held.test] != [str(i) for i in range(40)]


@pytest.mark.parametrize(("rows", "expected"), [(2, 1), (3, 1), (10, 2), (3000, 500)])
def test_at_least_one_and_at_most_500_rows_are_held_out(rows: int, expected: int) -> None:
    held = hold_out(task(*(Example(str(i), "a") for i in range(rows))))
    assert (len(held.test), len(held.train)) == (expected, rows - expected)


def test_test_rows_of_its_own_are_kept_and_the_smaller_half_of_two_inputs_is_the_test() -> None:
    assert hold_out(toy_task()) == toy_task()
    uneven = hold_out(task(*[Example("a", str(i)) for i in range(9)], Example("b", "b")))
    assert uneven.test == (Example("b", "b"),)
    alike = hold_out(task(*[Example(f"{'Rr'[i % 2]}eview {i // 2}{' ' * (i % 2)}", "c") for i in range(20)]))
    assert not {row.input.strip().casefold() for row in alike.test} & {row.input.casefold() for row in alike.train}
    even = hold_out(task(*[Example("ab"[i % 2], "c") for i in range(10)]))
    assert (len(even.train), len(even.test)) == (5, 5)


def test_a_name_that_looks_like_data_is_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(tmp_path / "my.task" / "train.json")
    dump(tmp_path / "rows.v2.JSON")
    dump(tmp_path / BUILTIN[0] / "train.json")
    monkeypatch.chdir(tmp_path / "my.task")
    for data, name in ((".", "my.task"), ("./train.json", "train"), (str(tmp_path / "rows.v2.JSON"), "rows.v2")):
        assert load_task(data, instruction="Do.").name == name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_task("my.task", instruction="Do.").train == (Example("a", "b"),)
    assert load_task("~/rows.v2.JSON", instruction="Do.").train == (Example("a", "b"),)
    assert load_task(BUILTIN[0]).name == BUILTIN[0] and len(load_task(BUILTIN[0]).train) == 400
    for missing in ("./none", "a/b/c", "none.csv", "none/x.csv"):
        with pytest.raises(DataError, match=f"No such file or directory: '{missing}'"):
            load_task(missing, instruction="Do.")


def test_settings_of_own_data_are_passed_on_and_refused_for_other_tasks(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('[{"x": "a", "y": "b"}]')
    settings: dict[str, Any] = {"columns": {"input": "x", "answer": "y"}, "labels": ["b"], "metric": "rouge_l"}
    own = load_task(str(path), instruction="Do.", suffix="So.", test=str(path), **settings)
    assert own.test == own.train == (Example("a", "b"),)
    assert (own.suffix, own.labels, own.metric) == ("So.", ("b",), "rouge_l")
    with pytest.raises(
        DataError, match=r"'date-format' is built in: columns, labels, metric can be given for your own"
    ):
        load_task("date-format", **settings)
    index = {"T": {"instruction": "i", "suffix": ""}}
    (tmp_path / "instructions.json").write_text(json.dumps(index))
    for split in ("train", "test"):
        dump(tmp_path / "T" / f"{split}.json")
    with pytest.raises(DataError, match=r"'T' is one of .*: test, subset can be given"):
        load_task("T", tmp_path, test="a", subset="b")
    assert load_task("T", tmp_path).name == "T"
    assert load_task(str(path), tmp_path, instruction="Do.", columns=settings["columns"]).name == "m"


def test_own_tasks_stand_in_a_sequence_by_their_names(tmp_path: Path) -> None:
    source = DataSource(data=str(dump(tmp_path / "m.json")), instruction="Do.", suffix="So.")
    first, second, third = load_sequence(["mine", BUILTIN[0], "other"], own={"mine": source, "other": source})
    assert (first.name, second.name, third.name) == ("mine", BUILTIN[0], "other")
    assert first.train == (Example("a", "b"),) and first.suffix == "So."
    with pytest.raises(DataError, match=f"tasks: '{BUILTIN[0]}' is the name of a built-in task too"):
        load_sequence(["mine"], own={"mine": source, BUILTIN[0]: source})
    (tmp_path / "instructions.json").write_text('{"mine": {"instruction": "i", "suffix": ""}}')
    with pytest.raises(DataError, match="tasks: 'mine' is the name of a task of "):
        load_sequence(["mine"], tmp_path, {"mine": source})


def test_an_unknown_name_is_pointed_to_where_own_data_are_named(tmp_path: Path) -> None:
    source = DataSource(data=str(dump(tmp_path / "m.json")), instruction="Do.")
    with pytest.raises(DataError, match=r"has no mien\. Did you mean 'mine'\? It has: mine, .*named under `tasks:`\.$"):
        load_sequence(["mien"], own={"mine": source})
    with pytest.raises(DataError, match=r"has no none, d/m\.csv\..* `tasks: \{m: \{data: d/m\.csv\}\}`, and stand in"):
        load_sequence(["none", "d/m.csv"])


# Selection rows: every label's share, without replacement, by seed.


def labelled(answers: str, labels: tuple[str, ...] = ("a", "b", "c")) -> Task:
    """A task whose training rows have the given one-letter answers."""
    rows = tuple(Example(f"row {i}", answer) for i, answer in enumerate(answers))
    return replace(toy_task(), labels=labels, train=rows)


def drawn(task: Task, rows: tuple[int, ...]) -> dict[str, int]:
    return dict(Counter(task.train[i].answer for i in rows))


@pytest.mark.parametrize(
    ("answers", "examples", "shares"),
    [
        ("aaaaabbbcc", 10, {"a": 5, "b": 3, "c": 2}),
        # 2.0, 1.2, 0.8: one place is left, c has the largest remainder.
        ("aaaaabbbcc", 4, {"a": 2, "b": 1, "c": 1}),
        # 2.8, 0.8, 0.4: two places are left, for a and b.
        ("aaaaaaabbc", 4, {"a": 3, "b": 1}),
        # 3.5, 1.0, 0.5: the tie goes to the label that comes first.
        ("caaaaaaabb", 5, {"a": 4, "b": 1}),
        # x and y are no labels: together they are one stratum, 1.6 of 2.4 + 1.6.
        ("aaaaaaxxxy", 4, {"a": 2}),
    ],
)
def test_every_label_has_its_share_of_the_rows_by_largest_remainder(
    answers: str, examples: int, shares: dict[str, int]
) -> None:
    for seed in range(20):
        task = labelled(answers)
        rows = selection_rows(task, examples, "stratified", seed)
        counts = drawn(task, rows)
        assert len(rows) == examples
        assert {label: n for label, n in counts.items() if label in "abc"} == shares


def test_rows_are_drawn_without_replacement_in_ascending_order_and_by_seed() -> None:
    task = labelled("ab" * 50)
    rows = selection_rows(task, 30, "stratified", 1)
    assert list(rows) == sorted(set(rows)) and len(rows) == 30 and rows[-1] < 100
    assert rows == selection_rows(task, 30, "stratified", 1)
    assert rows != selection_rows(task, 30, "stratified", 2)


def test_every_row_of_a_label_is_equally_likely() -> None:
    task = labelled("aab" * 4)
    seen = Counter(row for seed in range(600) for row in selection_rows(task, 6, "stratified", seed))
    # 600 draws with probability 1/2: five standard deviations are 61.
    assert all(abs(seen[row] - 300) < 61 for row in range(12))


def test_first_takes_the_first_rows_and_more_than_there_are_means_all_of_them() -> None:
    task = labelled("aaaaabbbcc")
    assert selection_rows(task, 4, "first", 0) == selection_rows(task, 4, "first", 9) == (0, 1, 2, 3)
    assert selection_rows(task, 250, "first", 0) == selection_rows(task, 250, "stratified", 0) == tuple(range(10))


def test_a_task_without_training_rows_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="'toy' has no training rows"):
        selection_rows(labelled(""), 4, "stratified", 0)
