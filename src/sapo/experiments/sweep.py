"""Runs side by side: every combination of methods, policies, seeds and sequences, each in a run directory of its own.

    RUN_DIR/SEQUENCE/METHOD-POLICY-sSEED/   the runs; METHOD-POLICY-RULE-sSEED where the rule is not lowest
    RUN_DIR/shared/                         what is the same at their start: zero-shot rows, first selections
    RUN_DIR/records.jsonl                   one line for each finished run, enough to make all tables again

Each run is resumed by itself; a run that fails does not keep the others from being made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from sapo.core.errors import ConfigError, DataError, RecordError, SapoError, SweepError, nearest
from sapo.core.processes import launched
from sapo.core.progress import SILENT, Reporter
from sapo.core.storage import folder_name
from sapo.core.types import Standing
from sapo.experiments.where import Job, Where, here
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.directory import RunDirectory, demand_own, differences, locked
from sapo.runs.lineage import library_versions
from sapo.runs.prepare import prepare, read, unread
from sapo.runs.prompts import ORIGINAL, OWN
from sapo.runs.records import RECORDS, append_record, read_records
from sapo.runs.results import RunResult
from sapo.sequence import run
from sapo.tasks.sequences import SEQUENCES
from sapo.training.policies import LOWEST

# Bytes of a sequence's name that become the name of a folder.
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a sweep.

    Attributes:
        name: its folder below the sweep's run_dir.
        twin: the name of the run that differs from this one in its policy, sapo, alone; of several rules, the first.
    """

    name: str
    sequence: str
    config: Config
    twin: str


def planned(config: Config) -> tuple[Planned, ...]:
    """Return the runs of a sweep in the order in which they are made.

    Of the policies, sapo comes first: its instructions are what a run with the original ones is crossed with.

    Raises:
        ConfigError: if a combination cannot be run, or two sequences would have the same name.
    """
    sweep = config.sweep
    if sweep is None:
        raise ConfigError("sweep is missing: name lists of seed, policy, rule, method or sequence under it")
    sequences = sweep.sequence or (config.sequence,)
    names = [_name(sequence) for sequence in sequences]
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ConfigError(f"sweep.sequence: two sequences are both called {twice[0]}")
    tasks = [_tasks(sequence) for sequence in sequences]
    known = set[str]().union(*tasks)
    if unused := [name for name in config.tasks if name not in known.union(config.watch)]:
        raise ConfigError(f"tasks: {', '.join(unused)} is neither in a sequence nor in watch: leave it out")
    if isinstance(config.fixed, dict):
        if strange := [name for name in config.fixed if name not in known]:
            raise ConfigError(f"fixed: {strange[0]!r} is not a task of a sequence.{nearest(strange[0], known)}")
        for name, of in zip(names, tasks, strict=True):
            if not config.fixed.keys() & of:
                raise ConfigError(f"fixed names no task of sequence {name}: give a text for one, or sweep it apart")
    same = next((n for n in range(len(tasks)) if tasks[n] in tasks[:n]), None)
    if same is not None:
        raise ConfigError(
            f"sweep.sequence: {names[tasks.index(tasks[same])]} and {names[same]} are the same tasks in the same "
            "order, which would count one as two: leave one out"
        )
    policies = sorted(sweep.policy or (config.policy,), key=lambda policy: policy != "sapo")
    # A rule makes a difference only where the lowest loss is wanted.
    rules = sweep.rule or (config.selection.rule,)
    ways = [(policy, rule) for policy in policies for rule in (rules if policy in LOWEST else (None,))]
    if sweep.rule and all(rule is None for _, rule in ways):
        raise ConfigError(
            f"sweep.rule compares rules of the policies {', '.join(LOWEST)}: none of them is in the sweep"
        )
    axes = product(
        zip(names, sequences, strict=True), sweep.seed or (config.seed,), sweep.method or (config.method,), ways
    )
    return tuple(_planned(config, *axis) for axis in axes)


