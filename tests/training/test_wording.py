"""Mixtures: what a model is really trained on, update by update, while batches are made ahead of their time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_runs import (
    SUFFIX,
    Seen,
    Told,
    adapters,
    cells,
    configure,
    lasting,
    nll_by_hand,
    original_of,
    paraphrases_of,
    read,
    save_model,
    watch_training,
    write_bench,
)
from transformers import AutoModelForCausalLM

import sapo.runs.steps
from sapo.core.types import Instruction, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.runs.prepare import set_up
from sapo.sequence import run
from sapo.training.finetune import finetune
from sapo.training.policies import MIXTURES, mixture
from sapo.training.settings import Policy, TrainSettings
from sapo.training.trainer import Extras
from sapo.training.wording import Mixture, Rewording, Worded

TEXTS = ("One, is it?", "Two: say it.", "Three! Do tell.", "Four, please.")
PARAPHRASES = tuple(Instruction(text, "file") for text in TEXTS)
# 3 updates an epoch, the last one smaller, each but that one in two passes.
ROWS, EPOCHS, UPDATES = 40, 5, 3
SETTINGS = TrainSettings(
    epochs=EPOCHS,
    learning_rate=1e-3,
    batch_size=16,
    micro_batch_size=8,
    warmup=0.0,
    weight_decay=0.0,
    max_grad_norm=1.0,
)


def task_of(rows: int = ROWS) -> Task:
    return replace(toy_task(rows=rows), suffix=SUFFIX)


def train(task: Task, words: Worded | None, settings: TrainSettings = SETTINGS, told: Told | None = None) -> Any:
    """Train the tiny model itself on a task; return (model, training)."""
    model, renderer = tiny_model(), Renderer(tiny_tokenizer(), 256)
    extras = Extras() if words is None else Extras(reword=Rewording(renderer, [task], [words]))
    encoded = renderer.encode(task.instruction, task.suffix, task.train)
    with (told or Told()).step("training", 0, 0) as advance:
        return model, finetune(model, encoded, settings, 0, advance, extras=extras)


def mixed(policy: Policy, seed: int = 0, period: int = 2) -> Mixture:
    draw = mixture(policy, len(TEXTS), period, seed)
    assert draw is not None
    return Mixture(PARAPHRASES, draw)


def seen_in(policy: Policy, seed: int = 0, task: Task | None = None) -> list[Seen]:
    """What went through the model, with nothing computed in advance for a whole batch (as dropout has it)."""
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sapo.training.prefix.can_share", lambda model, encoded: model.train() is None)
        seen = watch_training(patch, told)
        train(task or task_of(), mixed(policy, seed), told=told)
    return seen


@pytest.fixture(scope="module")
def by_example() -> list[Seen]:
    return seen_in("per-example")


@pytest.fixture(scope="module")
def by_period() -> list[Seen]:
    return seen_in("paft")


def table(seen: Sequence[Seen]) -> Any:
    """Number of the text of each row [rows] in each epoch [epochs]."""
    place = {row.input: i for i, row in enumerate(task_of().train)}
    found = np.full((EPOCHS, ROWS), -1)
    for update, text, shown, _ in seen:
        assert found[update // UPDATES, place[shown]] == -1, "each row once an epoch"
        found[update // UPDATES, place[shown]] = TEXTS.index(text)
    assert (found >= 0).all()
    return found


def test_every_row_keeps_its_answer_and_is_never_worded_as_the_original(
    by_example: list[Seen], by_period: list[Seen]
) -> None:
    answers = {row.input: row.answer for row in task_of().train}
    for seen in (by_example, by_period):
        assert len(seen) == ROWS * EPOCHS
        assert all(answers[shown] == answer for _, _, shown, answer in seen)
        assert {text for _, text, _, _ in seen} <= set(TEXTS)


def test_per_example_differs_between_rows_and_between_epochs_and_is_uniform(by_example: list[Seen]) -> None:
    found = table(by_example)
    assert chisquare(np.bincount(found.ravel(), minlength=4)).pvalue > 1e-3
    assert all(len(set(epoch)) == 4 for epoch in found)
    # Independent draws of four agree in a quarter of all cases.
    for one, other in pairwise(found):
        assert abs((one == other).mean() - 0.25) < 4 * sqrt(0.25 * 0.75 / ROWS)
    assert len({tuple(column) for column in found.T}) > ROWS / 2


def test_per_example_within_an_update_words_rows_apart_from_each_other(by_example: list[Seen]) -> None:
    in_update = defaultdict(set)
    for update, text, _, _ in by_example:
        in_update[update].add(text)
    assert len(in_update) == EPOCHS * UPDATES and all(len(texts) > 1 for texts in in_update.values())


def test_per_example_trains_on_what_is_drawn_for_that_row_in_that_epoch(by_example: list[Seen]) -> None:
    found = table(by_example)
    expected = [
        [int(np.random.default_rng([0, epoch, row]).integers(4)) for row in range(ROWS)] for epoch in range(EPOCHS)
    ]
    assert found.tolist() == expected


def test_paft_keeps_one_text_for_exactly_so_many_updates_across_the_ends_of_epochs(by_period: list[Seen]) -> None:
    in_update = defaultdict(set)
    for update, text, _, _ in by_period:
        in_update[update].add(text)
    assert all(len(texts) == 1 for texts in in_update.values())
    texts = [in_update[update].copy().pop() for update in range(EPOCHS * UPDATES)]
    # Updates 2 and 3 are the last of one epoch and the first of the next.
    for start in range(0, EPOCHS * UPDATES, 2):
        assert len(set(texts[start : start + 2])) == 1
    expected = [TEXTS[int(np.random.default_rng([0, start // 2]).integers(4))] for start in range(EPOCHS * UPDATES)]
    assert texts == expected
    # Texts do change, so that a longer period would not pass for this one.
    assert sum(a != b for a, b in pairwise(texts[::2])) >= 3


@pytest.mark.parametrize("policy", MIXTURES)
def test_the_texts_depend_on_the_seed_and_on_nothing_else(
    policy: Policy, by_example: list[Seen], by_period: list[Seen]
) -> None:
    first = by_example if policy == "per-example" else by_period
    np.random.seed(5)
    torch.manual_seed(5)
    assert seen_in(policy) == first
    other = seen_in(policy, seed=1)
    assert other != first
    # The order of rows is another seed's business.
    assert [(update, shown) for update, _, shown, _ in other] == [(update, shown) for update, _, shown, _ in first]


class Constant:
    """Words every row as the same text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self, row: int, epoch: int, step: int) -> str:
        return self._text


