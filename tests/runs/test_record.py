"""The run directory under failure: half-written files, other owners, other configurations, damaged steps."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from filelock import FileLock

from sapo.core.errors import RecordError
from sapo.core.storage import fingerprint, read_json, write_json, write_text
from sapo.core.types import CandidateLoss, Instruction, Losses, Race, Rejection, Selection
from sapo.runs.directory import Record

CONFIG: dict[str, Any] = {"seed": 42, "train": {"epochs": 1.0, "rows": None}, "watch": ["a"], "run_dir": "anywhere"}
LONE = "half a character: \ud83d"


def files(directory: Path) -> set[str]:
    """Every file below a directory, hidden ones too."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def broken(*args: object, **kwargs: object) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "run", CONFIG) as opened:
        yield opened


# Writing.


def test_text_is_written_with_its_directory_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "file.txt"
    write_text(path, "naïve 北京\n")
    assert path.read_bytes() == "naïve 北京\n".encode()
    assert files(tmp_path) == {"new/deeper/file.txt"}


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "os.chmod"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(step, broken)
        with pytest.raises(RecordError, match=r"file\.json cannot be written: No space left on device"):
            write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert files(tmp_path) == {"file.json"}


def test_an_interruption_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    path = tmp_path / "file.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert files(tmp_path) == {"file.txt"}


def test_a_directory_in_the_files_place_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file.txt" / "inside").mkdir(parents=True)
    with pytest.raises(RecordError, match=r"file\.txt cannot be written"):
        write_text(tmp_path / "file.txt", "text")
    assert files(tmp_path) == set()


def test_a_file_in_the_directorys_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("here first")
    with pytest.raises(RecordError, match="cannot be written"):
        write_text(tmp_path / "taken" / "file.txt", "text")
    assert (tmp_path / "taken").read_text() == "here first"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused_and_leave_the_old_file(number: float, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, [1.0])
    with pytest.raises(RecordError, match="not finite"):
        write_json(path, {"deep": [{"loss": number}]})
    assert read_json(path) == [1.0]
    assert files(tmp_path) == {"file.json"}


def test_lone_surrogates_and_every_script_survive(tmp_path: Path) -> None:
    value = {"text": [LONE, "naïve 北京 🙂\u2028\x00\r\n", "\udc00\ud800"]}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"not json", b"\xff\xfe{}"])
def test_a_damaged_file_is_an_error_that_says_what_to_delete(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="Delete it to compute this step again") as error:
        read_json(path)
    assert str(path) in str(error.value)


# Fingerprints.


def test_a_fingerprint_depends_on_values_and_order_but_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, "é"]}) == fingerprint({"b": [2, "é"], "a": 1})
    different = [["ab"], ["a", "b"], ["b", "a"], "ab", "ab ", 1, 1.5, "1", None, [], {}, [LONE], ["half a character: "]]
    assert len({fingerprint(value) for value in different}) == len(different)


# Opening.


def test_a_run_directory_is_made_and_opens_again_with_the_same_configuration(tmp_path: Path) -> None:
    for _ in range(2):
        with Record(tmp_path / "deep" / "run", CONFIG):
            assert (tmp_path / "deep" / "run" / "config.yaml").is_file()


def test_a_moved_run_directory_opens_although_its_name_is_in_the_configuration(tmp_path: Path) -> None:
    with Record(tmp_path / "run", CONFIG):
        pass
    (tmp_path / "run").rename(tmp_path / "moved")
    with Record(tmp_path / "moved", {**CONFIG, "run_dir": "elsewhere"}) as record:
        assert record.directory == tmp_path / "moved"


def test_another_configuration_is_refused_naming_every_key_with_both_values(tmp_path: Path) -> None:
    with Record(tmp_path / "run", CONFIG):
        pass
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = {"seed": 7, "train": {"epochs": 2.5, "rows": None}, "watch": ["a", "b"], "new": "x"}
    with pytest.raises(RecordError) as error, Record(tmp_path / "run", other):
        pass
    lines = {line.strip() for line in str(error.value).splitlines()}
    assert {
        "seed: 42 then, 7 now",
        "train.epochs: 1.0 then, 2.5 now",
        "watch: ['a'] then, ['a', 'b'] now",
        "new: None then, 'x' now",
    } <= lines
    assert not any("rows" in line or "run_dir:" in line for line in lines)
    assert f"delete {tmp_path / 'run'}" in str(error.value)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    with Record(tmp_path / "run", CONFIG) as record:
        assert record.reuse("nothing.json", {}) is None


