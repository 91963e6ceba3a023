"""What a study consists of, in which order, and how each training of it is done."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sapo.core.errors import ConfigError
from sapo.experiments.study.plan import Transition, Trial, state_config, transitions, trials
from sapo.runs.config.loading import make_config
from sapo.runs.config.study import StudyConfig

# Everything is other than its default, so that what is not passed on shows.
FULL: dict[str, Any] = {
    "model": {"base": "m", "adapter": "x", "dtype": "float32", "device": "cpu"},
    "transitions": [["a", "b"], ["c", "own", "a"], ["b", "a"]],
    "unseen": ["c", "other", "u"],
    "data_dir": "data",
    "tasks": {"own": {"data": "own.csv", "suffix": "Say."}, "other": {"data": "other.csv"}},
    "data": {"drop_overlap": True},
    "candidates": {"count": 5, "file": "c.json"},
    "seeds": [7, 3],
    "arms": ["sgd", "adamw"],
    "sgd": {"learning_rate": 0.25},
    "examples": 11,
    "rows": 12,
    "scores": True,
    "max_new_tokens": 13,
    "train": {
        "rows": 21, "epochs": 2.5, "learning_rate": 2e-3, "batch_size": 6, "micro_batch_size": 3, "warmup": 0.2,
        "weight_decay": 0.3, "max_grad_norm": 0.4,
    },
    "lora": {"r": 2, "alpha": 3, "dropout": 0.25, "target_modules": ["k_proj"]},
    "max_length": 300,
    "run_dir": "out",
}  # fmt: skip


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**FULL, **changes})


# Transitions and trials.


def test_transitions_come_in_the_order_given_and_are_named_by_their_tasks() -> None:
    assert transitions(study()) == (
        Transition("a>b", ("a",), "b", ("c", "other", "u")),
        Transition("c>own>a", ("c", "own"), "a", ("other", "u")),
        Transition("b>a", ("b",), "a", ("c", "other", "u")),
    )


def test_transitions_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two of them are called 'a>b>c'"):
        transitions(study(transitions=[["a", "b>c"], ["a>b", "c"]]))


def test_the_name_of_a_transition_is_one_folder_also_where_tasks_are_named_like_paths() -> None:
    (one,) = transitions(study(transitions=[["user/data", "b/c/d"]]))
    assert one == Transition("user-data>b-c-d", ("user/data",), "b/c/d", ("c", "other", "u"))
    assert len(Path(one.name).parts) == 1


def test_all_candidates_of_a_seed_come_before_the_next_seed() -> None:
    assert [(t.seed, t.arm, t.candidate) for t in trials(study(), 3)] == [
        (7, "sgd", 0), (7, "sgd", 1), (7, "sgd", 2), (7, "adamw", 0), (7, "adamw", 1), (7, "adamw", 2),
        (3, "sgd", 0), (3, "sgd", 1), (3, "sgd", 2), (3, "adamw", 0), (3, "adamw", 1), (3, "adamw", 2),
    ]  # fmt: skip


def test_trials_can_be_known_and_a_longer_study_holds_those_of_a_shorter_one() -> None:
    short, long = (list(trials(study(seeds=seeds), 3)) for seeds in ([7], [7, 3]))
    assert long[: len(short)] == short and len(set(long)) == len(long) == 2 * len(short)
    assert list(islice(trials(study(arms=["adamw"]), 2), 1)) == [Trial("adamw", 7, 0)]
    assert list(trials(study(), 0)) == []


# The run that leads to a state.


def test_a_state_is_that_of_a_run_of_its_tasks_which_gathers_candidates_and_scores_them_all() -> None:
    transition = transitions(study())[1]
    shared = ("model", "data_dir", "data", "candidates", "train", "lora", "max_length")
    assert state_config(study(), transition) == make_config({
        **{key: FULL[key] for key in shared}, "sequence": ["c", "own", "a"], "watch": ["other", "u"],
        "tasks": FULL["tasks"], "method": "seq-lora", "policy": "highest",
        "selection": {"examples": 11, "strategy": "exhaustive"}, "evaluate": {"rows": 12, "max_new_tokens": 13},
        "seed": 7, "run_dir": "out/states/c>own>a",
    })  # fmt: skip


def test_a_state_depends_on_no_setting_of_the_trainings_after_it() -> None:
    transition = transitions(study())[0]
    expected = state_config(study(), transition)
    later = {"arms": ["adamw"], "sgd": {"learning_rate": 1.0}, "seeds": [7, 8, 9], "scores": False}
    assert state_config(study(**later), transition) == expected
    more = study(transitions=[["a", "b"], ["d", "b"]])
    assert state_config(more, transitions(more)[0]) == expected
    # The premise: what it does depend on shows.
    assert state_config(study(seeds=[3, 7]), transition) != expected


@pytest.mark.parametrize(
    ("tasks", "unseen", "taken"),
    [(["a", "own"], [], {"own"}), (["own", "a"], ["own", "other"], {"own", "other"}), (["a", "b"], [], set())],
)
def test_a_run_is_told_of_own_tasks_that_take_part_alone(tasks: list[str], unseen: list[str], taken: set[str]) -> None:
    config = study(transitions=[tasks], unseen=unseen)
    own = state_config(config, transitions(config)[0])
    assert own.tasks.keys() == taken
    assert all(own.tasks[name] == config.tasks[name] for name in taken)
