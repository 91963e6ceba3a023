"""Methods as whole runs: which are the same run, which cells there are, and how they are resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import Told, cells, configure, read, rows_of, write, write_bench

from sapo.core.errors import RecordError
from sapo.runs.config.schema import Config
from sapo.runs.metrics import METRICS
from sapo.runs.results import RunResult
from sapo.sequence import run

TASKS = ("alpha", "beta")


def method_config(small_model: Path, bench: Path, run_dir: Path, method: str = "seq-lora", **changes: Any) -> Config:
    train = {"rows": 5, "batch_size": 2, "micro_batch_size": 1, "learning_rate": 1e-2, **changes.pop("train", {})}
    lora = {"alpha": 6, "dropout": 0.2}
    return configure(
        small_model, bench, run_dir, **{"policy": "original", **changes}, method=method, train=train, lora=lora
    )


def adapters(run_dir: Path) -> dict[str, bytes]:
    """All adapters of all stages; methods keep other tensors next to them."""
    found = sorted(run_dir.rglob("adapter_model.safetensors"))
    assert found
    return {p.relative_to(run_dir).as_posix(): p.read_bytes() for p in found}


@pytest.fixture(scope="module")
def plain(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Run directories of the methods that add nothing."""
    root = tmp_path_factory.mktemp("plain")
    for method in ("seq-lora", "inc-lora"):
        run(method_config(small_model, bench, root / method, method))
    return {method: root / method for method in ("seq-lora", "inc-lora")}


# What is switched off, or has nothing to choose from, is another run bit for bit.


