"""Methods as whole runs: how many updates they make, what each task alone is, and how they are resumed."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapted import adapted
from small_runs import Told, adapters, cell, cells, configure, read, rows_of, write, write_bench

from sapo.core.errors import RecordError
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.load import load_model
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.stage import load_stage
from sapo.sequence import run

TASKS = ("alpha", "beta")


def method_config(small_model: Path, bench: Path, run_dir: Path, method: str = "seq-lora", **changes: Any) -> Config:
    train = {"rows": 5, "batch_size": 2, "micro_batch_size": 1, "learning_rate": 1e-2, **changes.pop("train", {})}
    lora = {"alpha": 6, "dropout": 0.2}
    return configure(
        small_model, bench, run_dir, **{"policy": "original", **changes}, method=method, train=train, lora=lora
    )


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


def test_each_task_alone_is_a_run_of_that_task(small_model: Path, bench: Path, tmp_path: Path) -> None:
    run(method_config(small_model, bench, tmp_path / "single", "single", policy="sapo"))
    found = adapters(tmp_path / "single")
    for number, name in enumerate(TASKS, start=1):
        run(method_config(small_model, bench, tmp_path / name, policy="sapo", sequence=[name]))
        (alone,) = adapters(tmp_path / name).values()
        assert found[f"stages/{number}-{name}/adapter_model.safetensors"] == alone
        tested = cells(tmp_path / name)
        kind = "own" if f"1/{name}.own.json" in tested else "original"
        assert cells(tmp_path / "single")[f"{number}/{name}.{kind}.json"] == tested[f"1/{name}.{kind}.json"]
        # It knows of no other task.
        entries = read(tmp_path / "single" / "stages" / f"{number}-{name}" / "sapo.json")["tasks"]
        assert [entry["task"] for entry in entries] == [name]


# Interruption.


MEMORY = "fisher.safetensors"


def test_a_run_that_was_stopped_between_two_tasks_remembers_the_first(
    small_model: Path, bench: Path, tmp_path: Path
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
    assert f"stages/2-beta/{MEMORY}" in adapters(tmp_path / "parts")
    # The premise: the first task's memory is part of what the second one learned.
    second = read(tmp_path / "whole" / "training" / "2-beta.json")["value"]
    assert second["objectives"] != second["losses"]
    # And one that was changed is noticed.
    path = config.run_dir / "stages" / "2-beta" / MEMORY
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RecordError, match=f"{MEMORY} was changed since"):
        run(config)


def test_a_stage_keeps_the_template_that_it_was_trained_with_and_all_may_read_it(
    small_model: Path, bench: Path, tmp_path: Path
) -> None:
    """The run starts from an adapter whose folder brings another chat template than its base's."""
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}[assistant]"
    adapted(tiny_model()).save_pretrained(tmp_path / "mine")
    tiny_tokenizer(chat_template=template).save_pretrained(tmp_path / "mine")
    config = configure(
        small_model, bench, tmp_path / "run", policy="original", sequence=["alpha"],
        model={"base": str(small_model), "device": "cpu", "adapter": str(tmp_path / "mine")},
    )  # fmt: skip
    run(config)
    stage = config.run_dir / "stages" / "1-alpha"
    found = load_stage(stage)
    assert found.loaded.tokenizer.chat_template == template != tiny_tokenizer().chat_template
    tested = cell(config.run_dir, 1, "alpha", "original")["predictions"]
    (task,) = prepare(config).inputs.tasks
    assert found.generate([row.input for row in task.test]) == tested
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in stage.iterdir())
    assert 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")' in (stage / "README.md").read_text()


def test_one_model_is_in_memory_where_each_task_begins_with_a_fresh_one(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, alive = list[Any](), list[int]()

    def counted(*args: Any, **options: Any) -> Any:
        gc.collect()
        alive.append(sum(known() is not None for known in made))
        loaded = load_model(*args, **options)
        made.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr("sapo.runs.prepare.load_model", counted)
    run(configure(small_model, bench, tmp_path / "run", method="single", policy="original"))
    assert alive == [0, 0]
