"""Where a user's own data are and what they mean, as the user says it; and the rows that are there."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

from sapo.core.errors import DataError, nearest
from sapo.core.settings import Settings, expanded
from sapo.models.text_metrics import TEXT_METRICS
from sapo.tasks.files import demand_whole, is_data
from sapo.tasks.raw import Raw
from sapo.tasks.sources import find
from sapo.tasks.splits import assign


def _place(text: str) -> str:
    """Return a path without ~ and environment variables; what exists by this name is meant as it is."""
    return text if os.path.exists(text) else expanded(text)


class DataSource(Settings):
    """Where a task's own data are, and what they mean.

    Attributes:
        data: a file, a directory, or a hub id.
        train: name of the split with the training rows; None recognises it by its name.
        test: another file with the test rows, or the name of a split.
        subset: configuration name of a hub data set.
        instruction: the task's instruction; None takes the one that the data hold, if it is the same everywhere.
        suffix: a fixed sentence about the answer's format, may be empty.
        columns: role (input, answer, instruction, system, history, messages, ignore) -> column, or several for input
            and ignore; roles left out are recognised.
        labels: the closed set of answers, empty for free text; None takes them from the answers, where they are
            few.
        metric: name of the primary metric; None takes one that suits the answers, see `sapo.tasks.labels.metric_of`.
    """

    data: Annotated[str, Field(min_length=1), AfterValidator(_place)]
    train: str | None = None
    test: Annotated[str, AfterValidator(_place)] | None = None
    subset: str | None = None
    instruction: str | None = None
    suffix: str = ""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    metric: str | None = None


def own_splits(source: DataSource) -> Raw:
    """Return the rows of a user's own data by what they are used for.

    Raises:
        DataError: if the settings contradict themselves, or the data cannot be read or hold no training rows.
    """
    _demand_settings(source)
    found, test = find(source.data, source.subset), source.test
    other = find(test, None) if test is not None and test not in found.splits and is_data(test) else None
    return assign(source.data, found, source.train, test, other)


def _demand_settings(source: DataSource) -> None:
    if source.instruction is not None and not source.instruction.strip():
        raise DataError(f"{source.data}: the instruction given is empty: give a text, or leave it out")
    if source.metric is not None and source.metric not in TEXT_METRICS:
        raise DataError(
            f"{source.data}: metric: there is no {source.metric!r}.{nearest(source.metric, TEXT_METRICS)} "
            f"Allowed: {', '.join(TEXT_METRICS)}"
        )
    labels = source.labels or ()
    for label in labels:
        if not label.strip() or labels.count(label) > 1:
            raise DataError(f"labels: {label!r} {'occurs twice' if label.strip() else 'is empty'}. Leave it out.")
    for what, text in (
        ("instruction", source.instruction or ""),
        ("suffix", source.suffix),
        ("labels", "".join(labels)),
    ):
        demand_whole(text, f"the {what}")
