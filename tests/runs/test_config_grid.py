"""The configuration of methods, policies, the guard and sweeps: bounds, messages, and what is left out of a run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from runs.test_config import loaded, made, refused

from sapo.core.errors import RecordError
from sapo.runs.config.loading import make_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paft.steps", 0),
        ("paft.steps", True),
        ("paft.steps", None),
        ("reselect.every", 0),
        ("reselect.k", 0),
        ("reselect.rows", 0),
        ("o_lora.weight", -0.1),
        ("o_lora.weight", True),
        ("o_lora.normalise", 1),
        ("o_lora.normalise", "yes"),
        ("ewc.weight", -1),
        ("ewc.weight", float("inf")),
        ("ewc.gamma", -0.1),
        ("ewc.gamma", 1.1),
        ("ewc.examples", 0),
        ("ewc.labels", "true"),
        ("replay.buffer", 0),
        ("replay.share", -0.1),
        ("replay.share", 1),
        ("lwf.weight", -1),
        ("lwf.temperature", 0),
        ("osf.learning_rate", 0),
        ("osf.learning_rate", 1.5),
        ("full.learning_rate", 0),
        ("full.learning_rate", True),
        ("guard.every", 0),
        ("guard.rows", 1),
        ("guard.rows", True),
        ("guard.limit", -0.1),
        ("guard.limit", float("nan")),
        ("guard.action", "halt"),
        ("sweep.seed", []),
        ("sweep.seed", 3),
        ("sweep.seed", [-1]),
        ("sweep.seed", [2**31]),
        ("sweep.seed", True),
        ("sweep.policy", []),
        ("sweep.policy", ["best"]),
        ("sweep.policy", "sapo"),
        ("sweep.method", ["lora"]),
        ("sweep.method", []),
        ("sweep.sequence", []),
        ("sweep.sequence", [[]]),
        ("sweep.sequence", [3]),
        ("sweep.sequence", ["demo", ""]),
        ("evaluate.wordings", -1),
        ("evaluate.wordings", 101),
        ("evaluate.wordings", True),
        ("evaluate.general", 1),
        ("evaluate.general", "no"),
        ("evaluate.general", None),
    ],
)
def test_an_impossible_value_of_a_method_policy_guard_or_sweep_is_refused_with_its_key(key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    message = refused(**{section: {name: value}})
    assert f"{section}.{name}" in message and len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paft.steps", 1),
        ("reselect.every", None),
        ("reselect.k", 1),
        ("o_lora.weight", 0),
        ("o_lora.normalise", True),
        ("ewc.gamma", 1),
        ("ewc.gamma", 0),
        ("ewc.labels", "sampled"),
        ("replay.share", 0),
        ("lwf.weight", 0),
        ("osf.learning_rate", 1),
        ("full.learning_rate", None),
        ("guard.rows", 2),
        ("guard.limit", 0),
        ("guard.action", "stop"),
        ("sweep.seed", (0, 2**31 - 1)),
        ("sweep.policy", ("reselect", "original")),
        ("sweep.method", ("single",)),
        ("sweep.sequence", ("demo", ("a", "b"))),
        ("evaluate.wordings", 0),
        ("evaluate.wordings", 100),
        ("evaluate.general", True),
    ],
)
def test_a_value_at_the_edge_of_a_method_policy_guard_or_sweep_is_accepted(key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    assert getattr(getattr(made(**{section: {name: value}}), section), name) == value


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"paft": {"step": 2}}, ["paft.step: unknown key. Did you mean 'steps'?"]),
        ({"reselect": {"evry": 2}}, ["reselect.evry: unknown key. Did you mean 'every'? Allowed here: every, k, rows"]),
        ({"guard": {"row": 2}}, ["guard.row: unknown key.", "Allowed here: every, rows, limit, action"]),
        ({"guard": True}, ["guard"]),
        ({"guard": {"action": "hold"}}, ["guard.action = 'hold': allowed: warn, stop."]),
        ({"sweep": {"seeds": [1]}}, ["sweep.seeds: unknown key. Did you mean 'seed'?", "policy, method, sequence"]),
        ({"sweep": {"policy": ["spo"]}}, ["sweep.policy.0 = 'spo': allowed: original, sapo,", "Did you mean 'sapo'?"]),
        ({"sweep": {"method": ["ecw"]}}, ["sweep.method.0 = 'ecw': allowed: seq-lora,", "Did you mean 'ewc'?"]),
        ({"o-lora": {"weight": 1}}, ["o-lora: unknown key.", "o_lora"]),
        ({"method": "o_lora"}, ["method = 'o_lora': allowed: seq-lora,", "Did you mean 'o-lora'?"]),
        ({"evaluate": {"wording": 2}}, ["evaluate.wording: unknown key. Did you mean 'wordings'?"]),
    ],
)
def test_a_message_about_a_method_policy_guard_or_sweep_says_what_is_allowed(
    changes: dict[str, Any], parts: list[str]
) -> None:
    message = refused(**changes)
    assert len(message.splitlines()) == 2
    assert all(part in message for part in parts), message


def test_a_checkpoint_must_be_a_state_that_the_guard_has_looked_at() -> None:
    message = refused(guard={"every": 4}, train={"checkpoint_every": 6})
    assert "train.checkpoint_every 6 is not a multiple of guard.every 4" in message
    assert made(guard={"every": 4}, train={"checkpoint_every": 8}).guard is not None
    assert made(train={"checkpoint_every": 6}).guard is None


def test_what_is_switched_off_or_belongs_to_others_is_left_out() -> None:
    own = {"paft", "reselect", "o_lora", "ewc", "replay", "lwf", "osf", "full"}
    bare = set(made().plain())
    assert not bare & {*own, "guard", "sweep"} and not {"wordings", "general"} & set(made().plain()["evaluate"])
    for method in ("seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single"):
        assert set(made(method=method).plain()) - bare == own & {method.replace("-", "_")}
    for policy in ("original", "sapo", "random", "highest", "median", "per-example", "paft", "reselect"):
        assert set(made(policy=policy).plain()) - bare == own & {policy}
    both = made(method="ewc", policy="paft", guard={}, evaluate={"wordings": 2, "general": True}).plain()
    assert set(both) - bare == {"ewc", "paft", "guard"}
    assert (both["evaluate"]["wordings"], both["evaluate"]["general"]) == (2, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "o-lora", "o_lora": {"weight": "5e-1", "normalise": True}},
        {"method": "ewc", "ewc": {"gamma": 0.5, "labels": "sampled"}},
        {"method": "full", "full": {"learning_rate": "5e-6"}, "policy": "paft", "paft": {"steps": 9}},
        {"policy": "reselect", "reselect": {"every": 5, "k": 2, "rows": 7}},
        {"guard": {"every": 5, "rows": 9, "limit": 0.25, "action": "stop"}},
        {"sweep": {"seed": [1, 2], "policy": ["paft"], "method": ["osf"], "sequence": ["demo", ["a", "b"]]}},
        {"evaluate": {"wordings": 3, "general": True}},
    ],
    ids=str,
)
def test_methods_policies_guard_and_sweeps_can_be_written_and_read_back(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = made(**changes)
    assert make_config(config.plain()) == config
    assert loaded(tmp_path, yaml.safe_dump(config.plain())) == config
    for section, values in changes.items():
        if isinstance(values, dict):
            assert set(values) <= set(config.plain()[section])


# As an earlier version wrote it, which knew none of these keys.
EARLIER = """
model: {base: embedded, adapter: null, dtype: null, device: null}
sequence: demo
watch: []
data_dir: null
tasks: {}
data: {drop_overlap: false}
policy: sapo
method: seq-lora
candidates:
  sources: null
  file: null
  count: 20
  local: {model: null, temperature: 1.0}
  openai: null
  search: null
