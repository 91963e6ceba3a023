"""What a study consists of, in which order, and how each training of it is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sapo.core.errors import ConfigError
from sapo.experiments.study.plan import Transition, state_config, transitions, trials
from sapo.runs.config.loading import load_study, make_config
from sapo.runs.config.study import StudyConfig
from sapo.runs.prepare import read

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
    "run_dir": "elsewhere",
    "lean": True,
}  # fmt: skip


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**FULL, **changes})


# The configuration. How files are read is tested with that of runs.


LEAST = {"transitions": [["a", "b"]], "run_dir": "out"}
NO_TRANSITION = "is not a transition: give two or more different tasks, the studied one last"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., StudyConfig]:
    """Make a study with these changes, by way of a file."""

    def make(*overrides: str, **changes: Any) -> StudyConfig:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**LEAST, **changes}), encoding="utf-8")
        return load_study(tmp_path / "mine.yaml", overrides)

    return make


def test_defaults_are_those_of_a_run_but_for_what_a_study_has_of_its_own(made: Callable[..., StudyConfig]) -> None:
    plain = made().plain()
    run = make_config({"sequence": ["a", "b"], "run_dir": "out"}).plain()
    shared = {key: plain.pop(key) for key in ("model", "data_dir", "tasks", "data", "train", "lora", "max_length")}
    assert shared == {key: run[key] for key in shared}
    assert plain.pop("candidates") == {**run["candidates"], "count": 8}
    assert plain == {
        "transitions": [["a", "b"]], "unseen": [], "seeds": [1, 2, 3], "arms": ["adamw"], "sgd": {"learning_rate": 0.1},
        "examples": 100, "rows": 100, "scores": False, "max_new_tokens": 16, "run_dir": "out",
    }  # fmt: skip


def test_what_no_training_reads_is_named(made: Callable[..., StudyConfig]) -> None:
    assert study().unread == made().unread == ()
    assert made(candidates={"local": {"model": "m"}}).unread == ("not used: candidates.local is for source local",)
    long = [f"task{n}_with_a_long_name_indeed_for_a_folder" for n in range(8)]
    names = [one.name for one in transitions(made(transitions=[long, long[:7]]))]
    assert [len(name) for name in names] == [255, 255] and names[0] != names[1]
    own = {"own": {"data": "own.csv"}, "other": {"data": "other.csv"}, "a": {"data": "a.csv"}}
    assert made(tasks=own, unseen=["other"], sgd={"learning_rate": 1.0}).unread == (
        "not used: tasks.own is in no transition and not in unseen",
        "not used: sgd is for arm sgd",
    )


def test_a_resolved_study_can_be_written_and_read_back(made: Callable[..., StudyConfig]) -> None:
    config, default = made(**FULL), made()
    assert made(**config.plain()) == config == study()
    # Nothing that was given is a default, or reading back could lose it.
    assert all(getattr(config, key) != getattr(default, key) for key in config.plain())
    # Short forms and numbers as text are those of a run.
    short: dict[str, Any] = {"model": "m", "tasks": {"a": "a.csv"}, "train": {"learning_rate": "5e-5"}}
    run, config = make_config({"sequence": ["a", "b"], "run_dir": "out", **short}), made(**short)
    assert (config.model, config.tasks, config.train) == (run.model, run.tasks, run.train)


@pytest.mark.parametrize("name", ["study", "regime_study"])
def test_the_examples_are_studies_whose_candidates_are_all_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    config = load_study(Path(f"examples/{name}.yaml"))
    for transition in transitions(config):
        _, given = read(state_config(config, transition))
        # The original comes on top.
        assert len(given.candidates[transition.task]) == 1 + config.candidates.count


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"transitions": [["a", "b"], ["c"]]}, f"transitions: ['c'] {NO_TRANSITION}"),
        ({"transitions": [["a", "b", "a"]]}, f"transitions: ['a', 'b', 'a'] {NO_TRANSITION}"),
        ({"transitions": [["a", "b"], ["b", "a"], ["a", "b"]]}, "transitions: ('a', 'b') is listed twice"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 is listed twice"),
        ({"arms": ["adam"]}, "arms.0 = 'adam': allowed: adamw, sgd. Did you mean 'adamw'?"),
        ({"max_length": 16}, "configuration: max_new_tokens 16 leaves no room in max_length 16"),
        # What a study decides itself.
        ({"policy": "sapo"}, f"policy: unknown key. Allowed here: {', '.join(StudyConfig.model_fields)}"),
        ({"seed": 1}, f"seed: unknown key. Did you mean 'seeds'? Allowed here: {', '.join(StudyConfig.model_fields)}"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_one_line(
    made: Callable[..., StudyConfig], changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    assert str(caught.value) == f"the configuration cannot be run:\n  {line}"


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


# The run that leads to a state.


def test_a_state_is_that_of_a_run_of_its_tasks_which_gathers_candidates_and_scores_them_all() -> None:
    few, all_of_them = transitions(study())[:2]
    shared = ("model", "data_dir", "data", "candidates", "train", "lora", "max_length")
    assert state_config(study(), all_of_them) == make_config({
        **{key: FULL[key] for key in shared}, "sequence": ["c", "own", "a"], "watch": ["other", "u"],
        "tasks": FULL["tasks"], "method": "seq-lora", "policy": "highest",
        "selection": {"examples": 11, "strategy": "exhaustive"}, "evaluate": {"rows": 12, "max_new_tokens": 13},
        "seed": 7, "run_dir": "elsewhere/states/c>own>a",
    })  # fmt: skip
    # Of the user's own tasks, those that take part.
    assert state_config(study(), few).tasks == {"other": study().tasks["other"]}
