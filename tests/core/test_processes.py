"""Processes of one job, each looked at from within one process: shares, progress, what one decides for all."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import command

from sapo.core.errors import ConfigError, DataError, SapoError
from sapo.core.processes import ALONE, Processes, is_lost, join, launched, leave

often = settings(max_examples=100, deadline=None, derandomize=True, database=None)
counts = st.integers(1, 5)


# Shares and progress.


@often
@given(counts, st.lists(st.integers(), max_size=40))
def test_shares_hold_every_row_once_and_differ_by_one_row_at_most(count: int, rows: list[int]) -> None:
    shares = [Processes(rank, count).share(rows) for rank in range(count)]
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # The first process, which tells about the progress of all, never has less than another one.
    assert len(shares[0]) == max(map(len, shares))


@often
@given(st.data(), counts, st.integers(1, 60))
def test_every_process_tells_exactly_the_total_of_all_and_never_goes_back(
    data: st.DataObject, count: int, total: int
) -> None:
    for rank in range(count):
        processes = Processes(rank, count)
        left, told = len(processes.share(range(total))), list[int]()
        tell = processes.telling(told.append, total)
        while left:
            batch = data.draw(st.integers(1, left))
            left -= batch
            tell(batch)
        assert sum(told) == (total if processes.share(range(total)) else 0)
        assert all(rows >= 0 for rows in told)


# What the launcher says.


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the environment variables of a launcher and no others of its kind."""

    def set_only(**variables: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_only()
    return set_only


def test_without_a_launcher_there_is_one_process(launch: Callable[..., None]) -> None:
    for variables in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "4"}, {"RANK": "3"}):
        launch(**variables)
        assert launched() is ALONE
        assert join(None) is ALONE and (ALONE.first, ALONE.count) == (True, 1)
        leave()


def test_a_launcher_names_rank_and_number_of_processes(launch: Callable[..., None]) -> None:
    launch(RANK="2", WORLD_SIZE="3", LOCAL_RANK="1", ACCELERATE_USE_FSDP="false")
    processes = launched()
    assert processes == Processes(2, 3) and not processes.first
    assert processes.device("cuda") == "cuda:1"
    assert [processes.device(name) for name in ("cpu", "cuda:0", "mps")] == ["cpu", "cuda:0", "mps"]
    assert ALONE.device("cuda") == "cuda"


@pytest.mark.parametrize(("variable", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
@pytest.mark.parametrize("value", ["true", "True"])
def test_a_launcher_that_shares_out_the_weights_is_refused(
    variable: str, name: str, value: str, launch: Callable[..., None]
) -> None:
    launch(RANK="0", WORLD_SIZE="2", **{f"ACCELERATE_USE_{variable}": value})
    for ask in (launched, lambda: join("cpu")):
        with pytest.raises(ConfigError, match=rf"^{name} was asked for: allowed is plain data parallelism"):
            ask()


@pytest.mark.parametrize(
    "arguments", [("generate", "stage", "--input", "x"), ("export", "stage", "--merge", "out")], ids=lambda a: a[0]
)
def test_commands_that_several_processes_would_only_repeat_are_refused(
    arguments: tuple[str, ...],
    launch: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch(RANK="0", WORLD_SIZE="2")
    assert command(*arguments) == 2
    assert f"sapo {arguments[0]} works in one process: start it without torchrun" in capsys.readouterr().err


# What one process does for all.


def fail(message: str) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise DataError(message)

    return act


def test_one_process_just_acts() -> None:
    assert ALONE.once(lambda: 3) == ALONE.together(lambda: 3) == 3
    assert ALONE.gather("a") == ["a"]
    for ask in (ALONE.once, ALONE.together):
        with pytest.raises(DataError, match=r"^broken$"):
            ask(fail("broken"))
        with pytest.raises(ZeroDivisionError):
            ask(lambda: 1 / 0)


def job(work: Callable[[Processes], Any], count: int = 2) -> list[str]:
    """What each process of a job returns or raises, spelled out; threads exchange values as torch.distributed would."""
    given, barrier, here = dict[int, Any](), threading.Barrier(count, timeout=30), threading.local()

    def gather(values: list[Any], value: Any) -> None:
        given[here.rank] = value
        barrier.wait()
        values[:] = [given[rank] for rank in range(count)]
        barrier.wait()

    def process(rank: int) -> str:
        here.rank = rank
        try:
            return repr(work(Processes(rank, count)))
        except SapoError as error:
            return f"{type(error).__name__}: {error}"

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(count) as pool:
        patch.setattr("torch.distributed.all_gather_object", gather)
        return list(pool.map(process, range(count)))


def test_what_the_first_process_finds_once_all_others_get() -> None:
    value = ("value", 0)
    assert job(lambda one: one.once((lambda: value) if one.first else fail("must not act"))) == [repr(value)] * 2
    assert job(lambda one: one.once(lambda: None)) == ["None"] * 2
    assert job(lambda one: one.gather(one.rank), 3) == ["[0, 1, 2]"] * 3
    # A mistake is raised there, and in the others as one that is told already.
    assert job(lambda one: one.once(fail("broken"))) == ["DataError: broken", "ToldError: broken"]


def test_a_mistake_anywhere_is_raised_by_the_first_process_and_says_where_it_was() -> None:
    assert job(lambda one: one.together(lambda: one.rank)) == ["0", "1"]
    found = job(lambda one: one.together((lambda: "fine") if one.first else fail(f"no memory {one.rank}")), 3)
    assert found == ["DataError: process 1: no memory 1", *["ToldError: no memory 1"] * 2]
    found = job(lambda one: one.together(fail("own") if one.first else (lambda: "fine")), 3)
    assert found == ["DataError: own", *["ToldError: own"] * 2]


def test_lost_processes_are_told_from_other_errors() -> None:
    assert is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert is_lost(torch.distributed.DistBackendError("NCCL timed out"))
    assert not is_lost(RuntimeError("CUDA out of memory"))
