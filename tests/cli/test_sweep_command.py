"""`sapo run` with a sweep: what it prints, its exit codes, and a dry run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.outcome import Command
from small_runs import plain_config

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


def test_the_command_makes_the_runs_and_prints_the_table(written: Path, command: Command) -> None:
    first, sweep = command("run", written), written.parent / "sweep"
    assert first.code == 0 and "Sweep of 2 runs" in first.out and "inc-lora against seq-lora" in first.out
    assert "run 1/2, task 1 alpha: training" in first.err
    idle = f"Nothing was left to do: {sweep} holds every result already.\n"
    for again, said in ((command("run", written), idle), (command("report", sweep), "")):
        assert (again.code, again.out) == (0, said + first.out)
    # Reports do not mix sweeps and runs.
    run = sweep / "alpha" / "inc-lora-original-s1"
    command("report", sweep, run).complains("is a run: report them separately")


def test_the_command_exits_with_2_where_a_run_failed_and_prints_the_table_of_the_others(
    written: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def diverges(*args: Any) -> Any:
        raise TrainError("training diverged")

    monkeypatch.setattr(IncLora, "prepare", diverges)
    said = command("run", written)
    assert said.code == 2 and "Sweep of 1 run" in said.out and "There is one setting" in said.out
    assert "1 of 2 runs failed (alpha/inc-lora-original-s1)" in said.err and "Traceback" not in said.err


def test_the_command_that_is_interrupted_says_what_is_saved(
    written: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def stopped(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sapo.training.methods.seq_lora.SeqLora.prepare", stopped)
        said = command("run", written)
    saved = "1 finished runs, and the finished steps of others. The step in progress was discarded."
    again = f"To resume, give the same command again: sapo run {written}"
    assert f"interrupted. Saved in {written.parent / 'sweep'}: {saved} {again}" in said.err
    # The page of what is finished would hide it.
    assert (said.code, said.out) == (130, "")
    assert command("run", written).code == 0


def test_a_dry_run_names_the_runs_and_writes_nothing(written: Path, command: Command) -> None:
    before = sorted(written.parent.rglob("*"))
    said = command("run", written, "--dry-run")
    assert said.code == 0 and "This is the first of 2 runs. If all take as long: " in said.out
    assert said.out.splitlines()[-2:] == ["alpha/inc-lora-original-s1", "alpha/seq-lora-original-s1"]
    assert sorted(written.parent.rglob("*")) == before


def test_ray_is_for_sweeps(written: Path, command: Command) -> None:
    single = written.parent / "single.yaml"
    single.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(written.read_text()).items() if k != "sweep"}))
    command("run", single, "--ray", "auto").complains("--ray shares out the runs of a sweep")
    command("run", written, "--ray", "auto", "--dry-run").complains("--ray trains, and --dry-run only plans")
