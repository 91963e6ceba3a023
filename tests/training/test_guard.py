"""The forgetting guard: its interval against other computations, what it does to a training, and what it tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from assignments import partly_frozen, rows_of
from scipy.stats import ttest_rel
from small_runs import Told

from sapo.core.types import Encoded, Losses
from sapo.models.losses import Scorer
from sapo.training.finetune import finetune
from sapo.training.guard import Alarm, Guard, increase, stopped
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Extras

# The interval.


def losses(nll: Any, tokens: Any) -> Losses:
    return Losses(np.asarray(nll, float), np.asarray(tokens), np.zeros(len(nll), int))


def test_with_one_token_a_row_it_is_the_interval_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(2, 1, 20), rng.normal(2.3, 1, 20)
    ones = np.ones(20, int)
    mean, low = increase(losses(before, ones), losses(now, ones))
    assert mean == pytest.approx((now - before).mean())
    assert low == pytest.approx(ttest_rel(now, before).confidence_interval(0.95).low)


def test_by_hand_it_is_of_sums_over_tokens() -> None:
    # Rises of 1, 0 and 5 over 1, 2 and 3 tokens: 6 nats over 6 tokens.
    mean, low = increase(losses([1, 1, 1], [1, 2, 3]), losses([2, 1, 6], [1, 2, 3]))
    # Residuals 0, -2 and 2; standard error sqrt(8 * 3 / 2) / 6; 4.303 is Student's quantile of 2 degrees of freedom.
    assert mean == 1 and low == pytest.approx(1 - 4.303 * np.sqrt(12) / 6, abs=1e-3)


def test_where_nothing_moved_nothing_rose() -> None:
    same = losses([1.5, 2.5, 0.5], [1, 3, 2])
    assert increase(same, same) == (0.0, 0.0)


# By itself, with losses that it is told.


class Rising:
    """Stands for a scorer: the two rows of each watched task, by its number, lie this much above what they were."""

    def __init__(self, *looks: tuple[float, ...]) -> None:
        self._looks, self._look, self._task = [(0.0,) * len(looks[0]), *looks], -1, 0

    def on(self, model: object) -> Rising:
        self._look, self._task = self._look + 1, -1
        return self

    def __call__(self, rows: Any) -> Losses:
        self._task += 1
        rise = self._looks[self._look][self._task]
        # A spread of almost nothing: the interval hardly differs from its middle.
        return losses([1 + rise, 1 + rise + 1e-6 * self._look], [1, 1])


def guard_of(scorer: Rising, told: Told, *, stops: bool, every: int = 2, tasks: int = 2) -> Guard:
    watched = {f"task {n}": [Encoded((1, 2), 1)] * 2 for n in range(tasks)}
    return Guard("2-b", scorer, watched, every, 0.1, 5, stops, told.note)  # type: ignore[arg-type]


def layer() -> torch.nn.Linear:
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    return model


def test_it_looks_every_so_many_updates_and_after_the_last_one_and_names_the_task_that_rose_most() -> None:
    told, model = Told(), layer()
    guard = guard_of(Rising((0.0, 0.09), (0.2, 0.3), (0.5, 0.4)), told, stops=False)
    guard.begin(model)
    assert [guard.after(model, step, step == 5) for step in range(1, 6)] == [False] * 5
    assert [(a.step, a.back_to, a.watched) for a in guard.alarms] == [(4, None, "task 1"), (5, None, "task 0")]
    assert [a.increase for a in guard.alarms] == pytest.approx([0.3, 0.5], abs=1e-4)
    assert stopped(guard.alarms) is None
    assert told.notes == [
        "forgetting guard: after update 4 of 5 the loss on task 1 is +0.300 nats per token above that before this task "
        "(95 % interval from +0.300; limit 0.1); training continues (guard.action: warn)",
        "forgetting guard: after update 5 of 5 the loss on task 0 is +0.500 nats per token above that before this task "
        "(95 % interval from +0.500; limit 0.1); training continues (guard.action: warn)",
    ]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_any_more_has_risen_most(broken: float) -> None:
    for looks in ((broken, 9.0), (9.0, broken)):
        told, model = Told(), layer()
        guard = guard_of(Rising(looks), told, stops=True)
        guard.begin(model)
        with np.errstate(invalid="ignore"):
            assert guard.after(model, 2, False)
        assert guard.alarms == [Alarm("2-b", 2, 0, f"task {looks.index(broken)}", None, None, 5)]
        end = "training stopped and rolled back to before this task: nothing was learned"
        assert told.notes[0].endswith(f"is no longer a finite number; {end}")
        again = guard_of(Rising(looks), told, stops=True)
        again.restore(model, guard.state())
        assert again.alarms == guard.alarms


def test_what_broke_between_two_looks_is_undone_as_well() -> None:
    model, told = partly_frozen(), Told()
    before = {name: p.clone() for name, p in model.named_parameters()}
    watched = {"other": rows_of("two", 4)}
    guard = Guard("2-b", Scorer(model), watched, 3, 0.1, 5, True, told.note)

    class Breaking:
        """Stands for an update that goes too far."""

        def begin(self, model: Any) -> None: ...

        def after(self, model: Any, step: int, last: bool) -> bool:
            model.model.layers[0].self_attn.q_proj.weight.data *= float("nan")
            return False

        def state(self) -> Any: ...

        def restore(self, model: Any, state: Any) -> None: ...

    settings = TrainSettings(epochs=5, batch_size=8, learning_rate=1e-4, warmup=0.0)
    log = finetune(model, rows_of("one", 8), settings, 0, extras=Extras(watchers=(Breaking(), guard)))
    assert stopped(guard.alarms) == (0, guard.updates) and log.steps == 3 and len(log.losses) == 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
