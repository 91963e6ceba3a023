"""Files are written whole or not at all, and values come back from them to the last bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from sapo.core.errors import RecordError
from sapo.core.storage import Lines, fingerprint, read_json, write_json, write_text
from sapo.core.types import Instruction, Losses, Rejection
from sapo.selection.selection import CandidateLoss, Race, Selection

LONE = "half a character: \ud83d"


LINES: Lines[Any] = Lines(parse=lambda x: x, dump=lambda x: x, key=lambda x: x["n"], advice="")


def files(directory: Path) -> set[str]:
    """Every file below a directory, hidden ones too."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "os.chmod"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    step: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> NoReturn:
        raise failure

    path = tmp_path / "new" / "file.json"
    write_json(path, {"old": 1})
    expected = RecordError if isinstance(failure, OSError) else KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(step, broken)
        with pytest.raises(expected) as error:
            write_json(path, {"new": 2})
    assert expected is KeyboardInterrupt or "file.json cannot be written: No space left on device" in str(error.value)
    assert read_json(path) == {"old": 1}
    assert files(tmp_path) == {"new/file.json"}


def test_a_directory_in_the_files_place_or_a_file_in_the_directorys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.txt" / "inside").mkdir(parents=True)
    with pytest.raises(RecordError, match=r"file\.txt cannot be written"):
        write_text(tmp_path / "file.txt", "text")
    assert files(tmp_path) == set()
    (tmp_path / "taken").write_text("here first")
    with pytest.raises(RecordError, match="cannot be written"):
        write_text(tmp_path / "taken" / "file.txt", "text")
    assert (tmp_path / "taken").read_text() == "here first"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused_and_leave_the_old_file(number: float, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, [1.0])
    with pytest.raises(RecordError, match="not finite"):
        write_json(path, Losses(np.array([1.0, number]), np.array([1, 1]), np.array([0, 0])).to_json())
    assert read_json(path) == [1.0] and files(tmp_path) == {"file.json"}


def test_lone_surrogates_and_every_script_survive(tmp_path: Path) -> None:
    value = {"text": [LONE, "naïve 北京 🙂\u2028\x00\r\n", "\udc00\ud800"]}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"not json", b"\xff\xfe{}"])
def test_a_damaged_file_is_an_error_that_says_what_to_delete(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="Delete it to compute this step again") as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_fingerprint_depends_on_values_and_order_but_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, "é"]}) == fingerprint({"b": [2, "é"], "a": 1})
    different = [["ab"], ["a", "b"], ["b", "a"], "ab", "ab ", 1, 1.5, "1", None, [], {}, [LONE], ["half a character: "]]
    assert len({fingerprint(value) for value in different}) == len(different)


def test_a_selection_survives_its_file_to_the_last_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def losses() -> Losses:
        return Losses(random.normal(size=5) / 3, random.integers(1, 9, 5), random.integers(0, 3, 5))

    # Floats that do not have short decimal forms.
    one = Selection(
        task="task", rule="confident", sample="first", rows=(0, 3, 5, 7, 11), chosen=1, tolerance=1e-5,
        rejected=(Rejection(LONE, "contains half a character"), Rejection("", "empty")), seconds=1 / 3,
        tokens=77, route="plain", race=Race(0.05, 0.01, 1 / 7, 2, "budget", 1e3 / 3), peak_memory=5,
        candidates=(
            CandidateLoss(Instruction("original {x}\n", "original"), losses(), 1 / 3, 0.0, None, "scored"),
            CandidateLoss(
                Instruction("北京 " + LONE, "file"), losses(), 1 / 9, -1 / 7, (-0.1 - 0.2, -1e-300), "chosen"
            ),
            CandidateLoss(
                Instruction("third", "builtin"), losses(), 2 / 3, 0.1, (0.0, 0.0), "dropped", 2, (1e-300, 0.1 + 0.2)
            ),
        ),
    )  # fmt: skip
    write_json(tmp_path / "selection.json", one.to_json())
    found = read_json(tmp_path / "selection.json")
    other = Selection.from_json(found)
    for a, b, written in zip(one.candidates, other.candidates, found["candidates"], strict=True):
        assert replace(a, losses=b.losses) == b
        for name in ("nll", "tokens", "cut"):
            before, after = getattr(a.losses, name), getattr(b.losses, name)
            assert before.tobytes() == after.tobytes() and before.dtype == after.dtype
        # What people read of a candidate is the sum over its examples.
        assert written["nll_sum"] == pytest.approx(sum(written["losses"]["nll"]), rel=1e-12)
        assert (written["tokens"], written["examples"]) == (sum(written["losses"]["tokens"]), 5)
    assert replace(one, candidates=()) == replace(other, candidates=()) and other.to_json() == one.to_json()
    assert found["examples"] == 5
    empty = Losses.from_json({"nll": [], "tokens": [], "cut": []})
    assert [x.dtype for x in (empty.nll, empty.tokens, empty.cut)] == [np.float64, np.int64, np.int64]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
def test_a_line_that_cannot_be_added_leaves_the_file_as_it_was(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    LINES.append(path, {"n": 1})

    def broken(*args: object) -> NoReturn:
        raise failure

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", broken)
        with pytest.raises(RecordError if isinstance(failure, OSError) else KeyboardInterrupt):
            LINES.append(path, {"n": 2})
    assert path.read_bytes() == before
    LINES.append(path, {"n": 3})
    assert LINES.read(path) == ({"n": 1}, {"n": 3})
