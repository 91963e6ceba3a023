"""The configuration of a study: what may be given, and one message that names everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sapo.config import StudyConfig, load_study, make_config
from sapo.errors import ConfigError

LEAST = {"transitions": [["a", "b"]], "run_dir": "out"}
# The example of docs/study.md.
EXAMPLE = """
model: embedded
transitions:
  - [review-sentiment, date-format]
  - [odd-one-out, review-sentiment]
unseen: [count-letter]
candidates: {count: 8}
seeds: [1, 2, 3]
arms: [adamw, sgd]
examples: 100
rows: 100
train: {rows: 64, epochs: 1, learning_rate: 1.0e-3, batch_size: 8}
run_dir: runs/study
"""


def loaded(folder: Path, text: str, *overrides: str) -> StudyConfig:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path, overrides)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., StudyConfig]:
    """Make a study with these changes, by way of a file."""
    return lambda **changes: loaded(tmp_path, yaml.safe_dump({**LEAST, **changes}))


@pytest.fixture
def refused(made: Callable[..., StudyConfig]) -> Callable[..., list[str]]:
    """The lines below the first one of the message for a study that is not accepted."""

    def lines(**changes: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            made(**changes)
        head, *rest = str(caught.value).splitlines()
        assert head == "the configuration cannot be run:" and all(line.startswith("  ") for line in rest)
        return [line[2:] for line in rest]

    return lines


def test_defaults_are_those_of_a_run_but_for_what_a_study_has_of_its_own(made: Callable[..., StudyConfig]) -> None:
    plain = made().plain()
    run = make_config({"sequence": ["a", "b"], "run_dir": "out"}).plain()
    shared = {key: plain.pop(key) for key in ("model", "data_dir", "tasks", "data", "train", "lora", "max_length")}
    assert shared == {key: run[key] for key in shared}
    assert plain.pop("candidates") == {**run["candidates"], "count": 8}
    assert plain == {
        "transitions": [["a", "b"]],
        "unseen": [],
        "seeds": [1, 2, 3],
        "arms": ["adamw"],
        "sgd": {"learning_rate": 0.1},
        "examples": 100,
        "rows": 100,
        "lean": False,
        "scores": False,
        "max_new_tokens": 16,
        "run_dir": "out",
    }


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "study.md").read_text(encoding="utf-8")
    bare = [line.partition("#")[0].rstrip() for line in documented.splitlines()]
    assert EXAMPLE.strip() in "\n".join(bare)
    config = loaded(tmp_path, EXAMPLE)
    assert config.transitions == (("review-sentiment", "date-format"), ("odd-one-out", "review-sentiment"))
    assert (config.model.base, config.unseen, config.seeds) == ("embedded", ("count-letter",), (1, 2, 3))
    assert config.arms == ("adamw", "sgd") and config.candidates.count == 8
    assert (config.train.rows, config.train.epochs, config.train.learning_rate) == (64, 1, 1e-3)
    assert config.run_dir == Path("runs/study")


def test_a_resolved_study_can_be_written_and_read_back(tmp_path: Path, made: Callable[..., StudyConfig]) -> None:
    config = made(
        model="m", transitions=[["a", "b"], ["b", "c", "a"]], unseen=["d"], seeds=[5, 0], arms=["sgd"],
        sgd={"learning_rate": "1e-2"}, candidates={"count": 3, "file": "c.json"}, tasks={"a": {"data": "a.csv"}},
        data={"drop_overlap": True}, data_dir="d", examples=7, rows=9, lean=True, scores=True, max_new_tokens=3,
        max_length=99,
        train={"learning_rate": "5e-5"}, lora={"r": 2},
    )  # fmt: skip
    assert loaded(tmp_path, yaml.safe_dump(config.plain())) == config
    assert yaml.safe_load(yaml.safe_dump(config.plain())) == config.plain()
    # Nothing that was given is a default, or reading back could lose it.
    default = made()
    assert all(getattr(config, key) != getattr(default, key) for key in config.plain() if key != "run_dir")


def test_short_forms_are_those_of_a_run(made: Callable[..., StudyConfig]) -> None:
    config = made(model="some/model", tasks={"a": "a.csv", "b": {"data": "b.csv", "suffix": "Say."}})
    assert config == made(
        model={"base": "some/model"}, tasks={"a": {"data": "a.csv"}, "b": {"data": "b.csv", "suffix": "Say."}}
    )
    run = make_config({"sequence": ["a", "b"], "run_dir": "out", "model": "some/model", "tasks": {"a": "a.csv"}})
    assert (config.model, config.tasks["a"]) == (run.model, run.tasks["a"])


def test_what_is_validated_is_not_changed() -> None:
    data: dict[str, Any] = {**LEAST, "model": "m", "tasks": {"a": "a.csv"}}
    StudyConfig.model_validate(data)
    assert data == {**LEAST, "model": "m", "tasks": {"a": "a.csv"}}


def test_a_study_is_frozen_at_every_level(made: Callable[..., StudyConfig]) -> None:
    config = made()
    for part, name, value in ((config, "seeds", (1,)), (config.sgd, "learning_rate", 1.0), (config.train, "epochs", 1)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, value)
    assert config == made()


# Files, overrides and paths.


def test_a_file_names_the_directory_of_a_study_that_names_none(tmp_path: Path) -> None:
    text = "transitions: [[a, b]]\n"
    assert loaded(tmp_path, text).run_dir == Path("runs/mine")
    assert loaded(tmp_path, text, "run_dir=elsewhere").run_dir == Path("elsewhere")


def test_values_that_come_from_no_file_must_name_a_directory() -> None:
    with pytest.raises(ValidationError) as caught:
        StudyConfig.model_validate({"transitions": [["a", "b"]]})
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [(("run_dir",), "missing")]


def test_paths_are_as_given_with_the_home_directory_in_place_of_its_sign(
    made: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    given = {"data_dir": "data", "run_dir": "../out", "candidates": {"file": "~/c.json"}}
    config = made(**given)
    run = make_config({"sequence": ["a", "b"], **given})
    assert (config.data_dir, config.run_dir, config.candidates.file) == (
        Path("data"), Path("../out"), tmp_path / "c.json"
    )  # fmt: skip
    assert (config.data_dir, config.run_dir, config.candidates.file) == (
        run.data_dir, run.run_dir, run.candidates.file
    )  # fmt: skip
    home = made(data_dir="~/data", run_dir="~/study")
    assert (home.data_dir, home.run_dir) == (tmp_path / "data", tmp_path / "study")


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, EXAMPLE,
        "seeds=[4]", "arms=[sgd]", "sgd.learning_rate=1e-2", "sgd.learning_rate=0.5", "train.epochs=2",
        "transitions=[[x, y]]", "unseen=[]", "model.dtype=float32", "scores=true", "tasks.x=x.csv",
    )  # fmt: skip
    assert (config.seeds, config.arms, config.sgd.learning_rate) == ((4,), ("sgd",), 0.5)
    assert config.train.epochs == 2 and config.train.rows == 64
    assert (config.transitions, config.unseen, config.scores) == ((("x", "y"),), (), True)
    assert (config.model.base, config.model.dtype) == ("embedded", "float32")
    assert config.tasks["x"].data == "x.csv"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds", "override 'seeds' must have the form key=value"),
        ("rows.x=1", "'rows' is a single value and has no keys"),
        ("seeds=[1", "override 'seeds=\\[1': the value is not YAML"),
        ("seed=1", r"seed: unknown key\. Did you mean 'seeds'\?"),
        ("sgd.rate=1", r"sgd\.rate: unknown key\."),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, EXAMPLE, override)


def test_a_file_that_is_not_there_or_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml holds a list: allowed is a mapping of keys to values"):
        loaded(tmp_path, "- a\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is not YAML"):
        loaded(tmp_path, "seeds: [1\n")


def test_an_empty_file_lacks_transitions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "")
    assert str(caught.value) == "the configuration cannot be run:\n  transitions: missing"


# Refusals.

NO_TRANSITION = "is no transition: give two or more different tasks, the one to be studied last"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"transitions": [["a", "b"], ["c"]]}, f"transitions: ['c'] {NO_TRANSITION}"),
        ({"transitions": [[]]}, f"transitions: [] {NO_TRANSITION}"),
        ({"transitions": [["a", "b", "a"]]}, f"transitions: ['a', 'b', 'a'] {NO_TRANSITION}"),
        ({"transitions": [["a", "a"]]}, f"transitions: ['a', 'a'] {NO_TRANSITION}"),
        ({"transitions": [["a", "b"], ["b", "a"], ["a", "b"]]}, "transitions: one of them is listed twice"),
        ({"transitions": []}, "transitions is an empty list: give at least one entry, or leave it out"),
        ({"transitions": "a>b"}, "transitions = 'a>b': must be a list"),
        ({"transitions": [["a", 3]]}, "transitions.0.1 = 3: must be a text"),
        ({"seeds": [1, 2, 1]}, "seeds: one of them is listed twice"),
        ({"seeds": []}, "seeds is an empty list: give at least one entry, or leave it out"),
        ({"seeds": [1, -1]}, "seeds.1 = -1: input should be greater than or equal to 0"),
        ({"seeds": [2**31]}, f"seeds.0 = {2**31}: input should be less than {2**31}"),
        ({"seeds": 3}, "seeds = 3: must be a list"),
        ({"arms": ["sgd", "sgd"]}, "arms: one of them is listed twice"),
        ({"arms": []}, "arms is an empty list: give at least one entry, or leave it out"),
        ({"arms": ["adam"]}, "arms.0 = 'adam': allowed: adamw, sgd. Did you mean 'adamw'?"),
        ({"arms": "sgd"}, "arms = 'sgd': must be a list"),
        ({"unseen": "c"}, "unseen = 'c': must be a list"),
        ({"sgd": {"learning_rate": 0}}, "sgd.learning_rate = 0: input should be greater than 0"),
        ({"sgd": {"learning_rate": -0.1}}, "sgd.learning_rate = -0.1: input should be greater than 0"),
        ({"sgd": {"learning_rate": 11}}, "sgd.learning_rate = 11: input should be less than or equal to 10"),
        ({"sgd": {"learning_rate": float("nan")}}, "sgd.learning_rate = nan: input should be a finite number"),
        ({"sgd": 0.1}, "sgd = 0.1: must be a mapping with some of these keys: learning_rate"),
        ({"sgd": {"lr": 1}}, "sgd.lr: unknown key. Allowed here: learning_rate"),
        ({"examples": 0}, "examples = 0: input should be greater than 0"),
        ({"rows": -3}, "rows = -3: input should be greater than 0"),
        ({"rows": True}, "rows: true is neither a number nor a text"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: input should be greater than 0"),
        ({"max_length": -1}, "max_length = -1: input should be greater than 0"),
        ({"scores": "some"}, "scores: 'some' is neither true nor false"),
        ({"scores": 1}, "scores: 1 is neither true nor false"),
        ({"candidates": {"count": 0}}, "candidates.count = 0: input should be greater than 0"),
        ({"train": {"batch_size": 10}}, "train: batch_size 10 is not a multiple of micro_batch_size 8"),
        ({"max_length": 16}, "configuration: max_new_tokens 16 leaves no room in max_length 16"),
        ({"tasks": {"a": 3}}, "tasks.a = 3: must be a mapping with some of these keys: data, test, subset, "),
        ({"tasks": {"a": {"data": "a.csv", "sufix": "x"}}}, "tasks.a.sufix: unknown key. Did you mean 'suffix'?"),
        ({"run_dir": 3}, "run_dir = 3: must be a path"),
        ({"run_dir": "a\0b"}, "run_dir: holds a NUL character"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_one_line(
    refused: Callable[..., list[str]], changes: dict[str, Any], line: str
) -> None:
    (found,) = refused(**changes)
    assert found.startswith(line) if line.startswith("tasks.") else found == line


def test_one_transition_must_be_in_a_list_too(refused: Callable[..., list[str]]) -> None:
    assert refused(transitions=["a", "b"]) == [
        f"transitions.{n} = {name!r}: must be a list" for n, name in enumerate("ab")
    ]


def test_values_at_the_edge_are_accepted(made: Callable[..., StudyConfig]) -> None:
    config = made(seeds=[0, 2**31 - 1], sgd={"learning_rate": 10}, max_new_tokens=15, max_length=16, examples=1, rows=1)
    assert config.seeds == (0, 2**31 - 1) and config.sgd.learning_rate == 10
    assert (config.max_new_tokens, config.max_length, config.examples, config.rows) == (15, 16, 1, 1)


def test_transitions_of_the_same_tasks_in_another_order_differ(made: Callable[..., StudyConfig]) -> None:
    given = [["a", "b", "c"], ["b", "a", "c"], ["a", "b"]]
    assert made(transitions=given).transitions == tuple(map(tuple, given))


def test_a_search_for_candidates_is_refused_since_none_comes_later(refused: Callable[..., list[str]]) -> None:
    (line,) = refused(candidates={"search": {"rounds": 2}})
    assert line == "configuration: candidates.search: every candidate of a study is known before; leave it out"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("transition", "transitions"), ("seed", "seeds"), ("arm", "arms"), ("run-dir", "run_dir"), ("unsen", "unseen")],
)
def test_an_unknown_key_is_named_with_the_nearest_one_and_all_that_are_known(
    refused: Callable[..., list[str]], key: str, nearest: str
) -> None:
    (line,) = refused(**{key: 1})
    assert line == (
        f"{key}: unknown key. Did you mean {nearest!r}? Allowed here: {', '.join(StudyConfig.model_fields)}"
    )


@pytest.mark.parametrize("key", ["policy", "method", "selection", "evaluate", "sequence", "guard", "sweep"])
def test_what_a_study_decides_itself_cannot_be_given(refused: Callable[..., list[str]], key: str) -> None:
    (line,) = refused(**{key: "x"})
    assert line.startswith(f"{key}: unknown key.")


def test_every_mistake_is_named_in_one_message(refused: Callable[..., list[str]]) -> None:
    lines = refused(transitions=[["a"]], seeds=[1, 1], arms=["adam"], rows=0, polcy="x", sgd={"learning_rate": "fast"})
    assert sorted(line.split()[0].rstrip(":") for line in lines) == [
        "arms.0", "polcy", "rows", "seeds", "sgd.learning_rate", "transitions",
    ]  # fmt: skip
