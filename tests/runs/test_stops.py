"""Ctrl-C and SIGTERM: the work stops where nothing is lost, says so, and goes on with the same command."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import sapo
from sapo.cli import main
from sapo.cli.progress.terminal import Stopped, Terminal
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.training.finetune import finetune
from sapo.training.settings import TrainSettings

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
def test_the_first_signal_stops_at_the_end_of_the_batch(number: int) -> None:
    reached = []

    def work(progress: Terminal) -> None:
        with progress.step("scoring", 3, 3.0) as advance:
            advance(1)
            send(number)
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


def test_the_user_is_told_at_once_what_happens(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal():
        send(signal.SIGINT)
        assert "stopping after what is being computed; a second signal stops at once" in capfd.readouterr().err


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


def test_a_training_stops_after_the_update_and_leaves_no_trace_but_in_its_weights() -> None:
    model, task = tiny_model(), toy_task()
    encoded = Renderer(tiny_tokenizer(), 512).encode(task.instruction, task.suffix, task.train)
    updates: list[int] = []
    use_cache = model.config.use_cache

    def work(progress: Terminal) -> None:
        with progress.step("training", 4, 4.0) as advance:

            def told(steps: int) -> None:
                updates.append(steps)
                if len(updates) == 2:
                    send(signal.SIGTERM)
                advance(steps)

            finetune(
                model,
                encoded,
                TrainSettings(
                    epochs=1,
                    learning_rate=1e-3,
                    batch_size=4,
                    micro_batch_size=4,
                    warmup=0.0,
                    weight_decay=0.0,
                    max_grad_norm=1.0,
                ),
                0,
                told,
            )

    assert stopped_by(work) == signal.SIGTERM
    assert updates == [1, 1] and model.config.use_cache == use_cache


# Real runs in processes of their own.


@dataclass(frozen=True)
class Interrupted:
    """A run that got a signal."""

    code: int
    said: str
    run_dir: Path


CONFIG: Mapping[str, Any] = {
    "sequence": ["date-format"],
    "candidates": {"count": 2},
    "selection": {"examples": 4},
    # Long enough to be in the middle of it.
    "train": {"rows": 4, "epochs": 60, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2},
    "evaluate": {"rows": 2, "max_new_tokens": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("my runs")
    tiny_model(context=1024).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    model = {"base": str(root / "model"), "device": "cpu"}
    (root / "config.yaml").write_text(yaml.safe_dump({"model": model, **CONFIG}))
    return root


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> dict[int, Interrupted]:
    """Two runs at once; each gets a signal of its own in the middle of its first training."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    jobs: dict[int, subprocess.Popen[bytes]] = {}
    for number in SIGNALS:
        with (folder / f"{number}.log").open("wb") as log:
            jobs[number] = subprocess.Popen(
                [sys.executable, "-m", "sapo.cli", "run", "config.yaml", f"run_dir={folder / str(number)}"],
                cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
    try:
        waiting, deadline = dict(jobs), time.monotonic() + 120
        while waiting:
            for which, job in list(waiting.items()):
                said = (folder / f"{which}.log").read_text()
                assert job.poll() is None and time.monotonic() < deadline, said
                if "training" in said:
                    waiting.pop(which).send_signal(which)
            time.sleep(0.01)
        codes = {number: job.wait(60) for number, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.kill()
    return {
        number: Interrupted(code, (folder / f"{number}.log").read_text(), folder / str(number))
        for number, code in codes.items()
    }


@every_signal
def test_a_run_that_is_stopped_says_what_is_saved_and_how_to_go_on(
    number: int, interrupted: dict[int, Interrupted], folder: Path
) -> None:
    stopped = interrupted[number]
    assert stopped.code == 128 + number
    assert "Traceback" not in stopped.said and "stopping after what is being computed" in stopped.said
    last = stopped.said.rstrip().splitlines()[-1]
    assert last == (
        f"interrupted. Saved in {stopped.run_dir}: 1 selections, 0 trained tasks, 1 test results. The step in "
        f"progress was discarded. To resume, give the same command again: sapo run config.yaml "
        + shlex.quote(f"run_dir={stopped.run_dir}")
    )
    assert not (stopped.run_dir / "results.json").exists()
    assert not [path for path in stopped.run_dir.rglob(".*") if path.name != ".lock"]


def lasting(run_dir: Path) -> Any:
    found = json.loads((run_dir / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "config")}


@every_signal
def test_a_run_that_was_stopped_goes_on_to_the_same_results(
    number: int, interrupted: dict[int, Interrupted], uninterrupted: Path, folder: Path
) -> None:
    stopped = interrupted[number].run_dir
    sapo.run(sapo.load_config(folder / "config.yaml", [f"run_dir={stopped}"]))
    assert lasting(stopped) == lasting(uninterrupted)
    for weights in sorted(uninterrupted.rglob("*.safetensors")):
        assert (stopped / weights.relative_to(uninterrupted)).read_bytes() == weights.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Path:
    sapo.run(sapo.load_config(folder / "config.yaml", [f"run_dir={folder / 'whole'}"]))
    return folder / "whole"


@pytest.mark.parametrize(
    ("more", "kept"),
    [([], "Losses of finished rounds and candidates are kept"), (["--no-cache"], "Nothing is kept (--no-cache)")],
)
def test_a_selection_that_is_stopped_says_what_is_kept_and_how_to_go_on(
    more: list[str], kept: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*given: Any, **named: Any) -> Any:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("sapo.selection.scoring.score_candidates", stopped)
    command = ["select", "--task", "odd-one-out", "--model", str(folder / "model"), *more]
    monkeypatch.setattr("sys.argv", ["sapo", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGTERM
    said = " ".join(capsys.readouterr().err.split())
    assert f"interrupted. {kept}. To resume, give the same command again: sapo {shlex.join(command)}" in said
