"""Candidates of a run: recorded before its first step, taken again when it is resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, read, write

from sapo.core.errors import RecordError
from sapo.core.types import Task
from sapo.integrations.testing import ListSource, toy_task
from sapo.runs.config.schema import Config
from sapo.runs.directory import RunDirectory
from sapo.runs.inputs import Gathering, Inputs
from sapo.runs.prepare import estimate, prepare
from sapo.runs.prepare import read as read_inputs
from sapo.sequence import run
from sapo.tasks.builtin import builtin_task
from sapo.tasks.sampling import shown_rows

TASK = "review-sentiment"
OWN = (
    "Is the review positive or negative as a whole?",
    "You read what customers write. Is this one negative, or is it positive?",
    "Which of the words positive and negative suits the text better?",
)
SMALL = {"policy": "sapo", "selection": {"examples": 4}}
# Nobody listens there: whoever asks fails.
SERVER = {"model": "some-model", "base_url": "http://127.0.0.1:9/v1"}
Configured = Callable[..., Config]


def recorded(config: Config, number: int = 1, task: str = TASK) -> dict[str, Any]:
    value: dict[str, Any] = read(config.run_dir / "candidates" / f"{number}-{task}.json")["value"]
    return value


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file of candidates."""
    write(tmp_path / "own.json", OWN)
    return tmp_path / "own.json"


def test_candidates_that_show_rows_are_the_same_for_all_seeds_and_use_no_row_twice(configured: Configured) -> None:
    found = []
    for seed in (1, 2):
        config = configured(
            policy="reselect", reselect={"rows": 4}, seed=seed, run_dir=f"run-{seed}", train={"rows": 8},
            candidates={"sources": ["demonstrations"], "count": 4}, evaluate={"prompts": ["own", {"wordings": 2}]},
        )  # fmt: skip
        _, inputs = read_inputs(config)
        found.append(inputs)
        (task,), candidates = inputs.tasks, (*inputs.candidates[TASK], *inputs.held_out[TASK])
        assert not shown_rows(task, candidates)
        assert inputs.held_rows[TASK] and not shown_rows(replace(task, train=inputs.held_rows[TASK]), candidates)
    one, other = found
    assert (one.candidates, one.held_out) == (other.candidates, other.held_out) and one.tasks != other.tasks
    assert len(one.candidates[TASK]) == 5 and len(one.held_out[TASK]) == 2


def test_candidates_are_recorded_before_the_first_step_and_taken_from_there(configured: Configured, own: Path) -> None:
    write(own, {TASK: [OWN[0], "It names none of them.", *OWN[1:]], "date-format": ["The date,\x07 please."]})
    config = configured(**SMALL, sequence=[TASK, "date-format"], candidates={"file": str(own), "count": 2})
    with pytest.raises(KeyboardInterrupt):
        run(config, told := Told("stage 0"))
    assert not (config.run_dir / "cells").exists() and not (config.run_dir / "selections").exists()
    found = recorded(config)
    assert found["task"] == TASK
    assert found["candidates"][0] == {"text": builtin_task(TASK).instruction, "origin": "original"}
    kept = found["candidates"][1:]
    assert len(kept) == 2 and all(c["text"] in OWN and c["origin"] == "file" for c in kept)
    assert found["rejected"][0]["text"] == "It names none of them."
    assert {c["text"] for c in found["spare"]} == set(OWN) - {c["text"] for c in kept}
    second = recorded(config, 2, "date-format")
    assert [c["origin"] for c in second["candidates"]] == ["original"]
    (note,) = second["notes"]
    assert note == "date-format: no valid paraphrase, so there is only the original instruction (1 rejected)"
    assert note in told.notes
    # What a file held that is gone is recorded; what comes back is whole.
    own.unlink()
    results = run(config)
    assert results.instructions["date-format"].origin == "original"
    losses = results.instructions[TASK].losses
    assert losses is not None and list(losses) == [c["text"] for c in found["candidates"]]
    again = read_inputs(config)[1].gathered[TASK]
    assert {"task": TASK, **again.to_json()} == recorded(config) == found


class Costly(ListSource):
    """A source that is to be paid for."""

    def cost(self, task: Task, wanted: int) -> str:
        return "at most 3 requests"


