"""A loop of one's own gets the numbers of `sapo run`, survives interruptions, and its report."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, configure, read, save, save_model

import sapo
from sapo.core.errors import CandidateError, DataError, RecordError
from sapo.core.types import Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.sequence import run
from sapo.training.settings import Policy

PARAPHRASES = ["Are there many words or few?", "Many words: yes. Few words: no."]


def follow(seq: sapo.TaskSequence, states: dict[str, Any], candidates: Any = None) -> None:
    """Play back the models that another run trained."""
    for task in seq.open:
        seq.before(task, candidates and candidates[task.name])
        seq.after(task, states[task.name])


def test_a_loop_of_ones_own_finds_what_a_run_finds(small_model: Path, bench: Path, tmp_path: Path) -> None:
    """With the models that a run trained, choices, matrix and metrics are those of the run."""
    config = configure(
        small_model, bench, tmp_path / "run", train={"rows": None, "epochs": 1},
        evaluate={"rows": None, "prompts": ["own", "original"]}, selection={"examples": 8, "budget": None}, seed=3,
    )  # fmt: skip
    data = run(config).to_json()
    tasks = sapo.load_sequence(["alpha", "beta"], bench)
    texts = {
        t.name: [c["text"] for c in read(tmp_path / "run" / "candidates" / f"{n}-{t.name}.json")["value"]["candidates"]]
        for n, t in enumerate(tasks, 1)
    }
    start = sapo.load_model(str(small_model))
    seq = sapo.TaskSequence(tmp_path / "own", start.model, start.tokenizer, tasks, examples=8, max_new_tokens=2, seed=3)
    stages = {t.name: tmp_path / "run" / "stages" / f"{n}-{t.name}" for n, t in enumerate(tasks, 1)}
    states = {name: sapo.load_model(str(small_model), str(stage)).model for name, stage in stages.items()}
    follow(seq, states, {name: found[1:] for name, found in texts.items()})
    found = seq.results.to_json()
    for name in ("alpha", "beta"):
        assert found["instructions"][name]["text"] == data["instructions"][name]["text"]
        own, theirs = found["instructions"][name]["losses"], data["instructions"][name]["losses"]
        assert own.keys() == theirs.keys() and [own[t] for t in own] == pytest.approx(
            [theirs[t] for t in own], abs=1e-4
        )
    for measure in ("primary", "nll"):
        for prompt in ("own", "original"):
            for a, b in zip(found["matrices"][measure][prompt], data["matrices"][measure][prompt], strict=True):
                assert a == pytest.approx(b, abs=1e-4)
            ours, run_s = found["metrics_all"][measure][prompt], data["metrics_all"][measure][prompt]
            assert ours["bwt_all_stages"]["value"] == pytest.approx(run_s["bwt_all_stages"]["value"], abs=1e-4)


@pytest.fixture
def tasks() -> list[Task]:
    return [toy_task("one", rows=8), toy_task("two", rows=8)]


def test_a_loop_that_was_interrupted_is_resumed_with_the_model_that_was_left(tasks: list[Task], tmp_path: Path) -> None:
    """As the docs' loop does: what is left lies under another name than the first model."""
    base, left = save_model(tmp_path / "base"), save(tmp_path / "left", seed=3, context=1024)

    def model(directory: Path) -> Any:
        return sapo.load_model(str(directory)).model

    def sequence(directory: Path, max_new_tokens: int = 2) -> sapo.TaskSequence:
        return sapo.TaskSequence(
            tmp_path / "s", model(directory), tiny_tokenizer(), tasks, max_new_tokens=max_new_tokens
        )

    seq = sequence(base)
    chosen = seq.before("one", PARAPHRASES)
    assert seq.after("one", model(left)) is None
    again = sequence(left)
    assert [t.name for t in again.done] == ["one"] and [t.name for t in again.open] == ["two"]
    assert again.before("two", PARAPHRASES).text
    # Or with the first one, and the last one given to `before`.
    again, cell = sequence(base), tmp_path / "s" / "cells" / "1" / "two.original.json"
    with pytest.raises(RecordError, match="differs from the one tested after 'one'"):
        again.before("two", PARAPHRASES)
    before = cell.stat().st_mtime_ns
    again.before("two", PARAPHRASES, model=model(left))
    results = again.after("two", tiny_model(seed=4))
    assert results is not None and cell.stat().st_mtime_ns == before
    data = results.to_json()
    assert data["instructions"]["one"]["text"] == chosen.text and data["config"]["model"]["base"] == str(base)
    assert again.open == () and results.metrics["bwt_all_stages"]["value"] is not None
    with pytest.raises(RecordError, match="another configuration"):
        sequence(base, max_new_tokens=3)


