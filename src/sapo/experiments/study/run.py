"""From a study's configuration to its records: one line for each training, appended when it is finished.

RUN_DIR/study.jsonl           the records; what is there is not computed again
RUN_DIR/states/TRANSITION/    see `sapo.experiments.study.training`
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sapo.core.errors import RecordError, SapoError, SweepError
from sapo.core.progress import SILENT, Reporter
from sapo.core.storage import fingerprint
from sapo.experiments.study.blocks import blocks_of
from sapo.experiments.study.plan import Transition, Trial, state_config, transitions, trials
from sapo.experiments.study.records import STUDY, StudyRecord, append_study, read_study, training_name
from sapo.experiments.study.training import begin, forget, train
from sapo.experiments.where import Job, Place, Where, here, in_processes, visible_gpus
from sapo.runs.config.study import StudyConfig
from sapo.runs.directory import decisive, demand_own, differences, locked
from sapo.runs.prepare import read
from sapo.tasks.load import task_fingerprint

# More of these may be asked for later: what was recorded stays true. The first seed makes the states.
_MAY_GROW = ("transitions", "seeds", "arms", "tasks")


def run_study(config: StudyConfig, progress: Reporter = SILENT, where: Where | None = None) -> tuple[StudyRecord, ...]:
    """Make all trainings of a study that are not recorded yet, and return all records.

    They are made ``where`` it says; by default in a process for each GPU that this one sees, or in this one.

    Raises:
        SweepError: if trainings failed; the others are recorded.
        SapoError: for anything else that a user can act on.
    """
    gpus = visible_gpus(config.model.device) if where is None and config.model.device_map is None else ()
    if len(gpus) > 1:
        progress.note(f"{len(gpus)} processes, one for each GPU")
        where = partial(in_processes, gpus)
    demand_own(config.run_dir, "a study")
    with locked(config.run_dir):
        known = _known(config, progress)
        open_ = _open(config, known, progress)
        if not open_:
            return tuple(known.values())
        failed: dict[str, str] = {}
        try:
            with (where or here)(progress) as place:
                for transition in open_:
                    for name, found in _trainings(config, transition, known, place):
                        if isinstance(found, SapoError):
                            failed[name] = str(found)
                            continue
                        _demand_alike(config, [*known.values(), found])
                        known[_key(found)] = found
                        append_study(config.run_dir / STUDY, found)
        finally:
            forget()
    if failed:
        raise SweepError(failed, len(failed) + len(known), "trainings")
    return tuple(known.values())


def planned(config: StudyConfig, progress: Reporter = SILENT) -> tuple[tuple[StudyRecord, ...], dict[Transition, int]]:
    """Return what is recorded, and how many trainings transitions lack; nothing is computed or written.

    Raises:
        SapoError: for what would stop the study before its first training.
    """
    known = _known(config, progress)
    return tuple(known.values()), _open(config, known, progress)


def _trainings(
    config: StudyConfig, transition: Transition, known: Container[tuple[str, Trial]], place: Place
) -> Iterator[tuple[str, StudyRecord | SapoError]]:
    """Yield the records of a transition's trainings that are not known yet, as they end, or what they failed with."""
    state = Job(transition.name, lambda: partial(begin, config, transition))
    ((_, count),) = place.make(f"{transition.name}: its state, and what is measured in it", [state])
    if isinstance(count, SapoError):
        yield transition.name, count
        return
    missing = [trial for trial in trials(config, count) if (transition.name, trial) not in known]
    study = study_fingerprint(config)

    def work(number: int, trial: Trial) -> Callable[[Reporter], StudyRecord]:
        label = f"{transition.name}, training {number} of {len(missing)}"
        return partial(train, config, transition, trial, study, label)

    jobs = [
        Job(training_name(transition.name, trial.arm, trial.candidate, trial.seed), partial(work, number, trial))
        for number, trial in enumerate(missing, start=1)
    ]
    yield from ((job.name, found) for job, found in place.make(f"{transition.name}: trainings", jobs))


def _known(config: StudyConfig, progress: Reporter) -> dict[tuple[str, Trial], StudyRecord]:
    """Return the records that are there; those of another study are an error that names what differs."""
    path = config.run_dir / STUDY
    found = read_study(path, progress.note) if path.is_file() else ()
    now = config.plain()
    # Of many records few differ in what they were made with.
    for record in {(one.study, fingerprint(one.config)): one for one in found}.values():
        names = record.config.get("tasks", {}).keys() & now["tasks"].keys()
        before, today = (
            _settled(one) | {"tasks": {name: one["tasks"][name] for name in names}} for one in (record.config, now)
        )
        differs = differences(before, today)
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


def _open(
    config: StudyConfig, known: Mapping[tuple[str, Trial], StudyRecord], progress: Reporter
) -> dict[Transition, int]:
    """Return how many trainings transitions lack, those that lack some, after reading what all need.

    A transition that could not be begun, or whose recorded trainings had other data, is an error.
    """
    found = dict[Transition, int]()
    for note in config.unread:
        progress.note(note)
    for transition in transitions(config):
        try:
            _, given = read(state_config(config, transition), pays=False)
        except SapoError as error:
            raise type(error)(f"transition {transition.name}: {error}") from error
        # Records of earlier versions hold what the rows that are used are, not the whole task.
        used = {task.name: task_fingerprint(task) for task in (*given.tasks, *given.watch)}
        ours = [record for (name, _), record in known.items() if name == transition.name]
        then = {(task, data) for record in ours for task, data in record.data.items() if task in used}
        if changed := sorted(task for task, data in then if data not in (given.data[task], used[task])):
            raise RecordError(
                f"task {changed[0]!r} is not as it was when trainings of {transition.name} were recorded in "
                f"{config.run_dir / STUDY} (its rows, instruction, suffix or labels): put it back as it was, or use "
                "another run_dir"
            )
        # The original is one more than the candidates asked for. There may be fewer, which only the sources can tell.
        count = min(1 + config.candidates.count, len(given.candidates[transition.task]))
        if lacking := sum((transition.name, trial) not in known for trial in trials(config, count)):
            found[transition] = lacking
    if found:
        progress.note(f"{sum(found.values())} trainings to make, {len(known)} recorded in {config.run_dir / STUDY}")
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


def study_fingerprint(config: StudyConfig) -> str:
    """Return what tells trainings of this study from those of another one."""
    return fingerprint(decisive(_settled(config.plain())))


def _settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that is the same for all trainings of a study."""
    settled = {key: value for key, value in config.items() if key not in _MAY_GROW}
    return settled | {"seeds, the first": config["seeds"][0]}


def _key(record: StudyRecord) -> tuple[str, Trial]:
    return record.transition, Trial(record.arm, record.seed, record.candidate)