def _planned(config: Config, named: tuple[str, Any], seed: int, method: str, way: tuple[str, str | None]) -> Planned:
    (sequence, tasks), (policy, rule) = named, way
    first = ((config.sweep and config.sweep.rule) or (config.selection.rule,))[0]
    # The usual rule is not named, so that another one can be added to a sweep later.
    name, twin = (
        f"{sequence}/{'-'.join(part for part in (method, *one) if part not in (None, 'lowest'))}-s{seed}"
        for one in (way, ("sapo", first))
    )
    data = config.model_dump()
    own: dict[str, Any] = {"sequence": tasks, "seed": seed, "method": method, "policy": policy, "sweep": None}
    # What only other sequences need is not this run's.
    mine = {*_tasks(tasks), *config.watch}
    own["tasks"] = {name: task for name, task in data["tasks"].items() if name in mine}
    if policy != "fixed":
        own["fixed"] = None
    elif isinstance(config.fixed, dict):
        own["fixed"] = {name: text for name, text in config.fixed.items() if name in mine}
    if rule is not None:
        own["selection"] = data["selection"] | {"rule": rule}
    return Planned(name, sequence, make_config({**data, **own, "run_dir": config.run_dir / name}), twin)


def _tasks(sequence: str | tuple[str, ...]) -> tuple[str, ...]:
    return SEQUENCES.get(sequence, (sequence,)) if isinstance(sequence, str) else sequence


def _name(sequence: str | tuple[str, ...]) -> str:
    return sequence if isinstance(sequence, str) else folder_name(sequence, "+", _LONGEST)


def run_sweep(config: Config, progress: Reporter = SILENT, where: Where = here) -> tuple[RunResult, ...]:
    """Make all runs of a sweep that are not finished, and return the records of all of them.

    They are made ``where`` it says, such as ``partial(on_ray, "auto")``.

    Raises:
        SweepError: if runs failed; the others are finished and recorded.
        SapoError: for what would stop any of them, before the first one.
    """
    runs, records, first = planned(config), config.run_dir / RECORDS, launched().first
    demand_own(config.run_dir, "a sweep")
    failed: dict[str, str] = {}
    with locked(config.run_dir) if first else nullcontext():
        known = {record.name: record for record in read_records(records, progress.note)} if records.is_file() else {}
        open_ = _open(runs, known)
        for note in unread(config):
            progress.note(note)
        progress.note(f"sweep of {len(runs)} runs, {len(runs) - len(open_)} of them finished, in {config.run_dir}")
        # The work of this process speaks for itself, and its models are loaded here.
        followed = _Followed(progress, len(open_)) if where is here else None
        _check(open_, known, loads=followed is not None)

        def begin(one: Planned) -> Callable[[Reporter], RunResult]:
            if _finished(one, known):
                # It waited for its twin, which failed.
                return partial(_as_recorded, known[one.name])
            if followed is not None:
                followed.begin(open_.index(one) + 1, one.name)
            return partial(run, one.config, shared=config.run_dir / "shared", crossed=_crossed(one, known))

        by_name = {one.name: one for one in open_}
        jobs = [
            Job(one.name, partial(begin, one), one.twin if _crosses(one) else "", partial(_far, one)) for one in open_
        ]
        with where(followed or progress) as place:
            for job, found in place.make("runs", jobs):
                if isinstance(found, SapoError):
                    failed[job.name] = str(found)
                    continue
                record = _record(by_name[job.name], found)
                if first and record != known.get(job.name):
                    append_record(records, record)
                known[job.name] = record
    if failed:
        raise SweepError(failed, len(runs), "runs")
    return tuple(known[one.name] for one in runs)


def _far(one: Planned) -> tuple[int, int] | None:
    """Return how many trainings and tests of a run are finished."""
    trained, tested = (len(list(one.config.run_dir.glob(files))) for files in ("training/*.json", "cells/*/*.json"))
    return (trained, tested) if one.config.run_dir.exists() else None


def _as_recorded(record: RunResult, progress: Reporter) -> RunResult:
    return record


def _open(runs: Sequence[Planned], known: Mapping[str, RunResult]) -> list[Planned]:
    """Return the runs to be made, and those that only lack the instructions of one that is still to be made."""
    missing = {one.name for one in runs if not _finished(one, known)}
    return [
        one
        for one in runs
        if one.name in missing or (_crosses(one) and one.twin in missing and known[one.name].crossed is None)
    ]


