"""Candidates that are read from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sapo.candidates.files import candidates_file
from sapo.core.errors import CandidateError


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
