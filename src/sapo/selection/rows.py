"""Which training rows candidates are scored on."""

from __future__ import annotations

from typing import Any

import numpy as np

from sapo.core.types import Ints, Task

# Published limit: 1536 tokens of prompt and 128 of answer.
MAX_LENGTH = 1664


def context_length(model: Any) -> int:
    """Return the most tokens that the model was made for, or a very large number where it does not say."""
    return configured_length(model.config)


def configured_length(config: Any) -> int:
    """Return the same of a model's configuration."""
    try:
        # As an attribute, the name also finds what some configurations call n_positions.
        return int(config.get_text_config().max_position_embeddings)
    except AttributeError:
        return 1 << 30


def race_order(rows: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Return the rows in a random order, so that the first k of them are a simple random sample of all."""
    return tuple(int(i) for i in np.random.default_rng(seed).permutation(rows))


def label_groups(task: Task, rows: tuple[int, ...]) -> Ints:
    """Return the label of each row as a number; answers outside the labels, and tasks without labels, are 0."""
    number = {label: n for n, label in enumerate(task.labels, start=1)}
    found = [number.get(task.train[i].answer, 0) for i in rows]
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
