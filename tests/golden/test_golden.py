"""Whole runs hold on to recorded values, to the bit on the machine that recorded them.

After a change that is meant to change values: pytest tests/golden --record-golden. How near a tie generated tokens are
is not recorded: before values are committed, hold them against other instructions of the processor, as with
ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41.
"""

import json
import signal
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import forked
import pytest
from golden import cases, comparing, reading
from golden.cases import CASES, EQUAL, Ground
from golden.reading import Found
from small_runs import write

from sapo.integrations.testing import toy_task


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return cases.lay(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def recording(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--record-golden", default=False))


def hold(name: str, found: Found) -> None:
    told = comparing.differences(name, found)
    assert not told, "\n".join([f"{name}: {len(told)} values are not as they were", *told[:20]])


def stored(name: str) -> Any:
    return json.loads((comparing.VALUES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_a_run_finds_what_it_found(name: str, ground: Ground, tmp_path: Path, recording: bool) -> None:
    found = CASES[name](ground, tmp_path)
    if recording:
        ties = [] if name in EQUAL else [*near_ties(found.values)]
        assert not ties, "another machine may choose otherwise: change the settings\n" + "\n".join(ties)
        comparing.write(name, found)
    hold(name, found)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(ground: Ground, tmp_path: Path) -> None:
    """Killed in its second training, between two checkpoints or while one is written."""
    whole = cases.run_once(ground, tmp_path / "whole", **cases.CHECKPOINTED)
    run_dir = tmp_path / "parts" / "run"
    write(tmp_path / "run.yaml", cases.settings(ground, run_dir, **cases.CHECKPOINTED))
    process = forked.start(forked.command, "run", tmp_path / "run.yaml", directory=tmp_path, name="command")
    end = time.monotonic() + 120
    while not reading.is_amid_second_training(run_dir) and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"
    assert not any(run_dir.glob("training/2-*.json")) and not (run_dir / "results.json").exists()
    assert cases.run_once(ground, tmp_path / "parts", **cases.CHECKPOINTED) == whole


# What the values must hold for the tests to mean something. Another machine's rounding must turn no choice.

MARGIN = 1e-4


def near_ties(values: Any, place: str = "") -> Iterator[str]:
    """Yield every recorded choice that hangs on less than the margin."""
    if isinstance(values, Mapping):
        if "candidates" in values and "chosen" in values:
            yield from _of_selection(values, place)
        elif values.get("losses") and "original" in values:
            yield from _of_losses(list(values["losses"].values()), place)
        for key, inner in values.items():
            yield from near_ties(inner, f"{place}/{key}")


def _of_selection(values: Mapping[str, Any], place: str) -> Iterator[str]:
    candidates = values["candidates"]
    yield from _of_losses([one["loss"] for one in candidates if one["status"] != "dropped"], place)
    best = min(one["delta"] for one in candidates)
    if abs(best + values["tolerance"]) < MARGIN:
        yield f"{place}: the best one is about as much better than the original as is tolerated"
    for one in candidates:
        if one["interval"] is not None and abs(one["interval"][1]) < MARGIN:
            yield f"{place}: the interval of {one['text']!r} ends about where it begins to count"
        if one["gap"] is not None and one["status"] == "dropped" and abs(one["gap"][0] + values["tolerance"]) < MARGIN:
            yield f"{place}: {one['text']!r} was dropped by a hair"


def _of_losses(losses: list[float], place: str) -> Iterator[str]:
    """Not the lowest ones alone: other rules choose elsewhere in the order."""
    for one, other in pairwise(sorted(losses)):
        if other - one < MARGIN:
            yield f"{place}: losses {one} and {other} are nearly the same"


def test_no_recorded_choice_is_near_a_tie() -> None:
    assert not [tie for name in CASES if name not in EQUAL for tie in near_ties(stored(name), name)]


def test_what_is_recorded_is_what_the_settings_are_there_for() -> None:
    originals = [f"Say {labels} for {task}." for task, labels in (("alpha", "y or n"), ("beta", "k or m"))]
    chosen = [one["chosen"] for one in stored("seq-lora-sapo")["selections"].values()]
    assert not set(chosen) <= set(originals)
    assert len(stored("seq-lora-sapo")["candidates"]["1-alpha"]["rejected"]) == 2
    # Training on the second task forgets the first.
    losses = stored("seq-lora-original")["matrices"]["nll"]["original"]
    assert losses[2][0] > losses[1][0] + 0.1
    assert {alarm["back_to"] is None for _, alarm in stored("guard-stop")["guard"]} == {False}
    assert {alarm["back_to"] is None for _, alarm in stored("guard-warn")["guard"]} == {True}
    assert stored("wordings")["wordings"].keys() == {"alpha", "beta"}
    assert any(switches for one in stored("reselect")["training"].values() for _, switches in one["instructions"])
    assert {"chosen", "dropped"} <= {
        one["status"] for one in stored("select-racing")["selections"]["toy"]["candidates"]
    }
    near, equal = (stored(f"select-{name}")["selections"]["toy"] for name in ("within-tolerance", "equal"))
    assert {one["chosen"] for one in (near, equal)} == {toy_task().instruction}
    assert min(one["delta"] for one in near["candidates"]) < -0.01
    ranked = ("highest", "median", "seq-lora-sapo")
    assert len({stored(name)["instructions"]["alpha"]["text"] for name in ranked}) == len(ranked)
    records = stored("sweep")["records"]
    assert sum(record["crossed"] is not None for record in records.values()) == 2
    assert len(stored("study")["records"]) == 8
