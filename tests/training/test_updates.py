"""Which rows an update takes, however many processes deal them out, and what fills an update up without changing it."""

from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from assignments import partly_frozen, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from sapo.core.types import Encoded, Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.batches import pad
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.training.finetune import finetune
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Extras, SupervisedTrainer, UpdateSampler

often = settings(max_examples=50, deadline=None, derandomize=True, database=None)
sizes = st.integers(1, 40)
SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=8, micro_batch_size=4, warmup=0.0)


@dataclass(frozen=True)
class Dealt:
    """One epoch of several processes: by process the micro-batches of each update."""

    updates: list[list[list[list[int]]]]

    def rows(self) -> list[list[int]]:
        return [[row for process in update for batch in process for row in batch] for update in self.updates]


def deal(rows: int, batch: int, micro: int, processes: int, seed: int = 0, epoch: int = 0) -> Dealt:
    """Deal an epoch out as accelerate does, and group it into updates as Trainer does."""
    micro = min(micro, ceil(batch / processes), rows)
    order = UpdateSampler([1 + n % 5 for n in range(rows)], batch, 1 if processes == 1 else micro * processes, seed)
    order.set_epoch(epoch)
    assert len(list(order)) == len(order)
    accumulated = ceil(batch / (micro * processes))
    dealt = BatchSampler(order, micro, False)
    # accelerate leaves the batches of a single process as they are.
    shards = [list(dealt if processes == 1 else BatchSamplerShard(dealt, processes, rank)) for rank in range(processes)]
    assert len({len(shard) for shard in shards}) == 1
    return Dealt([[shard[n : n + accumulated] for shard in shards] for n in range(0, len(shards[0]), accumulated)])


@often
@given(sizes, sizes, st.integers(1, 12), st.integers(0, 3), st.integers(0, 3))
def test_updates_take_the_same_rows_in_equal_shares_whatever_the_number_of_processes(
    rows: int, per_update: int, micro: int, seed: int, epoch: int
) -> None:
    # A whole number of micro-batches to an update, as configurations demand.
    batch = ceil(per_update / micro) * micro
    one = [Counter(update) for update in deal(rows, batch, micro, 1, seed, epoch).rows()]
    assert [update.total() for update in one] == [min(batch, rows - n) for n in range(0, rows, batch)]
    assert sum(one, Counter[int]()) == Counter(range(rows))
    for processes in (2, 3):
        dealt = deal(rows, batch, micro, processes, seed, epoch)
        for update in dealt.updates:
            assert all(len(each) <= micro for process in update for each in process)
            assert len({tuple(map(len, process)) for process in update}) == 1
        found = dealt.rows()
        # Only the blank row, which is none of the training rows, fills up.
        assert [Counter(row for row in update if row != rows) for update in found] == one
        assert all(row <= rows for update in found for row in update)


# The order within an update.

LENGTHS = [5, 90, 7, 80, 6, 70, 8, 60, 5, 50, 9, 40, 4, 30, 3, 20, 2, 10, 1]


@pytest.mark.parametrize("round_size", [1, 3])
def test_rows_of_an_update_go_from_long_to_short_and_are_those_of_the_permutation(round_size: int) -> None:
    rows = len(LENGTHS)
    order = UpdateSampler(LENGTHS, 6, round_size, 4)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        found = [row for row in order if row < rows]
        permutation = torch.randperm(rows, generator=torch.Generator().manual_seed(4 + epoch)).tolist()
        for start in range(0, rows, 6):
            update = found[start : start + 6]
            assert sorted(update) == sorted(permutation[start : start + 6])
            assert [LENGTHS[row] for row in update] == sorted((LENGTHS[row] for row in update), reverse=True)
        assert sorted(found) == list(range(rows)) and found != permutation


# What fills up.


def test_one_update_is_the_same_in_whichever_order_its_rows_come() -> None:
    # Of one length, so that they are not sorted; in two passes, each with other rows.
    examples = [Example(f"row {i}", "yes") for i in range(8)]
    rows = Renderer(tiny_tokenizer(), 256).encode("Say it.", "", examples)
    settings = SETTINGS.model_copy(update={"epochs": 1})
    one, other = partly_frozen(), partly_frozen()
    losses = [finetune(model, given, settings, seed=0).losses for model, given in ((one, rows), (other, rows[::-1]))]
    assert len({len(row.ids) for row in rows}) == 1 and losses[0] == pytest.approx(losses[1], abs=1e-6)
    apart = [(a - b).detach().abs() > 1e-6 for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    # Where a gradient is a rounding error, Adam's first step is as long as any other, in either direction.
    assert sum(int(x.sum()) for x in apart) <= sum(x.numel() for x in apart) * 1e-4
    moved = zip(one.parameters(), tiny_model().parameters(), strict=True)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in moved)


def test_the_loss_of_a_batch_is_its_sum_over_the_tokens_of_the_whole_update() -> None:
    rows = rows_of("one", 3)
    model = partly_frozen()
    nll = Scorer(model).plain(rows).nll.sum()
    blank = Encoded(rows[0].prompt, rows[0].prompt_length)
    assert float(loss_of(model, [blank, blank], tokens=7).detach()) == 0
    for batch in (rows, [*rows, blank]):
        assert float(loss_of(model, batch, tokens=1000).detach()) == pytest.approx(nll / 1000, rel=1e-5)
    # The mean of three processes' gradients is to be their sum.
    assert float(loss_of(model, rows, tokens=1000, processes=3).detach()) == pytest.approx(3 * nll / 1000, rel=1e-5)


def loss_of(model: Any, batch: list[Encoded], tokens: int, processes: int = 1) -> torch.Tensor:
    """The loss that the trainer computes for one micro-batch of an update with so many supervised tokens."""

    class Alone:
        num_processes = processes

    trainer = SupervisedTrainer.__new__(SupervisedTrainer)
    trainer.accelerator, trainer._shares, trainer._extras = Alone(), False, Extras()
    ids, labels = pad([e.ids for e in batch], [e.prompt_length for e in batch])
    loss: torch.Tensor = trainer.compute_loss(model, {"input_ids": ids, "labels": labels}, num_items_in_batch=tokens)
    return loss
