"""Where jobs are made: in this process, in others, on Ray; what comes back, what an error and a killed worker do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sapo.core.errors import ConfigError, DataError, ProcessError, RecordError, SapoError
from sapo.core.progress import SILENT, Reporter
from sapo.experiments.where import Job, Where, here, in_processes, on_ray, visible_gpus
from sapo.runs.directory import locked


def work(value: Any, progress: Reporter) -> Any:
    """Give a value, fail with it, or be killed the first time."""
    if isinstance(value, SapoError):
        raise value
    if isinstance(value, Path) and not value.exists():
        value.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getcwd() if value == "where" else value


def given(value: Any, name: str = "", after: str = "") -> Job[Any]:
    return Job(name or str(value), lambda: partial(work, value), after)


def made(where: Where, jobs: list[Job[Any]]) -> dict[str, Any]:
    with where(SILENT) as place:
        return {job.name: found for job, found in place.make("jobs", jobs, stops=False)}


@pytest.mark.parametrize("where", [here, partial(in_processes, ("",))], ids=["here", "processes"])
def test_jobs_give_values_or_errors_and_begin_when_the_one_before_them_is_known(
    where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}

    def later() -> Callable[[Reporter], Any]:
        return partial(work, known["first"] + 1)

    bad = given(DataError("no rows"), "bad")
    jobs = [given(1, "first"), Job("later", later, "first"), bad, given("where"), given(3, after="bad")]
    with where(SILENT) as place:
        for job, found in place.make("jobs", jobs, stops=False):
            known[job.name] = found
        # An error may end it all: nothing begins after it.
        ((job, found),) = place.make("jobs", [bad, given(1, after="bad")])
    assert job == bad and isinstance(found, DataError)
    assert isinstance(known["bad"], DataError) and str(known.pop("bad")) == "no rows"
    assert known == {"first": 1, "later": 2, "where": str(tmp_path), "3": 3}


def test_a_worker_process_that_is_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"a worker process died.*same command again to resume"):
        made(partial(in_processes, ("",)), [given(tmp_path / "killed")])


def test_a_worker_of_ray_that_is_killed_is_tried_again(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = made(partial(on_ray, "local"), [given(tmp_path / "killed"), given(DataError("no rows"), "bad")])
    assert found[str(tmp_path / "killed")] == tmp_path / "killed" and isinstance(found["bad"], DataError)


def test_a_missing_cluster_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"--ray needs ray, .*pip install 'sapo-llm\[ray\]'"):
            made(partial(on_ray, "auto"), [])
        return
    with pytest.raises(ConfigError, match=r"no Ray cluster there.*ray start --head"):
        made(partial(on_ray, "127.0.0.1:1"), [])


def test_gpus_are_shared_out_only_where_the_configuration_leaves_the_device_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(None) == visible_gpus("cuda") == ("0", "1")
    assert visible_gpus("cpu") == visible_gpus("cuda:1") == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f")
    assert visible_gpus(None) == ("5", "GPU-7f")


def test_one_process_at_a_time_holds_a_directory(tmp_path: Path) -> None:
    one = tmp_path / "new" / "one"
    with locked(one), pytest.raises(RecordError, match="in use by another process: wait for it"), locked(one):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"file cannot be used: "), locked(tmp_path / "file"):
        pass
