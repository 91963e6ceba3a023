"""What reaches a real TensorBoard, and what other trackers would be told."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, configure, read
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from sapo.sequence import run

Scalars = dict[str, list[tuple[int, float]]]


class Kept(TrainerCallback):
    """A tracker that keeps what it is told."""

    told: Scalars
    begun: int
    ended: int

    def __init__(self) -> None:
        Kept.told, Kept.begun, Kept.ended = defaultdict(list), 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Kept.begun += 1
        Kept.name = args.run_name

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for key, value in kwargs["logs"].items():
            Kept.told[key].append((state.global_step, value))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Kept.ended += 1


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "kept", Kept)
    return Kept


def scalars(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_training_choices_matrix_and_metrics(small_model: Path, bench: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = configure(small_model, bench, tmp_path / "run", report_to="tensorboard")
    data = run(config).to_json()
    (folder,) = {path.parent for path in (tmp_path / "run" / "tracking").rglob("events.*")}
    found = scalars(folder)
    first, second = (
        read(tmp_path / "run" / "training" / f"{t}.json")["value"]["losses"] for t in ("1-alpha", "2-beta")
    )
    # One axis through both trainings, from 1.
    assert [step for step, _ in found["train/loss"]] == list(range(1, len(first) + len(second) + 1))
    assert [value for _, value in found["train/loss"]] == pytest.approx(first + second, rel=1e-5)
    assert {"train/learning_rate", "train/grad_norm"} <= set(found)
    ends = [0, len(first), len(first) + len(second)]
    for measure, key in (("primary", "score"), ("nll", "nll")):
        matrix = data["matrices"][measure]["own"]
        for j, task in enumerate(("alpha", "beta")):
            column = [(end, row[j]) for end, row in zip(ends, matrix, strict=True) if row[j] is not None]
            assert [step for step, _ in found[f"eval/{key}/{task}"]] == [end for end, _ in column]
            values = [value for _, value in found[f"eval/{key}/{task}"]]
            assert values == pytest.approx([value for _, value in column], rel=1e-5)
    for start, task in zip(ends, ("alpha", "beta"), strict=False):
        ((step, lowest),) = found[f"eval/selection/{task}/lowest"]
        entry = data["instructions"][task]
        assert step == start and lowest <= found[f"eval/selection/{task}/original"][0][1]
        ((_, index),) = found[f"eval/selection/{task}/candidate"]
        assert (index == 0) == (entry["text"] == entry["original"])
    ((step, ap),) = found["eval/ap/nll (own prompt)"]
    assert step == ends[-1]
    assert ap == pytest.approx(data["metrics_all"]["nll"]["own"]["ap"]["value"], rel=1e-5)


def test_a_resumed_run_tells_its_tracker_every_choice_and_cell_again(
    kept: type[Kept], small_model: Path, bench: Path, tmp_path: Path
) -> None:
    config = configure(small_model, bench, tmp_path / "run", report_to=["kept"])
    with pytest.raises(KeyboardInterrupt):
        run(config, Told("task 2 beta: training", after=2))
    # Closed although the run did not come to its end.
    assert (kept.begun, kept.ended) == (1, 1) and len(kept.told["loss"]) == 4 + 2 - 1 and kept.name == "run"
    cells = len(kept.told["eval_nll/alpha"])
    run(config)
    assert [step for step, _ in kept.told["loss"]] == [5, 6, 7, 8]
    assert len(kept.told["eval_nll/alpha"]) > cells and len(kept.told["eval_selection/alpha/original"]) == 1
    # A finished run that is given again is not told twice, but to a tracker that has not heard of it.
    kept.begun = 0
    run(config)
    assert kept.begun == 0 and read(tmp_path / "run" / "tracked.json") == ["kept"]
    # Trackers may change: nothing depends on them.
    run(configure(small_model, bench, tmp_path / "run"))
    (tmp_path / "run" / "tracked.json").unlink()
    run(config)
    assert (kept.begun, len(kept.told["loss"])) == (1, 0) and len(kept.told["eval_nll/alpha"]) > cells


def test_updates_of_joint_training_are_counted_from_its_first_one(
    kept: type[Kept], small_model: Path, bench: Path, tmp_path: Path
) -> None:
    run(configure(small_model, bench, tmp_path, method="multitask", policy="original", report_to=["kept"]))
    assert [step for step, _ in kept.told["loss"]] == list(range(1, 9))
    assert [step for step, _ in kept.told["eval_nll/alpha"]] == [0, 8]
