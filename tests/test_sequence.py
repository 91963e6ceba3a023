"""The page against the method's own words: whole runs of a tiny model, recomputed with stock transformers and peft."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import sapo.runs.inputs
import sapo.runs.prepare
import sapo.runs.steps
import sapo.sequence
from sapo.core.errors import ConfigError, DataError, RecordError, SapoError
from sapo.core.types import Example, Standing
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.answers import Evaluation, evaluate
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.prepare import set_up
from sapo.runs.results import RunResult
from sapo.runs.stage import Stage
from sapo.sequence import run
from sapo.tasks.builtin import builtin_paraphrases
from sapo.training.finetune import finetune

TASKS = ("review-sentiment", "extract-items", "odd-one-out")
WATCH = "date-format"
# With these weights a paraphrase wins on every task.
MODEL_SEED = 2
SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "candidates": {"count": 2},
        "selection": {"examples": 4},
        "train": {"rows": 4, "epochs": 1, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 1e-2},
        "lora": {"r": 4, "alpha": 8},
        "evaluate": {"rows": 2, "max_new_tokens": 2},
    }
)
Json = dict[str, Any]


def save_model(directory: Path, **changes: Any) -> Path:
    tiny_model(**{"seed": MODEL_SEED, "context": 1024, **changes}).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return write_bench(tmp_path / "bench")


def write_bench(directory: Path) -> Path:
    """A benchmark directory with the tasks alpha and beta, and paraphrases for both in candidates.json."""
    index, candidates = {}, {}
    for name in ("alpha", "beta"):
        rows = {
            split: [{"sentence": f"{name} {split} {i}", "label": "yn"[i % 2]} for i in range(4)] for split in SPLITS
        }
        for split in SPLITS:
            write(directory / name / f"{split}.json", rows[split])
        index[name] = {"instruction": f"Say y or n for {name}.", "suffix": "One letter.", "labels": ["y", "n"]}
        candidates[name] = [f"For {name}, answer y or n.", f"Is it y or n? It is {name}."]
    write(directory / "instructions.json", index)
    write(directory / "candidates.json", candidates)
    return directory


SPLITS = ("train", "test")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def configure(model_dir: Path, run_dir: Path, sequence: Sequence[str] = TASKS[:2], **changes: Any) -> Config:
    data = {**SMALL, "model": {"base": str(model_dir), "device": "cpu"}, "sequence": list(sequence)}
    for key, value in changes.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return make_config({**data, "run_dir": str(run_dir)})


def bench_config(model_dir: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    files = {"data_dir": str(bench), "candidates": {"file": str(bench / "candidates.json")}}
    return configure(model_dir, run_dir, **{"sequence": ("alpha", "beta"), **files, **changes})


def cell(run_dir: Path, stage: int, task: str, prompt: str) -> Json:
    value: Json = read(run_dir / "cells" / str(stage) / f"{task}.{prompt}.json")["value"]
    return value


def lasting(results: RunResult) -> Json:
    """What a run found, without its times and its directory."""
    data = {key: value for key, value in results.data.items() if key != "seconds"}
    return {**data, "config": {key: value for key, value in data["config"].items() if key not in ("run_dir", "keep")}}


def adapters(run_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in sorted(run_dir.rglob("*.safetensors"))}


def forbid(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Let a test fail if a step is computed."""
    for name in names:

        def refuse(*args: Any, name: str = name, **kwargs: Any) -> Any:
            raise AssertionError(f"{name} was called")

        patch.setattr(f"sapo.runs.steps.{name}", refuse)


COMPUTED = ("finetune", "evaluate", "score_candidates")


# Independent of the library: prompt layout, template, full logits, row by row.


def prompt_by_hand(tokenizer: Any, instruction: str, suffix: str, text: str) -> str:
    turn = instruction + "\n\nText:\n" + text + ("\n\n" + suffix if suffix else "")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(rendered, str)
    return rendered


