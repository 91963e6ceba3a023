"""Replay: a buffer that every row is in with the same probability, and an update's loss by stock libraries."""

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from assignments import LORA, TRAIN, assignment, demanded, part_of, rows_of, second_task, token_mean, tokens_of, trained
from peft import PeftModel
from scipy.stats import chi2

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model
from sapo.training.methods.replay import Replay, reservoir
from sapo.training.settings import ReplaySettings

TASKS = [rows_of(name, count, f"Instruction {name}.") for name, count in (("one", 5), ("two", 7), ("three", 4))]


# The buffer.


def test_every_row_seen_so_far_is_kept_with_the_same_probability() -> None:
    rows, size, trials = [Encoded((i, 0), 1) for i in range(13)], 4, 2000
    single, pairs = Counter[Encoded](), Counter[frozenset[Encoded]]()
    for trial in range(trials):
        random, kept = np.random.default_rng(trial), list[Encoded]()
        for start, end in ((0, 5), (5, 6), (6, 13)):
            kept = reservoir(kept, start, rows[start:end], size, random)
        assert len(set(kept)) == len(kept) == size
        single.update(kept)
        pairs.update(map(frozenset, combinations(kept, 2)))
    # Drawing without replacement: counts have the variance n p (1 - p), and covariances that make them sum to 4 n.
    p = size / len(rows)
    spread = sum((single[row] - trials * p) ** 2 for row in rows) / (trials * p * (1 - p))
    assert chi2.sf(spread * (len(rows) - 1) / len(rows), len(rows) - 1) > 1e-3
    expected = trials * 6 / 78
    far = max(abs(pairs[frozenset(pair)] - expected) for pair in combinations(rows, 2)) / expected**0.5
    assert far < 4.5


def stored(root: Path, stage: int) -> tuple[int, list[Encoded]]:
    data = json.loads((root / str(stage) / "replay.json").read_text())
    return data["seen"], [Encoded(tuple(row["ids"]), row["prompt_length"]) for row in data["rows"]]


@pytest.mark.parametrize("size", [1, 6, 200])
def test_a_stage_holds_no_more_rows_than_the_buffer_and_counts_on(size: int, tmp_path: Path) -> None:
    learner, before = Replay(LORA, ReplaySettings(buffer=size)), None
    model = learner.start(tiny_model())
    for number, seen in enumerate((5, 12, 16)):
        task = assignment(TASKS[number], stage=number + 1, seed=number, before=before)
        before = tmp_path / str(number + 1)
        model = learner.finish(learner.prepare(model, task), task, before)
        count, buffer = stored(tmp_path, number + 1)
        assert count == seen and len(buffer) == min(size, seen)
        assert set(buffer) <= {row for rows in TASKS[: number + 1] for row in rows}
    if size == 200:
        assert Counter(buffer) == Counter(row for rows in TASKS for row in rows)


# The loss.


def test_an_updates_loss_is_the_mixture_of_new_and_old_rows_by_stock_libraries(tmp_path: Path) -> None:
    # 2 of 7 old rows beside each 7 new ones, and a buffer of exactly these two.
    learner = Replay(LORA, ReplaySettings(buffer=2, share=0.3))
    model, task = second_task(learner, tmp_path, TASKS, batch_size=7)
    stock = PeftModel.from_pretrained(tiny_model(), tmp_path / "1").eval()
    _, buffer = stored(tmp_path, 1)
    with torch.no_grad():
        new, old = float(token_mean(stock, task.rows)), float(token_mean(stock, buffer))
    assert len(buffer) == 2 and abs(new - old) > 0.01
    for micro in (7, 2):
        model = learner.prepare(learner.resume(tiny_model(), tmp_path / "1"), task)
        settings = TRAIN.model_copy(update={"epochs": 1, "batch_size": 7, "micro_batch_size": micro})
        training = trained(learner, model, task, settings)
        assert training.losses == pytest.approx([new], rel=1e-5)
        assert training.objectives == pytest.approx([0.7 * new + 0.3 * old], rel=1e-5)


def test_every_update_draws_its_own_old_rows_and_counts_their_tokens(tmp_path: Path) -> None:
    # 2 of 5 old rows, whose answers differ in length.
    learner = Replay(LORA, ReplaySettings(buffer=5, share=0.5))
    model, task = second_task(learner, tmp_path, TASKS)
    _, buffer = stored(tmp_path, 1)
    assert len({tokens_of([row]) for row in buffer}) > 1
    objective = demanded(learner, model, task)
    with torch.no_grad():
        subsets = {pair: float(token_mean(model, pair)) for pair in combinations(buffer, 2)}
        seen = []
        for step in range(12):
            parts = [part_of(model, task.rows[:1], step, number, 3) for number in range(3)]
            found = 2 * sum(float(objective(torch.zeros(()), part)) for part in parts)
            seen += [pair for pair, value in subsets.items() if value == pytest.approx(found, abs=1e-5)]
    assert len(seen) == 12 and len(set(seen)) > 3


def test_old_rows_have_dropout_of_their_own_by_seed_update_and_pass(tmp_path: Path) -> None:
    learner = Replay(LORA.model_copy(update={"dropout": 0.5}), ReplaySettings(buffer=2, share=0.5))
    model, task = second_task(learner, tmp_path, TASKS)
    _, buffer = stored(tmp_path, 1)
    same = json.dumps({"seen": 5, "rows": [{"ids": buffer[0].ids, "prompt_length": buffer[0].prompt_length}] * 2})
    (tmp_path / "1" / "replay.json").write_text(same)
    part = part_of(model, task.rows[:1])
    model.train()

    def found(seed: int, step: int, number: int) -> float:
        objective = demanded(learner, model, replace(task, seed=seed))
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        value = float(objective(torch.zeros(()), replace(part, step=step, number=number, parts=2)).detach())
        assert torch.equal(torch.get_rng_state(), state)
        return value

    # The two rows are the same, so nothing but dropout tells these apart.
    values = [found(*when) for when in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    assert len(set(values)) == 4 and values[0] == found(0, 0, 0)
