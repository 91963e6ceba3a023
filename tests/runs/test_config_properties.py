"""Whatever is given as a configuration either is one, or is refused with one message."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sapo.core.errors import ConfigError
from sapo.runs.config.loading import load_config, make_config
from sapo.runs.config.schema import Config, EvaluateConfig, ModelConfig, SelectionConfig

often = settings(max_examples=50, deadline=None, derandomize=True)

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.datetimes(),
    st.binary(max_size=4),
    # What settings look like.
    st.sampled_from(["demo", "sapo", "first", "1e-4", "~", "~nobody/x", "\0", "\ud800", "", "yes"]),
    st.sampled_from([0, 1, -1, 10**400, 0.1]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), SCALARS), inner, max_size=3),
        st.sets(st.text(max_size=2), max_size=2),
    ),
    max_leaves=8,
)


def keys_of(part: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of this part's own keys to anything, or to mappings that fit where such are expected."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in part.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and not get_args(inner) and issubclass(inner, BaseModel):
            fields[name] = st.one_of(VALUES, keys_of(inner))
        else:
            fields[name] = VALUES
    return st.fixed_dictionaries({}, optional=fields)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
COUNTS = st.integers(1, 10**12)
SHARES = st.floats(0, 1, exclude_max=True)


def choices(part: type[BaseModel], name: str) -> st.SearchStrategy[Any]:
    """The values that a setting with fixed values allows."""
    annotation = part.model_fields[name].annotation
    options = [annotation, *get_args(annotation)]
    return st.sampled_from([value for x in options if get_origin(x) is Literal for value in get_args(x)])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with any of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


TRAIN = st.builds(
    lambda small, times, rest: {"micro_batch_size": small, "batch_size": small * times, **rest},
    st.integers(1, 64),
    st.integers(1, 8),
    some(
        rows=st.none() | COUNTS,
        epochs=st.floats(0, 1000, exclude_min=True),
        warmup=SHARES,
        learning_rate=st.floats(0, 1, exclude_min=True) | st.just("5e-5"),
    ),
)
TASKS = st.dictionaries(
    NAMES,
    NAMES
    | st.fixed_dictionaries({"data": NAMES}, optional={"instruction": NAMES, "labels": st.lists(NAMES, max_size=2)}),
    max_size=2,
)
VALID = st.fixed_dictionaries(
    {"sequence": NAMES | st.lists(NAMES, min_size=1, max_size=3), "run_dir": NAMES.filter(lambda name: name[0] != "~")},
    optional={
        "watch": st.lists(NAMES, max_size=2),
        "seed": st.integers(0, 2**31 - 1),
        "max_length": st.integers(129, 9999),
        **{name: choices(Config, name) for name in ("policy", "method", "keep")},
        "model": NAMES | some(base=NAMES, adapter=NAMES, device=NAMES, dtype=choices(ModelConfig, "dtype")),
        "tasks": TASKS,
        "data": some(drop_overlap=st.booleans()),
        "selection": some(
            examples=COUNTS, rule=choices(SelectionConfig, "rule"), sample=choices(SelectionConfig, "sample")
        ),
        "train": TRAIN,
        "lora": some(r=COUNTS, alpha=COUNTS, dropout=SHARES, target_modules=st.lists(NAMES, min_size=1, max_size=3)),
        "evaluate": some(
            rows=st.none() | COUNTS,
            max_new_tokens=st.integers(1, 99),
            test_prompt=choices(EvaluateConfig, "test_prompt"),
        ),
    },
)


def accepted(make: Callable[[], Config]) -> Config | None:
    """The configuration, or None if it was refused with a message; any other exception fails the test."""
    try:
        config = make()
    except ConfigError as error:
        message = str(error)
    else:
        assert isinstance(config, Config)
        return config
    assert message.strip() and "Traceback" not in message
    return None


def assert_same_when_read_back(config: Config) -> None:
    assert make_config(config.plain()) == config
    written = yaml.safe_dump(config.plain(), sort_keys=False)
    assert make_config(yaml.safe_load(written)) == config


@often
@given(st.one_of(keys_of(Config), st.dictionaries(st.text(max_size=8), VALUES, max_size=4)))
def test_any_mapping_is_a_configuration_or_a_config_error(data: dict[str, Any]) -> None:
    for values in (data, {"sequence": "demo", "run_dir": "out", **data}):
        config = accepted(lambda values=values: make_config(values))  # type: ignore[misc]
        if config is not None:
            assert_same_when_read_back(config)


@often
@given(st.sampled_from(sorted(Config.model_fields)), VALUES)
def test_any_value_of_one_key_is_accepted_or_refused(key: str, value: Any) -> None:
    config = accepted(lambda: make_config({"sequence": "demo", "run_dir": "out", key: value}))
    if config is not None:
        assert_same_when_read_back(config)


@often
@given(VALID)
def test_a_valid_configuration_is_accepted_and_survives_writing(data: dict[str, Any]) -> None:
    config = make_config(data)
    assert config.plain()["run_dir"] == str(Path(data["run_dir"]))
    assert_same_when_read_back(config)


def from_file(content: bytes, *overrides: str) -> Config | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.yaml"
        path.write_bytes(content)
        return accepted(lambda: load_config(path, overrides))


WORDS = st.sampled_from(
    ["a", "train", "epochs", ": ", "- ", "\n", "  ", "&x ", "*x", "<<: ", "!!python/object:os.system ", "!!binary ",
     "{", "}", "[", "]", "'", "? ", "1e999", "2001-01-01", "0x", "---\n", "%YAML 9.9\n", "\t", "\0", "é", "!!int ",
     "!!set ", "!!timestamp "]
)  # fmt: skip
FILES = st.one_of(st.binary(max_size=60), st.lists(WORDS, max_size=12).map(lambda words: "".join(words).encode()))
KEYS = st.sampled_from(
    ["train", "train.epochs", "model", "model.base", "tasks.x", "a.b", "watch", "sequence", "seed", "."]
)
OVERRIDES = st.one_of(
    st.text(max_size=12),
    st.builds("{}={}".format, KEYS, st.text(max_size=9)),
    st.builds("{}={}".format, KEYS, st.lists(WORDS, max_size=6).map("".join)),
)


@often
@given(FILES, st.lists(OVERRIDES, max_size=2))
def test_any_file_with_any_overrides_is_accepted_or_refused(content: bytes, overrides: list[str]) -> None:
    from_file(content, *overrides)
    config = from_file(b"sequence: demo\n", *overrides)
    if config is not None:
        assert_same_when_read_back(config)


def test_the_strategies_reach_both_ends() -> None:
    """Property tests that only ever see refusals would prove nothing."""
    assert from_file(b"sequence: demo\n", "train.epochs=2") is not None
    assert from_file(b"\xff") is None and from_file(b"sequence: demo\n", "train") is None


@pytest.mark.parametrize(
    ("content", "overrides"),
    [
        (b"sequence: !!int", ()),
        (b"sequence: !!bool x", ()),
        (b"sequence: !!timestamp x", ()),
        (b"sequence: demo", ("seed=!!float",)),
        (b"sequence: demo", ("run_dir=~nobody-by-this-name/x",)),
        (b'sequence: demo\nrun_dir: "\\ud800"', ()),
        (b'sequence: ["a\\0"]', ()),
        (b'sequence: demo\nlora: {target_modules: ["a\\0"]}', ()),
    ],
)
def test_found_once(content: bytes, overrides: tuple[str, ...]) -> None:
    assert from_file(content, *overrides) is None
