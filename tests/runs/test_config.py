"""The configuration: published defaults, one message that names everything that is wrong, and any file at all."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sapo.core.errors import ConfigError
from sapo.runs.config.loading import load_config, load_study, make_config
from sapo.runs.config.schema import Config
from sapo.runs.prepare import unread


def made(**changes: Any) -> Config:
    return make_config({"sequence": "demo", "run_dir": "out", **changes})


def refused(**changes: Any) -> str:
    """The message for a configuration that is not accepted."""
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    return str(caught.value)


SERVER = {"model": "some-model"}


def loaded(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_defaults_are_the_published_settings() -> None:
    assert made().plain() == {
        "model": {"base": "embedded", "adapter": None, "dtype": None, "device": None},
        "sequence": "demo", "watch": [], "data_dir": None, "tasks": {},
        "data": {"drop_overlap": False, "drop_long": False},
        "policy": "sapo", "method": "seq-lora",
        "candidates": {
            "sources": None, "file": None, "count": 20, "local": {"model": None, "temperature": 1.0}, "openai": None,
        },
        # Stratified instead of the first rows, racing instead of exhaustive: the source explains both.
        "selection": {
            "examples": 250, "rule": "lowest", "sample": "stratified", "strategy": "racing", "delta": 0.05,
            "epsilon": 0.01, "budget": 0.1, "batch_tokens": None, "cache": True,
        },
        "train": {
            "rows": 1000, "epochs": 10.0, "learning_rate": 1e-4, "batch_size": 64, "micro_batch_size": 8,
            "warmup": 0.05, "weight_decay": 0.0, "max_grad_norm": 1.0, "checkpoint_every": None,
        },
        "lora": {"r": 8, "alpha": 32, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
        "evaluate": {"rows": None, "max_new_tokens": 128, "prompts": ["own"]},
        "max_length": 1536 + 128, "seed": 42, "run_dir": "out", "keep": "all", "report_to": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": ["a", "b"], "model": "m", "train": {"learning_rate": "5e-5"}, "data_dir": "d", "watch": ["c"]},
        {"method": "o-lora", "o_lora": {"weight": "5e-1", "normalise": True}},
        {"method": "ewc", "ewc": {"gamma": 0.5, "labels": "sampled"}},
        {"method": "full", "full": {"learning_rate": "5e-6"}, "policy": "paft", "paft": {"steps": 9}},
        {"policy": "reselect", "reselect": {"every": 5, "k": 2, "rows": 7}},
        {"guard": {"every": 5, "rows": 9, "limit": 0.25, "action": "stop"}},
        {"evaluate": {"prompts": ["none", "own", "Say it.", {"wordings": 3}], "general": True}},
        {"evaluate": {"prompts": ["original", "wordings"]}, "policy": "pure"},
        {"policy": "fixed", "fixed": {"a": "Say a."}, "sequence": ["a", "b"]},
        {"candidates": {"sources": ["rules"], "openai": {"model": "m"}, "judge": True}},
        {"candidates": {"sources": ["file", "demonstrations"], "file": "c.json", "check": False, "longest": 99}},
        {"selection": {"rule": "trial", "trial": {"updates": 3}}},
    ],
    ids=str,
)
def test_a_resolved_configuration_can_be_written_and_read_back(changes: dict[str, Any], tmp_path: Path) -> None:
    config = made(**changes)
    assert make_config(config.plain()) == config
    assert loaded(tmp_path, yaml.safe_dump(config.plain())) == config
    for section, values in changes.items():
        if isinstance(values, dict):
            assert set(values) <= set(config.plain()[section])


def test_a_key_that_a_sweep_lists_values_of_is_not_given_besides(tmp_path: Path) -> None:
    sweep = {"seed": [1, 2], "policy": ["paft", "sapo"], "method": ["osf"], "sequence": ["demo", ["a", "b"]]}
    text = yaml.safe_dump({"sequence": ["a", "b"], "sweep": {**sweep, "rule": ["lowest", "trial"]}})
    found = loaded(tmp_path, text).sweep
    assert found is not None and found.sequence == ("demo", ("a", "b")) and found.policy == ("paft", "sapo")
    # Also one of the values, or the default: on the command line it was meant to be the only one.
    for override, key in (
        ("policy=sapo", "policy"), ("seed=42", "seed"), ("method=seq-lora", "method"),
        ("selection.rule=trial", "rule"),
    ):  # fmt: skip
        name, _, value = override.partition("=")
        with pytest.raises(
            ConfigError, match=rf"{name} = '?{value}'? is not used: sweep\.{key} lists .* leave {name} out"
        ):
            loaded(tmp_path, text, override)
        assert loaded(tmp_path, text, override, f"sweep.{key}=null")
    with pytest.raises(
        ConfigError, match=r"sequence = \('a',\) is not used: sweep\.sequence .* one of its entries here"
    ):
        loaded(tmp_path, text, "sequence=[a]")
    assert made(sweep={"policy": ["original", "fixed"]}, fixed="Say it in CAPITAL LETTERS.").sweep


def test_what_is_switched_off_or_belongs_to_others_is_left_out() -> None:
    own = {"fixed", "paft", "reselect", "o_lora", "ewc", "replay", "lwf", "osf", "full"}
    bare = set(made().plain())
    assert not bare & {*own, "guard", "sweep"} and "general" not in made().plain()["evaluate"]
    for method in ("seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single"):
        assert set(made(method=method).plain()) - bare == own & {method.replace("-", "_")}
    for policy in ("original", "sapo", "random", "highest", "median", "per-example", "paft", "reselect", "pure"):
        assert set(made(policy=policy).plain()) - bare == own & {policy}
    # What a run takes of a cluster decides nothing.
    assert made(resources={"gpus": 2}).plain() == made().plain()
    both = made(method="ewc", policy="paft", guard={}, evaluate={"general": True}).plain()
    assert set(both) - bare == {"ewc", "paft", "guard"}
    assert both["evaluate"]["general"] is True


def test_what_no_run_reads_is_named() -> None:
    assert unread(made()) == unread(made(selection={"rule": "trial", "trial": {"updates": 3}})) == ()
    assert unread(made(ewc={"weight": 5}, method="ewc")) == ()
    assert unread(made(candidates={"local": {"model": "m"}})) == ("not used: candidates.local is for source local",)
    assert unread(made(ewc={"weight": 5}, paft={"steps": 2})) == (
        "not used: paft is for policy paft",
        "not used: ewc is for method ewc",
    )
    assert unread(made(policy="random", selection={"rule": "trial"})) == (
        "not used: selection.rule is for policies sapo and reselect",
    )
    assert unread(made(selection={"trial": {"updates": 3}})) == (
        "not used: selection.trial is for policies sapo and reselect with selection.rule trial",
    )
    assert unread(made(candidates={"longest": 100})) == ("not used: candidates.longest is for source demonstrations",)
    assert unread(made(method="full", lora={"r": 4})) == (
        "not used: lora is for methods that train an adapter, and osf",
    )
    # What one run of a sweep reads is used.
    sweep = {"method": ["seq-lora", "ewc"], "policy": ["random", "sapo"], "rule": ["lowest", "trial"]}
    assert unread(made(sweep=sweep, ewc={"weight": 5}, selection={"trial": {"updates": 3}})) == ()
    assert unread(made(sweep=sweep, replay={"share": 0.1})) == ("not used: replay is for method replay",)
    # What is of no use together is named together, and a part instead of all that it holds.
    original = made(
        policy="original",
        candidates={"count": 5, "longest": 9},
        selection={"delta": 0.1, "examples": 5, "batch_tokens": 9},
    )
    assert unread(original) == (
        "not used: candidates is for policies that choose among candidates, and for wordings",
        "not used: candidates.longest is for source demonstrations",
        "not used: selection.examples is for policies sapo, highest, median, reselect",
        "not used: selection.delta is for races of policies sapo and reselect",
    )
    assert unread(made(policy="original", candidates={"count": 5}, evaluate={"prompts": ["own", "wordings"]})) == ()
    race = {"delta": 0.1, "epsilon": 0.1}
    for changes in ({"strategy": "exhaustive"}, {"rule": "confident"}):
        assert unread(made(selection={**race, **changes})) == (
            "not used: selection.delta, selection.epsilon are for races of policies sapo and reselect",
        )
    assert unread(made(method="osf", lora={"r": 4, "target_modules": ["q_proj"]})) == (
        "not used: lora.r is for methods that train an adapter",
    )


def test_every_mistake_is_named_in_one_message() -> None:
    message = refused(
        polcy="sapo", method="lora", seed=-1, selection={"examples": 0, "sampel": "first"},
        train={"epochs": "many", "batch_size": 10, "warmup": 1.0}, evaluate={"prompts": "orignal"},
    )  # fmt: skip
    lines = message.splitlines()
    assert lines[0] == "the configuration cannot be run:"
    assert sorted(line.split()[0].rstrip(":") for line in lines[1:]) == [
        "evaluate.prompts", "method", "polcy", "seed", "selection.examples", "selection.sampel", "train.epochs",
        "train.warmup",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"polcy": "sapo"}, ["polcy: unknown key.", "Did you mean 'policy'?", "run_dir"]),
        ({"policy": "spo"}, ["policy = 'spo': allowed: original, sapo, ", "Did you mean 'sapo'?"]),
        ({"train": {"lr": 1}}, ["train.lr: unknown key.", "Allowed here: rows, epochs, learning_rate,"]),
        ({"model": {"dtype": "floot32"}}, ["model.dtype = 'floot32': allowed: ", "Did you mean 'float32'?"]),
        ({"train": 3}, ["train = 3: ", "rows, epochs, learning_rate"]),
        ({"guard": True}, ["guard"]),
        (
            {"sweep": {"seeds": [1]}},
            ["sweep.seeds: unknown key. Did you mean 'seed'?", "policy, rule, method, sequence"],
        ),
        ({"sweep": {"policy": ["spo"]}}, ["sweep.policy.0 = 'spo': allowed: original, sapo,", "Did you mean 'sapo'?"]),
        ({"candidates": {"sources": []}}, ["candidates: sources is empty"]),
        (
            {"candidates": {"sources": ["builtin", "rule"]}},
            ["sources.1 = 'rule': allowed: file, builtin, rules, demonstrations, local, openai.", "mean 'rules'?"],
        ),
        ({"candidates": {"sources": "rules"}}, ["candidates.sources = 'rules'"]),
        ({"candidates": {"sources": ["rules", "builtin", "rules"]}}, ["candidates: sources names rules twice"]),
        ({"candidates": {"sources": ["file"]}}, ["sources has file, but no file is given (candidates.file)"]),
        (
            {"candidates": {"sources": ["builtin", "rules"], "file": "c.json"}},
            ["file c.json is given, but sources (builtin, rules) lacks file"],
        ),
        (
            {"candidates": {"sources": ["openai"]}},
            ["sources has openai, but no server's model is named (candidates.openai.model)"],
        ),
        ({"candidates": {"openai": SERVER}}, ["openai is given, but sources (builtin, rules) lacks openai"]),
        ({"candidates": {"sources": ["openai"], "openai": {}}}, ["candidates.openai.model: missing"]),
        ({"candidates": {"openai": {**SERVER, "api_key": "k"}}}, ["candidates.openai.api_key: unknown key"]),
        ({"candidates": {"openai": {**SERVER, "base_url": "localhost:80"}}}, ["candidates.openai.base_url"]),
        ({"candidates": {"check": False}}, ["check is false, which is for the texts of a file, but no file is given"]),
        ({"candidates": {"judge": True}}, ["judge is true, but no server's model is named (candidates.openai.model)"]),
        (
            {"candidates": {"judge": True, "openai": SERVER, "sources": ["builtin", "demonstrations"]}},
            ["judge is true, but texts of builtin, demonstrations are not judged"],
        ),
        (
            {"candidates": {"judge": True, "openai": SERVER, "file": "c.json", "check": False}},
            ["texts of file are not judged"],
        ),
        (
            {"train": {"batch_size": 10, "micro_batch_size": 4}},
            ["train: batch_size 10 is not a multiple of micro_batch_size 4"],
        ),
        (
            {"guard": {"every": 4}, "train": {"checkpoint_every": 6}},
            ["train.checkpoint_every 6 is not a multiple of guard.every 4"],
        ),
    ],
)
def test_a_message_names_key_and_value_the_nearest_name_and_what_is_allowed(
    changes: dict[str, Any], parts: list[str]
) -> None:
    message = refused(**changes)
    assert len(message.splitlines()) == 2
    assert all(part in message for part in parts), message


def test_another_number_is_no_misspelling() -> None:
    for key, value in (("quantization", "3bit"), ("dtype", "float8")):
        assert "Did you mean" not in refused(model={key: value})


# What the types alone would let through.
IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "max_length": (0, 128),
    "report_to": (3,),
    "sequence": ([], "", 3, ["a", 3]),
    "watch": ("demo",),
    "lora.target_modules": ([], "", ["q_proj", 3]),
    "evaluate.max_new_tokens": (0, 1664),
    "evaluate.prompts": (
        [], 3, None, "", " ", "wordings", ["wordings", "own"], ["own", "own"], ["own", {"wordings": 0}],
        ["own", {"wordings": 101}], ["own", {"wordings": True}], ["own", {"rows": 3}],
        ["own", "wordings", {"wordings": 3}], ["own", ["original"]],
    ),
    "fixed": (3, "", " ", {}, {"a": ""}, {"a": 3}, ["a"]),
    "sweep.seed": ([], 3, [-1], [2**31], True),
    "sweep.sequence": ([], [[]], [3], ["demo", ""]),
}  # fmt: skip


def changed(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


@pytest.mark.parametrize("key", IMPOSSIBLE)
def test_an_impossible_value_is_refused_with_its_key(key: str) -> None:
    for value in IMPOSSIBLE[key]:
        message = refused(**changed(key, value))
        assert key.rpartition(".")[2] in message and len(message.splitlines()) == 2, message


def test_numbers_that_go_together_are_accepted() -> None:
    assert made(train={"batch_size": 12, "micro_batch_size": 4}).train.batch_size == 12
    # A batch smaller than the default micro-batch is one micro-batch.
    assert made(train={"batch_size": 3}).train.batch_size == 3
    assert made(guard={"every": 4}, train={"checkpoint_every": 8}).guard is not None
    assert made(train={"checkpoint_every": 6}).guard is None


@pytest.mark.parametrize(
    ("candidates", "asked"),
    [
        ({}, ("builtin", "rules")),
        ({"file": "c.json"}, ("file",)),
        ({"sources": ["rules"]}, ("rules",)),
        ({"sources": ["local", "file", "builtin"], "file": "c.json"}, ("local", "file", "builtin")),
        ({"sources": ["openai", "rules"], "openai": SERVER}, ("openai", "rules")),
    ],
)
def test_sources_are_asked_in_the_order_given(candidates: dict[str, Any], asked: tuple[str, ...]) -> None:
    config = made(candidates=candidates)
    assert config.candidates.asked == asked
    assert make_config(config.plain()) == config


def test_a_configuration_of_the_other_command_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has the key transitions: it is one for `sapo study`$"):
        make_config({"transitions": [["a", "b"]], "run_dir": "out"})
    (tmp_path / "run.yaml").write_text("sequence: demo\nseeds: [1]")
    with pytest.raises(ConfigError, match=r"has the key sequence: it is one for `sapo run`$"):
        load_study(tmp_path / "run.yaml")


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({})
    assert str(caught.value).splitlines()[1:] == ["  sequence: missing", "  run_dir: missing"]
    with pytest.raises(ConfigError, match="configuration = None: must be a mapping with some of these keys: model"):
        make_config(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["5e-5", "'5e-5'", "0.00005", "5.0e-05"])
def test_a_learning_rate_without_a_point_is_a_number_although_yaml_reads_text(text: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, f"sequence: demo\ntrain:\n  learning_rate: {text}\n").train.learning_rate == 5e-5
    assert loaded(tmp_path, "sequence: demo", f"train.learning_rate={text}").train.learning_rate == 5e-5


def test_a_file_gives_its_values_and_names_the_run(tmp_path: Path) -> None:
    config = loaded(tmp_path, "sequence: [a, b]\nmodel: some/model\ncandidates:\n  file: c.json\n")
    assert config.sequence == ("a", "b") and config.model.base == "some/model"
    assert config.candidates.file == Path("c.json") and config.candidates.count == 20
    assert config.run_dir == Path("runs/mine")
    assert loaded(tmp_path, "sequence: demo\nrun_dir: elsewhere").run_dir == Path("elsewhere")


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "sequence: demo\nseed: 1\ntrain:\n  epochs: 3\n  rows: 5\n",
        "seed=7", "train.epochs=1", "train.epochs=2", "lora.target_modules=[a, b]", "sequence=[x, y]",
        "evaluate.rows=null", "data_dir=some=where", "train.rows=null",
    )  # fmt: skip
    assert config.seed == 7 and config.train.epochs == 2 and config.train.rows is None
    assert config.lora.target_modules == ("a", "b") and config.sequence == ("x", "y")
    assert config.evaluate.rows is None and config.data_dir == Path("some=where")


def test_the_short_form_of_the_model_takes_nested_overrides(tmp_path: Path) -> None:
    config = loaded(tmp_path, "sequence: demo\nmodel: some/model\n", "model.dtype=float32")
    assert (config.model.base, config.model.dtype) == ("some/model", "float32")
    config = loaded(tmp_path, "sequence: demo\nmodel:\n  base: a\n  dtype: float16\n", "model=other")
    assert (config.model.base, config.model.dtype) == ("other", None)
    config = loaded(tmp_path, "sequence: demo\n", "model=a", "model.adapter=b", "model.base=c")
    assert (config.model.base, config.model.adapter) == ("c", "b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *((wrong, "must have the form key=value") for wrong in ("seed", "=3", "", "train.epochs")),
        ("seed.x=1", "'seed' is a single value and has no keys"),
        ("train.epochs.x=1", "'epochs' is a single value"),
        ("train.epochs=[1", "the value is not YAML"),
        ("train.epoch=1", r"train\.epoch: unknown key\. Did you mean 'epochs'\?"),
        ("trian.epochs=1", r"trian: unknown key\. Did you mean 'train'\?"),
        ("train..epochs=1", "unknown key"),
        ("fixed=Sort by priority #1 first", "YAML takes what follows ' #' for a comment. Put the value in quotes"),
        (".seed=1", "unknown key"),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, "sequence: demo\nseed: 1\ntrain:\n  epochs: 1\n", override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "holds a list: allowed is a mapping"),
        (b"sequence: [a\n", "is not YAML"),
        (b"sequence: \xff\n", "is not YAML"),
        (b"", "sequence: missing"),
        (b"1: 2\nsequence: demo\n", "1 = 2|1: "),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


# Whatever is given.

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.datetimes(),
    st.binary(max_size=4),
    # What settings look like.
    st.sampled_from(["demo", "sapo", "first", "1e-4", "~", "~nobody/x", "\0", "\ud800", "", "yes"]),
    st.sampled_from([0, 1, -1, 10**400, 0.1]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(SCALARS, inner, max_size=3)),
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


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.one_of(keys_of(Config), st.dictionaries(st.text(max_size=8), VALUES, max_size=4)))
def test_any_mapping_is_a_configuration_or_a_config_error(data: dict[str, Any]) -> None:
    for values in (data, {"sequence": "demo", "run_dir": "out", **data}):
        try:
            config = make_config(values)
        except ConfigError:
            continue
        assert make_config(config.plain()) == config
        assert make_config(yaml.safe_load(yaml.safe_dump(config.plain(), sort_keys=False))) == config


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
def test_a_file_that_no_parser_expects_is_refused(content: bytes, overrides: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "mine.yaml", overrides)
