"""Runs whose choices are by a trial: what is trained afterwards, what is tried, and how they are resumed."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import Json, Told, adapters, cells, configure, lasting, read, write, write_bench

from sapo.core.errors import RecordError
from sapo.models.render import Renderer
from sapo.report.blocks import Table
from sapo.report.forecast import dry_run_page
from sapo.report.publish import print_report
from sapo.runs.config.schema import Config
from sapo.runs.prepare import estimate
from sapo.selection.selection import Selection
from sapo.sequence import run
from sapo.training.settings import MethodName

PATHS = ("selections/1-alpha.json", "selections/2-beta.json")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("trials"), train=12, tasks=("alpha", "beta", "gamma"))


@pytest.fixture(autouse=True)
def short_general_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no other task, most of a trial's time would go by in reading."""
    monkeypatch.setattr("sapo.models.ability.general_texts", lambda: {"short": "The kettle sang before anyone woke."})


def trial_config(small_model: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    trial: Json = {"rule": "trial", "trial": {"updates": 2, "leading": 2, "rows": 4}, **changes.pop("selection", {})}
    return configure(
        small_model, bench, run_dir, selection=trial, lora={"dropout": 0.2}, train={"rows": 12, "epochs": 1}, **changes
    )


def selections(run_dir: Path) -> list[Selection]:
    return [Selection.from_json(read(run_dir / path)["value"]) for path in PATHS]


@pytest.mark.parametrize("method", ["seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full"])
def test_a_trial_leaves_the_run_as_if_the_choice_had_been_known(
    method: MethodName, small_model: Path, bench: Path, tmp_path: Path
) -> None:
    """A run that is given the instructions that a trial chose, and tries nothing, ends with the same weights."""
    tried = run(trial_config(small_model, bench, tmp_path / "tried", method=method, evaluate={"rows": 1}))
    found = selections(tmp_path / "tried")
    assert all(one.trial is not None and len(one.trial.tried) == 2 for one in found)
    # To train the same without a trial: the same files as it wrote, with the rule to take the lowest.
    known = trial_config(
        small_model, bench, tmp_path / "known", method=method, evaluate={"rows": 1}, selection={"rule": "lowest"}
    )
    chosen = {one.task: one.instruction for one in found}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sapo.runs.steps.choose_instruction",
            lambda policy, candidates, selection, seed, place: chosen[selection.task],
        )
        result = run(known)
    assert adapters(tmp_path / "known") == adapters(tmp_path / "tried")
    assert lasting(result) == lasting(tried)


def test_earlier_tasks_are_measured_with_the_instructions_they_were_trained_with_and_watch_tasks_too(
    small_model: Path, bench: Path, tmp_path: Path
) -> None:
    run(trial_config(small_model, bench, tmp_path, watch=["gamma"]))
    first, second = (one.trial for one in selections(tmp_path))
    assert first is not None and list(first.tried[0].losses) == ["alpha", "gamma"]
    assert second is not None and list(second.tried[0].losses) == ["beta", "alpha", "gamma"]
    assert all(one.losses.keys() == second.tried[0].losses.keys() for one in second.tried)


def test_an_interrupted_run_is_resumed_with_the_choices_that_were_made(small_model: Path, tmp_path: Path) -> None:
    bench = write_bench(tmp_path / "bench", train=12)
    whole = run(trial_config(small_model, bench, tmp_path / "whole"))
    config = trial_config(small_model, bench, tmp_path / "stopped")
    for stop in ("task 1 alpha: training", "beta: trying", "task 2 beta: training"):
        with pytest.raises(KeyboardInterrupt):
            run(config, Told(stop_in=stop))
    told = Told()
    assert lasting(run(config, told)) == lasting(whole)
    assert not told.of("trying") and not told.of("scoring")
    assert adapters(tmp_path / "stopped") == adapters(tmp_path / "whole")
    assert cells(tmp_path / "stopped") == cells(tmp_path / "whole")
    for one, other in zip(selections(tmp_path / "stopped"), selections(tmp_path / "whole"), strict=True):
        assert one.trial is not None and other.trial is not None and one.trial.tried == other.trial.tried
    # What a trial depends on decides whether its choice is still the one.
    rows, scored = read(bench / "alpha" / "train.json"), selections(tmp_path / "whole")[0].rows
    (first, *_) = set(range(12)).difference(scored)
    write(
        bench / "alpha" / "train.json",
        [{**row, "sentence": "Another."} if i == first else row for i, row in enumerate(rows)],
    )
    with pytest.raises(RecordError, match="changed: trial"):
        run(config)


@pytest.mark.parametrize("method", ["multitask", "single"])
def test_tasks_that_are_trained_at_once_or_alone_are_tried_from_the_start(
    method: MethodName, small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial_config(small_model, bench, tmp_path, method=method)
    run(config)
    found = [list(one.trial.tried[0].losses) for one in selections(tmp_path) if one.trial is not None]
    assert found == [["alpha", "general text"], ["beta", "general text"]]
    # General text begins with what the tokenizer puts in front of texts.
    monkeypatch.setattr(Renderer, "beginning", "<|im_start|>")
    with pytest.raises(RecordError, match="changed: trial"):
        run(config)


def test_controls_are_not_tried(small_model: Path, bench: Path, tmp_path: Path) -> None:
    told = Told()
    run(trial_config(small_model, bench, tmp_path, policy="highest"), told)
    assert told.of("scoring") and not told.of("trying")


def test_a_dry_run_and_the_report_tell_of_trials(small_model: Path, bench: Path, tmp_path: Path) -> None:
    config = trial_config(small_model, bench, tmp_path)
    (ready, speed), listener = estimate(config, Told()), Told()
    (work,) = (block for block in dry_run_page(config, ready, speed).sections[3].blocks if isinstance(block, Table))
    # Two tasks: two candidates for two updates each.
    assert work.rows[1][:2] == ("trying the leading candidates", "8 updates")
    run(config, listener)
    for name, planned in ready.engine.plan.trials.items():
        (cost,) = (cost for label, (_, cost) in listener.work.items() if f"{name}: trying" in label)
        # Estimated from the original's prompts.
        assert planned.cost == pytest.approx(cost, rel=0.3)
    print_report(Console(file=StringIO()), [tmp_path])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.count("Loss on each task after a trial of 2 updates") == 2
    assert page.count("after the trial") >= 2 and "Policy sapo: the original, unless after a few updates" in page