def _finished(one: Planned, known: Mapping[str, RunResult]) -> bool:
    """Whether nothing is left to be done for a run; its directory may be gone, its record is enough.

    Raises:
        RecordError: if it was made with another configuration.
    """
    if one.name not in known:
        return False
    differs = differences(known[one.name].config, one.config.plain())
    if differs:
        raise RecordError(
            f"run {one.name} was made with another configuration:\n" + "\n".join(differs) + "\nUse another run_dir for "
            f"the sweep, or delete that run's directory and its line in {RECORDS} to make it afresh."
        )
    return known[one.name].crossed is not None or not _crossed(one, known)


def _crosses(one: Planned) -> bool:
    return one.config.policy == "original" and {OWN, ORIGINAL} <= set(one.config.evaluate.texts)


def _crossed(one: Planned, known: Mapping[str, RunResult]) -> dict[str, str]:
    """Return the instructions of the run with sapo, by task, that a run with the original ones is tested with too."""
    if not _crosses(one) or one.twin not in known:
        return {}
    return {task: used.text for task, used in known[one.twin].instructions.items()}


def _check(runs: Sequence[Planned], known: Mapping[str, RunResult], *, loads: bool) -> None:
    """Read and check what every run needs, before hours of work; data must be those of the ``known`` runs.

    ``loads``: the model is loaded too, once for a sequence and method, and the texts of that run are held against its
    room. Where workers do the work, it would take a GPU from them.
    """
    done: set[tuple[str, str]] = set()
    for one in runs:
        with_method = (one.sequence, one.config.method)
        with_policy = (one.sequence, f"{one.config.policy} {one.config.selection.rule}")
        try:
            if loads and with_method not in done:
                _demand_same(prepare(one.config, pays=False).inputs.data, known)
            elif with_policy not in done:
                _demand_same(read(one.config, pays=False)[1].data, known)
            else:
                RunDirectory(one.config.run_dir, one.config.plain()).check()
        except SapoError as error:
            raise type(error)(f"sweep, run {one.name}: {error}") from error
        done |= {with_method, with_policy}


def _demand_same(data: Mapping[str, str], known: Mapping[str, RunResult]) -> None:
    """Refuse to add runs to those made with other data."""
    for record in known.values():
        changed = [task for task, then in record.task_data.items() if data.get(task, then) != then]
        if changed:
            raise DataError(
                f"task {changed[0]!r} is not as it was when {record.name} was made: put its data back to go on, or use "
                "another run_dir"
            )


def _record(one: Planned, result: RunResult) -> RunResult:
    """Return a result with what tells it from the others of its sweep."""
    config = {key: value for key, value in result.config.items() if key != "run_dir"}
    versions = {library: version for library, version in library_versions().items() if version}
    named = {"name": one.name, "sequence": one.sequence, "config": config, "versions": versions}
    return result.model_copy(update=named)


class _Followed(Reporter):
    """Passes on what a run tells, with its place in the sweep; what was said once is not said again."""

    def __init__(self, progress: Reporter, runs: int) -> None:
        self._progress, self._runs = progress, runs
        self._number, self._past, self._cost = 0, 0.0, 0.0
        self._said: set[str] = set()

    def begin(self, number: int, name: str) -> None:
        self._past += self._cost
        self._number, self._cost = number, 0.0
        self._progress.note(f"run {number} of {self._runs}: {name}")

    def plan(self, cost: float) -> None:
        self._cost = cost
        self._progress.plan(self._past + cost * (1 + self._runs - self._number))

    def step(self, label: str, units: int, cost: float) -> AbstractContextManager[Callable[[int], None]]:
        return self._progress.step(f"run {self._number}/{self._runs}, {label}", units, cost)

    def race(self, texts: Sequence[str], rows: int) -> AbstractContextManager[Callable[[Standing], None]]:
        return self._progress.race(texts, rows)

    def reused(self, label: str, cost: float) -> None:
        self._cost -= cost
        self._progress.reused(label, cost)

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._progress.note(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if (seen := repr((title, rows))) not in self._said:
            self._said.add(seen)
            self._progress.table(title, columns, rows)
