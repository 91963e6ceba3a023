"""The page against the method's own words: whole runs of a tiny model, recomputed with stock transformers and peft."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small_runs import (
    Json,
    Stops,
    Told,
    adapters,
    cell,
    configure,
    lasting,
    nll_by_hand,
    prompt_by_hand,
    read,
    stage_weights,
    write,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

import sapo.runs.steps
from sapo.core.errors import DataError, RecordError, SapoError
from sapo.core.types import Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.answers import Evaluation, evaluate
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.results import RunResult
from sapo.runs.stage import load_stage
from sapo.sequence import run
from sapo.tasks.builtin import builtin_paraphrases
from sapo.training.finetune import finetune

TASKS = ("review-sentiment", "extract-items", "odd-one-out")
WATCH = "date-format"


# Independent of the library: prompt layout, template, full logits, row by row.


def tokens_by_hand(tokenizer: Any, rows: Sequence[Example]) -> list[int]:
    return [len(tokenizer(row.answer + "<|im_end|>\n").input_ids) for row in rows]


def stock(model_dir: Path, *adapters: Path) -> Any:
    """The base model, with adapters merged one after another, by stock transformers and peft alone."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


# The main run: three tasks, one watch task, both test prompts.


@dataclass(frozen=True)
class Finished:
    """A run, what its trainer saw, and what it reported."""

    config: Config
    results: RunResult
    trained_on: tuple[tuple[str, ...], ...]
    listener: Told

    @property
    def run_dir(self) -> Path:
        return self.config.run_dir


