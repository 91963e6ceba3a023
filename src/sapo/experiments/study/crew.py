"""Who makes the trainings of a study: this process alone, or workers that share the study's directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any, Protocol

from sapo.core.errors import RecordError
from sapo.core.progress import Reporter, Silent
from sapo.experiments.study.ground import Ground, begin
from sapo.experiments.study.plan import Transition, Trial
from sapo.experiments.study.records import StudyRecord
from sapo.experiments.study.training import train
from sapo.runs.config.study import StudyConfig

# Hands a call to a worker: submit(function, *arguments).
Submit = Callable[..., "Future[Any]"]


class Crew(Protocol):
    """Makes trainings."""

    def begin(self, transition: Transition) -> int:
        """Bring about a transition's state and return how many candidates it has, the original included."""

    def trainings(self, transition: Transition, trials: Sequence[Trial]) -> Iterator[StudyRecord]:
        """Yield the record of each training when it is finished, of the transition that was begun last."""


class Alone:
    """This process, one training after the other."""

    def __init__(self, config: StudyConfig, study: str, progress: Reporter) -> None:
        self._config, self._study, self._progress = config, study, progress
        self._ground: Ground | None = None

    def begin(self, transition: Transition) -> int:
        """See `Crew`."""
        # The model of the transition before must not be in memory beside the next one.
        self._ground = None
        self._ground = begin(self._config, transition, self._progress)
        return self._ground.count

    def trainings(self, transition: Transition, trials: Sequence[Trial]) -> Iterator[StudyRecord]:
        """See `Crew`."""
        assert self._ground is not None, "begin comes first"
        for number, trial in enumerate(trials, start=1):
            label = f"{transition.name}, training {number} of {len(trials)}"
            yield train(self._config, self._ground, trial, self._study, label, self._progress)


class Workers:
    """Others, to each of whom one training at a time is handed; they read states from the study's directory."""

    def __init__(self, config: StudyConfig, study: str, progress: Reporter, submit: Submit) -> None:
        self._config, self._study, self._progress, self._submit = config, study, progress, submit

    def begin(self, transition: Transition) -> int:
        """See `Crew`."""
        with self._progress.step(f"{transition.name}: its state, and what is measured in it", 1, 0) as advance:
            count = int(self._submit(_begin, Path.cwd(), self._config, transition).result())
            advance(1)
        return count

    def trainings(self, transition: Transition, trials: Sequence[Trial]) -> Iterator[StudyRecord]:
        """See `Crew`. What is finished is yielded before the first error is raised."""
        error: BaseException | None = None
        with self._progress.step(f"{transition.name}: trainings", len(trials), 0) as advance:
            handed = [self._submit(_train, Path.cwd(), self._config, transition, t, self._study) for t in trials]
            for future in as_completed(handed):
                if future.cancelled():
                    continue
                found = future.exception()
                if found is None:
                    yield future.result()
                    advance(1)
                elif error is None:
                    error = found
                    for other in handed:
                        other.cancel()
        if error is not None:
            raise error


# In a worker: the state that it worked from last, and whose it is.
_kept: tuple[tuple[str, str], Ground] | None = None


def _begin(directory: Path, config: StudyConfig, transition: Transition) -> int:
    return _ground(directory, config, transition, alone=True).count


def _train(directory: Path, config: StudyConfig, transition: Transition, trial: Trial, study: str) -> StudyRecord:
    return train(config, _ground(directory, config, transition, alone=False), trial, study, "", Silent())


def _ground(directory: Path, config: StudyConfig, transition: Transition, *, alone: bool) -> Ground:
    """Return a state, kept from the last call where it is the same."""
    global _kept
    key = config.model_dump_json(), transition.name
    if _kept is not None and _kept[0] == key:
        return _kept[1]
    # The model of the one before must not be in memory beside this one.
    _kept = None
    try:
        # Paths of the configuration are relative to where the study was started.
        os.chdir(directory)
    except OSError as error:
        raise RecordError(
            f"{directory} cannot be entered by a worker ({error.strerror or error}): start the study in a directory "
            "that all workers share"
        ) from error
    ground = begin(config, transition, Silent(), alone=alone)
    _kept = key, ground
    return ground
