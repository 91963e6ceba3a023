"""Where jobs are made: in this process, in others, on Ray; what comes back, what an error and a killed worker do."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jobs import work
from small_runs import Told

from sapo.core.errors import ConfigError, DataError, ProcessError
from sapo.core.progress import SILENT, Reporter
from sapo.experiments.where import Job, Where, here, in_processes, on_ray, visible_gpus
from sapo.runs.config.schema import ResourcesConfig


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of Ray begin without the paths that pytest adds, and take functions by name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def given(value: Any, name: str = "", after: str = "") -> Job[Any]:
    return Job(name or str(value), lambda: partial(work, value), after)


def made(where: Where, jobs: list[Job[Any]]) -> dict[str, Any]:
    with where(SILENT) as place:
        return {job.name: found for job, found in place.make("jobs", jobs)}


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

    told = Told()
    dies: AbstractContextManager[Any] = nullcontext()
    if where is not here:
        dies = pytest.raises(ProcessError, match=r"a worker process died.*same command again to resume")
    # A process takes seconds to start: one serves for all of this.
    with dies, where(told) as place:
        for job, found in place.make("jobs", jobs):
            known[job.name] = found
        if where is not here:
            list(place.make("jobs", [given("fatal")]))
    failure = known.pop("bad")
    assert isinstance(failure, DataError) and str(failure) == "no rows"
    # It holds nothing of what failed.
    assert failure.__traceback__ is None and failure.__context__ is None
    assert known == {"first": 1, "later": 2, "where": str(tmp_path), "3": 3}
    # What workers have to say is told once, at the end of the first that says it.
    said = [note for note in told.notes if "one file is not used" in note]
    assert said == (["one file is not used"] * 5 if where is here else ["first: one file is not used"])
    assert told.notes.count("FAILED bad: no rows") == 1


def on_own_cluster(**wanted: Any) -> Where:
    """A Ray cluster of this process alone."""
    pytest.importorskip("ray")
    return partial(on_ray, "local", ResourcesConfig(**wanted))


def test_a_worker_of_ray_that_is_killed_is_tried_again_and_one_that_dies_each_time_ends_its_job_alone(
    tmp_path: Path,
) -> None:
    killed = tmp_path / "killed"
    found = made(on_own_cluster(), [given(killed), given(DataError("no rows"), "bad"), given("fatal"), given(1)])
    assert (found[str(killed)], found["1"]) == (killed, 1) and isinstance(found["bad"], DataError)
    assert isinstance(found["fatal"], ProcessError) and "its worker died 4 times" in str(found["fatal"])


def test_a_task_of_ray_takes_what_the_configuration_says() -> None:
    found = made(on_own_cluster(cpus=0.5, memory=0.25), [given("resources")])
    assert found["resources"] == {"CPU": 0.5, "memory": 0.25e9}


def test_what_no_node_has_is_told(tmp_path: Path) -> None:
    told = Told()
    with on_own_cluster(gpus=0.5, memory=1e6)(told):
        pass
    assert told.notes == [
        "--ray local: no node has 1 CPUs, 0.5 GPUs, 1e+06 GB of memory; tasks wait until one joins that has"
    ]


def test_a_missing_cluster_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"--ray needs ray, .*pip install '\.\[ray\]'"):
            made(partial(on_ray, "auto", ResourcesConfig()), [])
        return
    with pytest.raises(ConfigError, match=r"no Ray cluster there.*ray start --head"):
        made(partial(on_ray, "127.0.0.1:1", ResourcesConfig()), [])


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