def test_a_configuration_survives_its_file_exactly(tmp_path: Path) -> None:
    config = {"rate": 1e-05, "third": 1 / 3, "text": "1e-5", "yes": "on", "none": None, "names": ["北京", "a: b", "#"]}
    for _ in range(2):
        with Record(tmp_path, config):
            pass


@pytest.mark.parametrize("content", [b"{a: [", b"\xff\xfe\x00", b"", b"- a list"])
def test_a_damaged_configuration_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    with Record(tmp_path, CONFIG):
        pass
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RecordError) as error, Record(tmp_path, CONFIG):
        pass
    assert str(tmp_path) in str(error.value)


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RecordError, match="is not empty and not a run directory"), Record(tmp_path, CONFIG):
        pass
    assert files(tmp_path) == {"thesis.tex"}


def test_an_empty_directory_and_one_with_only_a_lock_are_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    with Record(tmp_path / "run", CONFIG):
        assert (tmp_path / "run" / "config.yaml").is_file()


def test_a_file_in_the_directorys_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RecordError, match="is a file: choose a directory"), Record(tmp_path / "run", CONFIG):
        pass
    with pytest.raises(RecordError, match="cannot be used"), Record(tmp_path / "run" / "below", CONFIG):
        pass
    assert (tmp_path / "run").read_text() == "a file"


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user can write everywhere; a file in the directory's place is tested above")
        with pytest.raises(RecordError, match="cannot be used"), Record(tmp_path / "run", CONFIG):
            pass
        with pytest.raises(RecordError, match="cannot be used"), Record(tmp_path, CONFIG):
            pass
    finally:
        tmp_path.chmod(0o700)


# One process at a time.


def test_a_second_holder_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    holder = FileLock(tmp_path / ".lock")
    with holder:
        with pytest.raises(RecordError, match="in use by another process"), Record(tmp_path, CONFIG):
            pass
        assert files(tmp_path) == {".lock"}
    with Record(tmp_path, CONFIG):
        assert (tmp_path / "config.yaml").is_file()


def test_another_process_is_refused_while_a_record_is_open(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from sapo.core.errors import RecordError\n"
        "from sapo.runs.directory import Record\n"
        "try:\n"
        "    with Record(Path(sys.argv[1]), {'seed': 1}): print('opened')\n"
        "except RecordError as error: print(error)\n"
    )

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout  # fmt: skip

    with Record(tmp_path, {"seed": 1}):
        assert "in use by another process" in other()
    assert other() == "opened\n"