@torch.no_grad()
def nll_by_hand(model: Any, tokenizer: Any, instruction: str, suffix: str, rows: Sequence[Example]) -> list[float]:
    """Sum of the NLL of answer and end of turn, for each row."""
    found = []
    for row in rows:
        prompt = tokenizer(prompt_by_hand(tokenizer, instruction, suffix, row.input)).input_ids
        answer = tokenizer(row.answer + "<|im_end|>\n").input_ids
        log_p = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
        found.append(-sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)))
    return found


def tokens_by_hand(tokenizer: Any, rows: Sequence[Example]) -> list[int]:
    return [len(tokenizer(row.answer + "<|im_end|>\n").input_ids) for row in rows]


def stock(model_dir: Path, *adapters: Path) -> Any:
    """The base model, with adapters merged one after another, by stock transformers and peft alone."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


# The main run: three tasks, one watch task, both test prompts.


@dataclass
class Listener:
    """A reporter that keeps what it hears."""

    planned: list[float] = field(default_factory=list)
    steps: list[tuple[str, int, float]] = field(default_factory=list)
    advanced: dict[str, int] = field(default_factory=dict)
    found: list[tuple[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    tables: list[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]] = field(default_factory=list)

    def plan(self, cost: float) -> None:
        self.planned.append(cost)

    def step(self, label: str, units: int, cost: float) -> AbstractContextManager[Callable[[int], None]]:
        self.steps.append((label, units, cost))
        self.advanced[label] = 0

        @contextmanager
        def opened() -> Iterator[Callable[[int], None]]:
            def advance(n: int) -> None:
                self.advanced[label] += n

            yield advance

        return opened()

    def reused(self, label: str, cost: float) -> None:
        self.found.append((label, cost))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tables.append((title, tuple(columns), tuple(tuple(row) for row in rows)))

    @contextmanager
    def race(self, texts: Sequence[str], rows: int) -> Iterator[Callable[[Standing], None]]:
        yield self.standings.append


@dataclass(frozen=True)
class Finished:
    """A run, what its trainer saw, and what it reported."""

    config: Config
    results: RunResult
    trained_on: tuple[tuple[str, ...], ...]
    listener: Listener

    @property
    def run_dir(self) -> Path:
        return self.config.run_dir


@pytest.fixture(scope="session")
def finished(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A SAPO run whose generated answers get scores that differ from cell to cell; everything else is real."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    config = configure(
        model_dir, run_dir, TASKS, watch=[WATCH], candidates={"count": 3},
        train={"rows": 8}, selection={"examples": 6}, evaluate={"rows": 4, "max_new_tokens": 4, "test_prompt": "both"},
    )  # fmt: skip
    tokenizer, listener = tiny_tokenizer(), Listener()
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
    return {name: entry["text"] for name, entry in finished.results.data["instructions"].items()}


def test_a_paraphrase_wins_on_every_task_so_that_the_tests_below_can_fail(finished: Finished) -> None:
    entries = finished.results.data["instructions"]
    assert [entries[name]["origin"] for name in TASKS] == ["builtin"] * 3
    assert all(entries[name]["text"] in builtin_paraphrases(name) for name in TASKS)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_candidates_are_scored_in_the_state_before_their_task(number: int, finished: Finished, model_dir: Path) -> None:
    task = set_up(finished.config).tasks[number - 1]
    stored = read(finished.run_dir / "selections" / f"{number}-{task.name}.json")["value"]
    rows = [task.train[i] for i in stored["rows"]]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    stages = [finished.run_dir / "stages" / f"{k}-{name}" for k, name in enumerate(TASKS, start=1)]
    before, after = stock(model_dir, *stages[:number][-2:-1]), stock(model_dir, stages[number - 1])
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
    recorded = finished.results.data["instructions"][task.name]["losses"]
    assert recorded == {c["text"]: c["loss"] for c in stored["candidates"]}


def test_each_task_is_trained_once_in_order_on_its_own_rows_with_the_chosen_instruction(finished: Finished) -> None:
    tokenizer = tiny_tokenizer()
    assert len(finished.trained_on) == len(TASKS)
    for task, texts in zip(set_up(finished.config).tasks, finished.trained_on, strict=True):
        instruction = selected(finished)[task.name]
        assert texts == tuple(
            prompt_by_hand(tokenizer, instruction, task.suffix, row.input) + row.answer + "<|im_end|>\n"
            for row in task.train
        )
        assert len(texts) == 8


def test_seen_tasks_are_tested_with_the_chosen_instruction_and_unseen_ones_with_the_original(
    finished: Finished, model_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    setup = set_up(finished.config)
    expected = set()
    for stage in range(4):
        directory = [finished.run_dir / "stages" / f"{stage}-{TASKS[stage - 1]}"] if stage else []
        model = stock(model_dir, *directory)
        for task in (*setup.tasks, *setup.watch):
            texts = {"original": task.instruction}
            if task.name in TASKS[:stage]:
                texts["selected"] = selected(finished)[task.name]
            for prompt, text in texts.items():
                expected.add(f"{stage}/{task.name}.{prompt}.json")
                found = cell(finished.run_dir, stage, task.name, prompt)
                assert found["instruction"] == text
                assert found["answers"] == [row.answer for row in task.test]
                by_hand = nll_by_hand(model, tokenizer, text, task.suffix, task.test)
                assert found["losses"]["nll"] == pytest.approx(by_hand, abs=1e-4)
                assert found["losses"]["tokens"] == tokens_by_hand(tokenizer, task.test)
    cells = finished.run_dir / "cells"
    assert {p.relative_to(cells).as_posix() for p in cells.rglob("*.json")} == expected


@pytest.mark.parametrize("metric", ["primary", "exact_match", "rouge_l", "list_f1", "nll"])
@pytest.mark.parametrize("prompt", ["selected", "original"])
def test_matrices_are_means_of_the_recorded_cells_and_of_losses_sums_over_sums(
    metric: str, prompt: str, finished: Finished
) -> None:
    data = finished.results.data
    primary = data["primary_metrics"]
    assert primary == {TASKS[0]: "exact_match", TASKS[1]: "list_f1", TASKS[2]: "exact_match", WATCH: "exact_match"}
    assert data["primary_metric"] == "mixed"

    def value(stage: int, name: str) -> float:
        kind = "selected" if prompt == "selected" and name in TASKS[:stage] else "original"
        found = cell(finished.run_dir, stage, name, kind)
        if metric == "nll":
            return float(sum(found["losses"]["nll"]) / sum(found["losses"]["tokens"]))
        scores = found["scores"][primary[name] if metric == "primary" else metric]
        return float(sum(scores) / len(scores))

    by_hand = [[value(stage, name) for name in TASKS] for stage in range(4)]
    np.testing.assert_allclose(data["matrices"][metric][prompt], by_hand, rtol=1e-12)
    watched = [value(stage, WATCH) for stage in range(4)]
    np.testing.assert_allclose(data["watch"][WATCH][metric][prompt], watched, rtol=1e-12)
    assert len(np.unique(by_hand)) == 12


def test_the_main_matrix_and_metrics_are_those_of_the_primary_metric_and_the_chosen_instruction(
    finished: Finished,
) -> None:
    data = finished.results.data
    assert data["test_prompt"] == "selected"
    assert finished.results.matrix == data["matrices"]["primary"]["selected"] != data["matrices"]["primary"]["original"]
    assert finished.results.metrics == data["metrics_all"]["primary"]["selected"]
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


def test_the_two_test_prompts_differ_exactly_on_seen_tasks(finished: Finished) -> None:
    matrices = finished.results.data["matrices"]["nll"]
    differs = np.array(matrices["selected"]) != np.array(matrices["original"])
    assert differs.tolist() == [[False] * 3, [True, False, False], [True, True, False], [True, True, True]]


def test_a_watch_task_is_tested_at_every_stage_and_never_trained(finished: Finished) -> None:
    watch = finished.results.data["watch"]
    assert list(watch) == [WATCH]
    assert [len(watch[WATCH][metric]["selected"]) for metric in ("primary", "nll")] == [4, 4]
    assert WATCH not in finished.results.data["tasks"] and WATCH not in finished.results.data["instructions"]
    task = set_up(finished.config).watch[0]
    assert not any(task.suffix in text for texts in finished.trained_on for text in texts)
    assert not list(finished.run_dir.glob(f"*/*{WATCH}*"))


def test_the_reporter_hears_the_whole_cost_step_by_step(finished: Finished) -> None:
    listener = finished.listener
    assert len(listener.planned) == 1 and not listener.found
    assert sum(cost for _, _, cost in listener.steps) == pytest.approx(listener.planned[0])
    # How many texts a source gives before enough of them are valid is not known beforehand, and costs nothing.
    gathering = {label: (units, cost) for label, units, cost in listener.steps if "gathering" in label}
    assert list(gathering.values()) == [(3, 0)] * 3 and all(listener.advanced[label] >= 3 for label in gathering)
    assert {label: n for label, n in listener.advanced.items() if label not in gathering} == {
        label: units for label, units, _ in listener.steps if label not in gathering
    }
    assert len(listener.advanced) == len(listener.steps) == 3 + 3 + 3 + 4 * 4 + (1 + 2 + 3)


def test_a_finished_run_is_read_back_without_computing_anything(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, *COMPUTED)
    before = {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()}
    listener = Listener()
    assert run(finished.config, listener).data == finished.results.data
    assert {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()} == before
    assert not listener.steps
    assert sum(cost for _, cost in listener.found) == pytest.approx(listener.planned[0])


def test_a_stage_directory_alone_answers_as_its_run_was_tested(finished: Finished, tmp_path: Path) -> None:
    stage = Path(shutil.copytree(finished.run_dir / "stages" / f"2-{TASKS[1]}", tmp_path / "moved"))
    setup = set_up(finished.config)
    loaded = Stage.load(stage)
    predictions = []
    for task in setup.tasks[:2]:
        rows = [row.input for row in task.test]
        found = cell(finished.run_dir, 2, task.name, "selected")
        predictions += found["predictions"]
        assert loaded.answer(rows, task.name) == found["predictions"]
    assert len(set(predictions)) > 2
    assert loaded.answer(rows) == loaded.answer(rows, TASKS[1])
    with pytest.raises(SapoError, match=f"not trained on '{TASKS[2]}'.*Its tasks: {TASKS[0]}, {TASKS[1]}"):
        loaded.answer(rows, TASKS[2])
    entries = {entry["task"]: entry for entry in read(stage / "sapo.json")["tasks"]}
    assert {name: entries[name]["instruction"] for name in entries} == {n: selected(finished)[n] for n in TASKS[:2]}
    assert [entries[t.name]["suffix"] for t in setup.tasks[:2]] == [t.suffix for t in setup.tasks[:2]]
    assert [entries[t.name]["original_instruction"] for t in setup.tasks[:2]] == [
        t.instruction for t in setup.tasks[:2]
    ]


def test_a_stage_answers_with_the_stored_instruction_and_suffix(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Path(shutil.copytree(finished.run_dir / "stages" / f"1-{TASKS[0]}", tmp_path / "moved"))
    data = read(stage / "sapo.json")
    data["tasks"][0] |= {"instruction": "Changed by hand.", "suffix": "And its suffix."}
    write(stage / "sapo.json", data)
    asked: list[list[int]] = []
    loaded = Stage.load(stage)
    original = loaded.loaded.model.generate

    def spy(**inputs: Any) -> Any:
        asked.extend(inputs["input_ids"].tolist())
        return original(**inputs)

    monkeypatch.setattr(loaded.loaded.model, "generate", spy)
    loaded.answer(["an input"])
    tokenizer = tiny_tokenizer()
    prompt = prompt_by_hand(tokenizer, "Changed by hand.", "And its suffix.", "an input")
    assert [tokenizer.decode(ids) for ids in asked] == [prompt]


def test_the_last_stage_is_described_for_people_too(finished: Finished) -> None:
    card = (finished.run_dir / "stages" / f"3-{TASKS[2]}" / "README.md").read_text(encoding="utf-8")
    for name, text in selected(finished).items():
        assert f"## {name}\n" in card
        assert all(f"    {line}" in card for line in text.splitlines())


# Policies, prompts, one task.


def test_the_original_policy_needs_no_candidates_and_scores_none(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "score_candidates")
    config = bench_config(model_dir, bench, tmp_path / "run", policy="original", candidates={"file": None})
    data = run(config).data
    assert [(e["text"], e["origin"], e["losses"]) for e in data["instructions"].values()] == [
        (f"Say y or n for {name}.", "original", None) for name in ("alpha", "beta")
    ]
    assert not (config.run_dir / "selections").exists()
    assert {p.name for p in (config.run_dir / "cells").rglob("*.json")} == {"alpha.original.json", "beta.original.json"}


def test_other_policies_take_candidates_made_by_rules_where_the_library_has_none(
    model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    for policy in ("sapo", "random", "highest", "median"):
        config = bench_config(model_dir, bench, tmp_path / policy, policy=policy, candidates={"file": None})
        for name, candidates in set_up(config).candidates.items():
            assert candidates[0].text == f"Say y or n for {name}."
            assert [c.origin for c in candidates] == ["original", *["rules"] * SMALL["candidates"]["count"]]


def no_model(*args: Any) -> Any:
    raise AssertionError("a model was loaded")


def test_the_random_policy_trains_with_a_paraphrase_and_scores_none(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "score_candidates")
    config = bench_config(model_dir, bench, tmp_path / "run", policy="random")
    instructions = run(config).data["instructions"]
    allowed = read(bench / "candidates.json")
    assert all(entry["text"] in allowed[name] and entry["origin"] == "file" for name, entry in instructions.items())
    assert cell(config.run_dir, 2, "alpha", "selected")["instruction"] == instructions["alpha"]["text"]


def test_the_original_test_prompt_tests_seen_tasks_with_the_original_too(
    model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    config = bench_config(
        model_dir, bench, tmp_path / "run", policy="random", evaluate={**SMALL["evaluate"], "test_prompt": "original"}
    )
    data = run(config).data
    assert data["test_prompt"] == "original" and list(data["matrices"]["nll"]) == ["original"]
    assert {p.name for p in (config.run_dir / "cells").rglob("*.json")} == {"alpha.original.json", "beta.original.json"}
    assert cell(config.run_dir, 2, "alpha", "original")["instruction"] == "Say y or n for alpha."


def test_one_task_has_no_transfer_metrics_and_says_why(model_dir: Path, bench: Path, tmp_path: Path) -> None:
    config = bench_config(
        model_dir, bench, tmp_path / "run", sequence=("beta",), selection={"rule": "confident", "sample": "first"}
    )
    metrics = run(config).metrics
    assert metrics["ap"]["value"] is not None
    for name in ("bwt_all_stages", "bwt_final", "fwt_all_stages", "fwt_next_task", "forgetting_max"):
        assert (metrics[name]["value"], metrics[name]["interval"]) == (None, None)
        assert "at least two tasks" in (metrics[name]["reason"] or "")
    selection = read(config.run_dir / "selections" / "1-beta.json")["value"]
    assert (selection["rule"], selection["sample"], selection["rows"]) == ("confident", "first", [0, 1, 2, 3])


# Interruption.


def interrupt(patch: pytest.MonkeyPatch, at: int, *, save: bool = False) -> list[str]:
    """Raise KeyboardInterrupt at one call, counted from 1: of a computation, or of writing what it gave."""
    calls: list[str] = []

    def guard(where: Any, name: str) -> None:
        real = getattr(where, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        patch.setattr(where, name, guarded)

    if save:
        guard(Record, "save")
    else:
        for name in COMPUTED:
            guard(sapo.runs.steps, name)
    return calls


# Two tasks: two selections, two trainings, three stages of two cells.
CALLS = 2 + 2 + 3 * 2


@dataclass(frozen=True)
class Uninterrupted:
    """What a run of each method gives when nothing disturbs it."""

    bench: Path
    lasting: Mapping[str, Json]
    adapters: Mapping[str, Mapping[str, bytes]]


@pytest.fixture(scope="session")
def uninterrupted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    root = tmp_path_factory.mktemp("uninterrupted")
    bench = write_bench(root / "bench")
    results, weights = {}, {}
    for method in ("seq-lora", "inc-lora"):
        config = bench_config(model_dir, bench, root / method, method=method)
        with pytest.MonkeyPatch.context() as patch:
            calls = interrupt(patch, 0)
            results[method] = lasting(run(config))
        assert len(calls) == CALLS
        weights[method] = adapters(config.run_dir)
    assert weights["seq-lora"] != weights["inc-lora"]
    return Uninterrupted(bench, results, weights)


# Before each call for the one method; for the other, whose writes are all interrupted below, around a training.
@pytest.mark.parametrize(
    ("method", "at"), [*(("seq-lora", at) for at in range(1, CALLS + 1)), *(("inc-lora", at) for at in (5, 8))]
)
def test_a_run_that_was_interrupted_at_any_step_ends_as_if_it_had_not_been(
    method: str, at: int, uninterrupted: Uninterrupted, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bench_config(model_dir, uninterrupted.bench, tmp_path / "run", method=method)
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not (config.run_dir / "results.json").exists()
    with monkeypatch.context() as patch:
        calls = interrupt(patch, 0)
        assert lasting(run(config)) == uninterrupted.lasting[method]
    # What was finished before is not computed again.
    assert len(calls) == CALLS - at + 1
    assert adapters(config.run_dir) == uninterrupted.adapters[method]


def test_a_run_that_is_interrupted_before_every_single_write_ends_as_if_it_had_not_been(
    uninterrupted: Uninterrupted, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "inc-lora"
    config = bench_config(model_dir, uninterrupted.bench, tmp_path / "run", method=method, keep="last")
    # Every start keeps one step more, and loses the one after it when that is already computed.
    for _ in range(CALLS - 1):
        with monkeypatch.context() as patch:
            interrupt(patch, 2, save=True)
            with pytest.raises(KeyboardInterrupt):
                run(config)
    assert lasting(run(config)) == uninterrupted.lasting[method]
    last = {name: b for name, b in uninterrupted.adapters[method].items() if name.startswith("stages/2-beta/")}
    assert last and adapters(config.run_dir) == last


def test_keeping_the_last_stage_leaves_only_it_and_goes_on_from_it(
    uninterrupted: Uninterrupted, model_dir: Path, tmp_path: Path
) -> None:
    config = bench_config(model_dir, uninterrupted.bench, tmp_path / "run", keep="last")
    run(config)
    assert [p.name for p in (config.run_dir / "stages").iterdir()] == ["2-beta"]
    (config.run_dir / "results.json").unlink()
    shutil.rmtree(config.run_dir / "cells" / "2")
    assert lasting(run(config)) == uninterrupted.lasting["seq-lora"]
    # What was tested with a dropped stage cannot be tested again.
    (config.run_dir / "cells" / "1" / "beta.original.json").unlink()
    with pytest.raises(RecordError, match=r"1-alpha is missing, and a step after it is not finished"):
        run(config)


# What was changed since.


@pytest.fixture(scope="session")
def template(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run beside its model and its data, all named by relative paths."""
    root = tmp_path_factory.mktemp("template")
    shutil.copytree(model_dir, root / "model")
    write_bench(root / "bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(bench_config(Path("model"), Path("bench"), Path("run")))
    return root


@pytest.fixture
def done(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A finished run of alpha and beta on a model and data of its own, in the working directory."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return bench_config(Path("model"), Path("bench"), Path("run"))


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
        "a training row": (
            lambda root: edit(root / "bench" / "beta" / "train.json", lambda rows: rows[2].update(sentence="new")),
            "selections/2-beta.json", "data",
        ),
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
        "the order of candidates": (
            lambda root: edit(root / "bench" / "candidates.json", lambda c: c["alpha"].reverse()),
            "candidates/1-alpha.json", "candidates file",
        ),
        "an instruction": (
            lambda root: edit(
                root / "bench" / "instructions.json", lambda index: index["beta"].update(instruction="y or n?")
            ),
            "candidates/2-beta.json", "instruction",
        ),
        "a suffix": (
            lambda root: edit(root / "bench" / "instructions.json", lambda index: index["beta"].update(suffix="!")),
            "candidates/2-beta.json", "suffix",
        ),
        "the base model": (_weights, "cells/0/alpha.original.json", "model"),
        "the chat template": (_template, "cells/0/alpha.original.json", "template"),
    }
)  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_step_is_not_reused_when_what_it_came_from_was_changed(
    what: str, done: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, file, name = CHANGES[what]
    change(tmp_path)
    forbid(monkeypatch, *COMPUTED)
    with pytest.raises(RecordError, match=rf"run/{file} was computed from something else .*; different: {name}\."):
        run(done)


@pytest.mark.parametrize("what", ["a candidate", "the order of candidates", "a training row", "a test row"])
def test_a_refused_run_leaves_the_steps_that_were_recorded_as_they_are(what: str, done: Config, tmp_path: Path) -> None:
    def recorded() -> dict[Path, bytes]:
        files = (p for p in done.run_dir.rglob("*") if p.is_file() and p.name != "environment.json")
        return {p: p.read_bytes() for p in files}

    before = recorded()
    CHANGES[what][0](tmp_path)
    with pytest.raises(RecordError):
        run(done)
    changed = [str(p.relative_to(done.run_dir)) for p, content in recorded().items() if before.get(p) != content]
    assert changed == []


def unfinish(config: Config) -> Path:
    """Take away a cell of the last stage, so that its weights are needed again; return them."""
    shutil.rmtree(config.run_dir / "cells" / "2")
    return config.run_dir / "stages" / "2-beta" / "adapter_model.safetensors"


def test_a_stage_whose_weights_were_changed_is_refused(done: Config) -> None:
    path = unfinish(done)
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] += 1e-6
    save_file(tensors, path)
    with pytest.raises(RecordError, match=r"2-beta/adapter_model.safetensors was changed since"):
        run(done)


