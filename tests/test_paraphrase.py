"""Which texts become candidates, and how candidates are read from a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sapo.errors import CandidateError
from sapo.paraphrase import admit, candidates_file
from sapo.paraphrase.checks import keeps
from sapo.testing import toy_task
from sapo.types import Instruction, Task

ORIGINAL = "Say yes if the text has many words, or no if it has few."


def labelled(instruction: str, *labels: str) -> Task:
    return dataclasses.replace(toy_task(), instruction=instruction, labels=labels)


def verdict(text: str, task: Task | None = None) -> str | None:
    """The reason why a text is rejected, None if it is admitted."""
    kept, rejected = admit(task or toy_task(), [text], "given")
    assert len(kept) + len(rejected) == 2
    return rejected[0].reason if rejected else None


def test_the_original_comes_first_and_texts_keep_their_order_and_origin() -> None:
    kept, rejected = admit(toy_task(), ["yes or no?", " no or yes?\n"], "file")
    assert kept == (
        Instruction(ORIGINAL, "original"),
        Instruction("yes or no?", "file"),
        Instruction("no or yes?", "file"),
    )
    assert rejected == ()


def test_no_texts_leave_the_original_alone() -> None:
    assert admit(toy_task(), [], "given") == ((Instruction(ORIGINAL, "original"),), ())


@pytest.mark.parametrize("text", ["", "   ", "\n\t\n", "\u3000"])
def test_an_empty_text_is_rejected(text: str) -> None:
    assert verdict(text) == "empty"


@pytest.mark.parametrize(
    "text", [ORIGINAL, ORIGINAL.upper(), f"\n{ORIGINAL}  ", ORIGINAL.replace(" ", "\n  "), ORIGINAL.replace("S", "Ｓ")]
)
def test_the_original_in_other_case_spacing_or_width_is_a_duplicate(text: str) -> None:
    assert verdict(text) == "same as the original instruction"


def test_a_duplicate_is_named_after_the_text_that_came_first() -> None:
    kept, rejected = admit(toy_task(), ["bad", "yes or no?", "Yes  or NO?", "no or yes?"], "given")
    assert [c.text for c in kept[1:]] == ["yes or no?", "no or yes?"]
    assert [(r.text, r.reason) for r in rejected][1] == ("Yes  or NO?", "same as candidate 2")


def test_rejections_keep_the_text_as_it_was_given() -> None:
    _, rejected = admit(toy_task(), ["  maybe  "], "given")
    assert rejected[0].text == "  maybe  "


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\r"])
def test_control_characters_are_rejected(character: str) -> None:
    assert verdict(f"yes {character} or no?") == "contains control characters"


def test_line_feeds_and_tabs_inside_a_text_are_no_control_characters() -> None:
    assert verdict("Answer:\n\tyes\n\tno") is None


def test_text_that_no_tokenizer_can_encode_is_rejected() -> None:
    # Half of an emoji, as a JSON escape can spell it.
    assert verdict("yes or no? \ud83d") is not None


def test_every_label_that_is_missing_is_named() -> None:
    assert verdict("Is it long?") == "lacks the label 'yes', 'no' that the original instruction names"
    assert verdict("Is it long? If so, yes.") == "lacks the label 'no' that the original instruction names"


def test_a_label_that_the_original_does_not_name_need_not_be_kept() -> None:
    assert verdict("Judge it.", labelled("Judge the text.", "good", "bad")) is None
    assert verdict("Judge it: good?", labelled("Judge the text: good or not?", "good", "bad")) is None


@pytest.mark.parametrize(
    ("label", "text", "kept"),
    [
        ("positive", "Say positive or negative.", True),
        ("positive", "Say 'positive' or 'negative'.", True),
        ("positive", "positive/negative?", True),
        ("positive", "Say negative, else positive", True),
        ("positive", "Say Positive or negative.", False),
        ("positive", "Judge positively or negatively.", False),
        ("positive", "Find the positives.", False),
        ("positive", "Say nonpositive or negative.", False),
        ("positive", "Say very_positive or negative.", False),
        ("positive", "Say positive1 or negative.", False),
        ("positive", "Say good or bad.", False),
    ],
)
def test_a_label_is_kept_to_the_letter_and_as_a_whole_word(label: str, text: str, kept: bool) -> None:
    assert keeps(label, "Is the text positive or negative?", text) is kept


def test_labels_with_several_words_or_with_characters_of_patterns_are_taken_literally() -> None:
    original = "Say not entailed, 3.5 or (c++)."
    assert keeps("not entailed", original, "Choose not entailed or else.")
    assert not keeps("not entailed", original, "Choose entailed or not.")
    assert keeps("3.5", original, "Choose 3.5 or less.")
    assert not keeps("3.5", original, "Choose 3x5 or less.")
    assert keeps("(c++)", original, "Choose (c++) or else.")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("判断文本支持还是反对。", True),
        ("请选择“支持”或“反对”", True),
        ("判断文本的立场：反对或中立", False),
    ],
)
def test_a_label_in_chinese_needs_no_spaces_around_it(text: str, kept: bool) -> None:
    assert keeps("支持", "判断下列文本对目标是支持还是反对。", text) is kept


def test_a_latin_label_between_chinese_characters_is_a_whole_word() -> None:
    assert keeps("A", "请回答A或B。", "从A与B中选择。")
    assert not keeps("A", "请回答A或B。", "从AB中选择。")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Answer 1 for good, 0 for bad.", True),
        ("1 is good and 0 is bad", True),
        ("Reply good (1) or bad (0).", True),
        ("1) positive texts are good. 0: others.", False),
        ("1. Read the text. 2. Say 0 if it is bad.", False),
        ("1: read the text, then say 0 if it is bad.", False),
        ("1、阅读文本", False),
        ("1) Read it. 2) Say 1 or 0.", True),
        ("Answer 10 or 0.", False),
    ],
)
def test_a_number_that_only_enumerates_does_not_name_a_label(text: str, kept: bool) -> None:
    assert keeps("1", "Answer 1 if the text is good, or 0 if it is bad.", text) is kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Choose among A. dovish, B. hawkish.", True),
        ("Choose: (A) dovish or (B) hawkish", True),
        ("A: dovish. B: hawkish.", True),
        ("Is the text A or B, that is dovish or hawkish?", True),
        ("A. Read the text. B. Say whether it is dovish or hawkish.", False),
        ("Is the text dovish or hawkish?", False),
        ("A. hawkish, B. dovish", False),
        # The mark's word is another one, though the original's begins with it.
        ("A. do read the text. B. decide.", False),
    ],
)
def test_an_enumerating_letter_counts_only_before_the_word_that_it_marks_in_the_original(text: str, kept: bool) -> None:
    assert keeps("A", "What is the stance? A. dovish, B. hawkish.", text) is kept


def test_an_enumerating_letter_counts_before_the_same_chinese_word() -> None:
    original = "选择立场：A. 支持，B. 反对"
    assert keeps("A", original, "立场是什么？A．支持该目标，B．反对该目标")
    assert not keeps("A", original, "A. 阅读文本。B. 判断立场。")
    # A paraphrase may also shorten what follows the label: there are no spaces that would end the word.
    assert keeps("A", "选择立场：A. 支持该目标，B. 反对该目标", "立场：A. 支持，B. 反对")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


TEXTS = ("first {x}", 'second "quoted"', "dritte Zeile\nvierte")


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(TEXTS),
        json.dumps([{"text": t} for t in TEXTS], indent=2),
        json.dumps([{"instruction": t, "note": 1} for t in TEXTS]),
        "\n".join(json.dumps(t) for t in TEXTS),
        "\n\n".join(json.dumps({"text": t}) for t in TEXTS) + "\n\n",
        "\r\n".join(json.dumps({"instruction": t}) for t in TEXTS),
        json.dumps({"other": ["no"], "toy": TEXTS}),
        json.dumps({"toy": [{"text": t} for t in TEXTS]}),
        "\ufeff" + json.dumps(TEXTS),
    ],
)
def test_all_forms_of_a_file_give_the_same_texts_in_order(content: str, tmp_path: Path) -> None:
    assert candidates_file(write(tmp_path / "c.json", content), "toy") == TEXTS


@pytest.mark.parametrize("content", ['"only one"', '{"text": "only one"}', '["only one"]', '{"toy": "only one"}'])
def test_one_text_alone_is_a_file_too(content: str, tmp_path: Path) -> None:
    assert candidates_file(write(tmp_path / "c.jsonl", content), "toy") == ("only one",)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_inside_a_string_does_not_end_the_line(separator: str, tmp_path: Path) -> None:
    texts = (f"one{separator}two", "three")
    path = write(tmp_path / "c.jsonl", "\n".join(json.dumps(t, ensure_ascii=False) for t in texts))
    assert candidates_file(path, "toy") == texts


def test_a_task_that_the_file_lacks_is_named_with_the_nearest_and_all_others(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", json.dumps({"sentiment": ["a"], "topic": ["b"]}))
    with pytest.raises(
        CandidateError,
        match=r"c\.json has nothing for task 'sentiments'\. Did you mean 'sentiment'\? It has: 'sentiment', 'topic'",
    ):
        candidates_file(path, "sentiments")


def test_an_entry_may_skip_the_checks(tmp_path: Path) -> None:
    bad = labelled("Is this good or bad?", "good", "bad")
    path = write(tmp_path / "c.json", json.dumps([{"text": "Do it.", "check": False}, {"text": "Now."}]))
    kept, rejected = admit(bad, candidates_file(path, bad.name), "file")
    assert [c.text for c in kept] == [bad.instruction, "Do it."]
    assert [r.text for r in rejected] == ["Now."]


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff"])
def test_an_empty_file_is_an_error(content: str, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"c\.json is empty"):
        candidates_file(write(tmp_path / "c.json", content), "toy")


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"none\.json: No such file"):
        candidates_file(tmp_path / "none.json", "toy")


def test_a_file_that_is_not_utf_8_is_an_error_that_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes('["schön"]'.encode("latin-1"))
    with pytest.raises(CandidateError, match=r"not UTF-8 \(byte 5\)"):
        candidates_file(path, "toy")


def test_a_broken_line_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", '"one"\n\n"two\n"three"\n')
    with pytest.raises(CandidateError, match=r"c\.jsonl, line 3 is not JSON"):
        candidates_file(path, "toy")


def test_a_single_line_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="neither JSON nor JSONL"):
        candidates_file(write(tmp_path / "c.json", "Say yes or no."), "toy")


@pytest.mark.parametrize(
    ("content", "entry", "kind"),
    [
        ('["a", 3]', 2, "int"),
        ('[null, "a"]', 1, "NoneType"),
        ('"a"\n{"txt": "b"}', 2, "NoneType"),
        ('{"toy": ["a", "b", ["c"]]}', 3, "list"),
        ("7", 1, "int"),
    ],
)
def test_an_entry_that_is_no_text_is_named_by_its_place(content: str, entry: int, kind: str, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=rf"entry {entry} is {kind}: allowed is a string"):
        candidates_file(write(tmp_path / "c.json", content), "toy")
