"""One training of a study in one line: a candidate, a seed and an optimiser arm, from one state of the model.

A study has a file of such lines, read with errors that name the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sapo.core.errors import RecordError
from sapo.core.storage import Lines, Stored, adapter, parsed
from sapo.training.settings import Optimiser

FORMAT: Literal[1] = 1
STUDY = "study.jsonl"
Role = Literal["own", "earlier", "unseen"]
Measure = Literal["nll", "score"]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class TaskLosses:
    """Losses on the test rows of one task, before and after the training.

    Attributes:
        role: the trained task itself ("own"), one trained on earlier, or one never trained on.
        before: nats summed over the supervised tokens of each row, shape [rows]; with the original instruction.
        after: the same after the training; the own task with the candidate it was trained with.
        tokens: supervised tokens of each row, at least 1, shape [rows].
    """

    role: Role
    before: tuple[Number, ...]
    after: tuple[Number, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse rows that do not fit together."""
        if not self.tokens or min(self.tokens) < 1 or not len(self.before) == len(self.after) == len(self.tokens):
            raise ValueError(f"{len(self.before)} and {len(self.after)} losses have {len(self.tokens)} token counts")

    def loss(self, when: Literal["before", "after"]) -> float:
        """Return the sum of the rows' nats over the sum of their tokens, in nats per token."""
        return sum(self.before if when == "before" else self.after) / sum(self.tokens)


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """Mean score of a task's test rows, 0 to 100, before and after the training."""

    before: Number
    after: Number


@dataclass(frozen=True, slots=True)
class StudyRecord(Stored):
    """What one training of a study did; the attributes are the keys of its line.

    Attributes:
        study: fingerprint of the configuration.
        transition: name of the state and the task that follows, as "review-sentiment>date-format".
        earlier: tasks that made the state, in order.
        arm: the optimiser, "adamw" or "sgd".
        candidate: index of the instruction; 0 is the original.
        indicators: what is known of the candidate before the training, by name; None where it is not defined.
            "pre_update", "answer_only", "example_mean": losses in nats per token; "pmi": L(y | p, x) - L(y | p, empty
            input); "gradient_norm"; "length" in tokens; "edit": distance to the original, 0 to 1.
        mediators: what happened in between, by name; None where it is not defined. "first_gradient": norm at the
            first update; "path": summed length of the updates; "displacement": length of their sum; "drift": KL in
            nats per token on the first test rows of the earlier tasks; "train_before", "train_after": loss on all
            training rows, nats per token; "rate_sum": sum of the learning rates; "earlier_gradient": gradient norm of
            the earlier tasks' loss before the training.
        losses: by task, of all tasks that were tested.
        scores: by task, of those that were generated for.
        config: the study's configuration, without its run_dir.
        data: fingerprint of each tested task as it was given, before rows were drawn; earlier versions recorded that of
            the rows that were used.
    """

    study: str
    transition: str
    earlier: tuple[str, ...]
    task: str
    arm: Optimiser
    seed: int
    candidate: Annotated[int, Field(ge=0)]
    text: str
    origin: str
    indicators: Mapping[str, Number | None]
    mediators: Mapping[str, Number | None]
    losses: Mapping[str, TaskLosses]
    seconds: Number
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    scores: Mapping[str, ScoreChange] | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        """Refuse a record whose parts do not fit together."""
        if self.tasks("own") != (self.task,):
            raise ValueError(f"task {self.task} is the one that was trained, and own losses are of {self.tasks('own')}")
        if strange := [task for task in self.tasks("earlier") if task not in self.earlier]:
            raise ValueError(f"task {strange[0]} has losses of an earlier task, and was not trained on earlier")
        if strange := [task for task in self.scores or () if task not in self.losses]:
            raise ValueError(f"task {strange[0]} has scores and no losses")

    @property
    def name(self) -> str:
        """What tells this training from the others of its study."""
        return training_name(self.transition, self.arm, self.candidate, self.seed)

    def tasks(self, role: Role) -> tuple[str, ...]:
        """Return the tested tasks of a role, sorted."""
        return tuple(sorted(task for task, losses in self.losses.items() if losses.role == role))

    def effect(self, task: str, measure: Measure = "nll") -> float | None:
        """Return what the training did to a task, higher is better; None where it was not tested.

        Of the own task it is the level after the training, of any other the change by it. In nats per token the
        loss counts with a minus sign; scores count as they are.
        """
        if task not in self.losses or (measure == "score" and task not in (self.scores or {})):
            return None
        if measure == "score" and self.scores is not None:
            before, after = self.scores[task].before, self.scores[task].after
        else:
            before, after = (-self.losses[task].loss(when) for when in ("before", "after"))
        return after if task == self.task else after - before

    def mean_effect(self, role: Role) -> float | None:
        """Return the mean effect over the tasks of a role, in nats per token, all with one weight; None without any."""
        found = [effect for task in self.tasks(role) if (effect := self.effect(task)) is not None]
        return sum(found) / len(found) if found else None

    @classmethod
    def from_json(cls, data: Any) -> StudyRecord:
        """Return the record that `to_json` wrote; unknown keys are ignored.

        Raises:
            RecordError: if a newer version wrote it.
            ValueError: if it is something else, and what is wrong.
        """
        record: StudyRecord = parsed(data, FORMAT, adapter(cls).validate_python, "record")
        return record


def training_name(transition: str, arm: str, candidate: int, seed: int) -> str:
    """Return what tells a training from the others of its study."""
    return f"{transition}/{arm}-c{candidate}-s{seed}"


def is_study(path: Path) -> bool:
    """Whether a file holds records of a study, by its first line; one that cannot be read is an error."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            first = json.loads(lines.readline())
    except (ValueError, RecursionError):
        return False
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    return isinstance(first, dict) and "study" in first


_LINES = Lines(
    parse=StudyRecord.from_json,
    dump=StudyRecord.to_json,
    key=lambda record: (record.study, record.name),
    advice="Delete the line: the same `sapo study` command records that training again.",
)
read_study, append_study = _LINES.read, _LINES.append
