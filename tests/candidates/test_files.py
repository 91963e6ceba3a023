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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"c\.json is empty"),
        (" \n\t\n", r"c\.json is empty"),
        ("\ufeff", r"c\.json is empty"),
        ('"one"\n\n"two\n"three"\n', r"c\.json, line 3 is not JSON"),
        ("Say yes or no.", r"c\.json is neither JSON nor JSONL"),
        (
            '{"sentiment": ["a"], "topic": ["b"]}',
            r"c\.json has nothing for task 'sentiments'\. Did you mean 'sentiment'\? It has: 'sentiment', 'topic'",
        ),
        ('["a", 3]', "entry 2 is a number: allowed is a text"),
        ('[null, "a"]', "entry 1 is null: allowed is a text"),
        ('"a"\n{"txt": "b"}', "entry 2 is null: allowed is a text"),
        ('{"sentiments": ["a", "b", ["c"]]}', "entry 3 is a list: allowed is a text"),
        ("7", "entry 1 is a number: allowed is a text"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_its_place(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=message):
        candidates_file(write(tmp_path / "c.json", content), "sentiments")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"none\.json: No such file"):
        candidates_file(tmp_path / "none.json", "toy")
    path = tmp_path / "c.json"
    path.write_bytes('["schön"]'.encode("latin-1"))
    with pytest.raises(CandidateError, match="not UTF-8: byte 5"):
        candidates_file(path, "toy")
