"""Candidates that are read from a file."""

import json
from pathlib import Path

import pytest

from sapo.candidates.files import candidates_file
from sapo.core.errors import CandidateError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Only a line feed ends a line of JSONL.
TEXTS = ("first {x}", 'second "quoted"', "dritte Zeile\nvierte", "one\u2028two\u2029three\x85")
ONE = ("only one",)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (json.dumps(TEXTS), TEXTS),
        (json.dumps([{"text": t} for t in TEXTS], indent=2), TEXTS),
        (json.dumps([{"instruction": t, "note": 1} for t in TEXTS]), TEXTS),
        ("\n".join(json.dumps(t, ensure_ascii=False) for t in TEXTS), TEXTS),
        ("\n\n".join(json.dumps({"text": t}) for t in TEXTS) + "\n\n", TEXTS),
        ("\r\n".join(json.dumps({"instruction": t}) for t in TEXTS), TEXTS),
        (json.dumps({"other": ["no"], "toy": TEXTS}), TEXTS),
        (json.dumps({"toy": [{"text": t} for t in TEXTS]}), TEXTS),
        ("\ufeff" + json.dumps(TEXTS), TEXTS),
        ('"only one"', ONE),
        ('{"text": "only one"}', ONE),
        ('["only one"]', ONE),
        ('{"toy": "only one"}', ONE),
    ],
)
def test_all_forms_of_a_file_give_the_same_texts_in_order(content: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    assert candidates_file(write(tmp_path / "c.json", content), "toy") == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"c\.json is empty"),
        ("\ufeff \n\t\n", r"c\.json is empty"),
        ('"one"\n\n"two\n"three"\n', r"c\.json, line 3 is not JSON"),
        ("Say yes or no.", r"c\.json is neither JSON nor JSONL"),
        (
            '{"sentiment": ["a"], "topic": ["b"]}',
            r"c\.json has nothing for task 'sentiments'\. Did you mean 'sentiment'\? It has: 'sentiment', 'topic'",
        ),
        ('["a", 3]', "entry 2 is a number: allowed is a text"),
        ('{"a": [], "a": []}', "c.json is neither JSON nor JSONL: an object has the key 'a' twice"),
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