def test_a_stage_whose_weights_were_cut_off_is_refused(done: Config) -> None:
    path = unfinish(done)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SapoError, match="2-beta"):
        run(done)


def test_a_stage_without_its_weights_is_refused(done: Config) -> None:
    unfinish(done).unlink()
    with pytest.raises(SapoError, match="2-beta"):
        run(done)


def test_a_missing_stage_is_named(done: Config) -> None:
    shutil.rmtree(unfinish(done).parent)
    with pytest.raises(RecordError, match=r"2-beta is missing\. Put it back as it was, or delete .*2-beta\.json"):
        run(done)


def test_another_configuration_is_refused_before_any_model_is_loaded(
    done: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sapo.runs.prepare, "load_model", no_model)
    with pytest.raises(RecordError, match="seed: 42 then, 7 now"):
        run(done.model_copy(update={"seed": 7}))


# Where a run starts from.


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that already changes the model."""
    directory = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(tiny_model(seed=MODEL_SEED, context=1024), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("method", ["seq-lora", "inc-lora"])
def test_a_run_starts_from_the_users_adapter_and_its_stage_contains_it(
    method: str, model_dir: Path, adapter: Path, bench: Path, tmp_path: Path
) -> None:
    before = adapters(adapter)
    config = bench_config(
        model_dir, bench, tmp_path / "run", sequence=("alpha",), method=method,
        model={"base": str(model_dir), "device": "cpu", "adapter": str(adapter)},
    )  # fmt: skip
    instruction = run(config).data["instructions"]["alpha"]["text"]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    task = set_up(config).tasks[0]
    start, stage = stock(model_dir, adapter), config.run_dir / "stages" / "1-alpha"

    def by_hand(model: Any, text: str) -> list[float]:
        return nll_by_hand(model, tokenizer, text, task.suffix, task.test)

    first = cell(config.run_dir, 0, "alpha", "original")["losses"]["nll"]
    assert first == pytest.approx(by_hand(start, task.instruction), abs=1e-4)
    assert first != pytest.approx(by_hand(stock(model_dir), task.instruction), abs=1e-2)
    kind = "original" if instruction == task.instruction else "selected"
    second = cell(config.run_dir, 1, "alpha", kind)["losses"]["nll"]
    assert second == pytest.approx(by_hand(stock(model_dir, stage), instruction), abs=1e-4)
    assert second != pytest.approx(by_hand(start, instruction), abs=1e-3)
    if method == "inc-lora":
        assert second == pytest.approx(by_hand(stock(model_dir, adapter, stage / "increment"), instruction), abs=1e-4)
    assert (
        Stage.load(stage).answer([r.input for r in task.test]) == cell(config.run_dir, 1, "alpha", kind)["predictions"]
    )
    assert adapters(adapter) == before


# What cannot be run.


def test_a_watch_task_that_is_also_trained_is_refused_before_any_model_is_loaded(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sapo.runs.prepare, "load_model", no_model)
    with pytest.raises(ConfigError, match=f"watch: {TASKS[0]} is trained on in this sequence"):
        run(configure(model_dir, tmp_path / "run", TASKS[:2], watch=[WATCH, TASKS[0]]))


def test_a_task_without_test_rows_that_cannot_be_split_is_refused_before_any_model_is_loaded(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sapo.runs.prepare, "load_model", no_model)
    bare = replace(toy_task(), train=toy_task().train[:1] * 3, test=())
    monkeypatch.setattr(sapo.runs.inputs, "load_sequence", lambda names, data, own: (bare,) * len(names))
    for start in (run, set_up):
        with pytest.raises(DataError, match="toy"):
            start(configure(model_dir, tmp_path / "run", ["toy"]))


def test_missing_tasks_are_all_named_before_any_model_is_loaded(
    model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sapo.runs.prepare, "load_model", no_model)
    with pytest.raises(DataError, match=r"has no alpah, gamma.* Did you mean 'alpha'"):
        run(bench_config(model_dir, bench, tmp_path / "run", sequence=("alpah", "beta", "gamma")))
    with pytest.raises(DataError, match="has no delta"):
        run(bench_config(model_dir, bench, tmp_path / "other", watch=["delta"]))


def test_a_run_that_never_began_can_be_corrected_and_started_in_the_same_directory(
    model_dir: Path, bench: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no alpah"):
        run(bench_config(model_dir, bench, tmp_path / "run", sequence=("alpah",), policy="original"))
    data = run(bench_config(model_dir, bench, tmp_path / "run", sequence=("alpha",), policy="original")).data
    assert data["tasks"] == ["alpha"]


def test_setting_up_writes_nothing(model_dir: Path, bench: Path, tmp_path: Path) -> None:
    set_up(bench_config(model_dir, bench, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_inputs_that_will_be_cut_are_noted_with_their_number(model_dir: Path, bench: Path, tmp_path: Path) -> None:
    edit(bench / "alpha" / "train.json", lambda rows: rows[0].update(sentence="long " * 100))
    listener = Listener()
    run(
        bench_config(model_dir, bench, tmp_path / "run", sequence=("alpha",), policy="original", max_length=300),
        listener,
    )
    assert any(
        note.startswith("note: alpha: cut in the middle, as longer than max_length: 1 training input;")
        for note in listener.notes
    )
    ((title, columns, (cells,)),) = listener.tables
    assert title == "data" and dict(zip(columns, cells, strict=True))["cut"] == "1"
    assert not any("beta" in note for note in listener.notes)
