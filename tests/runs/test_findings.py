"""What only some runs hold: a part of the matrix, other wordings, general ability; in results.json and in reports."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from report.making import tables as tables_of
from rich.console import Console
from small_runs import (
    SUFFIX,
    Told,
    adapters,
    cells,
    configure,
    lasting,
    more_paraphrases_of,
    nll_by_hand,
    original_of,
    read,
    watch_training,
    write,
    write_bench,
)
from transformers import AutoModelForCausalLM

from sapo.candidates.gather import Gathered
from sapo.core.progress import SILENT
from sapo.core.types import Instruction
from sapo.integrations.testing import tiny_tokenizer
from sapo.models.ability import general_rows
from sapo.models.losses import Scorer
from sapo.report.blocks import Table
from sapo.report.page import results_page
from sapo.report.publish import print_report
from sapo.report.runs import read_run
from sapo.runs.config.schema import Config
from sapo.runs.directory import RunDirectory
from sapo.runs.inputs import Gathering
from sapo.runs.metrics import METRICS
from sapo.runs.prepare import prepare
from sapo.runs.prompts import short
from sapo.runs.results import RunResult
from sapo.sequence import run

TASKS = ("alpha", "beta")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = write_bench(tmp_path_factory.mktemp("bench"))
    write(bench / "candidates.json", {task: more_paraphrases_of(task) for task in TASKS})
    return bench


def printed(*run_dirs: Path) -> str:
    file = io.StringIO()
    print_report(Console(file=file, width=250), list(run_dirs), full=True)
    return file.getvalue()


def tables(run_dir: Path, title: str) -> list[Table]:
    return tables_of(results_page([read_run(run_dir)]), title)


@pytest.fixture(scope="module")
def parts(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    root = tmp_path_factory.mktemp("parts")
    configs = {
        method: configure(small_model, bench, root / method, method=method, policy="original")
        for method in ("seq-lora", "multitask", "single")
    }
    for config in configs.values():
        run(config)
    return configs


# Methods that define a part of the matrix.


DEFINED = {
    "multitask": [[True, True], [False, False], [True, True]],
    "single": [[True, True], [True, False], [False, True]],
}


@pytest.mark.parametrize("method", DEFINED)
def test_only_cells_that_the_method_defines_are_tested(
    method: str, parts: dict[str, Config], small_model: Path
) -> None:
    run_dir = parts[method].run_dir
    data = read(run_dir / "results.json")
    for measure, by_prompt in data["matrices"].items():
        for matrix in by_prompt.values():
            assert [[value is not None for value in row] for row in matrix] == DEFINED[method], measure
    tested = [(n, j) for n, row in enumerate(DEFINED[method]) for j, there in enumerate(row) if there]
    assert set(cells(run_dir)) == {f"{n}/{TASKS[j]}.original.json" for n, j in tested}
    for n, j in tested:
        names = {"multitask": "2-all", "single": f"{n}-{TASKS[j]}"}
        model = AutoModelForCausalLM.from_pretrained(small_model)
        model = PeftModel.from_pretrained(model, run_dir / "stages" / names[method]) if n else model
        task = prepare(parts[method]).inputs.tasks[j]
        by_hand = nll_by_hand(model, tiny_tokenizer(), task.instruction, SUFFIX, task.test)
        assert data["matrices"]["nll"]["own"][n][j] == pytest.approx(sum(by_hand) / (3 * len(by_hand)), abs=1e-4)


@pytest.mark.parametrize(("method", "metric"), [("multitask", "ap"), ("single", "la")])
def test_one_metric_is_defined_and_the_others_say_why_not(method: str, metric: str, parts: dict[str, Config]) -> None:
    data = read(parts[method].run_dir / "results.json")
    reason = {
        "multitask": "all tasks were trained at once: only the final row is defined",
        "single": "each task was trained alone: only the diagonal is defined",
    }[method]
    for measure in ("primary", "nll"):
        metrics = data["metrics_all"][measure]["own"]
        matrix = data["matrices"][measure]["own"]
        values = matrix[2] if method == "multitask" else [matrix[1][0], matrix[2][1]]
        assert set(metrics) == {m.name for m in METRICS}
        assert metrics[metric]["value"] == pytest.approx(np.mean(values))
        assert metrics[metric]["interval"][0] <= metrics[metric]["value"] <= metrics[metric]["interval"][1]
        for name, found in metrics.items():
            if name != metric:
                assert found == {"value": None, "interval": None, "reason": reason}


def test_multitask_trains_one_stage_on_rows_of_all_tasks_with_their_own_instructions(
    parts: dict[str, Config], small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage,) = (parts["multitask"].run_dir / "stages").iterdir()
    assert stage.name == "2-all" and [entry["task"] for entry in read(stage / "sapo.json")["tasks"]] == list(TASKS)
    told = Told()
    seen = watch_training(monkeypatch, told)
    # Mixtures draw for each task of its own.
    data = run(
        configure(small_model, bench, tmp_path / "run", method="multitask", policy="per-example"), told
    ).to_json()
    for task in TASKS:
        mine = [(text, shown) for _, text, shown, _ in seen if shown.startswith(task)]
        assert {text for text, _ in mine} == {*data["instructions"][task]["mixture"]} < {*more_paraphrases_of(task)}
        assert len({shown for _, shown in mine}) == 6
    assert len({shown.split()[0] for update, _, shown, _ in seen if update == 0}) == 2


@pytest.mark.parametrize("method", DEFINED)
def test_reports_and_records_of_partial_matrices(method: str, parts: dict[str, Config]) -> None:
    run_dir = parts[method].run_dir
    text = printed(run_dir)
    assert "None" not in text and "nan" not in text
    matrix = next(t for t in tables(run_dir, "Every metric") if t.title.startswith("NLL"))
    shown = [[text.strip(" *()") for text in row][-2:] for row in matrix.rows]
    # A stage that the method does not have is no row.
    assert [[value != "–" for value in row] for row in shown] == [row for row in DEFINED[method] if any(row)]
    found = RunResult.from_json(read(run_dir / "results.json"))
    final = read(run_dir / "results.json")["matrices"]["nll"]["own"]
    expected = (final[2][0], final[2][1]) if method == "multitask" else (final[1][0], final[2][1])
    assert found.final("nll", "own") == expected


@pytest.mark.parametrize("method", DEFINED)
def test_a_partial_matrix_beside_a_whole_one(method: str, parts: dict[str, Config]) -> None:
    runs = [parts["seq-lora"].run_dir, parts[method].run_dir]
    for order in (runs, runs[::-1]):
        assert "None" not in printed(*order) and "nan" not in printed(*order)
    page = results_page([read_run(directory) for directory in runs])
    both = tables_of(page, "Runs compared")
    # What both define has a difference with an interval, everything else none.
    kept = {"multitask": "AP", "single": "LA"}[method]
    data = [read(directory / "results.json")["metrics_all"] for directory in runs]
    for table, measure in zip(both, ("primary", "nll"), strict=False):
        (row,) = table.rows
        values = [d[measure]["own"][kept.lower()]["value"] for d in data]
        assert row[:2] == ("B", kept) and float(row[2]) == pytest.approx(values[1] - values[0], abs=0.06)
        assert row[3].startswith("[")


# Held-out paraphrases.


@dataclass(frozen=True)
class Worded:
    config: Config
    results: RunResult
    told: Told


Wording = Callable[..., Worded]


@pytest.fixture(scope="module")
def worded(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Wording:
    root, made = tmp_path_factory.mktemp("worded"), dict[str, Worded]()

    def make(policy: str, **changes: Any) -> Worded:
        name = f"{policy}-{changes}"
        if name not in made:
            prompts = {"prompts": ["own", {"wordings": 2}]}
            config = configure(small_model, bench, root / str(len(made)), policy=policy, evaluate=prompts, **changes)
            told = Told()
            made[name] = Worded(config, run(config, told), told)
        return made[name]

    return make


def test_held_out_paraphrases_are_never_candidates_and_the_same_for_all_policies(worded: Wording) -> None:
    texts: dict[str, list[list[str]]] = {task: [] for task in TASKS}
    for policy in ("original", "sapo", "per-example"):
        one = worded(policy)
        setup = prepare(one.config)
        for task in TASKS:
            held = one.results.to_json()["robustness"][task]["texts"]
            candidates = [c.text for c in setup.inputs.candidates[task]]
            assert len(held) == 2 and len(candidates) == 4 and not set(held) & set(candidates)
            assert {*held, *candidates} == {original_of(task), *read(one.config.candidates.file or Path())[task]}
            entry = one.results.to_json()["instructions"][task]
            assert entry["text"] in candidates and not set(entry.get("mixture", [])) & set(held)
            assert not set(entry["losses"] or {}) & set(held)
            texts[task].append(held)
    other_seed = prepare(worded("original").config.model_copy(update={"seed": 1, "run_dir": Path("other")})).inputs
    for task, found in texts.items():
        assert found == [[one.text for one in other_seed.held_out[task]]] * 3


def gathering(wordings: int) -> Gathering:
    return Gathering(RunDirectory(Path("unused"), {}), (), None, None, 1, wordings, SILENT)


def test_at_least_one_paraphrase_stays_a_candidate() -> None:
    texts = [Instruction("original", "original"), *(Instruction(str(n), "file") for n in range(4))]
    for count in range(7):
        part = gathering(count).part
        stay, held = part(Gathered(tuple(texts), ()))
        assert stay[0] == texts[0] and {*stay, *held} == set(texts) and len(stay) + len(held) == 5
        assert len(held) == min(count, 3)
        # In their order, and again the same.
        assert [t for t in texts if t in held] == list(held)
        assert part(Gathered(tuple(texts), ())) == (stay, held)
    assert gathering(3).part(Gathered(tuple(texts[:1]), ())) == (tuple(texts[:1]), ())


def test_robustness_is_measured_in_each_tasks_last_state(worded: Wording, parts: dict[str, Config]) -> None:
    for method, stages in (("single", (1, 2)), ("multitask", (2, 2))):
        one = worded("original", method=method)
        held = [name for name in cells(one.config.run_dir) if "text-" in name]
        texts = {task: one.results.to_json()["robustness"][task]["texts"] for task in TASKS}
        assert sorted(held) == sorted(
            f"{stage}/{task}.{short(text)}.json"
            for stage, task in zip(stages, TASKS, strict=True)
            for text in texts[task]
        )
        assert adapters(one.config.run_dir) == adapters(parts[method].run_dir)


# General ability.


@pytest.fixture(scope="module")
def able(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Worded:
    config = configure(
        small_model, bench, tmp_path_factory.mktemp("able") / "run", policy="original", evaluate={"general": True}
    )
    told = Told()
    return Worded(config, run(config, told), told)


def test_general_ability_is_that_of_every_reloaded_stage(able: Worded, small_model: Path) -> None:
    found = able.results.to_json()["ability"]
    assert [stage["stage"] for stage in found] == [0, 1, 2]
    renderer = prepare(able.config).engine.renderer
    for stage, name in enumerate((None, "1-alpha", "2-beta")):
        model = AutoModelForCausalLM.from_pretrained(small_model)
        if name:
            model = PeftModel.from_pretrained(model, able.config.run_dir / "stages" / name)
        again = Scorer(model.eval())(general_rows(renderer, 1024)).per_token
        assert found[stage]["loss"] == pytest.approx(again, abs=1e-4)
    assert len({stage["loss"] for stage in found}) == 3


def test_measuring_ability_changes_nothing_else(able: Worded, parts: dict[str, Config]) -> None:
    found = {key: value for key, value in lasting(able.results).items() if key != "ability"}
    assert found == lasting(read(parts["seq-lora"].run_dir / "results.json"))
    assert adapters(able.config.run_dir) == adapters(parts["seq-lora"].run_dir)


def test_the_page_shows_ability_at_every_stage(able: Worded) -> None:
    matrix = next(table for table in tables(able.config.run_dir, "Every metric") if table.columns[-1] == "general text")
    assert [row[-1].strip() for row in matrix.rows] == [f"{at['loss']:.3f}" for at in able.results.to_json()["ability"]]
