"""What a study consists of: every transition x arm x seed x candidate, known before the first training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sapo.core.errors import ConfigError
from sapo.core.storage import folder_name
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.config.study import StudyConfig
from sapo.training.settings import Optimiser

# Bytes of a transition's name, which becomes that of a folder.
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Transition:
    """A state, by the earlier tasks that it was trained on, in order, and the task that is trained from it.

    ``unseen`` are tasks that are never trained on.
    """

    name: str
    earlier: tuple[str, ...]
    task: str
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a transition's task: optimiser, seed of rows and dropout, candidate (0: the original)."""

    arm: Optimiser
    seed: int
    candidate: int


def transitions(config: StudyConfig) -> tuple[Transition, ...]:
    """Return the transitions of a study in order; two of one name are an error."""
    found = tuple(
        Transition(
            folder_name(tasks, ">", _LONGEST),
            tasks[:-1],
            tasks[-1],
            tuple(name for name in config.unseen if name not in tasks),
        )
        for tasks in config.transitions
    )
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"transitions: two of them are called {twice[0]!r}; give a task of theirs another name")
    return found


def trials(config: StudyConfig, candidates: int) -> Iterator[Trial]:
    """Yield the trainings of a transition: all candidates of a seed before the next, so that few are soon of use."""
    for seed in config.seeds:
        for arm in config.arms:
            for candidate in range(candidates):
                yield Trial(arm, seed, candidate)


def state_config(config: StudyConfig, transition: Transition) -> Config:
    """Return the configuration of the run that leads to a transition's state.

    Its policy is one that gathers candidates and needs every loss; nothing of the sequence is trained with them but
    the last task, and that not by the run.
    """
    data = config.model_dump()
    names = (*transition.earlier, transition.task, *transition.unseen)
    taken = ("model", "data_dir", "data", "candidates", "train", "lora", "max_length")
    return make_config(
        {
            **{key: data[key] for key in taken},
            "tasks": {name: task for name, task in data["tasks"].items() if name in names},
            "sequence": [*transition.earlier, transition.task],
            "watch": list(transition.unseen),
            "policy": "highest",
            "selection": {"examples": config.examples, "strategy": "exhaustive"},
            "evaluate": {"rows": config.rows, "max_new_tokens": config.max_new_tokens},
            "seed": config.seeds[0],
            "run_dir": config.run_dir / "states" / transition.name,
        }
    )
