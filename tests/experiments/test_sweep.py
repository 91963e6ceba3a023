"""Sweeps: which runs there are, that each is the run it would be by itself, and what is computed once for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Json, Told, adapters, cell, cells, configure, lasting, nll_by_hand, read

import sapo.runs.steps
from sapo.core.errors import ConfigError
from sapo.experiments.sweep import planned, run_sweep
from sapo.integrations.testing import tiny_tokenizer
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.prepare import read as read_inputs
from sapo.runs.prompts import short
from sapo.runs.records import read_records
from sapo.runs.results import RunResult
from sapo.sequence import run

NAME = "alpha+beta"
SHORT: Json = {"train": {"epochs": 1}, "evaluate": {"prompts": ["own", "original"]}}


@pytest.fixture
def swept(small_model: Path, bench: Path, tmp_path: Path) -> Callable[..., Config]:
    """Make the configuration of a sweep."""

    def make(sweep: Json, **changes: Any) -> Config:
        return configure(small_model, bench, tmp_path / "sweep", sweep=sweep, **changes)

    return make


# Which runs there are.


def test_every_combination_is_a_run_sapo_first_of_the_policies(swept: Callable[..., Config]) -> None:
    config = swept(
        {
            "sequence": [["beta"], ["alpha", "beta"]], "seed": [7, 3], "method": ["inc-lora", "seq-lora"],
            "policy": ["random", "original", "sapo"],
        }
    )  # fmt: skip
    runs = planned(config)
    assert [one.name for one in runs] == [
        f"{sequence}/{method}-{policy}-s{seed}"
        for sequence in ("beta", NAME)
        for seed in (7, 3)
        for method in ("inc-lora", "seq-lora")
        for policy in ("sapo", "random", "original")
    ]
    for one in runs:
        assert one.config.run_dir == config.run_dir / one.name and one.config.sweep is None
        assert one.sequence == "+".join(one.config.sequence)
        expected = f"{one.config.method}-{one.config.policy}-s{one.config.seed}"
        assert one.name == f"{one.sequence}/{expected}"


def test_rules_are_compared_where_the_lowest_loss_is_wanted(swept: Callable[..., Config]) -> None:
    runs = planned(swept({"rule": ["trial", "lowest"], "policy": ["original", "sapo"]}))
    assert [(one.name, one.config.selection.rule) for one in runs] == [
        (f"{NAME}/seq-lora-sapo-trial-s42", "trial"),
        (f"{NAME}/seq-lora-sapo-s42", "lowest"),
        (f"{NAME}/seq-lora-original-s42", "lowest"),
    ]
    assert {one.twin for one in runs} == {runs[0].name}
    with pytest.raises(ConfigError, match="none of them is in the sweep"):
        planned(swept({"rule": ["trial", "lowest"], "policy": ["original", "random"]}))


def test_what_a_sweep_does_not_name_stays_as_it_is(swept: Callable[..., Config]) -> None:
    config = swept({"seed": [1]}, method="o-lora", policy="paft", paft={"steps": 7}, o_lora={"weight": 0.25})
    (one,) = planned(config)
    assert one.name == f"{NAME}/o-lora-paft-s1"
    single = {**config.model_dump(), "sweep": None, "seed": 1, "run_dir": config.run_dir / one.name}
    assert one.config == make_config(single)
    assert one.config.plain()["paft"] == {"steps": 7} and one.config.plain()["o_lora"]["weight"] == 0.25


def test_a_long_sequence_gets_a_name_that_a_folder_can_have_and_no_other_one_has(
    swept: Callable[..., Config], tmp_path: Path
) -> None:
    tasks = [f"task-{n:02}-with-a-long-name" for n in range(10)]
    lists = [tasks, tasks[::-1], [*tasks[:-1], "x"]]
    names = [one.sequence for one in planned(swept({"sequence": lists}, sequence=tasks))]
    assert len(set(names)) == 3 and all(len(name) == 100 for name in names)
    assert names[0].startswith("task-00-with-a-long-name+task-01-") and names[0][:91] == names[2][:91]
    more = [["own/data"], "demo", [word * 20 for word in "一二三四五六七"]]
    others = planned(swept({"sequence": more}, sequence="demo"))
    assert [one.name for one in others[:2]] == ["own-data/seq-lora-sapo-s42", "demo/seq-lora-sapo-s42"]
    (tmp_path / others[2].name).mkdir(parents=True)


def test_each_run_gets_the_tasks_and_texts_of_its_own_sequence(swept: Callable[..., Config], tmp_path: Path) -> None:
    tasks = {name: {"data": f"{name}.csv", "instruction": "Do it."} for name in ("a", "b", "c", "w")}
    fixed = {"a": "Do a.", "c": "Do c."}
    sweep = {"sequence": [["a", "b"], ["b", "c"]], "policy": ["fixed"]}
    runs = planned(swept(sweep, sequence=["a", "b"], tasks=tasks, watch=["w"], fixed=fixed))
    assert [[*one.config.tasks] for one in runs] == [["a", "b", "w"], ["b", "c", "w"]]
    assert [one.config.fixed for one in runs] == [{"a": "Do a."}, {"c": "Do c."}]
    for wrong, message in (
        ({"tasks": tasks}, "tasks: w is neither in a"), ({"fixed": {"d": "x"}}, "fixed: 'd' is not a"),
        ({"fixed": {"a": "x"}}, r"fixed names no task of sequence b\+c"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            planned(swept(sweep, **{"sequence": ["a", "b"], "fixed": fixed, **wrong}))


def test_two_sequences_of_one_name_are_refused(swept: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.sequence: two sequences are both called alpha\+beta"):
        planned(swept({"sequence": [["alpha+beta"], ["alpha", "beta"]]}))
    with pytest.raises(ConfigError, match=r"sweep\.seed: 1 is listed twice"):
        swept({"seed": [1, 2, 1]})


def test_what_one_policy_lacks_is_said_before_the_first_run(swept: Callable[..., Config]) -> None:
    config = swept({"policy": ["sapo", "reselect"]}, train={"rows": None})
    with pytest.raises(ConfigError, match="seq-lora-reselect-s42: policy reselect scores on rows that are not trained"):
        run_sweep(config)
    assert not list(config.run_dir.rglob("config.yaml"))


# A whole sweep of two methods and two policies.


@dataclass(frozen=True)
class Swept:
    config: Config
    records: Sequence[RunResult]
    told: Told
    calls: Sequence[str]

    def directory(self, method: str, policy: str) -> Path:
        return self.config.run_dir / NAME / f"{method}-{policy}-s42"


@pytest.fixture(scope="module")
def whole(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    config = configure(
        small_model, bench, tmp_path_factory.mktemp("whole") / "sweep", **SHORT,
        sweep={"method": ["seq-lora", "inc-lora"], "policy": ["original", "sapo"]},
    )  # fmt: skip
    told, calls = Told(), list[str]()

    def counted(patch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(sapo.runs.steps, name)

        def count(*args: Any, **named: Any) -> Any:
            model = args[0] if name == "evaluate" else args[0]._runner.model
            # The start has no adapter.
            calls.append(f"{name} {'later' if hasattr(model, 'peft_config') else 'start'}")
            return real(*args, **named)

        patch.setattr(sapo.runs.steps, name, count)

    with pytest.MonkeyPatch.context() as patch:
        counted(patch, "evaluate")
        counted(patch, "score_candidates")
        records = run_sweep(config, told)
    return Swept(config, records, told, calls)


def test_runs_are_made_one_after_the_other_and_recorded_in_their_order(whole: Swept) -> None:
    names = [f"{NAME}/{m}-{p}-s42" for m in ("seq-lora", "inc-lora") for p in ("sapo", "original")]
    assert [record.name for record in whole.records] == names
    assert read_records(whole.config.run_dir / "records.jsonl") == whole.records
    for record in whole.records:
        data = read(whole.config.run_dir / record.name / "results.json")
        assert record.final("nll", "own") == tuple(data["matrices"]["nll"]["own"][-1])
    said = [note for note in whole.told.notes if note.startswith(("sweep of", "run "))]
    assert said == [
        f"sweep of 4 runs, 0 of them finished, in {whole.config.run_dir}",
        *(f"run {n} of 4: {name}" for n, name in enumerate(names, start=1)),
    ]


def test_a_run_of_a_sweep_is_the_run_by_itself(whole: Swept, small_model: Path, bench: Path, tmp_path: Path) -> None:
    directory = whole.directory("inc-lora", "sapo")
    alone = configure(small_model, bench, tmp_path / "run", method="inc-lora", **SHORT)
    found = lasting(read(directory / "results.json"))
    assert found == lasting(run(alone))
    assert adapters(directory) == adapters(alone.run_dir) and cells(directory) == cells(alone.run_dir)
    for path in alone.run_dir.glob("selections/*.json"):
        stored, other = (read(root / "selections" / path.name) for root in (directory, alone.run_dir))
        assert stored["inputs"] == other["inputs"]
        losses = [[(c["text"], c["losses"]) for c in s["value"]["candidates"]] for s in (stored, other)]
        assert losses[0] == losses[1] and stored["value"]["chosen"] == other["value"]["chosen"]
    # And the same command for it alone finds everything finished.
    told = Told()
    assert lasting(run(alone.model_copy(update={"run_dir": directory}), told)) == found and told.steps == []


def test_what_is_the_same_at_the_start_is_computed_once(whole: Swept) -> None:
    # Two tasks zero-shot; the first task's candidates.
    assert whole.calls.count("evaluate start") == 2
    assert whole.calls.count("score_candidates start") == 1
    # The second task's candidates in the state that each method is in.
    assert whole.calls.count("score_candidates later") == 2
    assert len(whole.told.of("stage 0")) == 2 and len(whole.told.of("task 1 alpha: scoring")) == 1
    assert sum("stage 0" in label for label in whole.told.found) == 3 * 2
    assert sum("task 1 alpha: scoring" in label for label in whole.told.found) == 1
    assert len(whole.told.of("training")) == 4 * 2


def test_runs_with_the_original_are_tested_with_what_the_paired_run_chose_too(whole: Swept, small_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tasks = {task.name: task for task in read_inputs(planned(whole.config)[0].config)[1].tasks}
    for method in ("seq-lora", "inc-lora"):
        directory, twin = (whole.directory(method, policy) for policy in ("original", "sapo"))
        chosen = {t: e["text"] for t, e in read(twin / "results.json")["instructions"].items()}
        crossed = read(directory / "results.json")["crossed"]
        record = next(r for r in whole.records if r.name.endswith(f"{method}-original-s42"))
        assert record.crossed is not None and (record.crossed.by, record.crossed.nll) == ("sapo", crossed["nll"])
        model = AutoModelForCausalLM.from_pretrained(small_model)
        model = PeftModel.from_pretrained(model, directory / "stages" / "2-beta").eval()
        for name, text in chosen.items():
            kind = "original" if text == tasks[name].instruction else short(text)
            assert cell(directory, 2, name, kind)["instruction"] == text
            with torch.no_grad():
                by_hand = nll_by_hand(model, tiny_tokenizer(), text, tasks[name].suffix, tasks[name].test)
            assert crossed["nll"][name] == pytest.approx(sum(by_hand) / (3 * len(by_hand)), abs=1e-4)
        assert "crossed" not in read(twin / "results.json")
    # The premise: something was chosen.
    assert any(used.text != used.original for record in whole.records for used in record.instructions.values())