@pytest.fixture(scope="module")
def finished(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A SAPO run whose generated answers get scores that differ from cell to cell; everything else is real."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    config = make_config({
        "model": {"base": str(small_model), "device": "cpu"}, "sequence": list(TASKS), "watch": [WATCH],
        "candidates": {"count": 3}, "selection": {"examples": 6}, "lora": {"r": 4, "alpha": 8},
        "train": {"rows": 8, "epochs": 1, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 1e-2},
        "evaluate": {"rows": 4, "max_new_tokens": 4, "prompts": ["own", "original"]}, "run_dir": str(run_dir),
    })  # fmt: skip
    tokenizer, listener = tiny_tokenizer(), Told()
    seen: list[tuple[str, ...]] = []
    random = np.random.default_rng(0)

    def training(model: Any, encoded: Sequence[Any], *rest: Any) -> Any:
        seen.append(tuple(tokenizer.decode(e.ids) for e in encoded))
        return finetune(model, encoded, *rest)

    def scored(*args: Any) -> Evaluation:
        found = evaluate(*args)
        return replace(found, scores={name: random.uniform(0, 100, len(s)) for name, s in found.scores.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sapo.runs.steps, "finetune", training)
        patch.setattr(sapo.runs.steps, "evaluate", scored)
        results = run(config, listener)
    return Finished(config, results, tuple(seen), listener)


def selected(finished: Finished) -> dict[str, str]:
    return {name: entry["text"] for name, entry in finished.results.to_json()["instructions"].items()}


def test_a_paraphrase_wins_on_every_task_so_that_the_tests_below_can_fail(finished: Finished) -> None:
    entries = finished.results.to_json()["instructions"]
    assert [entries[name]["origin"] for name in TASKS] == ["builtin"] * 3
    assert all(entries[name]["text"] in builtin_paraphrases(name) for name in TASKS)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_candidates_are_scored_in_the_state_before_their_task(
    number: int, finished: Finished, small_model: Path
) -> None:
    task = prepare(finished.config).inputs.tasks[number - 1]
    stored = read(finished.run_dir / "selections" / f"{number}-{task.name}.json")["value"]
    rows = [task.train[i] for i in stored["rows"]]
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    stages = [finished.run_dir / "stages" / f"{k}-{name}" for k, name in enumerate(TASKS, start=1)]
    before, after = stock(small_model, *stages[:number][-2:-1]), stock(small_model, stages[number - 1])
    losses = []
    for candidate in stored["candidates"]:
        by_hand = nll_by_hand(before, tokenizer, candidate["text"], task.suffix, rows)
        assert candidate["losses"]["nll"] == pytest.approx(by_hand, abs=1e-4)
        assert candidate["losses"]["tokens"] == tokens_by_hand(tokenizer, rows)
        losses.append(sum(by_hand) / sum(tokens_by_hand(tokenizer, rows)))
        assert candidate["loss"] == pytest.approx(losses[-1], abs=1e-5)
        elsewhere = sum(nll_by_hand(after, tokenizer, candidate["text"], task.suffix, rows))
        assert abs(elsewhere / sum(tokens_by_hand(tokenizer, rows)) - losses[-1]) > 1e-2
    gathered = read(finished.run_dir / "candidates" / f"{number}-{task.name}.json")["value"]["candidates"]
    assert [c["text"] for c in stored["candidates"]] == [c["text"] for c in gathered]
    given = builtin_paraphrases(task.name)
    places = [given.index(c["text"]) for c in gathered[1:]]
    assert (gathered[0]["text"], len(places), places) == (task.instruction, 3, sorted(places))
    assert stored["chosen"] == int(np.argmin(losses))
    assert selected(finished)[task.name] == stored["candidates"][int(np.argmin(losses))]["text"]
    recorded = finished.results.to_json()["instructions"][task.name]["losses"]
    assert recorded == {c["text"]: c["loss"] for c in stored["candidates"]}


def test_each_task_is_trained_once_in_order_on_its_own_rows_with_the_chosen_instruction(finished: Finished) -> None:
    assert len(finished.trained_on) == len(TASKS)
    for task, texts in zip(prepare(finished.config).inputs.tasks, finished.trained_on, strict=True):
        instruction = selected(finished)[task.name]
        assert texts == tuple(
            prompt_by_hand(instruction, task.suffix, row.input) + row.answer + "<|im_end|>\n" for row in task.train
        )
        assert len(texts) == 8


@pytest.mark.parametrize("metric", ["primary", "exact_match", "rouge_l", "list_f1", "nll"])
@pytest.mark.parametrize("prompt", ["own", "original"])
def test_matrices_are_means_of_the_recorded_cells_and_of_losses_sums_over_sums(
    metric: str, prompt: str, finished: Finished
) -> None:
    data = finished.results.to_json()
    primary = data["primary_metrics"]
    assert primary == {TASKS[0]: "exact_match", TASKS[1]: "list_f1", TASKS[2]: "exact_match", WATCH: "exact_match"}
    assert data["primary_metric"] == "mixed" and WATCH not in data["tasks"] and WATCH not in data["instructions"]

    def value(stage: int, name: str) -> float:
        kind = "own" if prompt == "own" and name in TASKS[:stage] else "original"
        found = cell(finished.run_dir, stage, name, kind)
        if metric == "nll":
            return float(sum(found["losses"]["nll"]) / sum(found["losses"]["tokens"]))
        scores = found["scores"][primary[name] if metric == "primary" else metric]
        return float(sum(scores) / len(scores))

    by_hand = [[value(stage, name) for name in TASKS] for stage in range(4)]
    np.testing.assert_allclose(data["matrices"][metric][prompt], by_hand, rtol=1e-12)
    differs = np.array(data["matrices"][metric]["own"]) != np.array(data["matrices"][metric]["original"])
    assert differs.tolist() == [[False] * 3, [True, False, False], [True, True, False], [True, True, True]]
    watched = [value(stage, WATCH) for stage in range(4)]
    np.testing.assert_allclose(data["watch"][WATCH][metric][prompt], watched, rtol=1e-12)
    assert len(np.unique(by_hand)) == 12


def test_the_main_matrix_and_metrics_are_those_of_the_primary_metric_and_the_chosen_instruction(
    finished: Finished,
) -> None:
    data = finished.results.to_json()
    assert data["test_prompt"] == "own"
    assert finished.results.matrix == data["matrices"]["primary"]["own"] != data["matrices"]["primary"]["original"]
    assert finished.results.metrics == data["metrics_all"]["primary"]["own"]
    r = np.array(finished.results.matrix)
    metrics = finished.results.metrics
    assert metrics["ap"]["value"] == pytest.approx((r[3, 0] + r[3, 1] + r[3, 2]) / 3)
    assert metrics["bwt_final"]["value"] == pytest.approx((r[3, 0] - r[1, 0] + r[3, 1] - r[2, 1]) / 2)
    bwt = ((r[2, 0] - r[1, 0]) + ((r[3, 0] - r[1, 0]) + (r[3, 1] - r[2, 1])) / 2) / 2
    assert metrics["bwt_all_stages"]["value"] == pytest.approx(bwt)
    fwt = (((r[1, 1] - r[0, 1]) + (r[1, 2] - r[0, 2])) / 2 + (r[2, 2] - r[0, 2])) / 2
    assert metrics["fwt_all_stages"]["value"] == pytest.approx(fwt)
    low, high = metrics["ap"]["interval"] or ()
    assert low < (metrics["ap"]["value"] or 0) < high
    assert read(finished.run_dir / "results.json") == data


def test_the_reporter_hears_the_whole_cost_step_by_step(finished: Finished) -> None:
    listener = finished.listener
    assert len(listener.planned) == 1 and not listener.spared
    assert sum(cost for _, cost in listener.work.values()) == pytest.approx(listener.planned[0])
    # How many texts a source gives before enough of them are valid is not known beforehand, and costs nothing.
    gathering = {label: work for label, work in listener.work.items() if "gathering" in label}
    assert list(gathering.values()) == [(3, 0)] * 3 and all(listener.advanced[label] >= 3 for label in gathering)
    computed = {label: units for label, (units, _) in listener.work.items() if label not in gathering}
    assert computed == {label: listener.advanced[label] for label in computed}
    assert len(listener.steps) == len(listener.work) and len(computed) == 3 + 3 + 4 * 4 + (1 + 2 + 3)


def test_a_finished_run_is_read_back_without_computing_anything(finished: Finished) -> None:
    before = {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()}
    listener = Told()
    assert run(finished.config, listener) == finished.results
    assert {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()} == before
    assert not listener.steps and sum(listener.spared) == pytest.approx(listener.planned[0])


def test_a_stage_directory_alone_answers_as_its_run_was_tested(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Path(shutil.copytree(finished.run_dir / "stages" / f"2-{TASKS[1]}", tmp_path / "moved"))
    inputs = prepare(finished.config).inputs
    loaded = load_stage(stage)
    predictions = []
    for task in inputs.tasks[:2]:
        rows = [row.input for row in task.test]
        found = cell(finished.run_dir, 2, task.name, "own")
        predictions += found["predictions"]
        assert loaded.generate(rows, task.name) == found["predictions"]
    assert len(set(predictions)) > 2
    # What can be read only once is read once.
    assert loaded.generate(rows) == loaded.generate(iter(rows), TASKS[1])  # type: ignore[arg-type]
    with pytest.raises(SapoError, match=f"not trained on '{TASKS[2]}'.*Its tasks: {TASKS[0]}, {TASKS[1]}"):
        loaded.generate(rows, TASKS[2])
    with pytest.raises(DataError, match="input 2 holds half a character"):
        loaded.generate(["x", "caf\udce9"])
    assert not caplog.messages
    loaded.generate(["x", "word " * 4000])
    assert caplog.messages == ["1 of 2 inputs were too long and are cut in the middle"]
    entries = {entry["task"]: entry for entry in read(stage / "sapo.json")["tasks"]}
    assert {name: entries[name]["instruction"] for name in entries} == {n: selected(finished)[n] for n in TASKS[:2]}
    assert [entries[t.name]["suffix"] for t in inputs.tasks[:2]] == [t.suffix for t in inputs.tasks[:2]]


# Interruption. Two tasks: two selections, two trainings, three stages of two cells.


CALLS = 2 + 2 + 3 * 2


def inc_lora(small_model: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    """Its stages hold what each task added, too."""
    return configure(small_model, bench, run_dir, method="inc-lora", **changes)


@pytest.fixture(scope="module")
def whole(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that nothing disturbed."""
    config, told = inc_lora(small_model, bench, tmp_path_factory.mktemp("whole") / "run"), Told()
    run(config, told)
    assert len(told.computed) == CALLS
    return config


def found_by(config: Config) -> Json:
    return lasting(read(config.run_dir / "results.json"))


def test_a_run_that_is_interrupted_at_every_step_ends_as_if_it_had_not_been(
    whole: Config, small_model: Path, bench: Path, tmp_path: Path
) -> None:
    config = inc_lora(small_model, bench, tmp_path / "run", keep="last")
    # Every start keeps one step more; where it is stopped before a step is written, that one is computed twice.
    for number in range(1, CALLS):
        stops = Stops(done=number % 2 == 0)
        with pytest.raises(KeyboardInterrupt):
            run(config, stops)
        assert len(stops.found) == number - 1 and not (config.run_dir / "results.json").exists()
    told = Told()
    run(config, told)
    assert len(told.computed) == 1 and found_by(config) == found_by(whole)
    expected = {name: found for name, found in adapters(whole.run_dir).items() if name.startswith("stages/2-beta/")}
    assert expected and adapters(config.run_dir) == expected
    # Nothing that was dropped is missed by whoever keeps all stages from now on.
    assert found_by(config) == lasting(run(config.model_copy(update={"keep": "all"})))
    # It is resumed from the stage that is left. What was tested with a dropped one cannot be tested again.
    (config.run_dir / "results.json").unlink()
    shutil.rmtree(config.run_dir / "cells" / "2")
    run(config)
    assert found_by(config) == found_by(whole)
    (config.run_dir / "cells" / "1" / "beta.original.json").unlink()
    with pytest.raises(RecordError, match=r"1-alpha is missing, and a step after it is not finished"):
        run(config)


# What was changed since.


@pytest.fixture
def done(whole: Config, small_model: Path, bench: Path, tmp_path: Path) -> Config:
    """A finished run of alpha and beta with a model and data of its own."""
    root = tmp_path / "own"
    for source, name in ((whole.run_dir, "run"), (small_model, "model"), (bench, "bench")):
        shutil.copytree(source, root / name)
    config = inc_lora(root / "model", root / "bench", root / "run")
    stored = (root / "run" / "config.yaml").read_text()
    for there, here in ((small_model, root / "model"), (bench, root / "bench")):
        stored = stored.replace(str(there), str(here))
    (root / "run" / "config.yaml").write_text(stored)
    return config


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = read(path)
    change(value)
    write(path, value)


Change = Callable[[Path], None]


def _weights(root: Path) -> None:
    path = root / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})


def _template(root: Path) -> None:
    path = root / "model" / "chat_template.jinja"
    path.write_text("{{ '<|im_start|>' }}" + path.read_text())


CHANGES: Mapping[str, tuple[Change, str, str]] = MappingProxyType(
    {
        "an answer": (
            lambda root: edit(root / "bench" / "alpha" / "train.json", lambda rows: rows[1].update(label="nn")),
            "selections/1-alpha.json", "data",
        ),
        "a test row": (
            lambda root: edit(root / "bench" / "beta" / "test.json", lambda rows: [r.update(label="z") for r in rows]),
            "cells/0/beta.original.json", "data",
        ),
        "a candidate": (
            lambda root: edit(root / "bench" / "candidates.json", lambda c: c["beta"].__setitem__(1, "New: y or n?")),
            "candidates/2-beta.json", "candidates file",
        ),
        "an instruction": (
            lambda root: edit(
                root / "bench" / "instructions.json", lambda index: index["beta"].update(instruction="y or n?")
            ),
            "candidates/2-beta.json", "instruction",
        ),
        "the base model": (_weights, "cells/0/alpha.original.json", "model"),
        "the chat template": (_template, "cells/0/alpha.original.json", "template"),
    }
)  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_step_is_not_reused_when_what_it_came_from_was_changed(what: str, done: Config) -> None:
    def recorded() -> dict[Path, bytes]:
        files = (p for p in done.run_dir.rglob("*") if p.is_file() and p.name != "environment.json")
        return {p: p.read_bytes() for p in files}

    change, file, name = CHANGES[what]
    before, told = recorded(), Told()
    change(done.run_dir.parent)
    with pytest.raises(
        RecordError,
        match=rf"run/{file} was computed from different inputs \(changed: {name}(, selection settings)?\)\.",
    ):
        run(done, told)
    # What was recorded stays as it is.
    assert recorded() == before and told.computed == []


def damage(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] += 1e-6
    save_file(tensors, path)


DAMAGE: Mapping[str, tuple[Change, str]] = {
    "weights": (lambda stage: damage(stage / "adapter_model.safetensors"), "/adapter_model.safetensors was changed si"),
    "no weights": (lambda stage: (stage / "adapter_model.safetensors").unlink(), "/adapter_model.safetensors is miss"),
    "no stage": (shutil.rmtree, " is missing"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_finished_run_whose_stage_was_damaged_or_lost_does_not_pass_for_finished(what: str, done: Config) -> None:
    stage, (change, said) = done.run_dir / "stages" / "2-beta", DAMAGE[what]
    before = stage_weights(done.run_dir, "2-beta")
    change(stage)
    with pytest.raises(RecordError, match=rf"2-beta{said}.*Put it back unchanged, or delete \S+2-beta\.json, and what"):
        run(done)
    (done.run_dir / "training" / "2-beta.json").unlink()
    shutil.rmtree(done.run_dir / "cells" / "2")
    run(done)
    assert all(torch.equal(p, before[name]) for name, p in stage_weights(done.run_dir, "2-beta").items())


def test_another_configuration_is_refused_before_any_model_is_loaded(done: Config) -> None:
    shutil.rmtree(done.run_dir.parent / "model")
    with pytest.raises(RecordError, match="seed: 42 then, 7 now"):
        run(done.model_copy(update={"seed": 7}))


# Where a run starts from.


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that already changes the model."""
    directory = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(tiny_model(seed=2, context=1024), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("method", ["seq-lora", "inc-lora"])
def test_a_run_starts_from_the_users_adapter_and_its_stage_contains_it(
    method: str, small_model: Path, adapter: Path, bench: Path, tmp_path: Path
) -> None:
    before = adapters(adapter)
    config = configure(
        small_model, bench, tmp_path / "run", sequence=["alpha"], method=method, model={"adapter": str(adapter)},
    )  # fmt: skip
    instruction = run(config).to_json()["instructions"]["alpha"]["text"]
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    task = prepare(config).inputs.tasks[0]
    start, stage = stock(small_model, adapter), config.run_dir / "stages" / "1-alpha"

    def by_hand(model: Any, text: str) -> list[float]:
        return nll_by_hand(model, tokenizer, text, task.suffix, task.test)

    first = cell(config.run_dir, 0, "alpha", "original")["losses"]["nll"]
    assert first == pytest.approx(by_hand(start, task.instruction), abs=1e-4)
    assert first != pytest.approx(by_hand(stock(small_model), task.instruction), abs=1e-2)
    kind = "original" if instruction == task.instruction else "own"
    second = cell(config.run_dir, 1, "alpha", kind)["losses"]["nll"]
    assert second == pytest.approx(by_hand(stock(small_model, stage), instruction), abs=1e-4)
    assert second != pytest.approx(by_hand(start, instruction), abs=1e-3)
    if method == "inc-lora":
        assert second == pytest.approx(by_hand(stock(small_model, adapter, stage / "increment"), instruction), abs=1e-4)
    assert (
        load_stage(stage).generate([r.input for r in task.test])
        == cell(config.run_dir, 1, "alpha", kind)["predictions"]
    )
    assert adapters(adapter) == before
