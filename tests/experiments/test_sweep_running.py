"""Sweeps that are interrupted, fail in part, are resumed or handed to workers, and what they refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, adapters, command, configure, lasting, near, read, workers, write, write_bench

from sapo.core.errors import DataError, RecordError, SweepError, TrainError
from sapo.experiments.sweep import run_sweep
from sapo.runs.config.schema import Config
from sapo.runs.records import read_records
from sapo.sequence import run
from sapo.training.finetune import finetune
from sapo.training.methods.inc_lora import IncLora

NAME = "alpha+beta"


@pytest.fixture
def swept(small_model: Path, bench: Path, tmp_path: Path) -> Callable[..., Config]:
    """Make the configuration of a sweep with the original instructions."""

    def make(sweep: Any, run_dir: str = "sweep", **changes: Any) -> Config:
        changes = {"train": {"epochs": 1}, **({} if "policy" in sweep else {"policy": "original"}), **changes}
        return configure(small_model, bench, tmp_path / run_dir, sweep=sweep, **changes)

    return make


def two_seeds(small_model: Path, bench: Path, root: Path) -> Config:
    return configure(small_model, bench, root, sweep={"seed": [1, 2]}, policy="original", train={"epochs": 1})


@pytest.fixture(scope="module")
def made(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two seeds; nothing may change it."""
    root = tmp_path_factory.mktemp("made") / "sweep"
    run_sweep(two_seeds(small_model, bench, root))
    return root


@pytest.fixture
def finished(made: Path, small_model: Path, bench: Path, tmp_path: Path) -> Config:
    """A copy of it that a test may spoil."""
    shutil.copytree(made, tmp_path / "copy")
    return two_seeds(small_model, bench, tmp_path / "copy")


def count_trainings(patch: pytest.MonkeyPatch) -> list[int]:
    seeds: list[int] = []

    def counted(model: Any, encoded: Any, settings: Any, seed: int, *rest: Any) -> Any:
        seeds.append(seed)
        return finetune(model, encoded, settings, seed, *rest)

    patch.setattr("sapo.runs.steps.finetune", counted)
    return seeds


def no_model(*args: Any, **named: Any) -> Any:
    raise AssertionError("a model was loaded")


# Interruption.


