"""What a stage directory holds is what was trained, and only the task's own parameters train."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import adapted
import pytest
import torch
from assignments import LORA_METHODS, METHODS, WHOLE_METHODS, assignment, second_task, shake, trained
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sapo.core.errors import ModelError
from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fingerprint import state_fingerprint
from sapo.models.render import Renderer
from sapo.training.methods import make_method
from sapo.training.methods.adapters import lora_layers
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import trainable
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, MethodName, TrainSettings

TARGETS = ("q_proj", "v_proj")
LORA = LoraSettings(r=2, alpha=3, dropout=0.2, target_modules=TARGETS)
TRAIN = TrainSettings(epochs=2, learning_rate=3e-2, batch_size=4, micro_batch_size=4, warmup=0.0)
TASKS = ("first", "second", "third")
each_method = pytest.mark.parametrize("name", METHODS)
each_lora_method = pytest.mark.parametrize("name", LORA_METHODS)
# The others start, prepare and resume as one of these.
each_start = pytest.mark.parametrize("name", ["seq-lora", "inc-lora"])
each_adapter = pytest.mark.parametrize(
    "features",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.self_attn\.(q_proj|o_proj)"},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"trainable_token_indices": [1, 2]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 7}},
    ],
    ids=str,
)


def method(name: MethodName, lora: LoraSettings = LORA) -> SeqLora:
    return make_method(name, lora)


def encoded(task: str) -> list[Encoded]:
    toy = toy_task(task, rows=4)
    return Renderer(tiny_tokenizer(), 256).encode(toy.instruction, toy.suffix, toy.train)


PROBE = torch.tensor([e.ids[:100] for e in encoded("probe task")])


def logits(model: Any) -> torch.Tensor:
    return adapted.logits(model, PROBE)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def reloaded(directory: Path) -> Any:
    """What stock peft or transformers makes of a directory."""
    if (directory / "adapter_config.json").exists():
        return PeftModel.from_pretrained(tiny_model(), directory).eval()
    return AutoModelForCausalLM.from_pretrained(directory)


def task_at(stage: int, before: Path | None = None) -> Training:
    """The training of one of the three tasks, counted from 0, after the stage in a directory."""
    return assignment(encoded(TASKS[stage]), stage=stage + 1, seed=10 + stage, before=before)


def train(learner: SeqLora, model: Any, task: Training) -> None:
    # Whole models need smaller steps.
    rate = 2e-3 if learner.whole else 3e-2
    trained(learner, model, task, TRAIN.model_copy(update={"learning_rate": rate}), seed=19 + task.stage)


@dataclass(frozen=True)
class Chain:
    """Three tasks in a row; nothing may change it.

    Attributes:
        root: holds the stage directories 0, 1 and 2.
        trainable: names of the trainable parameters of each task.
        trained: logits of the base and after each training, before `finish`.
        finished: logits after each `finish`.
        states: fingerprints of the base and after each `finish`.
        model: the last model.
    """

    root: Path
    trainable: list[set[str]]
    trained: list[torch.Tensor]
    finished: list[torch.Tensor]
    states: list[str]
    model: Any


def chain_of(learner: SeqLora, model: Any, root: Path, stages: Sequence[int], before: Path | None = None) -> Chain:
    """Train on tasks one after the other, the first of them after the stage in ``before``."""
    names, said, finished, states = [], [logits(model)], [], [state_fingerprint(model)]
    for stage in stages:
        task = task_at(stage, before)
        model = learner.prepare(model, task)
        names.append(set(trainable(model)))
        train(learner, model, task)
        said.append(logits(model.eval()))
        before = root / str(stage)
        model = learner.finish(model, task, before)
        finished.append(logits(model.eval()))
        states.append(state_fingerprint(model))
    return Chain(root, names, said, finished, states, model)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[MethodName, Chain]:
    """One chain for each method."""
    learners = {name: method(name) for name in METHODS}
    return {
        name: chain_of(learner, learner.start(tiny_model()), tmp_path_factory.mktemp(name), range(3))
        for name, learner in learners.items()
    }


def users_adapter(directory: Path, **features: Any) -> Any:
    """A model with an adapter that was trained and saved elsewhere, loaded as `load_model` does."""
    settings = {"r": 3, "lora_alpha": 5, "lora_dropout": 0.3, "target_modules": ["q_proj", "o_proj"], **features}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", **settings))
    shake(model)
    model.save_pretrained(directory)
    return PeftModel.from_pretrained(tiny_model(), directory).eval()


def lora_names(adapter: str, targets: Sequence[str] = TARGETS) -> set[str]:
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{target}.lora_{matrix}.{adapter}.weight"
        for layer in range(2)
        for target in targets
        for matrix in "AB"
    }


# What is saved must be what was trained, at full strength, after every task.


@each_method
def test_a_stage_directory_alone_reproduces_the_trained_model(
    name: MethodName, chains: dict[MethodName, Chain]
) -> None:
    chain = chains[name]
    for stage in range(3):
        before, said = chain.trained[stage : stage + 2]
        assert distance(before, said) > 0.03, "training must matter here, or nothing is tested"
        stock = reloaded(chain.root / str(stage))
        assert distance(logits(stock), said) <= 1e-5 and distance(chain.finished[stage], said) <= 1e-5
        # By whoever it is loaded, it is one state, and each stage another.
        assert state_fingerprint(stock) == chain.states[stage + 1]
    assert len(set(chain.states)) == 4


@each_method
def test_a_stage_directory_holds_nothing_but_weights_and_what_the_method_remembers(
    name: MethodName, chains: dict[MethodName, Chain]
) -> None:
    one = {"adapter_config.json", "adapter_model.safetensors"}
    if name in WHOLE_METHODS:
        one = {"config.json", "generation_config.json", "model.safetensors"}
    increment = {"increment", *(f"increment/{file}" for file in one)}
    memory = {"inc-lora": increment, "o-lora": increment, "ewc": {"fisher.safetensors"}, "replay": {"replay.json"}}
    for stage in range(3):
        root = chains[name].root / str(stage)
        assert {path.relative_to(root).as_posix() for path in root.rglob("*")} == one | memory.get(name, set())


@each_method
def test_resuming_gives_the_same_bits_as_never_having_stopped(
    name: MethodName, chains: dict[MethodName, Chain], tmp_path: Path
) -> None:
    whole, learner = chains[name], method(name)
    before = whole.root / "1"
    resumed = learner.resume(learner.start(tiny_model()), before)
    parts = chain_of(learner, resumed, tmp_path, [2], before)
    one, other = (
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.suffix != ".md" and p.is_file()}
        for root in (whole.root / "2", tmp_path / "2")
    )
    assert one == other
    assert torch.equal(parts.finished[0], whole.finished[2]) and parts.states == whole.states[2:]


def test_inc_lora_is_the_base_plus_the_sum_of_its_saved_increments(chains: dict[MethodName, Chain]) -> None:
    chain = chains["inc-lora"]
    base = tiny_model()
    weights = dict(base.named_parameters())
    for stage in range(3):
        increment = chain.root / str(stage) / "increment"
        config = json.loads((increment / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (LORA.r, LORA.alpha)
        tensors = load_file(increment / "adapter_model.safetensors")
        assert len(tensors) == len(lora_names("increment"))
        for key in [key for key in tensors if ".lora_A." in key]:
            a, b = tensors[key], tensors[key.replace(".lora_A.", ".lora_B.")]
            target = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            weights[target].data += (LORA.alpha / LORA.r) * b @ a
        assert distance(logits(base), chain.trained[stage + 1]) <= 1e-5
        # The past is one adapter of strength one, however many tasks it holds.
        config = json.loads((chain.root / str(stage) / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] == LORA.r * (stage + 1) and not config["use_rslora"]
    assert all(list(layer.lora_A) == ["default"] for layer in lora_layers(chain.model))


# What trains, and what does not.


@each_lora_method
def test_exactly_the_tasks_own_adapter_is_trainable(name: MethodName, chains: dict[MethodName, Chain]) -> None:
    adapter = "increment" if name in ("inc-lora", "o-lora") else "default"
    assert chains[name].trainable == [lora_names(adapter)] * 3


@pytest.mark.parametrize("past", ["resumed", "given by the user"])
def test_the_frozen_past_has_no_dropout_while_the_increment_trains(
    past: str, chains: dict[MethodName, Chain], tmp_path: Path
) -> None:
    learner = method("inc-lora", LORA.model_copy(update={"dropout": 0.5}))
    if past == "resumed":
        model = learner.resume(tiny_model(), chains["inc-lora"].root / "0")
    else:
        model = learner.start(users_adapter(tmp_path))
    model = learner.prepare(model, task_at(1))
    calm = logits(model.eval())
    assert distance(calm, logits(tiny_model())) > 0.1, "the past must matter here"
    # The increment's B is zero, so only the past could make two passes differ.
    model.train()
    assert torch.equal(logits(model), calm)
    shake(model)
    assert not torch.equal(logits(model), logits(model)), "the increment itself does have dropout"


@each_lora_method
def test_the_seed_alone_decides_new_parameters_and_the_global_random_state_stays(
    name: MethodName, chains: dict[MethodName, Chain]
) -> None:
    def new(seed: int, noise: int, stage: int = 1, before: Path | None = None) -> torch.Tensor:
        learner, task = method(name), assignment(encoded("first"), stage=stage, seed=seed, before=before)
        model = learner.resume(tiny_model(), before) if before else tiny_model()
        torch.manual_seed(noise)
        expected = torch.rand(3)
        torch.manual_seed(noise)
        model = learner.prepare(model, task)
        learner.objective(model, task)
        assert torch.equal(torch.rand(3), expected)
        return torch.cat([p.flatten() for n, p in trainable(model).items() if ".lora_A." in n])

    assert torch.equal(new(1, 100), new(1, 200))
    assert not torch.equal(new(1, 100), new(2, 100))
    new(1, 100, stage=2, before=chains[name].root / "0")


@each_start
@pytest.mark.parametrize("pattern", [r"model\.layers\.0\.self_attn\.q_proj", r".*0\.self_attn\.q_proj"])
def test_a_pattern_means_the_same_layers_at_every_task(name: MethodName, pattern: str, tmp_path: Path) -> None:
    learner = method(name, LORA.model_copy(update={"target_modules": pattern}))
    model, task = second_task(learner, tmp_path, [encoded("first"), encoded("second")])
    resumed = learner.prepare(learner.resume(learner.start(tiny_model()), tmp_path / "1"), task)
    assert [len(trainable(each)) for each in (model, resumed)] == [2, 2]
    assert all(".layers.0.self_attn.q_proj." in key for key in trainable(model))


@pytest.mark.parametrize("name", WHOLE_METHODS)
def test_a_whole_model_is_resumed_in_place(name: MethodName, tmp_path: Path) -> None:
    learner, model, stored = method(name), tiny_model(), tiny_model(seed=3)
    stored.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")
    for prepare in (lambda: model, lambda: learner.prepare(model, task_at(0))):
        resumed = learner.resume(prepare(), tmp_path)
        # Its devices and its attention are those that it had.
        assert resumed is model and resumed.config._attn_implementation == "eager"
        assert state_fingerprint(resumed) == state_fingerprint(stored)


# Starting from what the user gives.


LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@each_start
@pytest.mark.parametrize(
    ("targets", "message"),
    [(("c_attn", "q_proj"), "has no c_attn"), (("mlp",), "mlp"), (("input_layernorm",), "input_layernorm")],
)
def test_targets_that_cannot_carry_lora_are_refused_with_the_models_linear_layers(
    name: MethodName, targets: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    absent = method(name, LORA.model_copy(update={"target_modules": targets}))
    for model in (tiny_model(), *(() if absent.continues else (users_adapter(tmp_path),))):
        with pytest.raises(ModelError, match=message) as error:
            absent.start(model)
        if targets[0] == "c_attn":
            assert all(layer in str(error.value) for layer in LINEAR) and "base_layer" not in str(error.value)


@pytest.mark.parametrize(
    ("features", "named"),
    [
        ({"use_rslora": True}, "rsLoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_rslora": True, "use_dora": True}, "rsLoRA, DoRA"),
    ],
)
def test_inc_lora_refuses_an_adapter_that_it_cannot_add_to(
    features: dict[str, Any], named: str, tmp_path: Path
) -> None:
    model = users_adapter(tmp_path, **features)
    with pytest.raises(ModelError, match=f"inc-lora cannot add to an adapter with {named}: allowed is plain LoRA"):
        method("inc-lora").start(model)


@each_start
@each_adapter
def test_an_adapter_is_either_refused_or_continued_and_resumed_exactly(
    name: MethodName, features: dict[str, Any], tmp_path: Path
) -> None:
    learner = method(name)
    # Loading it changes the base; and inc-lora adds to plain LoRA only.
    plain = features in ({}, {"target_modules": "all-linear"})
    if "init_lora_weights" in features or (name == "inc-lora" and not plain):
        with pytest.raises(ModelError):
            learner.start(users_adapter(tmp_path / "user", **features))
        return
    model = learner.start(users_adapter(tmp_path / "user", **features))
    given = logits(model)
    model = learner.prepare(model, task_at(0))
    assert distance(logits(model.eval()), given) <= 1e-4
    if not features:
        added = lora_names("default", ("q_proj", "o_proj")) if name == "seq-lora" else lora_names("increment")
        assert set(trainable(model)) == added
    shake(model, seed=1)
    said = logits(model)
    assert distance(said, given) > 0.1
    model = learner.finish(model, task_at(0), tmp_path / "stage")
    again = learner.start(PeftModel.from_pretrained(tiny_model(), tmp_path / "user"))
    resumed = logits(learner.resume(again, tmp_path / "stage").eval())
    for found in (logits(model), logits(reloaded(tmp_path / "stage")), resumed):
        assert distance(found, said) <= 1e-4


@pytest.mark.parametrize("name", ["inc-lora", "o-lora"])
def test_each_tasks_adapter_begins_elsewhere_under_one_seed(name: MethodName, tmp_path: Path) -> None:
    learner, drawn = method(name), []
    model = learner.start(tiny_model())
    for place in range(2):
        training = replace(task_at(place), seed=7)
        model = learner.prepare(model, training)
        drawn.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_A.increment" in n})
        model = learner.finish(model, training, tmp_path / str(place))
    assert drawn[0].keys() == drawn[1].keys() and len(drawn[0]) > 1
    for key, old in drawn[0].items():
        # Of independent directions the cosines are small.
        cosine = torch.nn.functional.cosine_similarity(old.flatten(), drawn[1][key].flatten(), dim=0)
        assert abs(float(cosine)) < 0.5


@each_start
def test_settings_of_the_adapter_are_not_asked_of_a_model_that_is_given_one(name: MethodName, tmp_path: Path) -> None:
    model, absent = users_adapter(tmp_path), method(name, LORA.model_copy(update={"target_modules": ("c_attn",)}))
    if absent.continues:
        assert absent.start(model) is model
    else:
        with pytest.raises(ModelError, match="c_attn"):
            absent.start(model)


@each_start
def test_an_adapter_of_another_kind_is_refused(name: MethodName) -> None:
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    with pytest.raises(ModelError, match=f"{name} cannot continue from a IA3 adapter: allowed is LoRA"):
        method(name).start(get_peft_model(tiny_model(), config))
