"""Studies that are made, interrupted, resumed, handed to workers, and what they refuse."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, command, configure, near, plain_config, read, workers, write, write_bench

from sapo.core.errors import DataError, RecordError, SweepError, TrainError
from sapo.experiments.study.plan import state_config, transitions
from sapo.experiments.study.records import STUDY, StudyRecord, append_study, read_study
from sapo.experiments.study.run import planned, run_study, study_fingerprint
from sapo.experiments.where import Where, on_ray
from sapo.report.blocks import Table
from sapo.report.forecast import study_dry_run_page
from sapo.report.numbers import duration
from sapo.runs.config.schema import ResourcesConfig
from sapo.runs.config.study import StudyConfig
from sapo.runs.prepare import read as inputs_of
from sapo.sequence import run
from sapo.tasks.load import task_fingerprint
from sapo.training.finetune import finetune

TASKS = ("alpha", "beta", "gamma")
LORA, TRAIN = {"dropout": 0.0}, {"epochs": 1}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("bench"), tasks=TASKS)


def plain_study(small_model: Path, bench: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    data = plain_config(small_model, bench, run_dir)
    taken = ("model", "data_dir", "candidates", "train", "lora", "run_dir")
    own = {
        "transitions": [["alpha", "beta"]], "unseen": ["gamma"], "seeds": [1], "examples": 4, "rows": 3, "scores": True,
        "max_new_tokens": 2,
    }  # fmt: skip
    found = {key: data[key] for key in taken} | own | changes
    # The original and one paraphrase.
    candidates = {**data["candidates"], "count": 1}
    return {**found, "candidates": candidates, "lora": {**found["lora"], **LORA}, "train": {**found["train"], **TRAIN}}


@pytest.fixture
def study(small_model: Path, bench: Path, tmp_path: Path) -> Callable[..., StudyConfig]:
    def make(run_dir: str = "study", **changes: Any) -> StudyConfig:
        return StudyConfig.model_validate(plain_study(small_model, bench, tmp_path / run_dir, **changes))

    return make


@pytest.fixture(scope="module")
def made(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Path]:
    """A finished study of two candidates and both arms; nothing may change it."""
    root = tmp_path_factory.mktemp("made") / "study"
    config = StudyConfig.model_validate(plain_study(small_model, bench, root, arms=["adamw", "sgd"]))
    run_study(config)
    return config, root


def lasting(records: Any) -> dict[str, dict[str, Any]]:
    """What trainings found, by name, without times and without what grows."""
    gone = ("seconds", "config")
    return {r.name: {k: v for k, v in r.to_json().items() if k not in gone} for r in records}


def test_a_training_does_what_the_same_stage_of_an_ordinary_run_does(
    made: tuple[StudyConfig, Path], small_model: Path, bench: Path, tmp_path: Path
) -> None:
    """The original instruction with the first seed is what `sapo run` with policy original trains."""
    record = next(r for r in read_study(made[1] / STUDY) if r.name == "alpha>beta/adamw-c0-s1")
    own: dict[str, Any] = {"policy": "original", "seed": 1, "lora": LORA, "train": TRAIN, "watch": ["gamma"]}
    config = configure(small_model, bench, tmp_path / "run", **own)
    run(config)
    for task, (when, stage) in product(TASKS, (("before", 1), ("after", 2))):
        cell = read(tmp_path / "run" / "cells" / str(stage) / f"{task}.original.json")["value"]
        losses = record.losses[task].before if when == "before" else record.losses[task].after
        assert losses == pytest.approx(cell["losses"]["nll"], abs=2e-4), (task, when)
        assert record.scores is not None
        score = record.scores[task].before if when == "before" else record.scores[task].after
        assert score == pytest.approx(sum(cell["scores"]["exact_match"]) / 3)
    # What was trained moves what it is trained on: the figures above are not all the same.
    assert abs(record.losses["beta"].loss("after") - record.losses["beta"].loss("before")) > 1e-2


def test_losses_before_training_are_kept_row_by_row(made: tuple[StudyConfig, Path]) -> None:
    ground = read(made[1] / "states" / "alpha>beta" / "ground.json")["value"]
    for losses, indicators in zip(ground["candidates"], ground["indicators"], strict=True):
        assert len(losses["nll"]) == 4 and sum(losses["nll"]) / sum(losses["tokens"]) == indicators["pre_update"]


def test_a_lean_study_finds_the_same_without_what_costs_most(
    made: tuple[StudyConfig, Path], study: Callable[..., StudyConfig]
) -> None:
    whole, lean = lasting(read_study(made[1] / STUDY)), lasting(run_study(study("lean", lean=True)))
    for name, record in lean.items():
        gone = {"indicators": ("gradient_norm",), "mediators": ("train_before", "train_after", "earlier_gradient")}
        for part, names in gone.items():
            assert {key for key, value in record[part].items() if value is None} == set(names)
            assert None not in whole[name][part].values()
            there = {key: value for key, value in whole[name][part].items() if key not in names}
            assert {key: record[part][key] for key in there} == pytest.approx(there)
        same = ("losses", "scores", "text", "data")
        assert [record[key] for key in same] == [whole[name][key] for key in same]


def test_controls_are_studied_as_they_are(study: Callable[..., StudyConfig], tmp_path: Path) -> None:
    controls = ["Lamp seven.", "[INST]"]
    write(tmp_path / "controls.json", controls)
    candidates = {"file": str(tmp_path / "controls.json"), "count": 2, "check": False}
    config = study("controls", lean=True, scores=False).model_dump() | {"candidates": candidates}
    records = run_study(StudyConfig.model_validate(config))
    assert [(r.text, r.origin) for r in records[1:]] == [(text, "unchecked") for text in controls]


def test_an_interrupted_study_is_resumed_to_the_same_records(
    made: tuple[StudyConfig, Path], study: Callable[..., StudyConfig]
) -> None:
    config = study()
    for stop_in, saved in (("task 1 alpha: training", 0), ("before training", 0), ("training 2 of 2", 1)):
        with pytest.raises(KeyboardInterrupt):
            run_study(config, Told(stop_in))
        path = config.run_dir / STUDY
        assert len(read_study(path) if path.exists() else ()) == saved
    told = Told()
    records = run_study(config, told)
    assert len(told.of(", training ")) == 1
    expected = {name: value for name, value in lasting(read_study(made[1] / STUDY)).items() if "adamw" in name}
    assert lasting(records) == {name: value | {"study": study_fingerprint(config)} for name, value in expected.items()}
    again = Told()
    assert run_study(config, again) == records and not again.steps


@pytest.fixture
def copy(made: tuple[StudyConfig, Path], tmp_path: Path) -> Callable[..., StudyConfig]:
    """The configuration of a finished study that a test may spoil."""
    shutil.copytree(made[1], tmp_path / "copy")
    return lambda **changes: made[0].model_copy(update={"run_dir": tmp_path / "copy", **changes})


def test_a_training_that_diverges_does_not_keep_the_others_from_being_made(
    study: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*args: Any, **options: Any) -> Any:
        if options["optimiser"] == "sgd":
            raise TrainError("training diverged: by agreement")
        return finetune(*args, **options)

    monkeypatch.setattr("sapo.experiments.study.training.finetune", diverges)
    config, told = study(arms=["adamw", "sgd"], lean=True, scores=False), Told()
    with pytest.raises(SweepError) as caught:
        run_study(config, told)
    names = [f"alpha>beta/sgd-c{candidate}-s1" for candidate in range(2)]
    assert str(caught.value).startswith(f"2 of 4 trainings failed ({', '.join(names)}); the others are finished. ")
    for name in names:
        hint = "Arm sgd has sgd.learning_rate of its own"
        assert f"FAILED {name}: training diverged: by agreement. {hint}" in told.notes
    records = read_study(config.run_dir / STUDY)
    assert [record.name for record in records] == [f"alpha>beta/adamw-c{candidate}-s1" for candidate in range(2)]


def test_more_seeds_arms_and_transitions_may_be_asked_for_later(copy: Callable[..., StudyConfig]) -> None:
    first = read_study(copy().run_dir / STUDY)
    told = Told()
    more = run_study(copy(seeds=(1, 3), transitions=(("alpha", "beta"), ("beta", "alpha")), arms=("sgd",)), told)
    assert all(lasting(more)[name] == value for name, value in lasting(first).items())
    assert len(more) == 4 + 2 + 4 and len(told.of(", training ")) == 6
    assert {record.transition for record in more} == {"alpha>beta", "beta>alpha"}


def test_a_dry_run_names_what_is_missing_and_writes_nothing(
    copy: Callable[..., StudyConfig],
    study: Callable[..., StudyConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = copy(seeds=(1, 2, 3), transitions=(("alpha", "beta"), ("beta", "alpha")))
    seconds = [record.seconds for record in read_study(config.run_dir / STUDY)]
    (table, _), _ = (part.blocks for part in study_dry_run_page(config, *planned(config)).sections)
    assert isinstance(table, Table)
    each = sum(seconds) / 4
    assert table.rows == (
        ("alpha>beta", "4", "8", duration(8 * each)), ("beta>alpha", "0", "12", duration(12 * each)),
        ("total", "4", "20", duration(20 * each)),
    )  # fmt: skip
    write(tmp_path / "study.yaml", study().model_dump(mode="json"))
    assert command("study", tmp_path / "study.yaml", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "alpha>beta         0              2            –" in said and "No training is recorded yet" in said
    assert not study().run_dir.exists()


@pytest.mark.parametrize(("file", "what"), [("config.yaml", "a single run"), ("records.jsonl", "a sweep")])
def test_a_study_does_not_share_a_directory(file: str, what: str, study: Callable[..., StudyConfig]) -> None:
    config = study()
    config.run_dir.mkdir(parents=True)
    (config.run_dir / file).touch()
    with pytest.raises(RecordError, match=f"holds {what}: choose another one for a study"):
        run_study(config)


def test_another_configuration_is_refused_and_changes_nothing(copy: Callable[..., StudyConfig]) -> None:
    path = copy().run_dir / STUDY
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"another configuration:\n  examples: 4 then, 5 now\nUse another run_dir"):
        run_study(copy(examples=5))
    # The states are those of the first seed, and what is tested is the same for all.
    changes: tuple[dict[str, Any], ...] = ({"seeds": (2, 1)}, {"unseen": ()})
    for change in changes:
        with pytest.raises(RecordError, match="another configuration"):
            run_study(copy(**change))
    with pytest.raises(RecordError, match=r"\n  lean: not set then, True now\n"):
        run_study(copy(lean=True))
    often = copy().train.model_copy(update={"checkpoint_every": 1})
    assert run_study(copy(train=often)) == read_study(path) and path.read_bytes() == before


def test_a_state_that_was_made_of_something_else_gets_no_trainings(copy: Callable[..., StudyConfig]) -> None:
    path = copy().run_dir / STUDY
    first = read_study(path)[0]
    losses = {name: {**value, "before": [x + 1 for x in value["before"]]} for name, value in
              first.to_json()["losses"].items()}  # fmt: skip
    path.unlink()
    append_study(path, StudyRecord.from_json(first.to_json() | {"losses": losses}))
    before = path.read_bytes()
    with pytest.raises(
        RecordError, match=r"did not start from the same state.*The last one is not recorded: put .*states"
    ):
        run_study(copy())
    assert path.read_bytes() == before


def test_data_that_have_changed_are_told_even_if_nothing_is_missing(
    copy: Callable[..., StudyConfig], bench: Path
) -> None:
    records = run_study(copy())
    assert set(records[0].data) == set(TASKS) and records == read_study(copy().run_dir / STUDY)
    file = bench / "gamma" / "test.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("gamma test", "another"), encoding="utf-8")
    try:
        with pytest.raises(RecordError, match="task 'gamma' is not as it was when trainings of alpha>beta were record"):
            run_study(copy())
    finally:
        file.write_text(whole, encoding="utf-8")


def test_records_of_earlier_versions_hold_the_rows_that_were_used(copy: Callable[..., StudyConfig]) -> None:
    path, config = copy().run_dir / STUDY, copy()
    _, given = inputs_of(state_config(config, transitions(config)[0]))
    used = {task.name: task_fingerprint(task) for task in (*given.tasks, *given.watch)}
    before = [replace(record, data=used) for record in read_study(path)]
    assert all(record.data == given.data != used for record in read_study(path))
    path.unlink()
    for record in before:
        append_study(path, record)
    assert run_study(config) == tuple(before)


def test_a_study_that_leaves_out_long_rows_is_resumed(small_model: Path, tmp_path: Path) -> None:
    own = write_bench(tmp_path / "own", tasks=TASKS)
    index = read(own / "instructions.json")
    write(own / "instructions.json", {name: {**one, "labels": []} for name, one in index.items()})
    rows = read(own / "gamma" / "test.json")
    write(own / "gamma" / "test.json", [{**rows[0], "label": "y" * 400}, *rows[1:]])
    changes: dict[str, Any] = {"max_length": 120, "data": {"drop_long": True}, "rows": 4, "lean": True, "scores": False}
    config = StudyConfig.model_validate(plain_study(small_model, own, tmp_path / "study", **changes))
    records = run_study(config, told := Told())
    assert any("left out, as instruction, suffix and answer are too long" in note for note in told.notes)
    assert run_study(config) == records


def test_what_the_last_transition_lacks_is_told_before_the_first_is_trained(
    study: Callable[..., StudyConfig], bench: Path
) -> None:
    config = study(transitions=[["alpha", "beta"], ["alpha", "delta"]])
    with pytest.raises(DataError, match=r"transition alpha>delta: .*delta"):
        run_study(config, told := Told())
    assert not told.steps and not (config.run_dir / "states").exists()


@pytest.mark.parametrize("where", [workers, partial(on_ray, "local", ResourcesConfig())], ids=["workers", "ray"])
def test_workers_make_the_same_trainings(
    where: Where, made: tuple[StudyConfig, Path], study: Callable[..., StudyConfig]
) -> None:
    if where is not workers:
        pytest.importorskip("ray")
    records = run_study(study(), Told(), where)
    expected = {r.name: r for r in read_study(made[1] / STUDY) if r.arm == "adamw"}
    assert near(lasting(records), lasting(replace(expected[r.name], study=r.study) for r in records))
    assert all(r.config["seeds"] == [1] and "run_dir" not in r.config and "torch" in r.versions for r in records)
    # The process that asked for them wrote the records.
    assert read_study(study().run_dir / STUDY) == records and len(records) == 2
