"""The configuration of a study: its defaults, and what is refused. How files are read is tested with that of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sapo.core.errors import ConfigError
from sapo.experiments.study.plan import state_config, transitions
from sapo.runs.config.loading import load_study, make_config
from sapo.runs.config.study import StudyConfig
from sapo.runs.prepare import read

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


def test_a_resolved_study_can_be_written_and_read_back(made: Callable[..., StudyConfig]) -> None:
    given: dict[str, Any] = {
        "model": "m", "transitions": [["a", "b"], ["b", "c", "a"]], "unseen": ["d"], "seeds": [5, 0], "arms": ["sgd"],
        "sgd": {"learning_rate": "1e-2"}, "candidates": {"count": 3, "file": "c.json"}, "tasks": {"a": "a.csv"},
        "data": {"drop_overlap": True}, "data_dir": "d", "examples": 7, "rows": 9, "scores": True, "max_new_tokens": 3,
        "max_length": 99, "train": {"learning_rate": "5e-5"}, "lora": {"r": 2}, "run_dir": "other", "lean": True,
    }  # fmt: skip
    config, default = made(**given), made()
    assert made(**config.plain()) == config
    # Nothing that was given is a default, or reading back could lose it.
    assert all(getattr(config, key) != getattr(default, key) for key in config.plain())
    # Short forms are those of a run.
    run = make_config({"sequence": ["a", "b"], "run_dir": "out", "model": "m", "tasks": {"a": "a.csv"}})
    assert (config.model, config.tasks) == (run.model, run.tasks)


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
        ({"transitions": [["a", "b"], ["b", "a"], ["a", "b"]]}, "transitions: one of them is listed twice"),
        ({"transitions": []}, "transitions is an empty list: give at least one entry, or leave it out"),
        ({"seeds": [1, 2, 1]}, "seeds: one of them is listed twice"),
        ({"seeds": [2**31]}, f"seeds.0 = {2**31}: input should be less than {2**31}"),
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
