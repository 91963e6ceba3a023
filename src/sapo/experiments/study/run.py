"""From a study's configuration to its records: one line for each training, appended when it is finished.

RUN_DIR/study.jsonl           the records; what is there is not computed again
RUN_DIR/states/TRANSITION/    see `sapo.experiments.study.ground`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from sapo.core.errors import RecordError, SapoError
from sapo.core.progress import Reporter, Silent
from sapo.core.storage import fingerprint
from sapo.experiments.study.blocks import blocks_of
from sapo.experiments.study.crew import Alone, Crew, Workers
from sapo.experiments.study.plan import Transition, Trial, state_config, transitions, trials
from sapo.experiments.study.records import STUDY, StudyRecord, append_study, read_study
from sapo.experiments.study.workers import in_processes, on_ray, visible_gpus
from sapo.runs.config.study import StudyConfig
from sapo.runs.directory import decisive, differences
from sapo.runs.inputs import Inputs
from sapo.runs.prepare import read
from sapo.tasks.load import task_fingerprint

# More of these may be asked for later: what was recorded stays true. The first seed makes the states.
_MAY_GROW = ("transitions", "seeds", "arms", "tasks")


def run_study(config: StudyConfig, progress: Reporter | None = None, ray: str | None = None) -> tuple[StudyRecord, ...]:
    """Make all trainings of a study that are not recorded yet, and return all records.

    They are made one after the other in this process; where it sees several GPUs, in a process for each; or as tasks
    of a Ray cluster.

    Args:
        config: of the study.
        progress: hears about every step.
        ray: address of a running Ray cluster, "auto" for the one of this machine.

    Raises:
        SapoError: for anything a user can act on.
    """
    progress = progress or Silent()
    with _locked(config):
        known = _known(config)
        open_ = _open(config, known, progress)
        if open_:
            with _crew(config, study_fingerprint(config), progress, ray) as crew:
                for transition in open_:
                    wanted = list(trials(config, crew.begin(transition)))
                    missing = [trial for trial in wanted if (transition.name, trial) not in known]
                    for record in crew.trainings(transition, missing):
                        _demand_alike(config, [*known.values(), record])
                        known[_key(record)] = record
                        append_study(config.run_dir / STUDY, record)
    return tuple(known.values())


def _known(config: StudyConfig) -> dict[tuple[str, Trial], StudyRecord]:
    """Return the records that are there.

    Raises:
        RecordError: if they are of another study, naming what differs.
    """
    path = config.run_dir / STUDY
    found = read_study(path) if path.is_file() else ()
    now = config.plain()
    for record in found:
        shared = {name: now["tasks"][name] for name in record.config.get("tasks", {}) if name in now["tasks"]}
        then = {"tasks": {name: record.config["tasks"][name] for name in shared}}
        differs = differences(_settled(record.config) | then, _settled(now) | {"tasks": shared})
        if not differs and record.study != study_fingerprint(config):
            differs = ["  the version of sapo that it was made with"]
        if differs:
            raise RecordError(
                f"{path} was made with another configuration:\n"
                + "\n".join(differs)
                + "\nUse another run_dir, or the configuration of before. Asked for later may be more "
                + "transitions, arms, tasks, and seeds behind the first."
            )
    return {_key(record): record for record in found}


def _open(config: StudyConfig, known: Mapping[tuple[str, Trial], StudyRecord], progress: Reporter) -> list[Transition]:
    """Return the transitions that lack trainings, after reading what all need, before hours of work with the first.

    Raises:
        RecordError: if trainings that are recorded had other data.
        SapoError: if one of them could not be begun.
    """
    found, missing = [], 0
    for transition in transitions(config):
        given = _inputs(config, transition)
        data = {task.name: task_fingerprint(task) for task in (*given.tasks, *given.watch)}
        ours = [record for (name, _), record in known.items() if name == transition.name]
        changed = [task for record in ours for task, then in record.data.items() if data.get(task, then) != then]
        if changed:
            raise RecordError(
                f"task {changed[0]!r} is not as it was when trainings of {transition.name} were recorded in "
                f"{config.run_dir / STUDY} (its rows, instruction, suffix or labels): put it back as it was, or use "
                "another run_dir"
            )
        # The original counts beside the candidates asked for. There may be fewer, which only the sources can tell.
        count = min(1 + config.candidates.count, len(given.candidates[transition.task]))
        if lacking := [trial for trial in trials(config, count) if (transition.name, trial) not in known]:
            found.append(transition)
            missing += len(lacking)
    if found:
        progress.note(f"{missing} trainings to make, {len(known)} recorded in {config.run_dir / STUDY}")
    return found


def _demand_alike(config: StudyConfig, records: Sequence[StudyRecord]) -> None:
    """Refuse a training that did not start where those of before did."""
    try:
        blocks_of(records)
    except RecordError as error:
        raise RecordError(
            f"{error}. The last one is not recorded: put {config.run_dir / 'states'} back as it was when the others "
            "were made, or use another run_dir"
        ) from error


def _inputs(config: StudyConfig, transition: Transition) -> Inputs:
    try:
        return read(state_config(config, transition), pays=False)[1]
    except SapoError as error:
        raise type(error)(f"transition {transition.name}: {error}") from error


def study_fingerprint(config: StudyConfig) -> str:
    """Return what tells trainings of this study from those of another one."""
    return fingerprint(decisive(_settled(config.plain())))


def _settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that is the same for all trainings of a study."""
    settled = {key: value for key, value in config.items() if key not in _MAY_GROW}
    return settled | {"seeds, the first": config["seeds"][0]}


@contextmanager
def _crew(config: StudyConfig, study: str, progress: Reporter, ray: str | None) -> Iterator[Crew]:
    visible = visible_gpus(config.model.device)
    if ray is not None:
        with on_ray(ray) as submit:
            yield Workers(config, study, progress, submit)
    elif len(visible) > 1:
        progress.note(f"{len(visible)} processes, one for each GPU")
        with in_processes(visible) as submit:
            yield Workers(config, study, progress, submit)
    else:
        yield Alone(config, study, progress)


@contextmanager
def _locked(config: StudyConfig) -> Iterator[None]:
    """Let one process at a time append to the study's records."""
    lock = FileLock(config.run_dir / ".lock")
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RecordError(f"run_dir {config.run_dir} is in use by another process: wait for it to end") from error
    except OSError as error:
        raise RecordError(f"run_dir {config.run_dir} cannot be used: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _key(record: StudyRecord) -> tuple[str, Trial]:
    return record.transition, Trial(record.arm, record.seed, record.candidate)