selection: {examples: 250, rule: lowest, sample: stratified, strategy: racing, delta: 0.05, epsilon: 0.01,
  budget: 0.25, batch_tokens: null, cache: true}
train: {rows: 1000, epochs: 10.0, learning_rate: 0.0001, batch_size: 64, micro_batch_size: 8, warmup: 0.05,
  weight_decay: 0.0, max_grad_norm: 1.0, checkpoint_every: null}
lora: {r: 8, alpha: 32, dropout: 0.1, target_modules: [q_proj, v_proj]}
evaluate: {rows: null, max_new_tokens: 128, test_prompt: selected}
max_length: 1664
seed: 42
keep: all
"""


@pytest.mark.parametrize("key", ["method", "policy"])
def test_a_run_directory_of_an_earlier_version_is_gone_on_with(key: str, tmp_path: Path) -> None:
    for value in {"method": ("seq-lora", "inc-lora"), "policy": ("sapo", "original", "random")}[key]:
        directory = tmp_path / value
        directory.mkdir()
        text = EARLIER.replace("method: seq-lora" if key == "method" else "policy: sapo", f"{key}: {value}")
        (directory / "config.yaml").write_text(text, encoding="utf-8")
        Record(directory, made(**{key: value}).plain()).check()
        # Whatever other methods and policies are told decides nothing here.
        Record(directory, made(**{key: value}, ewc={"weight": 1}, reselect={"k": 9}).plain()).check()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"guard": {}}, "guard.limit: None then, 0.1 now"),
        ({"evaluate": {"wordings": 2}}, "evaluate.wordings: None then, 2 now"),
        ({"evaluate": {"general": True}}, "evaluate.general: None then, True now"),
        ({"method": "ewc"}, "method: 'seq-lora' then, 'ewc' now"),
    ],
)
def test_what_is_switched_on_since_is_another_configuration(
    changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(EARLIER, encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        Record(tmp_path, made(**changes).plain()).check()
    assert difference in str(caught.value)