@pytest.mark.parametrize(
    ("method", "own", "same"),
    [
        ("ewc", {"ewc": {"weight": 0}}, "seq-lora"),
        ("replay", {"replay": {"share": 0}}, "seq-lora"),
        ("lwf", {"lwf": {"weight": 0}}, "seq-lora"),
        ("o-lora", {"o_lora": {"weight": 0}}, "inc-lora"),
    ],
)
def test_a_method_without_its_weight_is_the_plain_one(
    method: str, own: Mapping[str, Any], same: str, plain: Mapping[str, Path], small_model: Path, bench: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    run(method_config(small_model, bench, tmp_path, method, **own))
    assert adapters(tmp_path) == adapters(plain[same])
    assert cells(tmp_path) == cells(plain[same])


# Joint training and each task alone.


# 25 updates of 11 an epoch: in floating point, 25 / 11 * 11 is more than 25.
ROUNDS_UP = ((3, 3, 5), 1, 2.2)


@pytest.mark.parametrize(("sizes", "batch_size", "epochs"), [((7, 3, 5), 8, 0.7), ROUNDS_UP])
def test_joint_training_makes_as_many_updates_as_the_sequence(
    sizes: tuple[int, ...], batch_size: int, epochs: float, small_model: Path, tmp_path: Path
) -> None:
    names = [f"task{n}" for n in range(len(sizes))]
    bench = write_bench(tmp_path / "bench", tasks=names)
    for name, size in zip(names, sizes, strict=True):
        write(bench / name / "train.json", rows_of(name, "train", size))
    train = {"rows": None, "batch_size": batch_size, "epochs": epochs}
    steps = {}
    for method in ("seq-lora", "multitask"):
        config = method_config(
            small_model, bench, tmp_path / method, method, sequence=names, train=train,
            evaluate={"rows": 1, "max_new_tokens": 1},
        )  # fmt: skip
        run(config)
        files = sorted((config.run_dir / "training").glob("*.json"))
        values = [read(file)["value"] for file in files]
        assert [len(v["losses"]) for v in values] == [v["steps"] for v in values]
        steps[method] = [v["steps"] for v in values]
    by_hand = [np.ceil(epochs * np.ceil(size / batch_size)) for size in sizes]
    assert steps["seq-lora"] == by_hand and steps["multitask"] == [sum(by_hand)]


def defined(results: RunResult) -> list[list[bool]]:
    return [[value is not None for value in row] for row in results.matrices["nll"]["selected"]]


def test_joint_training_has_zero_shot_and_a_final_row(small_model: Path, bench: Path, tmp_path: Path) -> None:
    config = method_config(small_model, bench, tmp_path / "run", "multitask")
    results = run(config)
    assert defined(results) == [[True, True], [False, False], [True, True]]
    assert results.matrix[1] == [None, None]
    final = [
        np.mean(read(config.run_dir / "cells" / "2" / f"{n}.original.json")["value"]["scores"][m])
        for n, m in zip(TASKS, ("exact_match", "exact_match"), strict=True)
    ]
    assert results.metrics["ap"]["value"] == pytest.approx(np.mean(final))
    for name in {metric.name for metric in METRICS} - {"ap"}:
        found = results.metrics[name]
        assert (found["value"], found["interval"]) == (None, None)
        assert "all tasks were trained at once" in (found["reason"] or "")
    # Both tasks' rows, with their own instructions, went into the one stage.
    stage = read(config.run_dir / "stages" / "2-all" / "sapo.json")
    assert [entry["task"] for entry in stage["tasks"]] == list(TASKS)
    assert [p.name for p in (config.run_dir / "stages").iterdir()] == ["2-all"]


def test_each_task_alone_is_a_run_of_that_task(small_model: Path, bench: Path, tmp_path: Path) -> None:
    results = run(method_config(small_model, bench, tmp_path / "single", "single", policy="sapo"))
    assert defined(results) == [[True, True], [True, False], [False, True]]
    found = adapters(tmp_path / "single")
    for number, name in enumerate(TASKS, start=1):
        run(method_config(small_model, bench, tmp_path / name, policy="sapo", sequence=[name]))
        (alone,) = adapters(tmp_path / name).values()
        assert found[f"stages/{number}-{name}/adapter_model.safetensors"] == alone
        tested = cells(tmp_path / name)
        kind = "selected" if f"1/{name}.selected.json" in tested else "original"
        assert cells(tmp_path / "single")[f"{number}/{name}.{kind}.json"] == tested[f"1/{name}.{kind}.json"]
        # It knows of no other task.
        entries = read(tmp_path / "single" / "stages" / f"{number}-{name}" / "sapo.json")["tasks"]
        assert [entry["task"] for entry in entries] == [name]
    # The premise: after the first task, the second would become something else.
    run(method_config(small_model, bench, tmp_path / "sequence", policy="sapo"))
    assert adapters(tmp_path / "sequence") != found
    one, two = results.matrix[1][0], results.matrix[2][1]
    assert one is not None and two is not None
    assert results.metrics["la"]["value"] == pytest.approx((one + two) / 2)
    for other in {metric.name for metric in METRICS} - {"la"}:
        assert results.metrics[other]["value"] is None
        assert "each task was trained alone" in (results.metrics[other]["reason"] or "")


# Interruption.


MEMORY = "fisher.safetensors"


def test_a_run_that_was_stopped_between_two_tasks_remembers_the_first(
    plain: Mapping[str, Path], small_model: Path, bench: Path, tmp_path: Path
) -> None:
    # A penalty that is felt.
    method, own = "ewc", {"ewc": {"weight": 1e4}, "keep": "last"}
    run(method_config(small_model, bench, tmp_path / "whole", method, **own))
    config = method_config(small_model, bench, tmp_path / "parts", method, **own)
    with pytest.raises(KeyboardInterrupt):
        run(config, Told("stage 1"))
    assert [p.name for p in (config.run_dir / "stages").iterdir()] == ["1-alpha"]
    run(config)
    assert adapters(tmp_path / "parts") == adapters(tmp_path / "whole")
    assert cells(tmp_path / "parts") == cells(tmp_path / "whole")
    assert [p.name for p in (config.run_dir / "stages").iterdir()] == ["2-beta"]
    one, other = ((tmp_path / part / "stages" / "2-beta" / MEMORY).read_bytes() for part in ("parts", "whole"))
    assert one == other
    # The premise: the first task's memory is part of what the second one became.
    last = "stages/2-beta/adapter_model.safetensors"
    assert adapters(plain["seq-lora"])[last] != adapters(tmp_path / "whole")[last]
    # And one that was changed is noticed.
    path = config.run_dir / "stages" / "2-beta" / MEMORY
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RecordError, match=f"{MEMORY} was changed since"):
        run(config)
