"""Ctrl-C and SIGTERM: the work stops where nothing is lost, says so, and is resumed by the same command."""

import io
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import command, write

from sapo.cli.app import saved_in
from sapo.cli.progress import Stopped, Terminal
from sapo.training.finetune import finetune

SIGNALS = (signal.SIGINT, signal.SIGTERM)
every_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put the handlers back, and let none of them kill the tests."""

    def unexpected(number: int, frame: object) -> None:
        raise AssertionError(f"signal {number} came through")

    before = {number: signal.signal(number, unexpected) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def terminal(**options: Any) -> Terminal:
    return Terminal(Console(file=io.StringIO()), **options)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def stopped_by(work: Callable[[Terminal], None], **options: Any) -> int:
    """The signal that stopped the work."""

    def enter() -> None:
        with terminal(**options) as progress:
            work(progress)

    with pytest.raises(Stopped) as stopped:
        enter()
    # As Ctrl-C, so that no handler of ordinary errors takes it for one.
    assert isinstance(stopped.value, KeyboardInterrupt)
    return stopped.value.signal


@every_signal
def test_the_first_signal_is_told_at_once_and_stops_at_the_end_of_the_batch(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    reached = []

    def work(progress: Terminal) -> None:
        with progress.step("scoring", 3, 3.0) as advance:
            advance(1)
            send(number)
            assert "stopping after the current batch; send the signal again to stop at once" in capfd.readouterr().err
            reached.append("the rest of the batch")
            progress.note("notes go through")
            advance(1)
            reached.append("the next batch")

    assert stopped_by(work) == number
    assert reached == ["the rest of the batch"]


@every_signal
def test_a_signal_between_two_steps_stops_before_the_next_one(number: int) -> None:
    reached = []

    def work(progress: Terminal) -> None:
        with progress.step("scoring", 1, 1.0) as advance:
            advance(1)
            send(number)
        reached.append("what is saved after the step")
        with progress.step("training", 1, 1.0):
            reached.append("the next step")

    assert stopped_by(work) == number
    assert reached == ["what is saved after the step"]


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_stops_at_once(first: int, second: int) -> None:
    def work(progress: Terminal) -> None:
        with progress.step("scoring", 1, 1.0):
            send(first)
            send(second)
            pytest.fail("the batch went on")

    assert stopped_by(work) == second


@every_signal
def test_where_it_is_to_stop_at_once_the_first_signal_does(number: int) -> None:
    def work(progress: Terminal) -> None:
        send(number)
        pytest.fail("the work went on")

    assert stopped_by(work, stops_at_once=True) == number


def test_a_signal_is_heeded_though_nobody_reads_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in `sapo run config.yaml 2>&1 | tee log`, where Ctrl-C ends `tee` too.
    def broken(descriptor: int, text: bytes) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def work(progress: Terminal) -> None:
        with progress.step("scoring", 1, 1.0) as advance:
            with monkeypatch.context() as patch:
                patch.setattr("os.write", broken)
                send(signal.SIGINT)
            advance(1)

    assert stopped_by(work) == signal.SIGINT


@pytest.mark.parametrize("failure", [None, ValueError, Stopped(2)], ids=["finished", "failed", "stopped"])
def test_the_handlers_are_put_back(failure: Any) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        with terminal():
            assert not set(before) & {signal.getsignal(number) for number in SIGNALS}
            if failure:
                raise failure
    except (ValueError, Stopped):
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_signals_stay_whose_they_were() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[Any] = []

    def work() -> None:
        with terminal() as progress, progress.step("scoring", 1, 1.0) as advance:
            advance(1)
            seen.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert seen == [before]


# A real run.


CONFIG: Mapping[str, Any] = {
    "sequence": ["date-format"],
    "candidates": {"count": 2},
    "selection": {"examples": 4},
    "train": {"rows": 4, "epochs": 2, "batch_size": 4, "micro_batch_size": 4},
    "evaluate": {"rows": 2, "max_new_tokens": 2},
}


def test_a_run_that_is_stopped_says_what_is_saved_and_how_to_resume_it(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def signalled(model: Any, rows: Any, settings: Any, seed: int, advance: Callable[[int], None], *rest: Any) -> Any:
        def after_an_update(updates: int) -> None:
            send(signal.SIGTERM)
            advance(updates)

        return finetune(model, rows, settings, seed, after_an_update, *rest)

    monkeypatch.setattr("sapo.runs.steps.finetune", signalled)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "config.yaml", {"model": {"base": str(small_model), "device": "cpu"}, **CONFIG})
    run_dir = tmp_path / "my run"
    assert command("run", "config.yaml", f"run_dir={run_dir}") == 128 + signal.SIGTERM
    said = capfd.readouterr().err
    assert "Traceback" not in said and "stopping after the current batch" in said
    last = " ".join(said[said.index("interrupted.") :].split())
    assert last.startswith(f"interrupted. Saved in {run_dir}: 1 selections, 0 trained tasks, 1 test results. The step")
    assert last.endswith(f"sapo run config.yaml {shlex.quote(f'run_dir={run_dir}')}")
    assert not (run_dir / "results.json").exists()
    assert not [path for path in run_dir.rglob(".*") if path.name != ".lock"]


def test_trainings_that_left_checkpoints_are_said_to_resume_from_them(tmp_path: Path) -> None:
    assert "The step in progress was discarded. To resume" in saved_in(tmp_path)
    (tmp_path / "run" / "unfinished" / "1-a" / "checkpoint-2").mkdir(parents=True)
    for directory in (tmp_path, tmp_path / "run"):
        assert "Trainings resume from their last checkpoint; other steps in progress were discarded. To" in saved_in(
            directory
        )


@pytest.mark.parametrize(
    ("more", "kept"),
    [([], "Losses of finished rounds and candidates are kept"), (["--no-cache"], "Nothing is kept (--no-cache)")],
)
def test_a_selection_that_is_stopped_says_what_is_kept_and_how_to_go_on(
    more: list[str], kept: str, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*given: Any, **named: Any) -> Any:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("sapo.selection.scoring.score_candidates", stopped)
    arguments = ["select", "--task", "odd-one-out", "--model", str(small_model), *more]
    assert command(*arguments) == 128 + signal.SIGTERM
    said = " ".join(capsys.readouterr().err.split())
    assert f"interrupted. {kept}. To resume, give the same command again: sapo {shlex.join(arguments)}" in said