def test_the_lock_is_given_back_after_a_failure_inside_and_after_a_refused_configuration(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Record(tmp_path, CONFIG):
        _ = 1 / 0
    with pytest.raises(RecordError, match="another configuration"), Record(tmp_path, {"seed": 1}):
        pass
    with Record(tmp_path, CONFIG) as record:
        assert record.directory == tmp_path


# Steps.


def test_a_finished_step_is_reused_and_an_unfinished_one_is_not(record: Record) -> None:
    assert record.reuse("cells/0/a.json", {"model": "1"}) is None
    record.save("cells/0/a.json", {"model": "1"}, {"predictions": [LONE], "seconds": 0.1})
    assert record.reuse("cells/0/a.json", {"model": "1"}) == {"predictions": [LONE], "seconds": 0.1}


def test_a_step_from_other_inputs_is_refused_naming_exactly_what_differs(record: Record) -> None:
    inputs = {"model": "1", "data": "2", "suffix": "3"}
    record.save("step.json", inputs, 1)
    before = (record.directory / "step.json").read_bytes()
    with pytest.raises(RecordError, match=r"step\.json was computed from something else .*; different: data\."):
        record.reuse("step.json", {**inputs, "data": "other"})
    with pytest.raises(RecordError, match="different: model, suffix"):
        record.reuse("step.json", {**inputs, "model": "0", "suffix": "0"})
    with pytest.raises(RecordError, match="different: template"):
        record.reuse("step.json", {**inputs, "template": "new"})
    assert (record.directory / "step.json").read_bytes() == before
    assert record.reuse("step.json", inputs) == 1


@pytest.mark.parametrize(
    "content", ["", '{"inputs": {"a": "1"}, "val', "[]", "3", '{"inputs": {}}', '{"inputs": null, "value": 1}']
)
def test_a_damaged_step_is_an_error_that_says_what_to_delete(content: str, record: Record) -> None:
    path = record.directory / "step.json"
    path.write_text(content)
    with pytest.raises(RecordError, match="Delete it to compute this step again") as error:
        record.reuse("step.json", {"a": "1"})
    assert str(path) in str(error.value)


# Stages.


def test_a_stage_appears_whole_and_replaces_an_older_one(record: Record) -> None:
    def write(text: str) -> Any:
        def fill(directory: Path) -> None:
            assert not (record.stage_directory("1-a") / "adapter").exists() or text == "new"
            (directory / "adapter").write_text(text)
            if text == "old":
                (directory / "leftover").touch()

        return fill

    record.save_stage("1-a", write("old"))
    record.save_stage("1-a", write("new"))
    assert files(record.directory / "stages") == {"1-a/adapter"}
    assert (record.stage_directory("1-a") / "adapter").read_text() == "new"


def test_a_stage_that_fails_while_it_is_written_leaves_the_older_one_and_no_scratch(record: Record) -> None:
    record.save_stage("1-a", lambda directory: (directory / "adapter").touch())

    def interrupted(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record.save_stage("1-a", interrupted)
    assert files(record.directory / "stages") == {"1-a/adapter"}


@pytest.mark.parametrize("step", ["os.rename", "tempfile.mkdtemp"])
def test_a_disk_that_refuses_a_stage_is_an_error_of_the_record(
    step: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step, broken)
        with pytest.raises(RecordError, match=r"1-a cannot be written: No space left on device"):
            record.save_stage("1-a", lambda directory: (directory / "adapter").touch())
    assert files(record.directory / "stages") == set()


def test_a_stage_that_is_dropped_is_gone_and_dropping_it_again_is_no_error(record: Record) -> None:
    record.save_stage("1-a", lambda directory: (directory / "adapter").touch())
    record.save_stage("2-b", lambda directory: (directory / "adapter").touch())
    for _ in range(2):
        record.drop_stage("1-a")
    assert files(record.directory / "stages") == {"2-b/adapter"}


# Losses and selections.


def selection() -> Selection:
    """A selection whose floats do not have short decimal forms."""
    random = np.random.default_rng(0)

    def losses() -> Losses:
        return Losses(random.normal(size=5) / 3, random.integers(1, 9, 5), random.integers(0, 3, 5))

    return Selection(
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


def test_a_selection_survives_its_file_to_the_last_bit(tmp_path: Path) -> None:
    one = selection()
    write_json(tmp_path / "selection.json", one.to_json())
    other = Selection.from_json(read_json(tmp_path / "selection.json"))
    for a, b in zip(one.candidates, other.candidates, strict=True):
        assert replace(a, losses=b.losses) == b
        for name in ("nll", "tokens", "cut"):
            before, after = getattr(a.losses, name), getattr(b.losses, name)
            assert before.tobytes() == after.tobytes() and before.dtype == after.dtype
    assert replace(one, candidates=()) == replace(other, candidates=())
    assert other.instruction == one.candidates[1].instruction
    assert other.to_json() == one.to_json()


def test_a_selections_summary_is_the_sum_over_its_examples(tmp_path: Path) -> None:
    found = json.loads(json.dumps(selection().to_json()))
    assert found["examples"] == 5
    for candidate in found["candidates"]:
        nll, tokens = candidate["losses"]["nll"], candidate["losses"]["tokens"]
        assert candidate["nll_sum"] == pytest.approx(sum(nll), rel=1e-12)
        assert candidate["tokens"] == sum(tokens) and candidate["examples"] == 5
    assert [c["ci"] is None for c in found["candidates"]] == [True, False, False]


def test_losses_that_are_not_numbers_never_reach_a_file(tmp_path: Path) -> None:
    losses = Losses(np.array([1.0, np.nan]), np.array([1, 1]), np.array([0, 0]))
    with pytest.raises(RecordError, match="not finite"):
        write_json(tmp_path / "losses.json", losses.to_json())
    assert files(tmp_path) == set()


def test_an_empty_list_of_losses_keeps_its_kinds() -> None:
    empty = Losses.from_json({"nll": [], "tokens": [], "cut": []})
    assert [x.dtype for x in (empty.nll, empty.tokens, empty.cut)] == [np.float64, np.int64, np.int64]
