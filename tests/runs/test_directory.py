"""The run directory: other owners, other configurations, damaged steps, stages that are written whole."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from sapo.core.errors import RecordError
from sapo.core.storage import SCRATCH
from sapo.runs.config.loading import load_config, make_config
from sapo.runs.directory import RunDirectory, demand_free

CONFIG: dict[str, Any] = {"seed": 42, "train": {"epochs": 1.0, "rows": None}, "watch": ["a"], "run_dir": "anywhere"}


def files(directory: Path) -> set[str]:
    """Every file below a directory, hidden ones too."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def refused(directory: Path, config: dict[str, Any] = CONFIG) -> str:
    """Why it cannot be opened."""
    with pytest.raises(RecordError) as error, RunDirectory(directory, config):
        pass
    return str(error.value)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory(tmp_path / "run", CONFIG) as directory:
        yield directory


# Opening.


def test_a_run_directory_is_made_and_opens_again_with_the_same_configuration_also_when_moved(tmp_path: Path) -> None:
    for _ in range(2):
        with RunDirectory(tmp_path / "deep" / "run", CONFIG):
            assert (tmp_path / "deep" / "run" / "config.yaml").is_file()
    (tmp_path / "deep" / "run").rename(tmp_path / "moved")
    with RunDirectory(tmp_path / "moved", {**CONFIG, "run_dir": "elsewhere"}) as directory:
        assert directory.path == tmp_path / "moved"


def test_another_configuration_is_refused_naming_every_key_with_both_values(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", CONFIG):
        pass
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    said = refused(
        tmp_path / "run", {"seed": 7, "train": {"epochs": 2.5, "rows": None}, "watch": ["a", "b"], "new": "x"}
    )
    assert [line.strip() for line in said.splitlines()[1:-1]] == [
        "new: not set then, 'x' now",
        "seed: 42 then, 7 now",
        "train.epochs: 1.0 then, 2.5 now",
        "watch: ['a'] then, ['a', 'b'] now",
    ]
    assert f"delete {tmp_path / 'run'}" in said
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    with RunDirectory(tmp_path / "run", CONFIG) as directory:
        assert directory.reuse("nothing.json", {}) is None


def test_what_decides_nothing_may_change(tmp_path: Path) -> None:
    free: dict[str, Any] = {"keep": "all", "selection": {"cache": True}, "train": CONFIG["train"]}
    with RunDirectory(tmp_path, {**CONFIG, **free}):
        pass
    free = {"keep": "last", "selection": {"cache": False}, "train": {**CONFIG["train"], "checkpoint_every": 2}}
    RunDirectory(tmp_path, {**CONFIG, **free, "report_to": ["x"]}).check()


def test_a_run_can_be_made_again_from_the_configuration_of_its_directory(tmp_path: Path) -> None:
    config = make_config({"sequence": "demo", "run_dir": "out", "method": "ewc", "guard": {}})
    with RunDirectory(tmp_path, config.plain()):
        pass
    assert load_config(tmp_path / "config.yaml", ["run_dir=out"]) == config


@pytest.mark.parametrize("written", [1, 2, None, 4])
def test_a_directory_of_another_version_is_refused_in_one_sentence(written: int | None, tmp_path: Path) -> None:
    """The first format did not name itself."""
    with RunDirectory(tmp_path, CONFIG):
        pass
    path = tmp_path / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({key: value for key, value in stored.items() if key != "format"} |
                                   ({} if written is None else {"format": written})))  # fmt: skip
    assert refused(tmp_path) == (
        f"run_dir {tmp_path} was not written by this version of sapo (format {written or 'not named'}, not 3) and "
        "cannot be resumed: use another run_dir"
    )


@pytest.mark.parametrize("content", [b"{a: [", b"\xff\xfe\x00", b"", b"- a list"])
def test_a_damaged_configuration_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert str(tmp_path) in refused(tmp_path)


def test_a_place_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty and not a run directory" in refused(tmp_path)
    assert "is a file: choose a directory" in refused(tmp_path / "thesis.tex")
    assert "cannot be used" in refused(tmp_path / "thesis.tex" / "below")
    assert files(tmp_path) == {"thesis.tex"} and (tmp_path / "thesis.tex").read_text() == "years of work"


# One process at a time.


def test_a_run_directory_that_is_open_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    # The lock belongs to the open file, so a second opening in this process is refused as another process is.
    with RunDirectory(tmp_path, CONFIG):
        assert "in use by another process: wait for it" in refused(tmp_path)
        RunDirectory(tmp_path, CONFIG).check()
        # Before its model is loaded, too.
        with pytest.raises(RecordError, match="in use by another process"):
            demand_free(tmp_path)
        assert files(tmp_path) == {".lock", "config.yaml"}
    with RunDirectory(tmp_path, CONFIG):
        pass


