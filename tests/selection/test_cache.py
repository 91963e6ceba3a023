"""Losses computed earlier: found exactly as they were, never for anything else, and never in anyone's way."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import command

import sapo.selection.cache
from sapo.core.processes import Processes
from sapo.core.storage import cache_directory
from sapo.core.types import Encoded
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepared
from sapo.selection.cache import Found, LossCache

ROWS = [Encoded((5, 6, 7, 8), 2), Encoded((9, 6, 7), 1)]
# Floats without a short decimal form, one of them tiny and one huge.
FOUND = Found(np.array([1 / 3, 1e-300 / 7]), 0.1 + 0.2, "shared prefix")


def same(found: Found | None, expected: Found = FOUND) -> bool:
    return (
        found is not None
        and np.array_equal(found.nll, expected.nll)
        and (found.seconds, found.route) == (expected.seconds, expected.route)
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "not made yet" / "losses"


def opened(directory: Path, state: str = "state", device: str = "cpu") -> LossCache:
    return LossCache(directory, state, device)


# One candidate's losses.


def test_what_was_kept_is_found_to_the_last_bit(directory: Path) -> None:
    assert opened(directory).find(ROWS) is None and not directory.exists()
    opened(directory).keep(ROWS, FOUND)
    assert same(opened(directory).find(ROWS))
    other = Found(np.array([2.0, 3.0]), 1.0, "plain")
    opened(directory).keep(ROWS, other)
    assert same(opened(directory).find(ROWS), other)
    assert len(list(directory.iterdir())) == 1
    # What was cut is not part of the losses.
    assert same(opened(directory).find([replace(row, cut=3) for row in ROWS]), other)


@pytest.mark.parametrize(
    "rows",
    [
        [Encoded((5, 6, 7, 9), 2), ROWS[1]], [Encoded((5, 6, 7, 8), 3), ROWS[1]], [ROWS[1], ROWS[0]], ROWS[:1],
        [*ROWS, ROWS[0]],
        # The same numbers, divided elsewhere.
        [Encoded((5, 6, 7), 2), Encoded((8, 9, 6, 7), 1)],
    ],
)  # fmt: skip
def test_other_token_ids_are_not_found(rows: list[Encoded], directory: Path) -> None:
    opened(directory).keep(ROWS, FOUND)
    assert opened(directory).find(rows) is None


def test_another_state_device_library_or_number_of_processes_is_not_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(directory).keep(ROWS, FOUND)
    assert opened(directory, "another").find(ROWS) is None
    assert opened(directory, device="cuda").find(ROWS) is None
    for library in ("torch", "transformers", "peft"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{library}.__version__", "0.0.1")
            assert opened(directory).find(ROWS) is None
    assert same(opened(directory).find(ROWS))
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, value])
    assert LossCache(directory, "state", "cpu", Processes(0, 2)).find(ROWS) is None


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"nll": [1, 2], "seconds": 1}', '{"nll": [1], "seconds": 1, "route": "plain"}',
        '{"nll": [[1, 2]], "seconds": 1, "route": "plain"}', '{"nll": [1, NaN], "seconds": 1, "route": "plain"}',
        '{"nll": ["a", 2], "seconds": 1, "route": "plain"}', '{"nll": [1, 2], "seconds": "long", "route": "plain"}',
        '{"nll": null, "seconds": 1, "route": "plain"}', '{"nll": [{}, 2], "seconds": 1, "route": "plain"}',
        '{"nll": {}, "seconds": 1, "route": "plain"}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_not_found_and_is_replaced(content: str, directory: Path) -> None:
    opened(directory).keep(ROWS, FOUND)
    (path,) = directory.iterdir()
    path.write_text(content)
    assert opened(directory).find(ROWS) is None
    path.write_bytes(b"\xff\xfe")
    assert opened(directory).find(ROWS) is None
    opened(directory).keep(ROWS, FOUND)
    assert same(opened(directory).find(ROWS))


@pytest.mark.parametrize("name", ["taken", "taken/below", "x" * 300, "full"])
def test_a_directory_that_cannot_be_written_keeps_nothing_and_is_no_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "taken").write_text("a file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        opened(tmp_path / name).keep(ROWS, FOUND)
    assert opened(tmp_path / name).find(ROWS) is None
    assert (tmp_path / "taken").read_text() == "a file"


def test_beyond_the_limit_the_older_half_goes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sapo.selection.cache, "_MOST", 10)
    states = [f"state {n}" for n in range(11)]
    for age, state in enumerate(states):
        opened(directory, state).keep(ROWS, FOUND)
        newest = max(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    assert len(list(directory.iterdir())) == 11
    opened(directory, "one more").keep(ROWS, FOUND)
    there = [same(opened(directory, state).find(ROWS)) for state in [*states, "one more"]]
    assert there == [False] * 5 + [True] * 7


# Runs.


@pytest.mark.parametrize("cache", [True, False])
def test_runs_share_losses_before_any_training_unless_that_is_switched_off(
    cache: bool, configured: Callable[..., Config], tmp_path: Path
) -> None:
    found = []
    for policy in ("sapo", "highest"):
        settings = {"examples": 4, "strategy": "exhaustive", "cache": cache}
        config = configured(policy=policy, selection=settings, candidates={"count": 3}, run_dir=str(tmp_path / policy))
        with prepared(config) as run:
            (training,) = run.schedule
            found.append(run.choose(run.start, training, training.tasks[0]))
    one, other = (choice.selection for choice in found)
    assert one is not None and other is not None and (one.cached, other.cached) == (0, 4 if cache else 0)
    assert [c.loss for c in one.candidates] == pytest.approx([c.loss for c in other.candidates], abs=1e-6)
    assert found[0].instruction != found[1].instruction
    assert cache_directory("losses").exists() == cache


def test_the_command_takes_and_keeps_losses_unless_told_not_to(model_dir: Path, tmp_path: Path) -> None:
    cached, losses, given, out = [], [], tmp_path / "given.json", tmp_path / "out.json"
    given.write_text(json.dumps({"odd-one-out": ["Which word is the odd one out?"]}))
    for options in (["--no-cache"], [], ["--cache"], ["--no-cache"]):
        about = ("--task", "odd-one-out", "--model", model_dir, "--examples", 2, "--candidates", given)
        assert command("select", *about, "--json", out, *options) == 0
        found = json.loads(out.read_text())
        out.unlink()
        cached.append((found["cached"], len(list(cache_directory("losses").glob("*.json")))))
        losses.append([c["nll_sum"] for c in found["candidates"]])
    assert cached == [(0, 0), (0, 2), (2, 2), (0, 2)]
    assert losses[1] == losses[2] and losses[0] == pytest.approx(losses[1], abs=1e-5)
