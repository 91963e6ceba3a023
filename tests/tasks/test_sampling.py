"""Selection rows drawn by hand: every label's share, without replacement, by seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.integrations.testing import toy_task
from sapo.tasks.sampling import selection_rows


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
