"""Methods and policies as whole runs: which are the same run, which cells there are, and how they go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sapo.runs.steps
from sapo.core.errors import RecordError
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.metrics import METRICS
from sapo.runs.prepare import set_up
from sapo.sequence import run
from sapo.training.finetune import finetune

TASKS = ("review-sentiment", "extract-items")
Json = dict[str, Any]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With these weights a paraphrase wins on both tasks."""
    directory = tmp_path_factory.mktemp("model")
    tiny_model(seed=2, context=1024).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def configure(model_dir: Path, run_dir: Path, method: str = "seq-lora", **changes: Any) -> Config:
    small = {
        "model": {"base": str(model_dir), "device": "cpu"},
        "sequence": list(TASKS),
        "policy": "original",
        "method": method,
        "candidates": {"count": 3},
        "selection": {"examples": 4},
        "train": {"rows": 5, "epochs": 2, "batch_size": 2, "micro_batch_size": 1, "warmup": 0, "learning_rate": 1e-2},
        "lora": {"r": 4, "alpha": 6, "dropout": 0.2},
        "evaluate": {"rows": 2, "max_new_tokens": 2},
        "run_dir": str(run_dir),
    }
    for key, value in changes.items():
        given = small.get(key)
        small[key] = {**given, **value} if isinstance(given, dict) else value
    return make_config(small)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def adapters(run_dir: Path) -> dict[str, bytes]:
    """All adapters of all stages that there are, by path."""
    found = sorted((run_dir / "stages").rglob("adapter_model.safetensors"))
    assert found
    return {p.relative_to(run_dir).as_posix(): p.read_bytes() for p in found}


def cells(run_dir: Path) -> dict[str, Json]:
    """All cells, without their times."""
    found = {p.relative_to(run_dir).as_posix(): read(p)["value"] for p in sorted(run_dir.glob("cells/*/*.json"))}
    assert found
    return {path: {key: value for key, value in cell.items() if key != "seconds"} for path, cell in found.items()}


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
    method: str, own: Mapping[str, Any], same: str, model_dir: Path, tmp_path: Path
) -> None:
    run(configure(model_dir, tmp_path / "plain", same))
    run(configure(model_dir, tmp_path / "off", method, **own))
    run(configure(model_dir, tmp_path / "on", method))
    assert adapters(tmp_path / "off") == adapters(tmp_path / "plain")
    assert cells(tmp_path / "off") == cells(tmp_path / "plain")
    # The premise: with its own weight it is not.
    assert adapters(tmp_path / "on").keys() == adapters(tmp_path / "plain").keys()
    assert adapters(tmp_path / "on") != adapters(tmp_path / "plain")


def test_choosing_again_among_one_is_choosing_once(model_dir: Path, tmp_path: Path) -> None:
    chosen = run(configure(model_dir, tmp_path / "sapo", policy="sapo")).data["instructions"]
    run(configure(model_dir, tmp_path / "one", policy="reselect", reselect={"k": 1, "every": 1}))
    assert adapters(tmp_path / "one") == adapters(tmp_path / "sapo")
    assert cells(tmp_path / "one") == cells(tmp_path / "sapo")
    # The premise: what is chosen matters.
    assert all(entry["origin"] == "builtin" for entry in chosen.values())
    run(configure(model_dir, tmp_path / "original"))
    assert adapters(tmp_path / "original") != adapters(tmp_path / "sapo")


# Joint training and each task alone.


def write_bench(directory: Path, sizes: Mapping[str, int]) -> Path:
    """Tasks with so many training rows each."""
    index = {}
    for name, size in sizes.items():
        (directory / name).mkdir(parents=True)
        for split, rows in (("train", size), ("test", 2)):
            data = [{"sentence": f"{name} {split} {i}", "label": "yn"[i % 2]} for i in range(rows)]
            (directory / name / f"{split}.json").write_text(json.dumps(data))
        index[name] = {"instruction": f"Say y or n for {name}.", "suffix": "One letter.", "labels": ["y", "n"]}
    (directory / "instructions.json").write_text(json.dumps(index))
    return directory


# 25 updates of 11 an epoch: in floating point, 25 / 11 * 11 is more than 25.
ROUNDS_UP = ((3, 3, 5), 1, 2.2)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "epochs"),
    [((3, 5, 7), 2, 1), ((1, 1, 1), 4, 3), ((9, 2, 4), 4, 1.5), ((7, 3, 5), 8, 0.7), ROUNDS_UP],
)
def test_joint_training_makes_as_many_updates_as_the_sequence(
    sizes: tuple[int, ...], batch_size: int, epochs: float, model_dir: Path, tmp_path: Path
) -> None:
    names = [f"task{n}" for n in range(len(sizes))]
    bench = write_bench(tmp_path / "bench", dict(zip(names, sizes, strict=True)))
    train = {"rows": None, "batch_size": batch_size, "epochs": epochs}
    steps = {}
    for method in ("seq-lora", "multitask"):
        config = configure(
            model_dir, tmp_path / method, method, sequence=names, data_dir=str(bench), train=train,
            evaluate={"rows": 1, "max_new_tokens": 1},
        )  # fmt: skip
        run(config)
        files = sorted((config.run_dir / "training").glob("*.json"))
        values = [read(file)["value"] for file in files]
        assert [len(v["losses"]) for v in values] == [v["steps"] for v in values]
        steps[method] = [v["steps"] for v in values]
    by_hand = [np.ceil(epochs * np.ceil(size / batch_size)) for size in sizes]
    assert steps["seq-lora"] == by_hand and steps["multitask"] == [sum(by_hand)]


