"""From a study's configuration to its records: one line for each training, appended when it is finished.

RUN_DIR/study.jsonl           the records; what is there is not computed again
RUN_DIR/states/TRANSITION/    see `sapo.study.ground`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from filelock import FileLock, Timeout

from sapo.config import StudyConfig
from sapo.errors import RecordError, SapoError
from sapo.gathering import Gathering
from sapo.given import read_given
from sapo.progress import Reporter, Silent
from sapo.record import Record
from sapo.storage import fingerprint
from sapo.study.crew import Alone, Crew, Workers
from sapo.study.plan import Transition, Trial, state_config, transitions, trials
from sapo.study.records import STUDY, StudyRecord, append_study, read_study
from sapo.study.workers import in_processes, on_ray, visible_gpus

# More of these may be asked for later: what was recorded stays true.
_MAY_GROW = ("transitions", "seeds", "arms", "run_dir", "tasks", "unseen")


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
        open_ = _open(config, known)
        if open_:
            with _crew(config, study_fingerprint(config), progress, ray) as crew:
                for transition in open_:
                    wanted = list(trials(config, crew.begin(transition)))
                    missing = [trial for trial in wanted if (transition.name, trial) not in known]
                    for record in crew.trainings(transition, missing):
                        known[_key(record)] = record
                        append_study(config.run_dir / STUDY, record)
    return tuple(known.values())


def _known(config: StudyConfig) -> dict[tuple[str, Trial], StudyRecord]:
    """Return the records that are there.

    Raises:
        RecordError: if they are of another study.
    """
    path = config.run_dir / STUDY
    found = read_study(path) if path.is_file() else ()
    if any(record.study != study_fingerprint(config) for record in found):
        raise RecordError(
            f"{path} was made with another configuration (other than {', '.join(_MAY_GROW)}): use another run_dir, or "
            "delete it to start afresh"
        )
    return {_key(record): record for record in found}


def _open(config: StudyConfig, known: Mapping[tuple[str, Trial], StudyRecord]) -> list[Transition]:
    """Return the transitions that lack trainings, after reading what they need, before hours of work with the first.

    Raises:
        SapoError: if one of them could not be begun.
    """

    def lacks(transition: Transition, candidates: int) -> bool:
        return any((transition.name, trial) not in known for trial in trials(config, candidates))

    # The original counts beside the candidates asked for. There may be fewer, which only the sources can tell.
    asked = 1 + config.candidates.count
    return [
        one for one in transitions(config) if lacks(one, asked) and lacks(one, min(asked, _candidates(config, one)))
    ]


def _candidates(config: StudyConfig, transition: Transition) -> int:
    own = state_config(config, transition)
    record = Record(own.run_dir, own.plain())
    record.check()
    try:
        given = read_given(own, Gathering(own, record, pays=False))
    except SapoError as error:
        raise type(error)(f"transition {transition.name}: {error}") from error
    return len(given.gathered[transition.task].candidates)


def study_fingerprint(config: StudyConfig) -> str:
    """Return what tells trainings of this study from those of another one."""
    return fingerprint({key: value for key, value in config.plain().items() if key not in _MAY_GROW})


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