def test_what_a_source_costs_is_told_before_it_is_asked_and_it_is_not_asked_again(tmp_path: Path) -> None:
    task, told, source = toy_task(), Told(), Costly(["Are there many words (yes), or few words (no)?"])
    with RunDirectory(tmp_path, {}) as directory:
        gathering = Gathering(directory, (source,), None, None, 1, 0, told)
        dry = replace(gathering, pays=False)
        assert len(dry(task, 1).candidates) > 1 and source.asked == [] and told.notes == []
        found = gathering(task, 1)
        assert told.notes == ["toy: asking for paraphrases: at most 3 requests"] and len(source.asked) == 1
        inputs = Inputs((task,), (), {}, {}, {}, {}, {}, {task.name: found})
        gathering.save(inputs)
        assert gathering(task, 1) == dry(task, 1) == found and len(found.candidates) == 2
        with pytest.raises(RecordError, match=r"\(changed: instruction"):
            gathering(replace(task, instruction="Say yes or no."), 1)
    assert len(source.asked) == 1


def test_a_candidates_file_may_be_written_otherwise_and_a_damaged_record_is_refused_by_name(
    configured: Configured, own: Path
) -> None:
    config = configured(**SMALL, candidates={"file": str(own)})
    run(config)
    # Only the texts count, not how they are written.
    write(own, {TASK: [{"text": text} for text in OWN], "another": ["x"]})
    run(config)
    path = config.run_dir / "candidates" / f"1-{TASK}.json"
    stored = read(path)
    del stored["value"]["candidates"][0]["text"]
    write(path, stored)
    with pytest.raises(RecordError, match=rf"1-{TASK}\.json is damaged .*Delete it"):
        run(config)


def test_a_dry_run_asks_no_server_and_says_what_it_would_cost(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    config = configured(**SMALL, candidates={"sources": ["builtin", "openai"], "openai": SERVER, "count": 3})
    told = Told()
    ready, _ = estimate(config, told)
    (note,) = [note for note in told.notes if "paraphrases" in note]
    assert note.startswith(f"{TASK}: paraphrases not asked for yet: at most ")
    assert "requests to some-model at http://127.0.0.1:9/v1" in note and "tokens, never more than " in note
    # The plan counts as many candidates as there will be.
    assert len(ready.inputs.candidates[TASK]) == 1 + 3
    assert not config.run_dir.exists()


@pytest.mark.parametrize("candidates", [{"file": "none.json"}, {"sources": ["openai"], "openai": SERVER}], ids=str)
def test_the_original_policy_asks_nobody(
    candidates: dict[str, Any], configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither the file nor a key for the server exists.
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = configured(candidates=candidates)
    found = run(config).instructions[TASK]
    assert (found.origin, found.losses) == ("original", None) and not (config.run_dir / "selections").exists()
    original = {"text": builtin_task(TASK).instruction, "origin": "original"}
    assert recorded(config) == {"task": TASK, "candidates": [original], "rejected": [], "spare": [], "notes": []}


def test_rows_that_demonstrations_show_are_left_out_of_the_run_and_their_cost_is_told(configured: Configured) -> None:
    shows = {"sources": ["demonstrations"], "longest": 250, "count": 9}
    train = {"rows": 400, "epochs": 1, "batch_size": 4}
    before = prepare(configured(train=train)).inputs.tasks[0].train
    ready = prepare(configured(policy="sapo", train=train, candidates=shows, selection={"examples": 400}))
    (task,), texts = ready.inputs.tasks, [c.text for c in ready.inputs.candidates[TASK]]
    shown = [row for row in before if any(row.input in text for text in texts)]
    assert 0 < len(shown) <= 5 and task.train == tuple(row for row in before if row not in shown)
    assert ready.inspections[TASK].rows["train"] == ready.inspections[TASK].selected == 400 - len(shown)
    said = f"{TASK}: neither scored nor trained on, as candidates show them as examples: {len(shown)} training rows"
    # A token of the tiny tokenizer is a byte, and only the instruction differs from the original's rows.
    sample = task.train[:32]
    rows = [len(row.ids) for row in ready.engine.renderer.encode(task.instruction, task.suffix, sample)]
    usual, most = sum(rows) / len(rows), max(map(len, texts)) - len(task.instruction)
    cost = f"{TASK}: candidates of source demonstrations take up to {usual + most:.0f} tokens a row, the original "
    assert said in ready.notes and any(note.startswith(f"{cost}{usual:.0f}: ") for note in ready.notes)
