"""Processes of one job, each looked at from within one process: shares, progress, what one decides for all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo.cli import main
from sapo.core.errors import ConfigError, DataError
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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch(RANK="0", WORLD_SIZE="2")
    monkeypatch.setattr(sys, "argv", ["sapo", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"sapo {arguments[0]} works in one process: start it without torchrun" in capsys.readouterr().err


# What one process does for all. Only what the others would send is made up.


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


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the first process has sent to all, and in a second place what every process gave."""
    channel: list[Any] = [None, None]

    def broadcast(outcome: list[Any], src: int) -> None:
        assert src == 0
        if outcome[0] is None and channel[0] is not None:
            outcome[0] = channel[0]
        else:
            channel[0] = outcome[0]

    def gather(values: list[Any], value: Any) -> None:
        values[:] = [value if given == "own" else given for given in channel[1]]

    monkeypatch.setattr("torch.distributed.broadcast_object_list", broadcast)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    return channel


def test_what_the_first_process_finds_once_all_others_get(sent: list[Any]) -> None:
    values: tuple[Any, ...] = ("value", None, 0)
    for value in values:
        assert Processes(0, 2).once({"value": value}.popitem) == ("value", value)
        assert Processes(1, 2).once(fail("must not act")) == ("value", value)
    # A mistake is raised there and ends the others quietly.
    sent[0] = None
    with pytest.raises(DataError, match=r"^broken$"):
        Processes(0, 2).once(fail("broken"))
    with pytest.raises(SystemExit) as quiet:
        Processes(1, 2).once(lambda: "must not act")
    assert quiet.value.code == 2


def test_a_mistake_anywhere_is_raised_by_the_first_process_and_says_where_it_was(sent: list[Any]) -> None:
    sent[1] = [None, None]
    assert [Processes(rank, 2).together(lambda: "mine") for rank in (0, 1)] == ["mine", "mine"]
    sent[1] = [None, ConfigError("no memory"), DataError("later")]
    with pytest.raises(ConfigError, match=r"^process 1: no memory$"):
        Processes(0, 3).together(lambda: "fine")
    for rank in (1, 2):
        with pytest.raises(SystemExit) as quiet:
            Processes(rank, 3).together(fail("own"))
        assert quiet.value.code == 2
    sent[1] = ["own", None]
    with pytest.raises(DataError, match=r"^own$"):
        Processes(0, 2).together(fail("own"))


def test_lost_processes_are_told_from_other_errors() -> None:
    assert is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert is_lost(torch.distributed.DistBackendError("NCCL timed out"))
    assert not is_lost(RuntimeError("CUDA out of memory"))
