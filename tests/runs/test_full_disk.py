"""A disk that fills up while a run writes: one message, everything finished is kept, and the run can be resumed."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError
from small_runs import configure, lasting

from sapo.core.errors import RecordError
from sapo.runs.config.schema import Config
from sapo.sequence import run

WRITES = (
    "run/config.yaml", "run/environment.json", "run/data.json", "run/candidates/1-alpha.json",
    "run/cells/0/alpha.original.json", "run/selections/1-alpha.json", "stage/sapo.json", "stage/README.md",
    "run/training/1-alpha.json", "run/cells/1/alpha.own.json", "run/results.json",
)  # fmt: skip


def config_in(small_model: Path, bench: Path, run_dir: Path) -> Config:
    train = {"rows": 4, "epochs": 2}
    return configure(small_model, bench, run_dir, sequence=["alpha"], policy="highest", train=train)


def no_room(*args: object, **kwargs: object) -> NoReturn:
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_any_write_keeps_what_was_finished_and_the_run_is_resumed(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real = config_in(small_model, bench, tmp_path / "run"), os.replace
    steps: list[set[str]] = []
    for file in WRITES:

        def full(source: Any, target: Any, file: str = file) -> None:
            if Path(target).as_posix().endswith(file):
                no_room()
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(RecordError, match=f"{file} cannot be written: No space left on device. What was finis"):
                run(config)
        files = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        steps.append({name for name in files if name.split("/")[1] in ("cells", "selections", "training")})
        assert not any("/." in name for name in files - {"run/.lock"}) and file not in files
    assert all(before <= after for before, after in pairwise(steps)) and len(steps[-1]) == 4
    assert lasting(run(config)) == lasting(run(config_in(small_model, bench, tmp_path / "whole")))


def test_a_disk_that_is_full_at_a_checkpoint_is_said_in_one_sentence(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room_in_torch(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nmore")

    train = {"rows": 4, "epochs": 2, "checkpoint_every": 1}
    config = configure(small_model, bench, tmp_path / "run", sequence=["alpha"], policy="original", train=train)
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", no_room_in_torch)
        with pytest.raises(
            RecordError, match=r"unfinished/1-alpha cannot be written: \[enforce.*0\. What was finished"
        ):
            run(config)
    run(config)


def no_room_in_rust(*args: object, **kwargs: object) -> NoReturn:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "failure"), [("peft.peft_model.safe_save_file", no_room_in_rust), ("os.rename", no_room)]
)
def test_a_disk_that_is_full_around_training_keeps_what_was_finished(
    where: str, failure: Callable[..., NoReturn], small_model: Path, bench: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = config_in(small_model, bench, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(where, failure)
        with pytest.raises(RecordError, match=r"No space left on device.*What was finished is kept"):
            run(config)
    assert not (tmp_path / "run" / "training").exists() and (tmp_path / "run" / "selections").is_dir()
    assert [p.name for p in (tmp_path / "run" / "stages").glob("*")] == []
    run(config)