def test_wording_rows_as_they_are_is_training_on_them_to_the_bit() -> None:
    task = task_of(13)
    settings = SETTINGS.model_copy(update=dict(epochs=2, batch_size=4, micro_batch_size=2))
    plain, before = train(task, None, settings)
    worded, after = train(task, Constant(task.instruction), settings)
    other, elsewhere = train(task, Constant("Something else."), settings)
    assert before == after != elsewhere
    assert all(torch.equal(p, worded.state_dict()[name]) for name, p in plain.state_dict().items())
    assert any(not torch.equal(p, other.state_dict()[name]) for name, p in plain.state_dict().items())


# Whole runs.


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("policy", MIXTURES)
def test_a_run_trains_each_task_with_its_paraphrases_and_tests_it_with_the_original(
    policy: Policy, model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    seen = watch_training(monkeypatch, told)
    config = configure(model_dir, bench, tmp_path / "run", policy=policy, paft={"steps": 1}, train={"epochs": 3})
    data = run(config, told).data
    for task in ("alpha", "beta"):
        texts = {text for _, text, shown, _ in seen if shown.startswith(task)}
        assert len(texts) > 1 and texts <= set(paraphrases_of(task))
        entry = data["instructions"][task]
        assert (entry["text"], entry["origin"], entry["losses"]) == (original_of(task), "original", None)
        assert entry["mixture"] == paraphrases_of(task)
    assert not (config.run_dir / "selections").exists()
    assert {name.rpartition("/")[2] for name in cells(config.run_dir)} == {"alpha.original.json", "beta.original.json"}
    assert {found["instruction"] for found in cells(config.run_dir).values()} == {
        original_of("alpha"), original_of("beta"),
    }  # fmt: skip
    lineage = read(config.run_dir / "stages" / "2-beta" / "sapo.json")
    assert [(t["instruction"], t["mixture"]) for t in lineage["tasks"]] == [
        (original_of(task), paraphrases_of(task)) for task in ("alpha", "beta")
    ]


@pytest.mark.parametrize("policy", MIXTURES)
def test_the_loss_of_the_first_update_is_that_of_the_drawn_texts_over_the_same_answer_tokens(
    policy: Policy, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    config = configure(
        model_dir, bench, tmp_path / "run", policy=policy, lora={"dropout": 0.0}, sequence=["alpha"],
        train={"batch_size": 6, "micro_batch_size": 3, "epochs": 1, "rows": 6},
    )  # fmt: skip
    run(config)
    (loss,) = read(config.run_dir / "training" / "1-alpha.json")["value"]["losses"]
    task = set_up(config).tasks[0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), tiny_tokenizer()
    draw = mixture(policy, 3, config.paft.steps, config.seed)
    assert draw is not None
    texts = [paraphrases_of("alpha")[draw(i, 0, 0)] for i in range(6)]
    nll = [nll_by_hand(model, tokenizer, text, SUFFIX, [row])[0] for text, row in zip(texts, task.train, strict=True)]
    # A letter, the end of the turn and a line break for each row.
    assert loss == pytest.approx(sum(nll) / (6 * 3), abs=1e-5)
    originals = nll_by_hand(model, tokenizer, original_of("alpha"), SUFFIX, task.train)
    assert loss != pytest.approx(sum(originals) / (6 * 3), abs=1e-3)


@pytest.mark.parametrize("policy", MIXTURES)
def test_an_interrupted_mixture_goes_on_with_the_same_texts(
    policy: Policy, model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    # 5 epochs of 2 updates; stopped in the middle of an epoch and of a period.
    changes: dict[str, Any] = {"policy": policy, "paft": {"steps": 4}, "train": {"epochs": 5, "checkpoint_every": 3}}
    whole = configure(model_dir, bench, tmp_path / "whole", **changes)
    expected = lasting(run(whole))
    config = configure(model_dir, bench, tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(config, Told("beta: training", after=5))
    assert (config.run_dir / "unfinished" / "2-beta" / "checkpoint-3").is_dir()
    told = Told()
    assert lasting(run(config, told)) == expected
    assert told.of("training") == ["task 2 beta: training"]
    assert adapters(config.run_dir) == adapters(whole.run_dir)
    training = [read(d / "training" / "2-beta.json")["value"]["losses"] for d in (config.run_dir, whole.run_dir)]
    assert training[0] == training[1] and len(training[0]) == 10


def test_a_fixed_policy_is_trained_without_any_rewording(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Extras] = []

    def spy(*args: Any) -> Training:
        given.append(args[-1])
        return finetune(*args)

    monkeypatch.setattr(sapo.runs.steps, "finetune", spy)
    for policy in ("original", "random", "sapo"):
        run(configure(model_dir, bench, tmp_path / policy, policy=policy, sequence=["alpha"]))
    assert [replace(extras, log=Extras().log) for extras in given] == [Extras()] * 3
    run(configure(model_dir, bench, tmp_path / "paft", policy="paft", sequence=["alpha"]))
    assert given[-1].reword is not None
