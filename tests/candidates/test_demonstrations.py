"""Candidates that show rows: what they hold, how long they are, and that these rows are used for nothing else."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sapo.candidates.demonstrations import SHOTS, demonstrations
from sapo.candidates.files import candidates_file
from sapo.candidates.gather import gather
from sapo.core.errors import CandidateError, DataError
from sapo.core.types import Example, Instruction, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.tasks.builtin import BUILTIN, builtin_task
from sapo.tasks.holdout import hold_out
from sapo.tasks.sampling import shown_rows, without_shown
from sapo.training.select import select

BLOCK = re.compile(r"^Text: (.+)\nAnswer: (.+)$", re.MULTILINE)


def texts_of(task: Task, longest: int = 2000) -> list[str]:
    (texts,) = demonstrations(longest).paraphrases(task, 20)
    return list(texts)


def examples(text: str) -> list[tuple[str, str]]:
    """The input and the answer of each example in a text."""
    return BLOCK.findall(text)


def given(texts: Sequence[str]) -> list[Instruction]:
    return [Instruction(text, "given") for text in texts]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_text_holds_the_original_and_real_rows_balanced_over_the_labels(name: str) -> None:
    task = builtin_task(name)
    texts = texts_of(task)
    known = {row.input: row.answer for row in task.train}
    longest = max(map(examples, texts), key=len)
    assert {len(examples(text)) for text in texts} == {0, *SHOTS} and len(set(texts)) == len(texts) > 12
    for text in texts:
        shown = examples(text)
        assert task.instruction in text and shown == longest[: len(shown)]
        assert all(known[asked] == answer for asked, answer in shown)
        counts = Counter(answer for _, answer in shown)
        if task.labels and shown:
            assert max(counts.values()) - min(counts[label] for label in task.labels) <= 1
    assert texts == texts_of(task)


@pytest.mark.parametrize("name", BUILTIN)
def test_the_checks_let_them_pass(name: str) -> None:
    task = builtin_task(name)
    # A long original is nearly the same as itself with an example, and a judge is not sent the rows.
    for instruction in (task.instruction, f"{task.instruction} " + "Read it with care, and think of all of it. " * 25):
        long = replace(task, instruction=instruction.strip())
        found = gather(long, (demonstrations(4000),), 30, judge=lambda task, texts: ["no"] * len(texts))
        assert found.rejected == () and [c.text for c in found.candidates[1:]] == texts_of(long, 4000)
        assert {c.origin for c in found.candidates[1:]} == {"demonstrations"}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (builtin_task("review-sentiment"), "spelled as here: positive, negative."),
        (builtin_task("date-format"), "the form 0000-00-00, with a digit for every 0."),
        (builtin_task("count-letter"), "a number in digits."),
        (builtin_task("extract-items"), "a list whose items are separated by commas."),
        (builtin_task("odd-one-out"), "a single word."),
        (
            replace(
                toy_task(), labels=(), train=tuple(Example(f"x {'y ' * n}", "so " * n) for n in (1, 2, 4)), metric="f1"
            ),
            "1 to 4 words.",
        ),
    ],
)
def test_frames_say_what_the_input_is_and_how_the_answer_is_written(task: Task, said: str) -> None:
    told = [text for text in texts_of(task) if "The input is a text of" in text]
    words = [len(row.input.split()) for row in task.train]
    length = f"{min(words)} to {max(words)}" if len({*words}) > 1 else words[0]
    assert told and all(f"a text of {length} words." in text and said in text for text in told)
    assert sum(not examples(text) for text in told) == 2


def test_other_languages_get_examples_and_labels_but_no_english_sentences() -> None:
    task = replace(
        toy_task(), instruction="判断下面这段话的情感是正面还是负面，只回答一个词。", labels=("正面", "负面"),
        train=tuple(Example(f"第{i}句话。", "正面" if i % 2 else "负面") for i in range(9)),
    )  # fmt: skip
    texts = texts_of(task)
    assert any("正面, 负面" in text for text in texts)
    for text in texts:
        assert not re.search("[a-z]", re.sub("^(Text|Answer):", "", text, flags=re.MULTILINE))


def test_texts_keep_to_the_limit_and_rows_that_would_break_it_are_not_shown() -> None:
    task = toy_task()
    long = tuple(replace(row, input=f"{row.input} {'and on ' * 50}") for row in task.train[:8])
    mixed = replace(task, train=(*long, *task.train[8:]))
    texts = texts_of(mixed, 400)
    assert max(map(len, texts)) <= 400 and max(len(examples(text)) for text in texts) == 5
    assert not any("and on" in text for text in texts)
    # Where there is no room for many, there are few.
    assert {len(examples(text)) for text in texts_of(task, 180)} == {0, 1, 2}
    with pytest.raises(CandidateError, match=r"'toy' has no training row.*candidates.longest = 90 .*Raise that"):
        texts_of(task, 90)
    with pytest.raises(CandidateError, match=r"has no training rows, of which .* give the task's data"):
        texts_of(replace(task, train=()))


def test_a_rare_answer_is_shown_although_it_makes_no_label_and_lengths_are_said_plainly() -> None:
    rows = tuple(Example(f"film {n}", "bad" if n % 8 == 0 else "good") for n in range(32))
    texts = texts_of(replace(toy_task(), train=rows, labels=()))
    assert all({answer for _, answer in examples(text)} == {"good", "bad"} for text in texts if len(examples(text)) > 1)
    assert any("The input is a text of 2 words. The answer is a single word." in text for text in texts)


def test_rows_that_are_tested_or_have_a_history_are_never_shown() -> None:
    task = toy_task(rows=30)
    untested = replace(task, test=())
    talks = tuple(replace(row, history=(("Hello", "Hello!"),)) for row in task.train[:20])
    overlapping = replace(task, test=(*task.test, *task.train[:20]))
    tested = {row.input for row in hold_out(untested).test}
    for given_task, never in (
        (untested, tested),
        (replace(task, train=(*talks, *task.train[20:])), {row.input for row in talks}),
        (overlapping, {row.input for row in overlapping.test}),
    ):
        shown = {asked for text in texts_of(given_task) for asked, _ in examples(text)}
        assert len(shown) == 5 and not shown & never


def test_rows_that_are_shown_are_found_again_also_behind_a_file_and_with_another_answer(tmp_path: Path) -> None:
    task = toy_task()
    texts = texts_of(task)
    shown = {asked for text in texts for asked, _ in examples(text)}
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    read = given(candidates_file(tmp_path / "c.jsonl", task.name))
    contradicting = replace(task.train[0], input=min(shown), answer="maybe")
    more = replace(task, train=(*task.train, contradicting))
    assert {row.input for i, row in enumerate(more.train) if i in shown_rows(more, read)} == shown
    left = without_shown(more, read)
    assert left.train == tuple(row for row in more.train if row.input not in shown)
    assert left.notes == ("neither scored nor trained on, as candidates show them as examples: 6 training rows",)
    # Other texts cost nothing, an input in a sentence is no example.
    assert without_shown(task, given([f"Like {task.train[0].input}, answer yes or no."])) is task
    with pytest.raises(DataError, match=r"'toy': neither scored .* 1 training rows, and no row is left"):
        without_shown(replace(task, train=(contradicting,)), read)


def test_no_candidate_is_scored_on_a_row_that_one_of_them_shows() -> None:
    task = toy_task()
    texts = texts_of(task, 500)
    selection = select(tiny_model(context=1024), tiny_tokenizer(), task, texts, strategy="exhaustive")
    assert set(selection.rows) == set(range(16)) - shown_rows(task, given(texts))
    assert len(selection.rows) == 11
    seen = replace(task, train=tuple(task.train[i] for i in shown_rows(task, given(texts))))
    with pytest.raises(DataError, match="'toy': candidates show all 5 selection rows as examples; give more rows"):
        select(tiny_model(context=1024), tiny_tokenizer(), seen, texts)
