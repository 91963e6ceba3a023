"""Counts against hand counts, a quadratic second implementation, and the renderer itself."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo.core.errors import DataError, RenderError
from sapo.core.types import Example, Task, Unused
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.tasks.findings import data_table, unused_warning, warnings_of
from sapo.tasks.inspection import (
    Inspection,
    LabelCount,
    Lengths,
    Reason,
    UnusedRows,
    drop_overlap,
    inspect_rows,
    lengths_of,
)

often = settings(max_examples=40, deadline=None, derandomize=True, database=None)
# Few letters, so that rows often repeat; several spellings of one letter, two cases, blanks of all kinds, and
# characters that nobody sees.
UNSEEN = "\u200b\u00ad\ufeff\u3164"
SOME = st.text(f"aAＡåÅ\u212b \u00a0\n{UNSEEN}", max_size=3)
EXAMPLES = st.lists(
    st.builds(
        Example,
        SOME,
        st.sampled_from(["yes", "no", " yes", "Yes"]),
        st.lists(st.tuples(SOME, SOME), max_size=1).map(tuple),
        st.lists(st.sampled_from(["yes", "no", "so"]), max_size=2).map(tuple),
    ),
    max_size=8,
)


def task_of(train: Sequence[Example], test: Sequence[Example] = (), **changes: Any) -> Task:
    return replace(toy_task(), train=tuple(train), test=tuple(test), dev=(), **changes)


def folded(text: str) -> list[str]:
    return unicodedata.normalize("NFKC", "".join(c for c in text if c not in UNSEEN)).casefold().split()


def same_input(one: Example, other: Example) -> bool:
    """Whether two rows count as the same prompt, turn by turn."""
    ours, theirs = ([*chain.from_iterable(x.history), x.input] for x in (one, other))
    return [folded(text) for text in ours] == [folded(text) for text in theirs]


@often
@given(EXAMPLES, EXAMPLES)
def test_counts_equal_a_comparison_of_all_pairs(train: list[Example], test: list[Example]) -> None:
    def same(one: Example, other: Example) -> bool:
        return same_input(one, other) and one.answer.strip() == other.answer.strip()

    duplicates = sum(any(same(row, before) for before in train[:n]) for n, row in enumerate(train))
    conflicts = sum(
        any(
            same_input(row, x) and x.answer.strip() not in [y.strip() for y in (row.answer, *row.references)]
            for x in train
        )
        for row in train
    )
    overlap = sum(any(same_input(row, x) for x in train) for row in test)
    found = inspect_rows(task_of(train, test))
    assert (found.duplicates, found.conflicts, found.overlap) == (duplicates, conflicts, overlap)
    assert found.rows == {"train": len(train), "dev": 0, "test": len(test)}


@often
@given(st.text("aß\u0301\u0308\u00a8ᄀ\u1161 \n\u3000", max_size=9), st.integers(0, 7), st.sampled_from(["NFC", "NFD"]))
def test_inputs_are_one_whatever_the_form_of_their_characters(text: str, place: int, form: Any) -> None:
    for other in (unicodedata.normalize(form, text), f"{text[:place]} {text[place:]}", text + "\u0301"):
        found = inspect_rows(task_of([Example(text, "yes"), Example(other, "yes")]))
        assert found.duplicates == (folded(text) == folded(other))
        assert inspect_rows(task_of([Example(text, "yes")], [Example(other, "yes")])).overlap == found.duplicates


def test_dropping_the_overlap_leaves_no_test_input_in_training() -> None:
    train = [Example("A", "yes"), Example("b", "no"), Example("a ", "no"), Example("a", "no", (("u", "v"),))]
    task = replace(task_of(train, [Example("a", "yes"), Example("c", "no")]), dev=(Example("b", "no"),))
    kept, dropped = drop_overlap(task)
    assert dropped == 2 and kept.train == (train[1], train[3]) and kept.test == task.test
    assert inspect_rows(kept).overlap == 0
    with pytest.raises(DataError, match=r"'toy'.* all 1 training rows.*data\.drop_overlap: false"):
        drop_overlap(task_of(train[:1], task.test))
    assert drop_overlap(task_of([], task.test))[1] == 0


def test_labels_and_skew_counted_by_hand() -> None:
    answers = ["yes"] * 5 + ["no"] * 3 + ["maybe"] * 2
    train = [Example(str(n), answer) for n, answer in enumerate(answers)]
    found = inspect_rows(task_of(train, [Example("t", "no"), Example("u", "No")]), selection_rows=(0, 1, 2, 5))
    assert found.labels == (LabelCount("yes", 5, 3, 1 - 1), LabelCount("no", 3, 1, 1))
    assert found.outside == LabelCount("", 2, 0, 1)
    # yes 75 to 50 %, no 25 to 30 %, others 0 to 20 %: 25 + 5 + 20, halved.
    assert found.skew == pytest.approx(0.25)
    assert inspect_rows(task_of(train), selection_rows=range(10)).skew == 0
    assert inspect_rows(task_of(train)).skew is None
    free = inspect_rows(task_of(train, labels=()), selection_rows=(0,))
    assert (free.labels, free.skew, free.outside.train) == ((), None, 0)


def test_unused_rows_are_grouped_and_only_the_first_kept() -> None:
    unused = [Unused("train", n, "the answer is empty" if n % 3 else "no text") for n in range(1, 301)]
    found = inspect_rows(task_of([], unused=(*unused, Unused("test", 7, "no text"))))
    assert found.unused.reasons == (
        Reason("train", "the answer is empty", 200, (1, 2, 4, 5, 7)),
        Reason("train", "no text", 100, (3, 6, 9, 12, 15)),
        Reason("test", "no text", 1, (7,)),
    )
    assert found.unused.first == tuple(unused[:100]) and found.unused.rows == 301
    # As many reasons as rows.
    many = inspect_rows(task_of([], unused=tuple(Unused("dev", n, f"reason {n}") for n in range(1000))))
    assert len(many.unused.reasons) == 100 and many.unused.rows == 1000


def test_lengths_equal_those_of_every_row_rendered_on_its_own() -> None:
    train = [Example("word " * (n % 13), "yes" if n % 2 else "no") for n in range(260)]
    test = [Example("word " * 2 * n, "yes") for n in range(8)]
    task, renderer = task_of(train, test), Renderer(tiny_tokenizer(), 150)
    found = inspect_rows(task, range(4), 7, lengths_of(task, renderer))
    each = [renderer.encode(task.instruction, task.suffix, [row])[0] for row in train]
    tested = [renderer.encode(task.instruction, task.suffix, [row])[0] for row in test]
    assert found.lengths == Lengths(
        tokens=sum(len(e.ids) for e in each),
        longest=max(len(e.ids) for e in each),
        cut=sum(e.cut > 0 for e in each),
        cut_test=sum(e.cut > 0 for e in tested),
    )
    assert found.lengths is not None and 0 < found.lengths.cut < 260 and 0 < found.lengths.cut_test < 8
    assert (found.selected, found.dropped) == (4, 7)
    assert replace(found, lengths=None) == inspect_rows(task, range(4), 7)
    assert lengths_of(task_of([], test), renderer) == Lengths(0, 0, 0, found.lengths.cut_test)


def test_a_row_that_cannot_be_rendered_is_named_with_its_task() -> None:
    task = task_of([Example("x", "yes")], [Example("x", "long " * 500)])
    with pytest.raises(RenderError, match=r"task 'toy', test rows, with its instruction: .* at most 400 fit"):
        lengths_of(task, Renderer(tiny_tokenizer(), 400))


FLAWED = Inspection(
    task="review", rows={"train": 20, "dev": 0, "test": 10}, selected=4, duplicates=2, conflicts=3, overlap=1,
    dropped=5, labels=(LabelCount("yes", 10, 4, 5), LabelCount("no", 9, 0, 4)),
    unused=UnusedRows(
        2, (Reason("train", "the answer is empty", 2, (3, 8)),),
        (Unused("train", 3, "the answer is empty"), Unused("train", 8, "the answer is empty")),
    ),
    lengths=Lengths(1030, 90, 6, 1),
)  # fmt: skip


def test_every_flaw_is_a_sentence_with_what_to_do() -> None:
    assert [sentence.partition(":")[0] for sentence in warnings_of(FLAWED)] == ["review"] * 10
    for sentence, start, advice in zip(
        warnings_of(FLAWED),
        (
            "1 of 10 test rows have inputs that are also trained on",
            "left out, as their inputs are also test inputs: 5 training rows;",
            "3 of 20 training rows have an input that also occurs with another answer", "2 of 20 training rows repeat",
            "1 of 20 training answers are not among the labels 'yes', 'no'", "1 of 10 test answers are not among the",
            "the labels of the 4 selection rows are not those of all training rows (skew 0.50)",
            "cut in the middle, as longer than max_length: 6 training inputs;",
            "cut in the middle, as longer than max_length: 1 test input;",
            "left out, as they cannot be used: 2 rows, 2 train (the answer is empty; first: row 3);",
        ),
        (
            "data.drop_overlap: true", "data.drop_overlap: false", "correct the answers", "remove them",
            "add the missing", "correct", "selection.sample: stratified", "raise max_length", "shorten them",
            "correct them",
        ), strict=True,
    ):  # fmt: skip
        assert sentence.startswith(f"review: {start}") and advice in sentence


def test_of_the_reasons_of_unused_rows_no_single_one_is_hidden() -> None:
    assert unused_warning(FLAWED) == warnings_of(FLAWED)[-1:]
    for count in (1, 3, 4, 5, 9):
        unused = tuple(Unused("train", n, f"reason {n}") for n in range(1, count + 1))
        (warning,) = unused_warning(inspect_rows(task_of([], unused=unused)))
        hidden = "and others" in warning
        assert warning.count("reason ") == (3 if hidden else count) and hidden == (count > 4)


def test_sound_rows_give_no_warning() -> None:
    task = toy_task()
    assert unused_warning(inspect_rows(task)) == ()
    assert warnings_of(inspect_rows(task, range(4), lengths=lengths_of(task, Renderer(tiny_tokenizer(), 512)))) == ()
    # One of ten rows would need another label: not above the limit yet.
    labels = (LabelCount("yes", 50, 6, 5), LabelCount("no", 50, 4, 5))
    slight = replace(inspect_rows(task), rows={"train": 100, "dev": 0, "test": 10}, selected=10, labels=labels)
    assert slight.skew == pytest.approx(0.1) and warnings_of(slight) == ()


def test_the_table_has_a_row_per_task_and_shows_what_it_does_not_know() -> None:
    tested = task_of([], toy_task().test)
    lengths = lengths_of(tested, Renderer(tiny_tokenizer(), 512))
    columns, table = data_table([FLAWED, inspect_rows(tested, lengths=lengths)])
    assert columns == (
        "task", "train", "test", "tokens\n/row", "longest", "cut", "dupli-\ncates", "over-\nlap", "skew", "unused",
    )  # fmt: skip
    assert table == (
        ("review", "20", "10", "52", "90", "7", "2", "1", "0.50", "2"),
        ("toy", "–", "8", "–", "–", "0", "–", "–", "–", "0"),
    )
    columns, table = data_table([replace(FLAWED, lengths=None)])
    assert len(columns) == len(table[0]) == 7 and table[0] == ("review", "20", "10", "2", "1", "0.50", "2")


@pytest.mark.parametrize("inspection", [FLAWED, inspect_rows(toy_task()), inspect_rows(task_of([], labels=()))])
def test_an_inspection_survives_json(inspection: Inspection) -> None:
    stored = json.loads(json.dumps(inspection.to_json(), allow_nan=False))
    assert Inspection.from_json(stored) == inspection
    assert stored["skew"] == inspection.skew
    assert set(stored["unused"]) == {"rows", "reasons", "first"}
