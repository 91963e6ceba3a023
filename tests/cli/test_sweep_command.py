"""`sapo run` with a sweep: what it prints, its exit codes, and a dry run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import command, plain_config

from sapo.core.errors import TrainError
from sapo.training.methods.inc_lora import IncLora


@pytest.fixture
def written(small_model: Path, bench: Path, tmp_path: Path) -> Path:
    """A configuration file of a sweep."""
    path = tmp_path / "grid.yaml"
    data = plain_config(
        small_model, bench, tmp_path / "sweep", policy="original", train={"epochs": 1}, sequence=["alpha"],
        sweep={"method": ["inc-lora", "seq-lora"], "seed": [1]},
    )  # fmt: skip
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_command_makes_the_runs_and_prints_the_table(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", written) == 0
    first = capsys.readouterr()
    assert "Sweep of 2 runs" in first.out and "inc-lora against seq-lora" in first.out
    assert "run 1/2, task 1 alpha: training" in first.err
    assert command("run", written) == 0
    sweep = written.parent / "sweep"
    assert capsys.readouterr().out == f"Nothing was left to do: {sweep} holds every result already.\n{first.out}"
    assert command("report", sweep) == 0
    assert capsys.readouterr().out == first.out
    # Reports do not mix sweeps and runs.
    assert command("report", sweep, sweep / "alpha" / "inc-lora-original-s1") == 2
    assert "is a run: report them separately" in capsys.readouterr().err.replace("\n", " ")


def test_the_command_exits_with_2_where_a_run_failed_and_prints_the_table_of_the_others(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverges(*args: Any) -> Any:
        raise TrainError("training diverged")

    monkeypatch.setattr(IncLora, "prepare", diverges)
    assert command("run", written) == 2
    said = capsys.readouterr()
    assert "Sweep of 1 run" in said.out and "There is one setting" in said.out
    assert "1 of 2 runs failed (alpha/inc-lora-original-s1)" in said.err and "Traceback" not in said.err


def test_the_command_that_is_interrupted_says_what_is_saved(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sapo.training.methods.seq_lora.SeqLora.prepare", stopped)
        assert command("run", written) == 130
    said = capsys.readouterr()
    saved = "1 finished runs, and the finished steps of others. The step in progress was discarded."
    again = f"To resume, give the same command again: sapo run {written}"
    assert f"interrupted. Saved in {written.parent / 'sweep'}: {saved} {again}" in said.err
    # The page of what is finished would hide it.
    assert said.out == ""
    assert command("run", written) == 0


def test_a_dry_run_names_the_runs_and_writes_nothing(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(written.parent.rglob("*"))
    assert command("run", written, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "This is the first of 2 runs. If all take as long: " in said
    lines = said.splitlines()
    assert lines[-2:] == ["alpha/inc-lora-original-s1", "alpha/seq-lora-original-s1"]
    assert sorted(written.parent.rglob("*")) == before


def test_ray_is_for_sweeps(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = written.parent / "single.yaml"
    single.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(written.read_text()).items() if k != "sweep"}))
    assert command("run", single, "--ray", "auto") == 2
    assert "--ray shares out the runs of a sweep" in capsys.readouterr().err
    assert command("run", written, "--ray", "auto", "--dry-run") == 2
    assert "--ray trains, and --dry-run only plans" in capsys.readouterr().err