def defined(results: Any) -> list[list[bool]]:
    return [[value is not None for value in row] for row in results.data["matrices"]["nll"]["selected"]]


def test_joint_training_has_zero_shot_and_a_final_row(model_dir: Path, tmp_path: Path) -> None:
    config = configure(model_dir, tmp_path / "run", "multitask")
    results = run(config)
    assert defined(results) == [[True, True], [False, False], [True, True]]
    assert results.matrix[1] == [None, None]
    final = [
        np.mean(read(config.run_dir / "cells" / "2" / f"{n}.original.json")["value"]["scores"][m])
        for n, m in zip(TASKS, ("exact_match", "list_f1"), strict=True)
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


@pytest.mark.parametrize("policy", ["original", "sapo"])
def test_each_task_alone_is_a_run_of_that_task(policy: str, model_dir: Path, tmp_path: Path) -> None:
    results = run(configure(model_dir, tmp_path / "single", "single", policy=policy))
    assert defined(results) == [[True, True], [True, False], [False, True]]
    found = adapters(tmp_path / "single")
    for number, name in enumerate(TASKS, start=1):
        run(configure(model_dir, tmp_path / name, policy=policy, sequence=[name]))
        (alone,) = adapters(tmp_path / name).values()
        assert found[f"stages/{number}-{name}/adapter_model.safetensors"] == alone
        tested = cells(tmp_path / name)
        kind = "selected" if f"cells/1/{name}.selected.json" in tested else "original"
        assert cells(tmp_path / "single")[f"cells/{number}/{name}.{kind}.json"] == tested[f"cells/1/{name}.{kind}.json"]
        # It knows of no other task.
        entries = read(tmp_path / "single" / "stages" / f"{number}-{name}" / "sapo.json")["tasks"]
        assert [entry["task"] for entry in entries] == [name]
    # The premise: after the first task, the second would become something else.
    run(configure(model_dir, tmp_path / "sequence", policy=policy))
    assert adapters(tmp_path / "sequence") != found
    one, two = results.matrix[1][0], results.matrix[2][1]
    assert one is not None and two is not None
    assert results.metrics["la"]["value"] == pytest.approx((one + two) / 2)
    for other in {metric.name for metric in METRICS} - {"la"}:
        assert results.metrics[other]["value"] is None
        assert "each task was trained alone" in (results.metrics[other]["reason"] or "")


# Interruption.


class Stopped(Exception):  # noqa: N818
    """Stands for the end of the process."""


MEMORY = {"ewc": "fisher.safetensors", "replay": "replay.json"}


@pytest.mark.parametrize("keep", ["all", "last"])
@pytest.mark.parametrize("method", MEMORY)
def test_a_run_that_was_stopped_between_two_tasks_remembers_the_first(
    method: str, keep: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Old rows that some are left out of, and a penalty that is felt.
    own = {"ewc": {"weight": 1e4}, "replay": {"buffer": 3, "share": 0.5}, "keep": keep}
    run(configure(model_dir, tmp_path / "whole", method, **own))
    config = configure(model_dir, tmp_path / "parts", method, **own)
    save = Record.save

    def stopping(self: Record, name: str, *rest: Any, **more: Any) -> None:
        save(self, name, *rest, **more)
        if name == f"training/1-{TASKS[0]}.json":
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", stopping)
        with pytest.raises(Stopped):
            run(config)
    assert [p.name for p in (config.run_dir / "stages").iterdir()] == [f"1-{TASKS[0]}"]
    run(config)
    assert adapters(tmp_path / "parts") == adapters(tmp_path / "whole")
    assert cells(tmp_path / "parts") == cells(tmp_path / "whole")
    stages = [f"{n}-{name}" for n, name in enumerate(TASKS, start=1)][-1 if keep == "last" else 0 :]
    assert sorted(p.name for p in (config.run_dir / "stages").iterdir()) == stages
    for stage in stages:
        memories = [(tmp_path / part / "stages" / stage / MEMORY[method]).read_bytes() for part in ("parts", "whole")]
        assert memories[0] == memories[1]
    # The premise: the first task's memory is part of what the second one became.
    run(configure(model_dir, tmp_path / "without"))
    last = f"stages/2-{TASKS[1]}/adapter_model.safetensors"
    assert adapters(tmp_path / "without")[last] != adapters(tmp_path / "whole")[last]


@pytest.mark.parametrize("method", MEMORY)
def test_a_memory_that_was_changed_is_noticed(method: str, model_dir: Path, tmp_path: Path) -> None:
    config = configure(model_dir, tmp_path / "run", method)
    run(config)
    path = config.run_dir / "stages" / f"1-{TASKS[0]}" / MEMORY[method]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RecordError, match=f"{MEMORY[method]} was changed since"):
        run(config)


def test_old_rows_are_replayed_with_the_instruction_that_was_chosen_for_them(model_dir: Path, tmp_path: Path) -> None:
    config = configure(model_dir, tmp_path / "run", "replay", policy="sapo", replay={"buffer": 7})
    instructions = run(config).data["instructions"]
    assert all(entry["origin"] == "builtin" for entry in instructions.values())
    tokenizer = tiny_tokenizer()
    rows = read(config.run_dir / "stages" / f"2-{TASKS[1]}" / "replay.json")["rows"]
    texts = [tokenizer.decode(row["ids"]) for row in rows]
    expected = [
        (entry["text"], entry["suffix"], row.input, row.answer)
        for task in set_up(config).tasks
        for entry in [instructions[task.name]]
        for row in task.train
    ]
    matched = [
        [
            text == f"<|im_start|>user\n{instruction}\n\nText:\n{given}\n\n{suffix}<|im_end|>\n"
            f"<|im_start|>assistant\n{answer}<|im_end|>\n"
            for instruction, suffix, given, answer in expected
        ].count(True)
        for text in texts
    ]
    assert len(texts) == 7 and matched == [1] * 7
    ours = [text.count(instructions[TASKS[0]]["text"]) for text in texts]
    assert 0 < sum(ours) < 7


CHANGING = ("per-example", "paft", "reselect")


@pytest.mark.parametrize("policy", CHANGING)
def test_a_training_whose_rows_change_goes_on_from_a_checkpoint_to_the_same_weights(
    policy: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "policy": policy, "paft": {"steps": 2}, "reselect": {"every": 1, "k": 3, "rows": 4},
        "train": {"checkpoint_every": 2, "learning_rate": 0.2, "epochs": 3},
    }  # fmt: skip
    run(configure(model_dir, tmp_path / "whole", **changes))
    config = configure(model_dir, tmp_path / "parts", **changes)

    def stopping(model: Any, encoded: Any, settings: Any, seed: int, advance: Callable[[int], None], *rest: Any) -> Any:
        done = 0

        def stop(steps: int) -> None:
            nonlocal done
            done += steps
            if done >= 5:
                raise Stopped
            advance(steps)

        return finetune(model, encoded, settings, seed, stop, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sapo.runs.steps, "finetune", stopping)
        with pytest.raises(Stopped):
            run(config)
    assert [p.name for p in (config.run_dir / "unfinished").glob("1-*/checkpoint-4")] == ["checkpoint-4"]
    run(config)
    assert adapters(tmp_path / "parts") == adapters(tmp_path / "whole")
    assert cells(tmp_path / "parts") == cells(tmp_path / "whole")
    for number, name in enumerate(TASKS, start=1):
        one, other = (read(tmp_path / d / "training" / f"{number}-{name}.json")["value"] for d in ("parts", "whole"))
        assert (one["losses"], one["instructions"]) == (other["losses"], other["instructions"])
    if policy == "reselect":
        (first,) = read(tmp_path / "whole" / "training" / f"1-{TASKS[0]}.json")["value"]["instructions"]
        before = [text for step, text in first["switches"] if step <= 4]
        chosen = read(tmp_path / "whole" / "selections" / f"1-{TASKS[0]}.json")["value"]
        begun = chosen["candidates"][chosen["chosen"]]["text"]
        assert before and before[-1] != begun, "another choice must be gone on with, or nothing is tested"


def test_a_mixture_trains_each_row_with_the_paraphrase_drawn_for_it(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(model_dir, tmp_path / "run", policy="per-example", sequence=[TASKS[0]])
    tokenizer, seen = tiny_tokenizer(), list[str]()

    def watched(model: Any, encoded: Any, *rest: Any) -> Any:
        hook = model.get_input_embeddings().register_forward_hook(
            lambda module, given, output: seen.extend(tokenizer.decode(row) for row in given[0].tolist())
        )
        try:
            return finetune(model, encoded, *rest)
        finally:
            hook.remove()

    monkeypatch.setattr(sapo.runs.steps, "finetune", watched)
    run(config)
    setup = set_up(config)
    (task,) = setup.tasks
    texts = [c.text for c in setup.candidates[task.name][1:]]
    assert len(texts) == 3 and task.instruction not in texts
    expected = []
    for epoch in range(2):
        for row, example in enumerate(task.train):
            text = texts[int(np.random.default_rng([config.seed, epoch, row]).integers(3))]
            expected.append(f"user\n{text}\n\nText:\n{example.input}\n\n{task.suffix}<|im_end|>")
    # One row a pass; what is looked at before training, in order to decide how to train, is not trained on.
    found = [text for text in seen if text.count("<|im_end|>") == 2]
    assert len(found) >= 10
    assert sorted(text.split("<|im_start|>")[1].rstrip("\n") for text in found[-10:]) == sorted(expected)
