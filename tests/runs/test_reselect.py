"""The policy that chooses again: against losses computed by hand in the stage that it looked at."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    SUFFIX,
    Seen,
    Told,
    adapters,
    cell,
    configure,
    lasting,
    nll_by_hand,
    read,
    taken_apart,
    watch_training,
    write,
    write_bench,
)

from sapo.core.errors import ConfigError
from sapo.core.types import Example
from sapo.integrations.testing import tiny_tokenizer
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.results import RunResult
from sapo.sequence import run
from sapo.training.wording import Reselecting

# 5 epochs of 2 updates each, with which choices change several times.
TRAIN, SEED, UPDATES = {"epochs": 5, "learning_rate": 0.08}, 4, 10


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with dev rows."""
    return write_bench(tmp_path_factory.mktemp("bench"), dev=5)


def reselecting(small_model: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    chosen = {"every": 2, "k": 4, "rows": 4} | changes.pop("reselect", {})
    train = {**TRAIN} | changes.pop("train", {})
    return configure(small_model, bench, run_dir, policy="reselect", reselect=chosen, train=train, seed=SEED, **changes)


@dataclass(frozen=True)
class Look:
    """What was looked at: the task, the updates made, and losses by hand of each candidate, in order."""

    task: str
    step: int
    texts: tuple[str, ...]
    losses: tuple[float, ...]
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Looked:
    config: Config
    results: RunResult
    seen: Sequence[Seen]
    looks: Sequence[Look]


@pytest.fixture(scope="module")
def looked(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """A run whose losses are computed by hand after every update, before it looks itself."""
    config = reselecting(small_model, bench, tmp_path_factory.mktemp("looked") / "run")
    told, looks = Told(), list[Look]()
    tokenizer, after = tiny_tokenizer(), Reselecting.after

    def spy(self: Reselecting, model: Any, step: int, last: bool) -> bool:
        texts = tuple(c.text for c in self.leaders._candidates)
        shown = [taken_apart(tokenizer.decode(row.ids)) for row in self.leaders._rows[texts[0]]]
        rows = [Example(text, answer) for _, text, answer in shown]
        losses = (sum(nll_by_hand(model, tokenizer, text, SUFFIX, rows)) / (3 * len(rows)) for text in texts)
        looks.append(Look(rows[0].input.split()[0], step, texts, tuple(losses), tuple(row.input for row in rows)))
        return after(self, model, step, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reselecting, "after", spy)
        seen = watch_training(patch, told)
        results = run(config, told)
    return Looked(config, results, seen, looks)


def expected(looked: Looked, task: str) -> list[tuple[int, str]]:
    """Text by update, as it follows from the losses by hand."""
    mine = [look for look in looked.looks if look.task == task]
    chosen, found = mine[0].texts[0], [(0, mine[0].texts[0])]
    for look in mine:
        best = min(range(len(look.texts)), key=lambda i: look.losses[i])
        if look.step % 2 == 0 and look.step < UPDATES and look.texts[best] != chosen:
            # So that neither rounding nor the tolerance for it decides.
            assert look.losses[look.texts.index(chosen)] - look.losses[best] > 1e-3
            chosen = look.texts[best]
            found.append((look.step, chosen))
    return found


def test_another_candidate_has_the_lower_loss_after_some_updates_so_that_the_tests_below_can_fail(
    looked: Looked,
) -> None:
    assert len(looked.looks) == 2 * UPDATES
    for task in ("alpha", "beta"):
        # More than one: not only because other rows are looked at than at the beginning.
        assert len(expected(looked, task)) > 2


@pytest.mark.parametrize("task", ["alpha", "beta"])
def test_the_candidates_are_those_with_the_lowest_losses_before_training_the_chosen_one_first(
    task: str, looked: Looked
) -> None:
    number = ["alpha", "beta"].index(task) + 1
    selection = read(looked.config.run_dir / "selections" / f"{number}-{task}.json")["value"]
    by_loss = sorted(selection["candidates"], key=lambda c: c["loss"])
    texts = next(look.texts for look in looked.looks if look.task == task)
    assert texts[0] == selection["candidates"][selection["chosen"]]["text"]
    assert list(texts) == [c["text"] for c in by_loss] and len(texts) == 4


@pytest.mark.parametrize("task", ["alpha", "beta"])
def test_the_new_text_is_trained_on_from_the_very_next_update(task: str, looked: Looked) -> None:
    plan = expected(looked, task)
    trained = [(update, text) for update, text, shown, _ in looked.seen if shown.startswith(task)]
    assert {update for update, _ in trained} == set(range(UPDATES)) and len(trained) == 6 * 5
    for update, text in trained:
        assert text == [chosen for step, chosen in plan if step <= update][-1]


@pytest.mark.parametrize("task", ["alpha", "beta"])
def test_the_last_choice_is_reported_and_tested_with(task: str, looked: Looked) -> None:
    plan, run_dir = expected(looked, task), looked.config.run_dir
    entry = looked.results.to_json()["instructions"][task]
    assert (entry["text"], entry["switches"]) == (plan[-1][1], len(plan) - 1)
    kind = "original" if entry["text"] == entry["original"] else "own"
    assert cell(run_dir, 2, task, kind)["instruction"] == plan[-1][1]
    number = ["alpha", "beta"].index(task) + 1
    stored = read(run_dir / "training" / f"{number}-{task}.json")["value"]["instructions"]
    assert stored == [{"text": plan[-1][1], "switches": [list(switch) for switch in plan[1:]]}]
    lineage = next(t for t in read(run_dir / "stages" / "2-beta" / "sapo.json")["tasks"] if t["task"] == task)
    assert lineage["instruction"] == plan[-1][1] and len(lineage.get("switches", [])) == len(plan) - 1


def test_choices_are_made_on_dev_rows_that_are_neither_trained_nor_tested_on(looked: Looked) -> None:
    for look in looked.looks:
        assert len(set(look.rows)) == 4 and all(row.startswith(f"{look.task} dev ") for row in look.rows)


# Rows to choose on.


def test_without_dev_rows_unused_training_rows_are_looked_at(small_model: Path, tmp_path: Path) -> None:
    bench = write_bench(tmp_path / "bench", train=9)
    found = prepare(reselecting(small_model, bench, tmp_path / "run")).inputs
    for task in found.tasks:
        held, trained = ({row.input for row in rows} for rows in (found.held_rows[task.name], task.train))
        assert len(trained) == 6 and len(held) == 3
        assert held | trained == {f"{task.name} train {i}" for i in range(9)}
    few = prepare(reselecting(small_model, bench, tmp_path / "few", reselect={"rows": 2})).inputs
    assert {row.input for row in few.held_rows["alpha"]} < {row.input for row in found.held_rows["alpha"]}
    with pytest.raises(ConfigError, match="alpha has no dev rows"):
        prepare(reselecting(small_model, bench, tmp_path / "run", train={"rows": None}))


# What changes nothing.


def test_looking_without_a_switch_leaves_mode_random_state_and_weights_alone(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, after = [], Reselecting.after

    def spy(self: Reselecting, model: Any, step: int, last: bool) -> bool:
        before = {name: p.clone() for name, p in model.state_dict().items()}
        modes, state = [module.training for module in model.modules()], torch.get_rng_state()
        found = after(self, model, step, last)
        assert [module.training for module in model.modules()] == modes and any(modes)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
        looks.append(step)
        return found

    monkeypatch.setattr(Reselecting, "after", spy)
    # No difference is large enough.
    monkeypatch.setattr("sapo.training.wording._ROUNDING", 1e9)
    config = reselecting(small_model, bench, tmp_path / "run", reselect={"every": 1})
    found = lasting(run(config))
    assert len(looks) == 2 * UPDATES
    # With dropout, random states matter: it is the run whose instruction is chosen once.
    once = configure(small_model, bench, tmp_path / "once", train=TRAIN, seed=SEED)
    assert once.lora.dropout > 0
    assert [entry.pop("switches") for entry in found["instructions"].values()] == [0, 0]
    assert found == lasting(run(once)) and adapters(config.run_dir) == adapters(once.run_dir)


# Interruption.


def test_an_unfinished_training_with_other_rows_to_look_at_is_not_resumed(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(bench, tmp_path / "bench"))
    config = reselecting(small_model, own, tmp_path / "run", train={"checkpoint_every": 1})
    with pytest.raises(KeyboardInterrupt):
        run(config, Told("alpha: training", after=4))
    rows = read(own / "alpha" / "dev.json")
    write(own / "alpha" / "dev.json", [{**row, "sentence": f"other {row['sentence']}"} for row in rows])
    told = Told("alpha: training", after=UPDATES)
    seen = watch_training(monkeypatch, told)
    with pytest.raises(KeyboardInterrupt):
        run(config, told)
    assert min(update for update, *_ in seen) == 0
