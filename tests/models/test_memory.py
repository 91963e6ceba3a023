"""Bounds on memory hold, running out of it makes batches smaller, and nothing of that changes a loss."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from exact_losses import Cramped, Watch, by_hand, close, examples

import sapo
from sapo.core.errors import ScoreError
from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.batches import common_prefix
from sapo.models.losses import Scorer
from sapo.models.memory import peak_memory


@pytest.mark.parametrize("batch_tokens", [1, 200, 400])
def test_no_batch_of_several_rows_exceeds_batch_tokens(batch_tokens: int) -> None:
    model = tiny_model()
    with Watch(model) as watch:
        Scorer(model, batch_tokens).plain(examples())
    assert sum(rows for rows, _ in watch.inputs) == len(examples())
    assert all(rows == 1 or rows * length <= batch_tokens for rows, length in watch.inputs)
    assert max(rows for rows, _ in watch.inputs) > 1 or batch_tokens < 200


@pytest.mark.parametrize("route", ["shared prefix", "plain"])
def test_batches_become_smaller_where_memory_runs_out_and_stay_so(route: str) -> None:
    model = tiny_model()
    scorer, told = Scorer(model, 4096), list[int]()
    scorer(examples())
    assert scorer.batch_tokens == 4096
    with Cramped(model, 200) as cramped:
        scoring = scorer.open(examples())
        losses = scoring.nll(range(7), told.append) if route == "shared prefix" else scorer.plain(examples()).nll
        assert cramped.failed and max(shape.numel() for shape in cramped.passed) <= 200
        assert scorer.batch_tokens == cramped.failed[-1].numel() // 2
        # No row was computed twice.
        done = sum(rows for rows, length in cramped.passed if (rows, length) != (1, common_prefix(examples())))
        assert done == len(examples()) and sum(told) in (0, len(examples()))
        failures, lowered = len(cramped.failed), scorer.batch_tokens
        other = scorer.on(model)
        for again in (scorer, other):
            found = again(examples()) if route == "shared prefix" else again.plain(examples())
            assert close(found.nll, losses)
        assert len(cramped.failed) == failures and other.batch_tokens == scorer.batch_tokens == lowered
    assert close(losses, by_hand(model, examples()))


def test_what_is_kept_for_others_goes_before_batches_become_smaller() -> None:
    model = tiny_model()
    scorer = Scorer(model, 4096)
    mine, other = scorer.open(examples()), scorer.open(examples()[:3])
    other.nll([0])
    mine.nll([0])
    both = scorer._runner.kept.bytes
    with Cramped(model, 0, times=1) as cramped:
        nll = mine.nll(range(1, 7))
    assert len(cramped.failed) == 1 and scorer.batch_tokens == 4096
    assert close(nll, by_hand(model, examples())[1:])
    kept = scorer._runner.kept
    assert kept.find(mine) is not None and kept.find(other) is None and kept.bytes < both
    assert close(other.nll([1, 2]), by_hand(model, examples())[1:3])


@pytest.mark.parametrize("route", ["shared prefix", "plain"])
def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_do(route: str) -> None:
    model = tiny_model().train()
    scorer = Scorer(model)
    scorer(examples())
    longest = max(len(e.ids) for e in examples())
    most = longest - common_prefix(examples()) - 2 if route == "shared prefix" else longest - 2
    assert most > common_prefix(examples())
    with Cramped(model, most), pytest.raises(ScoreError, match=rf"single row of {longest} tokens .*'cpu'.*Lower max_l"):
        scorer(examples()) if route == "shared prefix" else scorer.plain(examples())
    assert all(module.training for module in model.modules())
    assert scorer._runner.kept.bytes == 0


def test_so_is_a_beginning_that_does_not_fit() -> None:
    model = tiny_model()
    scorer = Scorer(model)
    scorer(examples())
    encoded = tuple(Encoded((*range(100), n, n + 1), 101) for n in range(3))
    with Cramped(model, 50), pytest.raises(ScoreError, match="the 100 tokens that all prompts begin with do not fit"):
        scorer(encoded)
    # Once only, and with something to give up, is no error.
    kept = scorer.open(examples())
    kept.nll([0])
    with Cramped(model, 50, times=1) as cramped:
        assert close(scorer(encoded).nll, by_hand(tiny_model(), encoded))
    assert cramped.failed == [(1, 100)] and scorer._runner.kept.bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell both")
def test_peak_memory_on_a_cpu_is_this_process_s_own() -> None:
    before, block = peak_memory(), np.ones(64 << 20)
    held = peak_memory()
    assert before is not None and held is not None and held >= block.nbytes
    assert held <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (8 << 20)
    # A process that this one starts would be told this one's peak by getrusage.
    child = subprocess.run(
        [sys.executable, "-c", "from sapo.models.memory import peak_memory; print(peak_memory())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (10 << 20) < int(child.stdout) < held - block.nbytes / 4
    del block
    # The system counts pages in batches for each thread.
    assert (peak_memory() or 0) >= 0.99 * held


def test_peak_memory_on_accelerators_adds_them_up_from_the_beginning_of_a_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, used, reset = tiny_model(), {0: 5, 1: 70}, list[int]()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(used))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", used.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    # A scorer alone, such as that of a callback within a training, leaves the user's own count as it is.
    Scorer(model)(examples())
    assert reset == []
    selection = sapo.select(model, tiny_tokenizer(), toy_task(rows=4), ["Many words? yes or no"])
    assert selection.peak_memory == peak_memory() == 75 and reset == [0, 1]
