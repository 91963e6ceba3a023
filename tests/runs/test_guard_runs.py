"""The forgetting guard in whole runs: what it does to weights, what it tells, and how it is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    SUFFIX,
    Json,
    Told,
    adapters,
    cells,
    configure,
    lasting,
    nll_by_hand,
    original_of,
    other_answers,
    read,
    same_weights,
    stage_weights,
    taken_apart,
    write_bench,
)

import sapo.runs.steps
from sapo.core.types import Losses, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.results import RunResult
from sapo.sequence import run
from sapo.training.finetune import finetune
from sapo.training.guard import guard_over, increase
from sapo.training.settings import GuardSettings

# The second task has other answers, so that the first one is forgotten.
EVERY, UPDATES = 2, 10


def losses(nll: Any, tokens: Any) -> Losses:
    return Losses(np.asarray(nll, float), np.asarray(tokens), np.zeros(len(nll), int))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_answers(write_bench(tmp_path_factory.mktemp("bench")))


def guarded(small_model: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    chosen = changes.pop("guard", {})
    guard = None if chosen is None else {"every": EVERY, "rows": 6, "limit": 1e6, **chosen}
    train = {"epochs": 5, "learning_rate": 0.02} | changes.pop("train", {})
    evaluate = {"rows": 2, **changes.pop("evaluate", {})}
    return configure(
        small_model, bench, run_dir, **{"policy": "original", **changes}, guard=guard, train=train, evaluate=evaluate
    )


@dataclass(frozen=True)
class Free:
    """A run without a guard, and how the second training went: losses of the first task, and trained weights."""

    config: Config
    found: Json
    nll: Mapping[int, list[float]]
    weights: Mapping[int, Mapping[str, torch.Tensor]]

    def rise(self, step: int) -> tuple[float, float]:
        """By hand, over three tokens a row."""
        tokens = [3] * len(self.nll[0])
        return increase(losses(self.nll[0], tokens), losses(self.nll[step], tokens))

    def alarm(self, step: int, back_to: int | None, task: str = "2-beta") -> Json:
        mean, low = self.rise(step)
        about = {"increase": pytest.approx(mean, abs=1e-4), "low": pytest.approx(low, abs=1e-4)}
        return {"task": task, "step": step, "back_to": back_to, "watched": "alpha", "updates": UPDATES, **about}


@pytest.fixture(scope="module")
def free(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Free:
    config = guarded(small_model, bench, tmp_path_factory.mktemp("free") / "run", guard=None)
    rows, tokenizer = prepare(config).inputs.tasks[0].train, tiny_tokenizer()
    nll: dict[int, list[float]] = {}
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def training(model: Any, encoded: Any, settings: Any, seed: int, advance: Any, *rest: Any) -> Any:
        def look(step: int) -> None:
            nll[step] = nll_by_hand(model, tokenizer, original_of("alpha"), SUFFIX, rows)
            weights[step] = {k: p.detach().clone() for k, p in model.named_parameters() if p.requires_grad}

        def told(n: int) -> None:
            advance(n)
            look(len(nll))

        nll.clear()
        look(0)
        return finetune(model, encoded, settings, seed, told, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sapo.runs.steps, "finetune", training)
        found = lasting(run(config))
    assert len(nll) == len(weights) == UPDATES + 1
    return Free(config, found, nll, weights)


def guarded_by(results: RunResult) -> Any:
    return results.to_json()["guard"]


def training_of(run_dir: Path, stage: str) -> Json:
    value: Json = read(run_dir / "training" / f"{stage}.json")["value"]
    return value


Whole = tuple[Config, RunResult, Told]
# Passed at the third look for the first time, or at the first one already.
LIMIT, FIRST = 0.65, 0.1


def test_the_first_task_is_forgotten_so_that_the_tests_below_can_fail(free: Free) -> None:
    lows = [free.rise(step)[1] for step in range(EVERY, UPDATES + 1, EVERY)]
    assert FIRST < lows[0] < lows[1] < LIMIT - 0.05 and all(low > LIMIT + 0.02 for low in lows[2:])


@pytest.fixture(scope="module")
def warned(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config, told = guarded(small_model, bench, tmp_path_factory.mktemp("w") / "run", guard={"limit": LIMIT}), Told()
    return config, run(config, told), told


def test_under_warn_training_goes_on_and_every_rise_is_told(warned: Whole, free: Free) -> None:
    config, results, told = warned
    expected = [free.alarm(step, None) for step in (6, 8, 10)]
    assert training_of(config.run_dir, "2-beta")["alarms"] == guarded_by(results) == expected
    assert training_of(config.run_dir, "1-alpha")["alarms"] == []
    heard = [note for note in told.notes if note.startswith("forgetting guard: after update ")]
    assert [note.split()[4] for note in heard] == ["6", "8", "10"]
    assert all("on alpha is +" in note and note.endswith("; training continues (guard.action: warn)") for note in heard)


def test_under_warn_no_weight_and_no_result_changes(warned: Whole, free: Free) -> None:
    config, results, _ = warned
    assert adapters(config.run_dir) == adapters(free.config.run_dir)
    assert {key: value for key, value in lasting(results).items() if key != "guard"} == free.found
    assert cells(config.run_dir) == cells(free.config.run_dir)
    for stage in ("1-alpha", "2-beta"):
        mine, other = (training_of(d, stage) for d in (config.run_dir, free.config.run_dir))
        assert mine["losses"] == other["losses"] and mine["state"] == other["state"]


@pytest.fixture(scope="module")
def stopped(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    guard = {"limit": LIMIT, "action": "stop"}
    config, told = guarded(small_model, bench, tmp_path_factory.mktemp("s") / "run", guard=guard), Told()
    return config, run(config, told), told


def test_stop_ends_with_the_weights_that_training_had_at_the_last_good_look(stopped: Whole, free: Free) -> None:
    config, results, told = stopped
    assert guarded_by(results) == [free.alarm(6, 4)]
    trained = training_of(config.run_dir, "2-beta")
    assert trained["steps"] == 6 and trained["losses"] == training_of(free.config.run_dir, "2-beta")["losses"][:6]
    stage = stage_weights(config.run_dir, "2-beta")
    assert same_weights(stage, free.weights[4]) and not same_weights(stage, free.weights[6])
    assert told.notes[-1].endswith(f"rolled back to update 4 of {UPDATES}: nothing after it was learned")
    first = "stages/1-alpha/adapter_model.safetensors"
    assert adapters(config.run_dir)[first] == adapters(free.config.run_dir)[first]


def test_a_watch_task_is_looked_at_from_the_first_task_on_and_as_an_earlier_one(
    free: Free, small_model: Path, bench: Path, tmp_path: Path
) -> None:
    # The same second training, as a run of its own that starts from the stage before.
    start = free.config.run_dir / "stages" / "1-alpha"
    config = guarded(
        small_model, bench, tmp_path / "run", sequence=["beta"], watch=["alpha"], model={"adapter": str(start)},
        guard={"limit": FIRST, "action": "stop"},
    )  # fmt: skip
    told = Told()
    # Passed at the first look: nothing is learned.
    assert guarded_by(run(config, told)) == [free.alarm(2, 0, "1-beta")]
    assert same_weights(stage_weights(config.run_dir, "1-beta"), free.weights[0])
    assert not any("nothing to look at" in note for note in told.notes)


@pytest.mark.parametrize(("method", "memory"), [("replay", "replay.json"), ("ewc", "fisher.safetensors")])
def test_a_task_that_was_taken_back_whole_is_told_and_neither_remembered_nor_watched(
    method: str, memory: str, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[list[str]] = []

    def seen(name: str, tasks: Any, *rest: Any) -> Any:
        watched.append([task.name for task, _ in tasks])
        return guard_over(name, tasks, *rest)

    monkeypatch.setattr(sapo.runs.steps, "guard_over", seen)
    bench = other_answers(write_bench(tmp_path / "bench", tasks=("alpha", "beta", "gamma")))
    guard = {"limit": 0.0, "action": "stop", "every": 5}
    config = guarded(
        small_model, bench, tmp_path / "run", guard=guard, method=method, sequence=["alpha", "beta", "gamma"],
        ewc={"gamma": 0.5},
    )  # fmt: skip
    data = run(config).to_json()
    first = next(alarm for alarm in data["guard"] if alarm["task"] == "2-beta")
    assert first["back_to"] == 0 and watched == [[], ["alpha"], ["alpha"]]
    one, two = (config.run_dir / "stages" / name for name in ("1-alpha", "2-beta"))
    assert same_weights(stage_weights(config.run_dir, "1-alpha"), stage_weights(config.run_dir, "2-beta"))
    assert (one / memory).read_bytes() == (two / memory).read_bytes()
    assert [task.get("stopped") for task in read(two / "sapo.json")["tasks"]] == [None, [0, UPDATES]]
    assert (two / "README.md").read_text().count("rolled back to before this task: nothing was learned") == 1
    # Read back, the third training knows as much.
    assert read(config.run_dir / "stages" / "3-gamma" / "sapo.json")["tasks"][1]["stopped"] == [0, UPDATES]


def test_a_first_task_that_was_taken_back_leaves_nothing_to_replay(
    free: Free, small_model: Path, tmp_path: Path
) -> None:
    bench = other_answers(write_bench(tmp_path / "bench", tasks=("alpha", "beta", "gamma")))
    config = guarded(
        small_model, bench, tmp_path / "run", sequence=["beta", "gamma"], watch=["alpha"], method="replay",
        model={"adapter": str(free.config.run_dir / "stages" / "1-alpha")},
        guard={"limit": FIRST, "action": "stop"},
    )  # fmt: skip
    assert run(config).to_json()["guard"][0]["back_to"] == 0
    assert read(config.run_dir / "stages" / "1-beta" / "replay.json") == {"seen": 0, "rows": []}


# What is looked at.


@dataclass
class Rows:
    """A scorer that keeps what it is given."""

    seen: list[list[tuple[str, str, str]]] = field(default_factory=list)

    def on(self, model: Any) -> Rows:
        return self

    def __call__(self, encoded: Any) -> Losses:
        tokenizer = tiny_tokenizer()
        self.seen.append([taken_apart(tokenizer.decode(row.ids)) for row in encoded])
        return losses([1.0] * len(encoded), [1] * len(encoded))


def test_stored_rows_are_training_rows_with_the_instruction_of_their_task_and_never_test_rows(
    small_model: Path, tmp_path: Path
) -> None:
    bench = write_bench(tmp_path / "bench", tasks=("alpha", "beta", "gamma"))
    config = guarded(small_model, bench, tmp_path / "run", policy="random", watch=["gamma"], guard={"rows": 4})
    found = prepare(config)
    (alpha, _), (gamma,) = found.inputs.tasks, found.inputs.watch
    scorer, told = Rows(), Told()

    def looks(*watched: tuple[Task, str]) -> bool:
        guard = guard_over(
            "2-b", watched, GuardSettings(rows=4), scorer, found.engine.renderer, 9, 4, told.note,  # type: ignore[arg-type]
        )  # fmt: skip
        if guard is not None:
            guard.begin(tiny_model())
        return guard is not None

    assert looks((alpha, "Chosen: y or n?"), (gamma, gamma.instruction))
    for task, text, rows in zip((alpha, gamma), ("Chosen: y or n?", original_of("gamma")), scorer.seen, strict=True):
        assert len(rows) == 4 and {instruction for instruction, _, _ in rows} == {text}
        assert {row[1:] for row in rows} <= {(row.input, row.answer) for row in task.train}
        assert not {shown for _, shown, _ in rows} & {row.input for row in task.test}
    # Of one row, no interval can be made.
    one = Task("one", "Do.", SUFFIX, (), "exact_match", alpha.train[:1], (), ())
    assert not looks((one, "Do.")) and not looks()
    assert told.notes == [
        "forgetting guard: one is not watched: it has a single training row",
        "forgetting guard: nothing to look at, as nothing was trained before and there are no watch tasks",
    ]


# Interruption: before a rise, after it, and when the weights are already taken back.


class Ends(Told):
    """Ends the process when a training has ended, before it is recorded."""

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        with super().step(label, units, cost) as advance:
            yield advance
        if label == "task 2 beta: training":
            raise KeyboardInterrupt


@pytest.mark.parametrize(("action", "after"), [("warn", 5), ("stop", None)])
def test_an_interrupted_training_is_resumed_under_the_same_guard(
    action: str, after: int | None, warned: Whole, stopped: Whole, small_model: Path, bench: Path, tmp_path: Path
) -> None:
    whole, results, _ = warned if action == "warn" else stopped
    guard = {"limit": LIMIT, "action": action}
    config = guarded(small_model, bench, tmp_path / "run", guard=guard, train={"checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        run(config, Ends() if after is None else Told("beta: training", after=after))
    # A checkpoint behind the end would be resumed.
    left = sorted(path.name for path in (config.run_dir / "unfinished" / "2-beta").glob("check*"))
    assert left[-1] == f"checkpoint-{4 if after is None else after - 1}"
    assert lasting(run(config)) == lasting(results)
    assert adapters(config.run_dir) == adapters(whole.run_dir)
    mine, other = (training_of(d, "2-beta") for d in (config.run_dir, whole.run_dir))
    assert mine | {"seconds": 0} == other | {"seconds": 0}


def test_an_instruction_chosen_after_the_last_good_look_is_not_what_a_task_was_trained_with(
    small_model: Path, tmp_path: Path
) -> None:
    bench = other_answers(write_bench(tmp_path / "bench", dev=5))
    changes: Any = {"policy": "reselect", "reselect": {"every": 1, "k": 4}, "train": {"learning_rate": 0.08}}
    free = guarded(small_model, bench, tmp_path / "free", guard=None, **changes)
    run(free)
    switches = training_of(free.run_dir, "2-beta")["instructions"][0]["switches"]
    config = guarded(small_model, bench, tmp_path / "run", guard={"limit": 0.0, "action": "stop"}, **changes)
    data = run(config).to_json()
    (alarm,) = data["guard"]
    kept = [switch for switch in switches if switch[0] < alarm["back_to"]]
    # The premise: there was a choice in between.
    assert any(alarm["back_to"] <= step <= alarm["step"] for step, _ in switches)
    entry = training_of(config.run_dir, "2-beta")["instructions"][0]
    selection = read(config.run_dir / "selections" / "2-beta.json")["value"]
    first = selection["candidates"][selection["chosen"]]["text"]
    assert entry == {"text": kept[-1][1] if kept else first, "switches": kept}
    used = data["instructions"]["beta"]
    assert (used["text"], used["switches"]) == (entry["text"], len(kept))
