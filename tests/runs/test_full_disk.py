"""A disk that fills up while a run writes: one message, everything finished is kept, and the run goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from safetensors import SafetensorError

from sapo.cli import main
from sapo.core.storage import write_text
from sapo.integrations.testing import tiny_model, tiny_tokenizer

CONFIG: dict[str, Any] = {
    "model": {"base": "model", "device": "cpu"},
    "sequence": ["mine"],
    "tasks": {"mine": {"data": "mine.json", "instruction": "Say good or bad."}},
    "policy": "original",
    "train": {"rows": 4, "epochs": 2, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2},
    "evaluate": {"rows": 2, "max_new_tokens": 2},
    "run_dir": "run",
}


@dataclass(frozen=True)
class Outcome:
    code: int
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `sapo run` with changes to the configuration, in a directory of its own."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    # Half of the time of a start.
    monkeypatch.setattr("sapo.runs.prepare.gc.collect", lambda: None)
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    rows = [{"text": f"text {i}", "label": "good" if i % 2 else "bad"} for i in range(10)]
    Path("mine.json").write_text(json.dumps(rows))

    def call(**changes: Any) -> Outcome:
        Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
        monkeypatch.setattr(sys, "argv", ["sapo", "run", "config.yaml"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(int(stopped.value.code or 0), capsys.readouterr().err)

    return call


WRITES = (
    "run/config.yaml", "run/environment.json", "run/data.json", "run/candidates/1-mine.json",
    "run/cells/0/mine.original.json", "run/selections/1-mine.json", "stage/sapo.json", "stage/README.md",
    "run/training/1-mine.json", "run/cells/1/mine.selected.json", "run/results.json", "run/report.md",
)  # fmt: skip
PARAPHRASES = ["Is it good or bad?", "good or bad?", "bad, or good?"]


def lasting(run_dir: Path) -> Any:
    found = json.loads((run_dir / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "config")}


def full_at(file: str, patch: pytest.MonkeyPatch) -> None:
    """Let the disk be full when this file is about to be synced."""
    sync = os.fsync
    target: list[str] = []

    def write(path: Path, text: str) -> None:
        target[:] = [path.as_posix()]
        write_text(path, text)

    def full(descriptor: int) -> None:
        if target and target[0].endswith(file):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    for room in ("storage", "record", "live", "report.publish"):
        patch.setattr(f"sapo.{room}.write_text", write)
    patch.setattr(os, "fsync", full)


def test_a_disk_that_is_full_at_any_write_keeps_what_was_finished_and_the_run_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "candidates.json").write_text(json.dumps(PARAPHRASES))
    settings: dict[str, Any] = {"policy": "highest", "candidates": {"file": "candidates.json"}}
    steps: list[set[str]] = []
    for file in WRITES:
        with monkeypatch.context() as patch:
            full_at(file, patch)
            outcome = run(**settings)
        assert outcome.code == 2 and "Traceback" not in outcome.err, file
        assert f"{file} cannot be written: No space left on device. What was finished is kept." in outcome.err
        files = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        steps.append({name for name in files if name.split("/")[1] in ("cells", "selections", "training")})
        assert not any("/." in name for name in files - {"run/.lock"}) and file not in files
    assert all(before <= after for before, after in pairwise(steps)) and len(steps[-1]) == 4
    assert run(**settings).code == 0
    assert run(**settings, run_dir="whole").code == 0
    assert lasting(tmp_path / "run") == lasting(tmp_path / "whole")


def no_room(*args: object, **kwargs: object) -> NoReturn:
    raise OSError(28, "No space left on device")


def no_room_in_rust(*args: object, **kwargs: object) -> NoReturn:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("peft.PeftModel.save_pretrained", no_room),
        ("peft.peft_model.safe_save_file", no_room_in_rust),
        ("sapo.runs.directory.os.rename", no_room),
        ("sapo.training.finetune.tempfile.TemporaryDirectory", no_room),
    ],
)
def test_a_disk_that_is_full_around_training_keeps_what_was_finished(
    where: str, failure: Callable[..., NoReturn], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, failure)
        outcome = run()
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert "No space left on device" in outcome.err and "What was finished is kept." in outcome.err
    assert not (tmp_path / "run" / "training").exists()
    assert [p.name for p in (tmp_path / "run" / "stages").glob("*")] == []
    assert run().code == 0
