"""What a notebook shows of a value: one short line, however many rows it holds."""

from dataclasses import replace

import numpy as np

from sapo.core.types import Example, Losses
from sapo.integrations.testing import toy_task


def test_a_task_is_shown_by_its_name_instruction_and_sizes() -> None:
    task = replace(toy_task(rows=200), instruction="Say so.\n" * 40)
    shown = "Say so. Say so. Say so. Say so. Say so. Say so. Say so. Say..."
    assert repr(task) == f"Task('toy', '{shown}', 200 train, 100 dev, 100 test rows, 2 labels, exact_match)"
    assert len(repr([task, task])) < 400


def test_a_row_and_its_losses_are_short() -> None:
    assert repr(Example("x" * 1000, "yes")) == f"Example('{'x' * 60}...', 'yes')"
    assert repr(Example("a\x1b[31m", "b", (("c", "d"),))) == r"Example('a\x1b[31m', 'b', 1 earlier turn)"
    losses = Losses(np.array([3.0, 1.0]), np.array([4, 4]), np.array([0, 0]))
    assert repr(losses) == "Losses(0.5000 nats per token, 2 rows)"