def test_a_sweep_that_is_interrupted_in_its_second_run_makes_only_what_is_missing(
    swept: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = swept({"seed": [1, 3]})
    trained = count_trainings(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, Told("run 2/2, task 2 beta: training"))
    assert trained == [1, 1, 3, 3]
    second = config.run_dir / NAME / "seq-lora-original-s3"
    assert (second / "training" / "1-alpha.json").is_file() and not (second / "results.json").exists()
    records = config.run_dir / "records.jsonl"
    assert [record.seed for record in read_records(records)] == [1]
    before = records.read_bytes()
    trained.clear()
    told = Told()
    assert [record.seed for record in run_sweep(config, told)] == [1, 3]
    assert trained == [3]
    assert f"sweep of 2 runs, 1 of them finished, in {config.run_dir}" in told.notes
    assert "run 1 of 1: alpha+beta/seq-lora-original-s3" in told.notes
    assert records.read_bytes().startswith(before)
    alone = {**config.model_dump(), "sweep": None, "seed": 3, "run_dir": config.run_dir.parent / "alone"}
    single = Config.model_validate(alone)
    assert lasting(run(single)) == lasting(read(second / "results.json"))
    assert adapters(single.run_dir) == adapters(second)


def test_a_rule_that_is_added_later_leaves_what_is_finished_and_the_page_holds_both(
    swept: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: Any = {"sequence": ["beta"], "selection": {"trial": {"updates": 1, "rows": 2}}}
    run_sweep(swept({"policy": ["sapo"]}, **changes))
    trained = count_trainings(monkeypatch)
    config = swept({"policy": ["original", "sapo"], "rule": ["lowest", "trial"]}, **changes)
    records = run_sweep(config)
    names = ["seq-lora-sapo-s42", "seq-lora-sapo-trial-s42", "seq-lora-original-s42"]
    assert [one.name.rsplit("/")[-1] for one in records] == names
    assert [one.way for one in records] == ["sapo", "sapo (trial)", "original"]
    # The second and the third run alone; trials do not count.
    assert len(trained) == 2
    command("report", config.run_dir)
    assert "sapo (trial)" in capsys.readouterr().out


def test_a_finished_sweep_trains_and_loads_nothing(finished: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapo.runs.prepare.load_model", no_model)
    before = {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()}
    told = Told()
    assert run_sweep(finished, told) == read_records(finished.run_dir / "records.jsonl")
    assert told.steps == []
    assert told.notes[-1] == f"sweep of 2 runs, 2 of them finished, in {finished.run_dir}"
    assert all(note.startswith("not used: ") for note in told.notes[:-1])
    assert {p: p.read_bytes() for p in finished.run_dir.rglob("*") if p.is_file()} == before


def test_a_run_whose_record_is_missing_is_read_back_from_its_directory(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = finished.run_dir / "records.jsonl"
    expected = read_records(records)
    records.write_bytes(records.read_bytes().split(b"\n")[0] + b"\n")
    trained = count_trainings(monkeypatch)
    assert run_sweep(finished) == expected == read_records(records)
    assert trained == []


# Failures.


def test_a_run_that_fails_does_not_keep_the_others_from_being_made(
    swept: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = swept({"method": ["inc-lora", "seq-lora"], "policy": ["original"]}, sequence=["beta"])

    def diverges(*args: Any) -> Any:
        raise TrainError("training diverged: by agreement")

    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(IncLora, "prepare", diverges)
        with pytest.raises(SweepError) as caught:
            run_sweep(config, told)
    name = "beta/inc-lora-original-s42"
    assert str(caught.value) == (
        f"1 of 2 runs failed ({name}); the others are finished. {name}: training diverged: by agreement"
    )
    assert f"FAILED {name}: training diverged: by agreement" in told.notes
    assert [r.method for r in read_records(config.run_dir / "records.jsonl")] == ["seq-lora"]
    # What failed is tried again.
    trained = count_trainings(monkeypatch)
    assert [r.method for r in run_sweep(config)] == ["inc-lora", "seq-lora"]
    assert len(trained) == 1


# Directories that are gone, changed, or something else.


def test_without_run_directories_records_are_enough(
    finished: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command("report", finished.run_dir)
    with_all = capsys.readouterr().out
    shutil.rmtree(finished.run_dir / NAME)
    shutil.rmtree(finished.run_dir / "shared")
    monkeypatch.setattr("sapo.runs.prepare.load_model", no_model)
    assert len(run_sweep(finished)) == 2
    command("report", finished.run_dir)
    assert capsys.readouterr().out == with_all
    command("report", finished.run_dir / "records.jsonl")
    assert capsys.readouterr().out == with_all
    assert "Sweep of 2 runs" in with_all and (finished.run_dir / "comparison.md").is_file()


def test_a_sweep_and_a_run_do_not_share_a_directory(finished: Config, tmp_path: Path) -> None:
    single = finished.model_copy(update={"sweep": None})
    with pytest.raises(RecordError, match="holds a sweep: choose another one for a single run"):
        run(single)
    one = finished.run_dir / NAME / "seq-lora-original-s1"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.jsonl").touch()
    with pytest.raises(RecordError, match="holds a study: choose another one for a sweep"):
        run_sweep(finished.model_copy(update={"run_dir": tmp_path / "study"}))
    with pytest.raises(RecordError, match="holds a single run: choose another one for a sweep"):
        run_sweep(finished.model_copy(update={"run_dir": one}))
    assert not (one / "records.jsonl").exists() and not (one / "shared").exists()


@pytest.mark.parametrize("gone", [False, True])
def test_another_configuration_is_refused_with_the_key(
    gone: bool, finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.runs.prepare.load_model", no_model)
    if gone:
        shutil.rmtree(finished.run_dir / NAME)
    other = finished.model_copy(update={"train": finished.train.model_copy(update={"epochs": 2.0})})
    with pytest.raises(RecordError, match=r"train\.epochs: 1\.0 then, 2\.0 now"):
        run_sweep(other)


def test_an_unfinished_run_of_another_configuration_is_refused_before_any_other_one_is_made(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.runs.prepare.load_model", no_model)
    (finished.run_dir / "records.jsonl").unlink()
    path = finished.run_dir / NAME / "seq-lora-original-s2" / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 1.0", "epochs: 9.0"))
    sweep = finished.model_copy(update={"sweep": finished.sweep and finished.sweep.model_copy(update={"seed": (2, 9)})})
    with pytest.raises(RecordError, match=r"train\.epochs: 9\.0 then, 1\.0 now"):
        run_sweep(sweep)
    assert not (finished.run_dir / NAME / "seq-lora-original-s9").exists()


def test_runs_are_not_added_to_those_of_other_data(small_model: Path, tmp_path: Path) -> None:
    bench = write_bench(tmp_path / "bench")

    def sweep(*seeds: int) -> Config:
        changes: Any = {"policy": "original", "sequence": ["alpha"], "train": {"epochs": 1, "rows": 4}}
        return configure(small_model, bench, tmp_path / "sweep", sweep={"seed": seeds}, **changes)

    run_sweep(sweep(1))
    # Not one of the rows that were drawn: another seed may draw it.
    path = bench / "alpha" / "train.json"
    lines = read(path)
    write(path, [*lines[:-1], {**lines[-1], "label": "n" if lines[-1]["label"] == "y" else "y"}])
    with pytest.raises(DataError, match=r"task 'alpha' is not as it was when .*-s1 was made"):
        run_sweep(sweep(1, 2))
    write(path, lines)
    assert [one.seed for one in run_sweep(sweep(1, 2))] == [1, 2]


# Pairs of runs that are made at different times.


def crossing(swept: Callable[..., Config], *policies: str, **changes: Any) -> Config:
    return swept({"policy": list(policies)}, sequence=["beta"], evaluate={"prompts": ["own", "original"]}, **changes)


def test_a_finished_run_is_crossed_once_the_paired_one_is_made(
    swept: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = run_sweep(crossing(swept, "original"))
    assert alone.crossed is None
    trained = count_trainings(monkeypatch)
    first, both = run_sweep(crossing(swept, "original", "sapo"))
    assert (first.policy, both.policy) == ("sapo", "original") and len(trained) == 1
    assert both.crossed is not None and set(both.crossed.nll) == {"beta"}
    assert both.matrices == alone.matrices
    # Made by workers, where it waits for the paired one, it is the same; this process records it.
    config = crossing(swept, "original", "sapo", run_dir="other")
    told = Told()
    found = run_sweep(config, told, workers)
    for record, here in zip(found, (first, both), strict=True):
        assert record.name == here.name and near(lasting(record), lasting(here))
    assert sorted(r.name for r in read_records(config.run_dir / "records.jsonl")) == sorted(r.name for r in found)
    # All runs are seen side by side: 1 training; tests before and after it, with both prompts where they differ.
    sapo, original = first.name, both.name
    assert told.boards[0] == [(sapo, "waiting", "0", "0"), (original, "waiting", "0", "0")]
    assert [row[:3] for row in told.boards[-1]] == [(sapo, "finished", "1"), (original, "finished", "1")]
    tests = [len(list((config.run_dir / name).glob("cells/*/*"))) for name in (sapo, original)]
    assert [int(row[3]) for row in told.boards[-1]] == tests and min(tests) >= 2


def test_a_run_whose_pair_fails_is_finished_without_it(
    swept: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **named: Any) -> Any:
        raise TrainError("no scores")

    config = crossing(swept, "sapo", "original")
    for trained in (["run 2/2, task 1 beta: training"], []):
        told = Told()
        with monkeypatch.context() as patch:
            patch.setattr("sapo.runs.steps.score_candidates", fails)
            with pytest.raises(SweepError, match="1 of 2 runs failed"):
                run_sweep(config, told)
        assert told.of("training") == trained
        # Its record is enough: nothing could be added to it.
        shutil.rmtree(config.run_dir / "beta" / "seq-lora-original-s42", ignore_errors=True)
    assert [record.crossed for record in read_records(config.run_dir / "records.jsonl")] == [None]
    assert [record.crossed is None for record in run_sweep(config)] == [True, False]
