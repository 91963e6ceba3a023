"""Methods that define only a part of the performance matrix: cells, metrics, trainings, reports."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from rich.console import Console
from small_runs import (
    SUFFIX,
    Told,
    adapters,
    cells,
    configure,
    nll_by_hand,
    paraphrases_of,
    read,
    save_model,
    watch_training,
    write,
    write_bench,
)
from transformers import AutoModelForCausalLM

from sapo.integrations.testing import tiny_tokenizer
from sapo.report.blocks import Table
from sapo.report.page import results_page
from sapo.report.publish import print_report
from sapo.report.runs import read_run
from sapo.runs.config.schema import Config
from sapo.runs.metrics import METRICS
from sapo.runs.prepare import prepare
from sapo.runs.results import RunResult
from sapo.sequence import run

TASKS = ("alpha", "beta")
# Of those asked for, three are candidates and two held out.
MORE = ("So is {task} a y here, or an n?", "Please choose between n and y when it comes to {task}.")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = write_bench(tmp_path_factory.mktemp("bench"))
    write(bench / "candidates.json", {task: texts_of(task) for task in TASKS})
    return bench


def texts_of(task: str) -> list[str]:
    return [*paraphrases_of(task), *(text.format(task=task) for text in MORE)]


def printed(*run_dirs: Path) -> str:
    file = io.StringIO()
    print_report(Console(file=file, width=250), list(run_dirs), full=True)
    return file.getvalue()


def tables(run_dir: Path, title: str) -> list[Table]:
    (section,) = [s for s in results_page([read_run(run_dir)]).sections if s.title == title]
    return [block for block in section.blocks if isinstance(block, Table)]


# Methods that define a part of the matrix.


@pytest.fixture(scope="module")
def parts(model_dir: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    root = tmp_path_factory.mktemp("parts")
    configs = {
        method: configure(model_dir, bench, root / method, method=method, policy="original")
        for method in ("seq-lora", "multitask", "single")
    }
    for config in configs.values():
        run(config)
    return configs


DEFINED = {
    "multitask": [[True, True], [False, False], [True, True]],
    "single": [[True, True], [True, False], [False, True]],
}


@pytest.mark.parametrize("method", DEFINED)
def test_only_cells_that_the_method_defines_are_tested(method: str, parts: dict[str, Config], model_dir: Path) -> None:
    run_dir = parts[method].run_dir
    data = read(run_dir / "results.json")
    for measure, by_prompt in data["matrices"].items():
        for matrix in by_prompt.values():
            assert [[value is not None for value in row] for row in matrix] == DEFINED[method], measure
    tested = [(n, j) for n, row in enumerate(DEFINED[method]) for j, there in enumerate(row) if there]
    assert set(cells(run_dir)) == {f"{n}/{TASKS[j]}.original.json" for n, j in tested}
    for n, j in tested:
        names = {"multitask": "2-all", "single": f"{n}-{TASKS[j]}"}
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        model = PeftModel.from_pretrained(model, run_dir / "stages" / names[method]) if n else model
        task = prepare(parts[method]).inputs.tasks[j]
        by_hand = nll_by_hand(model, tiny_tokenizer(), task.instruction, SUFFIX, task.test)
        assert data["matrices"]["nll"]["selected"][n][j] == pytest.approx(sum(by_hand) / (3 * len(by_hand)), abs=1e-4)


@pytest.mark.parametrize(("method", "metric"), [("multitask", "ap"), ("single", "la")])
def test_one_metric_is_defined_and_the_others_say_why_not(method: str, metric: str, parts: dict[str, Config]) -> None:
    data = read(parts[method].run_dir / "results.json")
    reason = {
        "multitask": "all tasks were trained at once: only the final row is defined",
        "single": "each task was trained alone: only the diagonal is defined",
    }[method]
    for measure in ("primary", "nll"):
        metrics = data["metrics_all"][measure]["selected"]
        matrix = data["matrices"][measure]["selected"]
        values = matrix[2] if method == "multitask" else [matrix[1][0], matrix[2][1]]
        assert set(metrics) == {m.name for m in METRICS}
        assert metrics[metric]["value"] == pytest.approx(np.mean(values))
        assert metrics[metric]["interval"][0] <= metrics[metric]["value"] <= metrics[metric]["interval"][1]
        for name, found in metrics.items():
            if name != metric:
                assert found == {"value": None, "interval": None, "reason": reason}


def test_multitask_makes_as_many_updates_as_the_sequence_on_rows_of_all_tasks(
    parts: dict[str, Config], model_dir: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [read(p)["value"]["steps"] for p in sorted((parts["seq-lora"].run_dir / "training").glob("*.json"))]
    (joint,) = (parts["multitask"].run_dir / "training").glob("*.json")
    assert joint.name == "2-all.json" and read(joint)["value"]["steps"] == sum(steps) == 8
    told = Told()
    seen = watch_training(monkeypatch, told)
    # Mixtures draw for each task of its own.
    data = run(configure(model_dir, bench, tmp_path / "run", method="multitask", policy="per-example"), told).data
    for task in TASKS:
        mine = [(text, shown) for _, text, shown, _ in seen if shown.startswith(task)]
        assert {text for text, _ in mine} == {*data["instructions"][task]["mixture"]} < {*texts_of(task)}
        assert len({shown for _, shown in mine}) == 6
    assert len({shown.split()[0] for update, _, shown, _ in seen if update == 0}) == 2


def test_a_task_trained_alone_is_the_first_task_of_a_sequence(parts: dict[str, Config]) -> None:
    alone, sequence = (adapters(parts[m].run_dir) for m in ("single", "seq-lora"))
    first, second = (f"stages/{n}-{task}/adapter_model.safetensors" for n, task in enumerate(TASKS, start=1))
    assert alone[first] == sequence[first] and alone[second] != sequence[second]
    lineage = read(parts["single"].run_dir / "stages" / "2-beta" / "sapo.json")
    assert [entry["task"] for entry in lineage["tasks"]] == ["beta"]


@pytest.mark.parametrize("method", DEFINED)
def test_reports_and_records_of_partial_matrices(method: str, parts: dict[str, Config]) -> None:
    run_dir = parts[method].run_dir
    text = printed(run_dir)
    assert "None" not in text and "nan" not in text
    matrix = next(t for t in tables(run_dir, "Performance") if "NLL" in t.title)
    shown = [[text.strip(" *()") for text in row][-2:] for row in matrix.rows]
    # A stage that the method does not have is no row.
    assert [[value != "–" for value in row] for row in shown] == [row for row in DEFINED[method] if any(row)]
    found = RunResult.from_json(read(run_dir / "results.json"))
    assert RunResult.from_json(found.to_json()) == found
    final = read(run_dir / "results.json")["matrices"]["nll"]["selected"]
    expected = (final[2][0], final[2][1]) if method == "multitask" else (final[1][0], final[2][1])
    assert found.final("nll", "selected") == expected


@pytest.mark.parametrize("method", DEFINED)
def test_a_partial_matrix_beside_a_whole_one(method: str, parts: dict[str, Config]) -> None:
    runs = [parts["seq-lora"].run_dir, parts[method].run_dir]
    for order in (runs, runs[::-1]):
        assert "None" not in printed(*order) and "nan" not in printed(*order)
    page = results_page([read_run(directory) for directory in runs])
    (section,) = [s for s in page.sections if s.title == "Runs compared"]
    _, *both = [block for block in section.blocks if isinstance(block, Table)]
    # What both define has a difference with an interval, everything else none.
    kept = {"multitask": "AP", "single": "LA"}[method]
    data = [read(directory / "results.json")["metrics_all"] for directory in runs]
    for table, measure in zip(both, ("primary", "nll"), strict=False):
        (row,) = table.rows
        values = [d[measure]["selected"][kept.lower()]["value"] for d in data]
        assert row[:2] == ("B", kept) and float(row[2]) == pytest.approx(values[1] - values[0], abs=0.06)
        assert row[3].startswith("[")