def test_a_model_that_is_not_the_one_of_the_start_is_refused_and_nothing_is_lost(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = sapo.TaskSequence(tmp_path / "s", tiny_model(), tiny_tokenizer(), tasks, policy="original", max_new_tokens=2)
    monkeypatch.setattr(seq, "_test_all", lambda stage: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        seq.before("one", model=tiny_model(seed=5))
    monkeypatch.undo()
    # Nothing was tested: any model may begin.
    seq.before("one", model=tiny_model())
    # As where a cell of a notebook is run twice, after the training.
    with pytest.raises(RecordError, match="differs from the one tested at the start"):
        seq.before("one", model=tiny_model(seed=3))
    seq.after("one", tiny_model(seed=3))
    seq.before("two")
    assert seq.after("two", tiny_model(seed=4)) is not None


@pytest.mark.parametrize("policy", ["random", "sapo"])
def test_paraphrases_that_are_rejected_are_told(policy: Policy, tasks: list[Task], tmp_path: Path) -> None:
    told = Told()
    seq = sapo.TaskSequence(
        tmp_path / "s", tiny_model(), tiny_tokenizer(), tasks, policy=policy, max_new_tokens=2, progress=told
    )
    with pytest.raises(CandidateError, match=r"no candidate besides the original instruction \('It names none"):
        seq.before("one", ["It names none of them."])
    seq.before("one", [*PARAPHRASES, "It names none of them."])
    assert any(n.startswith("rejected texts: ") and "'It names none of them.': lacks" in n for n in told.notes)


def test_results_of_an_open_sequence_have_no_metrics_yet(tasks: list[Task], tmp_path: Path) -> None:
    seq = sapo.TaskSequence(tmp_path / "s", tiny_model(), tiny_tokenizer(), tasks, policy="original", max_new_tokens=2)
    with pytest.raises(RecordError, match="no tests of stage 0"):
        _ = seq.results
    seq.before("one")
    found = seq.results
    assert found.matrix[0][0] is not None and found.matrix[1] == [None, None]
    assert found.metrics["ap"] == {"value": None, "interval": None, "reason": "the sequence is not finished"}


def test_progress_is_told_and_reaches_its_end(tasks: list[Task], tmp_path: Path) -> None:
    def sequence(progress: Told) -> sapo.TaskSequence:
        return sapo.TaskSequence(
            tmp_path / "s", tiny_model(seed=5), tiny_tokenizer(), tasks[:1], policy="highest", max_new_tokens=2,
            progress=progress,
        )  # fmt: skip

    told, again = Told(), Told()
    seq = sequence(told)
    seq.before("one", PARAPHRASES)
    sequence(again).before("one", PARAPHRASES)
    # Whatever is read back is planned and found.
    assert again.steps == [] and sum(again.spared) == pytest.approx(sum(again.planned))
    results = seq.after("one", tiny_model(seed=3))
    assert told.steps == [
        "stage 0: testing one (original prompt)", "task 1 one: scoring 2 candidates", "stage 1: testing one",
        "stage 1: testing one (original prompt)",
    ]  # fmt: skip
    assert sum(cost for _, cost in told.work.values()) == pytest.approx(sum(told.planned))
    assert told.advanced == {label: units for label, (units, _) in told.work.items()}
    read_back = sequence(again)
    assert read_back.results == results and again.steps == []


def test_calls_out_of_order_are_refused(tasks: list[Task], tmp_path: Path) -> None:
    seq = sapo.TaskSequence(tmp_path / "s", tiny_model(), tiny_tokenizer(), tasks, policy="original", max_new_tokens=2)
    with pytest.raises(DataError, match="'two' is not the next task: the next one is one"):
        seq.before("two")
    with pytest.raises(DataError, match=r"'tow' is not a task of this sequence. Did you mean"):
        seq.before("tow")
    with pytest.raises(DataError, match=r"needs before\(.*\) first"):
        seq.after("one")
    with pytest.raises(DataError, match="different names"):
        sapo.TaskSequence(tmp_path / "t", tiny_model(), tiny_tokenizer(), [tasks[0], tasks[0]])
    with pytest.raises(DataError, match=r"policy = 'spao': allowed: .*sapo"):
        sapo.TaskSequence(tmp_path / "t", tiny_model(), tiny_tokenizer(), tasks, policy="spao")  # type: ignore[arg-type]
    for name, value in (("examples", 0), ("rows", 2.5), ("max_new_tokens", "2"), ("seed", -1)):
        with pytest.raises(DataError, match=f"{name} = {value!r}: allowed is a whole number"):
            sapo.TaskSequence(tmp_path / "t", tiny_model(), tiny_tokenizer(), tasks, **{name: value})  # type: ignore[arg-type]
    for wrong in (tasks[0], "rows.jsonl", ["rows.jsonl"]):
        with pytest.raises(DataError, match=r"give a list of what sapo\.load_task returns"):
            sapo.TaskSequence(tmp_path / "t", tiny_model(), tiny_tokenizer(), wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "t").exists()
    with pytest.raises(DataError, match="no instruction was chosen for 'one' yet"):
        seq.selection("one")
    with pytest.raises(DataError, match="'tow' is not a task of this sequence"):
        seq.selection("tow")
