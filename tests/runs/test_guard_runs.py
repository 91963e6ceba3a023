"""The forgetting guard in whole runs: what it does to weights, what it tells, and how it goes on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sapo.training.teaching
import torch
from rich.console import Console
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
    save_model,
    stage_weights,
    taken_apart,
    write_bench,
)

import sapo.runs.steps
from sapo.core.types import Losses
from sapo.integrations.testing import tiny_tokenizer
from sapo.report.blocks import Note
from sapo.report.page import results_page
from sapo.report.publish import print_report
from sapo.report.runs import read_run
from sapo.runs.config.schema import Config
from sapo.runs.prepare import set_up
from sapo.runs.results import RunResult
from sapo.sequence import run
from sapo.training.finetune import finetune
from sapo.training.guard import Guard, Watched, increase

# The second task has other answers, so that the first one is forgotten.
EVERY, UPDATES = 2, 10


def losses(nll: Any, tokens: Any) -> Losses:
    return Losses(np.asarray(nll, float), np.asarray(tokens), np.zeros(len(nll), int))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_answers(write_bench(tmp_path_factory.mktemp("bench")))


def guarded(model_dir: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    chosen = changes.pop("guard", {})
    guard = None if chosen is None else {"every": EVERY, "rows": 6, "limit": 1e6, **chosen}
    train = {"epochs": 5, "learning_rate": 0.02} | changes.pop("train", {})
    evaluate = {"rows": 2, **changes.pop("evaluate", {})}
    return configure(
        model_dir, bench, run_dir, **{"policy": "original", **changes}, guard=guard, train=train, evaluate=evaluate
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

    def alarm(self, step: int, back_to: int | None) -> Json:
        mean, low = self.rise(step)
        about = {"increase": pytest.approx(mean, abs=1e-4), "low": pytest.approx(low, abs=1e-4)}
        return {"step": step, "back_to": back_to, "watched": "alpha", "updates": UPDATES, **about}


@pytest.fixture(scope="module")
def free(model_dir: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Free:
    config = guarded(model_dir, bench, tmp_path_factory.mktemp("free") / "run", guard=None)
    rows, tokenizer = set_up(config).tasks[0].train, tiny_tokenizer()
    nll: dict[int, list[float]] = {}
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def training(model: Any, encoded: Any, settings: Any, seed: int, advance: Any, *rest: Any) -> Training:
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


def training_of(run_dir: Path, stage: str) -> Json:
    value: Json = read(run_dir / "training" / f"{stage}.json")["value"]
    return value


# Passed at the third look for the first time, or at the first one already.
LIMIT, FIRST = 0.65, 0.1


def test_the_first_task_is_forgotten_so_that_the_tests_below_can_fail(free: Free) -> None:
    lows = [free.rise(step)[1] for step in range(EVERY, UPDATES + 1, EVERY)]
    assert FIRST < lows[0] < lows[1] < LIMIT - 0.05 and all(low > LIMIT + 0.02 for low in lows[2:])


@pytest.fixture(scope="module")
def warned(model_dir: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunResult, Told]:
    config, told = guarded(model_dir, bench, tmp_path_factory.mktemp("w") / "run", guard={"limit": LIMIT}), Told()
    return config, run(config, told), told


def test_under_warn_training_goes_on_and_every_rise_is_told(warned: tuple[Config, RunResult, Told], free: Free) -> None:
    config, results, told = warned
    expected = [free.alarm(step, None) for step in (6, 8, 10)]
    assert training_of(config.run_dir, "2-beta")["alarms"] == expected
    assert results.data["guard"] == [{"task": "2-beta", **alarm} for alarm in expected]
    assert training_of(config.run_dir, "1-alpha")["alarms"] == []
    heard = [note for note in told.notes if note.startswith("forgetting guard: after update ")]
    assert [note.split()[4] for note in heard] == ["6", "8", "10"]
    assert all("on alpha is +" in note and note.endswith("; training goes on (guard.action warn)") for note in heard)


def test_under_warn_no_weight_and_no_result_changes(warned: tuple[Config, RunResult, Told], free: Free) -> None:
    config, results, _ = warned
    assert adapters(config.run_dir) == adapters(free.config.run_dir)
    assert {key: value for key, value in lasting(results).items() if key != "guard"} == free.found
    assert cells(config.run_dir) == cells(free.config.run_dir)
    for stage in ("1-alpha", "2-beta"):
        mine, other = (training_of(d, stage) for d in (config.run_dir, free.config.run_dir))
        assert mine["losses"] == other["losses"] and mine["state"] == other["state"]


def test_what_it_saw_is_on_the_page_of_the_run(warned: tuple[Config, RunResult, Told], free: Free) -> None:
    run_dir = warned[0].run_dir
    (section,) = [s for s in results_page([read_run(run_dir)]).sections if s.title == "Forgetting guard"]
    notes = [block.text for block in section.blocks if isinstance(block, Note)]
    mean, low = free.rise(6)
    assert (
        len(notes) == 4
        and "Many looks" in notes[3]
        and notes[0]
        == (
            f"2-beta: after update 6 of {UPDATES} the loss on alpha had risen by {mean:.3f} nats per token "
            f"(95 % interval from {low:.3f}); training went on."
        )
    )
    shown = io.StringIO()
    print_report(Console(file=shown, width=250), [run_dir], full=True)
    assert notes[0] in shown.getvalue() and "had risen by" in (run_dir / "report.md").read_text(encoding="utf-8")


def test_the_first_task_has_nothing_to_look_at_and_that_is_told(warned: tuple[Config, RunResult, Told]) -> None:
    nothing = [note for note in warned[2].notes if "nothing to look at" in note]
    assert nothing == [
        "forgetting guard: nothing to look at, as nothing was trained before and there are no watch tasks"
    ]


def test_a_finished_run_is_read_back_with_its_alarms(warned: tuple[Config, RunResult, Told]) -> None:
    told = Told()
    assert run(warned[0], told).data == warned[1].data and told.steps == []


def test_stop_ends_with_the_weights_that_training_had_at_the_last_good_look(
    free: Free, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    config = guarded(model_dir, bench, tmp_path / "run", guard={"limit": LIMIT, "action": "stop"})
    told = Told()
    data = run(config, told).data
    assert data["guard"] == [{"task": "2-beta", **free.alarm(6, 4)}]
    trained = training_of(config.run_dir, "2-beta")
    assert trained["steps"] == 6 and trained["losses"] == training_of(free.config.run_dir, "2-beta")["losses"][:6]
    stage = stage_weights(config.run_dir, "2-beta")
    assert same_weights(stage, free.weights[4]) and not same_weights(stage, free.weights[6])
    assert told.notes[-1].endswith(
        f"the weights are those after update 4 of {UPDATES}: of this task no more was learned"
    )
    # The stage is what was tested: its loss on the first task's rows is that of these weights.
    before = adapters(free.config.run_dir)["stages/1-alpha/adapter_model.safetensors"]
    assert adapters(config.run_dir)["stages/1-alpha/adapter_model.safetensors"] == before
    page = results_page([read_run(config.run_dir)])
    (section,) = [s for s in page.sections if s.title == "Forgetting guard"]
    note, _ = [block.text for block in section.blocks if isinstance(block, Note)]
    assert note.endswith(f"the weights are those after update 4 of {UPDATES}: of this task no more was learned.")


def test_stop_at_the_first_look_ends_with_the_weights_of_the_stage_before(
    free: Free, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    config = guarded(model_dir, bench, tmp_path / "run", guard={"limit": FIRST, "action": "stop"})
    data = run(config).data
    assert data["guard"] == [{"task": "2-beta", **free.alarm(2, 0)}]
    stages = [stage_weights(config.run_dir, stage) for stage in ("1-alpha", "2-beta")]
    assert same_weights(stages[1], free.weights[0])
    assert all(torch.equal(tensor, stages[1][name]) for name, tensor in stages[0].items())
    for task in ("alpha", "beta"):
        one, other = (read(config.run_dir / "cells" / n / f"{task}.original.json")["value"] for n in "12")
        assert one["losses"] == other["losses"] and one["predictions"] == other["predictions"]


def test_a_watch_task_is_looked_at_from_the_first_task_on_and_as_an_earlier_one(
    free: Free, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    # The same second training, as a run of its own that starts from the stage before.
    start = free.config.run_dir / "stages" / "1-alpha"
    for limit, step, back_to in ((LIMIT, 6, 4), (FIRST, 2, 0)):
        config = guarded(
            model_dir, bench, tmp_path / str(limit), sequence=["beta"], watch=["alpha"], model={"adapter": str(start)},
            guard={"limit": limit, "action": "stop"},
        )  # fmt: skip
        told = Told()
        assert run(config, told).data["guard"] == [{"task": "1-beta", **free.alarm(step, back_to)}]
        assert same_weights(stage_weights(config.run_dir, "1-beta"), free.weights[back_to])
        assert not any("nothing to look at" in note for note in told.notes)


# What is looked at.


def test_stored_rows_are_training_rows_with_the_instruction_of_their_task_and_never_test_rows(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bench(tmp_path / "bench", tasks=("alpha", "beta", "gamma"))
    given: list[list[Watched]] = []

    class Spy(Guard):
        def __init__(self, scorer: Any, watched: Any, *rest: Any) -> None:
            given.append(list(watched))
            super().__init__(scorer, watched, *rest)

    monkeypatch.setattr(sapo.training.teaching, "Guard", Spy)
    config = guarded(
        model_dir, tmp_path / "bench", tmp_path / "run", policy="random", guard={"rows": 4}, watch=["gamma"],
        train={"epochs": 1},
    )  # fmt: skip
    instructions = run(config).data["instructions"]
    setup = set_up(config)
    assert [[w.task for w in watched] for watched in given] == [["gamma"], ["alpha", "gamma"]]
    tasks = {task.name: task for task in (*setup.tasks, *setup.watch)}
    texts = {"gamma": original_of("gamma"), "alpha": instructions["alpha"]["text"]}
    assert texts["alpha"] != original_of("alpha")
    for watched in (w for each in given for w in each):
        rows = [taken_apart(tiny_tokenizer().decode(row.ids)) for row in watched.rows]
        assert len(rows) == 4 and {text for text, _, _ in rows} == {texts[watched.task]}
        shown = {(text, answer) for _, text, answer in rows}
        assert shown <= {(row.input, row.answer) for row in tasks[watched.task].train}
        assert not {text for text, _ in shown} & {row.input for row in tasks[watched.task].test}


def test_a_task_of_one_row_is_not_looked_at_and_that_is_told(model_dir: Path, bench: Path, tmp_path: Path) -> None:
    told = Told()
    config = guarded(model_dir, bench, tmp_path / "run", guard={"limit": 0.0}, train={"rows": 1})
    assert "guard" not in run(config, told).data
    assert "forgetting guard: alpha is not looked at, as it has a single training row" in told.notes


# Interruption: before a rise, after it, and when the weights are already taken back.


@pytest.mark.parametrize(("action", "after"), [("warn", 5), ("warn", 9), ("stop", 5)])
def test_an_interrupted_training_goes_on_under_the_same_guard(
    action: str, after: int, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    changes: Any = {"guard": {"limit": LIMIT, "action": action}, "train": {"checkpoint_every": 2}}
    whole = guarded(model_dir, bench, tmp_path / "whole", **changes)
    expected = lasting(run(whole))
    config = guarded(model_dir, bench, tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(config, Told("beta: training", after=after))
    assert (config.run_dir / "unfinished" / "2-beta" / f"checkpoint-{after - 1}").is_dir()
    assert lasting(run(config)) == expected and len(expected["guard"]) == (3 if action == "warn" else 1)
    assert adapters(config.run_dir) == adapters(whole.run_dir)
    mine, other = (training_of(d, "2-beta") for d in (config.run_dir, whole.run_dir))
    assert mine | {"seconds": 0} == other | {"seconds": 0}


def test_a_training_that_was_ended_but_not_recorded_goes_on_to_the_same_weights(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Any = {"guard": {"limit": LIMIT, "action": "stop"}, "train": {"checkpoint_every": 2}}
    whole = guarded(model_dir, bench, tmp_path / "whole", **changes)
    expected = lasting(run(whole))
    config = guarded(model_dir, bench, tmp_path / "run", **changes)
    trained: list[int] = []

    def killed(*args: Any) -> Training:
        found = finetune(*args)
        trained.append(found.steps)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(sapo.runs.steps, "finetune", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    unfinished = config.run_dir / "unfinished" / "2-beta"
    # A checkpoint behind the end would be gone on with.
    assert trained[1] == 6 and [p.name for p in sorted(unfinished.glob("check*"))] == ["checkpoint-2", "checkpoint-4"]
    assert lasting(run(config)) == expected
    assert adapters(config.run_dir) == adapters(whole.run_dir)
    mine, other = (training_of(d, "2-beta") for d in (config.run_dir, whole.run_dir))
    assert mine | {"seconds": 0} == other | {"seconds": 0}


def test_an_instruction_chosen_after_the_last_good_look_is_not_what_a_task_was_trained_with(
    model_dir: Path, tmp_path: Path
) -> None:
    bench = other_answers(write_bench(tmp_path / "bench", dev=5))
    changes: Any = {"policy": "reselect", "reselect": {"every": 1, "k": 4}, "train": {"learning_rate": 0.08}}
    free = guarded(model_dir, bench, tmp_path / "free", guard=None, **changes)
    run(free)
    switches = training_of(free.run_dir, "2-beta")["instructions"][0]["switches"]
    config = guarded(model_dir, bench, tmp_path / "run", guard={"limit": 0.0, "action": "stop"}, **changes)
    data = run(config).data
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