def test_the_lock_is_given_back_after_a_failure_inside_and_after_a_refused_configuration(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path, CONFIG):
        _ = 1 / 0
    assert "another configuration" in refused(tmp_path, {"seed": 1})
    with RunDirectory(tmp_path, CONFIG) as directory:
        assert directory.path == tmp_path


def test_scratch_of_a_killed_process_is_swept_away_and_what_the_user_keeps_there_is_not(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as directory:
        directory.save("cells/0/task.json", {}, 1)
    (tmp_path / "cells" / "0" / f"{SCRATCH}x").write_text("half")
    (tmp_path / "stages" / f"{SCRATCH}y").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (tmp_path / "stages" / ".gitignore").write_text("*")
    with RunDirectory(tmp_path, CONFIG) as directory:
        assert directory.reuse("cells/0/task.json", {}) == 1
    assert {p.name for p in tmp_path.rglob(".*")} == {".lock", ".git", ".gitignore"}
    assert (tmp_path / ".git" / "HEAD").is_file()


def test_a_process_killed_within_its_first_write_leaves_a_directory_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: object) -> NoReturn:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        # A killed process cleans nothing up.
        patch.setattr(os, "unlink", lambda path: None)
        with pytest.raises(Killed), RunDirectory(tmp_path, CONFIG):
            pass
    assert [p.name for p in tmp_path.glob(f"{SCRATCH}*")] and not (tmp_path / "config.yaml").exists()
    with RunDirectory(tmp_path, CONFIG):
        assert files(tmp_path) == {".lock", "config.yaml"}


# Steps.


def test_a_finished_step_is_reused_and_one_from_other_inputs_refused_naming_exactly_what_differs(
    opened: RunDirectory,
) -> None:
    inputs = {"model": "1", "data": "2", "suffix": "3"}
    assert opened.reuse("cells/0/a.json", inputs) is None
    opened.save("cells/0/a.json", inputs, {"predictions": ["\ud83d"], "seconds": 0.1})
    before = (opened.path / "cells/0/a.json").read_bytes()
    for other, named in (
        ({"data": "other"}, "data"), ({"model": "0", "suffix": "0"}, "model, suffix"), ({"template": "n"}, "template"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=rf"0/a\.json was computed from different inputs \(changed: {named}\)\. "):
            opened.reuse("cells/0/a.json", inputs | other)
    assert (opened.path / "cells/0/a.json").read_bytes() == before
    assert opened.reuse("cells/0/a.json", inputs) == {"predictions": ["\ud83d"], "seconds": 0.1}


@pytest.mark.parametrize(
    "content", ["", '{"inputs": {"a": "1"}, "val', "[]", "3", '{"inputs": {}}', '{"inputs": null, "value": 1}']
)
def test_a_damaged_step_is_an_error_that_says_what_to_delete(content: str, opened: RunDirectory) -> None:
    path = opened.path / "step.json"
    path.write_text(content)
    with pytest.raises(RecordError, match="Delete it to compute this step again") as error:
        opened.reuse("step.json", {"a": "1"})
    assert str(path) in str(error.value)


def test_the_unfinished_state_of_other_inputs_is_dropped_and_that_of_the_same_is_kept(opened: RunDirectory) -> None:
    there = opened.unfinished("1-toy", {"data": "a"})
    (there / "checkpoint-2").mkdir()
    assert opened.unfinished("1-toy", {"data": "a"}) == there and (there / "checkpoint-2").is_dir()
    assert opened.unfinished("1-toy", {"data": "b"}) == there and files(there) == {"inputs.json"}
    for _ in range(2):
        opened.finish("1-toy")
    assert not there.exists()


# Stages.


def test_a_stage_appears_whole_replaces_an_older_one_and_can_be_dropped(opened: RunDirectory) -> None:
    def write(text: str) -> Any:
        def fill(directory: Path) -> None:
            (directory / "adapter").write_text(text)
            if text == "old":
                assert not opened.stage_directory("1-a").exists()
                (directory / "leftover").touch()

        return fill

    opened.save_stage("1-a", write("old"))
    opened.save_stage("1-a", write("new"))
    assert files(opened.path / "stages") == {"1-a/adapter"}
    assert (opened.stage_directory("1-a") / "adapter").read_text() == "new"

    def interrupted(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.save_stage("1-a", interrupted)
    assert files(opened.path / "stages") == {"1-a/adapter"}
    opened.save_stage("2-b", write("new"))
    for _ in range(2):
        opened.drop_stage("1-a")
    assert files(opened.path / "stages") == {"2-b/adapter"}
    # Killed while it is dropped, it is gone and not damaged.
    then = opened.stage_files("2-b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *paths, **options: interrupted(opened.path))
        with pytest.raises(KeyboardInterrupt):
            opened.drop_stage("2-b")
    opened.demand_stage("2-b", "training/2-b.json", then, dropped=True)
