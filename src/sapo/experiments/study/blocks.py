"""Trainings of a study arranged: one block for each transition and arm, a full table of candidates x seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sapo.core.errors import RecordError
from sapo.core.types import Floats
from sapo.experiments.study.records import Measure, Role, StudyRecord

Outcome = Literal["in_task", "forgetting", "generalisation"]
# Nats per token that arithmetic of another machine may make of the same state.
_ROUNDING = 1e-3
ROLES: Mapping[Outcome, Role] = {"in_task": "own", "forgetting": "earlier", "generalisation": "unseen"}


@dataclass(frozen=True, slots=True)
class Block:
    """The trainings of one transition in one arm that form a full table; the original need not be among them.

    ``candidates`` are their indices, ascending; ``records`` have the shape [candidates][seeds]. ``left_out`` counts the
    trainings that are no part of the full table.
    """

    transition: str
    arm: str
    candidates: tuple[int, ...]
    seeds: tuple[int, ...]
    records: tuple[tuple[StudyRecord, ...], ...]
    left_out: int

    @property
    def first(self) -> StudyRecord:
        """One of its records, for what all have in common."""
        return self.records[0][0]

    def tasks(self, *roles: Role) -> tuple[str, ...]:
        """Return the tasks of these roles that all trainings were tested on, sorted by role and name."""
        return tuple(
            task
            for role in roles
            for task in self.first.tasks(role)
            if all(task in record.losses for row in self.records for record in row)
        )

    def effects(self, task: str, measure: Measure = "nll") -> Floats | None:
        """Return the effects on one task, shape [candidates, seeds], higher is better; None where one is missing."""
        return _table([[record.effect(task, measure) for record in row] for row in self.records])

    def outcome(self, outcome: Outcome, measure: Measure = "nll") -> Floats | None:
        """Return the mean effects over the tasks of an outcome, shape [candidates, seeds]; None without any."""
        found = together([self.effects(task, measure) for task in self.tasks(ROLES[outcome])])
        return None if found is None else found.mean(axis=0)

    def indicator(self, name: str) -> Floats | None:
        """Return an indicator of every candidate, shape [candidates]; None where it is not defined for all."""
        found = _table([[record.indicators.get(name) for record in row] for row in self.records])
        return None if found is None else found.mean(axis=1)

    def mediator(self, name: str) -> Floats | None:
        """Return a mediator of every training, shape [candidates, seeds]; None where it is not defined for all."""
        return _table([[record.mediators.get(name) for record in row] for row in self.records])


def together(tables: Sequence[Floats | None]) -> Floats | None:
    """Return tables of one shape as one, shape [tables, ...]; None if there are none or one is missing."""
    known = [table for table in tables if table is not None]
    return np.stack(known) if known and len(known) == len(tables) else None


def blocks_of(records: Iterable[StudyRecord]) -> tuple[Block, ...]:
    """Return the blocks of a study, by transition and arm; the order of the records does not matter.

    Raises:
        RecordError: if there are no records, or some cannot be on one page, naming them.
    """
    found: dict[tuple[str, str], dict[tuple[int, int], StudyRecord]] = {}
    texts: dict[tuple[str, int], StudyRecord] = {}
    tokens: dict[tuple[str, str], StudyRecord] = {}
    for record in sorted(records, key=lambda r: (r.transition, r.arm, r.candidate, r.seed)):
        trainings = found.setdefault((record.transition, record.arm), {})
        if trainings.setdefault((record.candidate, record.seed), record) != record:
            raise RecordError(f"there are two different records of {record.name}: report the studies one by one")
        other = texts.setdefault((record.transition, record.candidate), record)
        if other.text != record.text:
            raise RecordError(f"{other.name} and {record.name} were trained with different texts of one candidate")
        _demand_same_state(other, record, "pre-update loss", *(r.indicators.get("pre_update") for r in (other, record)))
        for task, losses in record.losses.items():
            other = tokens.setdefault((record.transition, task), record)
            if other.losses[task].tokens != losses.tokens or other.losses[task].role != losses.role:
                raise RecordError(f"{other.name} and {record.name} were tested on different rows of task {task}")
            before = (other.losses[task].loss("before"), losses.loss("before"))
            _demand_same_state(other, record, f"loss of task {task} before them", *before)
    if not found:
        raise RecordError("there is no finished training yet: start the study, or wait for its first one to end")
    studies = {record.study: record for trainings in found.values() for record in trainings.values()}
    if len(studies) > 1:
        one, other = list(studies.values())[:2]
        raise RecordError(f"{one.name} and {other.name} are of studies with different configurations")
    return tuple(_block(*key, trainings) for key, trainings in sorted(found.items()))


def _demand_same_state(one: StudyRecord, other: StudyRecord, what: str, then: float | None, now: float | None) -> None:
    """Refuse trainings of one transition that did not start from the same weights."""
    if then is not None and now is not None and abs(then - now) > _ROUNDING:
        raise RecordError(
            f"{one.name} and {other.name} did not start from the same state: the {what} is {then:.4f} and {now:.4f} "
            "nats per token"
        )


def _block(transition: str, arm: str, trainings: Mapping[tuple[int, int], StudyRecord]) -> Block:
    """Return the full table with the most differences between candidates, seeds taken from the most complete on.

    A study that was interrupted lacks candidates of its last seed. Means over other seeds for other candidates would
    mix the seeds' effects into the candidates'.
    """
    by_seed: dict[int, set[int]] = {}
    for candidate, seed in trainings:
        by_seed.setdefault(seed, set()).add(candidate)
    seeds = sorted(by_seed, key=lambda seed: (-len(by_seed[seed]), seed))
    tables = [(seeds[:n], set.intersection(*(by_seed[seed] for seed in seeds[:n]))) for n in range(1, len(seeds) + 1)]
    taken, shared = max(tables, key=lambda table: (len(table[0]) * (len(table[1]) - 1), len(table[1])))
    candidates, taken = sorted(shared), sorted(taken)
    rows = tuple(tuple(trainings[candidate, seed] for seed in taken) for candidate in candidates)
    left_out = len(trainings) - len(candidates) * len(taken)
    return Block(transition, arm, tuple(candidates), tuple(taken), rows, left_out)


def _table(values: list[list[float | None]]) -> Floats | None:
    if any(value is None for row in values for value in row):
        return None
    return np.array(values, dtype=np.float64)
