"""The state of an unfinished training in a run directory, and settings that may change between two starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from sapo.runs.directory import RunDirectory


def test_the_unfinished_state_of_other_inputs_is_dropped_and_that_of_the_same_is_kept(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", {"seed": 1}) as directory:
        there = directory.unfinished("1-toy", {"data": "a"})
        (there / "checkpoint-2").mkdir()
        assert directory.unfinished("1-toy", {"data": "a"}) == there and (there / "checkpoint-2").is_dir()
        assert directory.unfinished("1-toy", {"data": "b"}) == there and not (there / "checkpoint-2").exists()
        assert json.loads((there / "inputs.json").read_text()) == {"data": "b"}
        directory.finish("1-toy")
        assert not there.exists()
        directory.finish("1-toy")


@pytest.mark.parametrize("key", ["keep", "selection.cache", "train.checkpoint_every"])
def test_settings_that_no_result_depends_on_may_change(tmp_path: Path, key: str) -> None:
    def config(value: Any) -> dict[str, Any]:
        part, _, last = key.rpartition(".")
        return {"seed": 1, part: {last: value}} if part else {"seed": 1, last: value}

    for value in (1, 2):
        with RunDirectory(tmp_path / "run", config(value)) as directory:
            assert directory.path.is_dir()
