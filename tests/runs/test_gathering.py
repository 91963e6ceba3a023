"""Candidates of a run: recorded before its first step, taken again when it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sapo.candidates.builtin import Builtin
from sapo.candidates.rules.source import Rules
from sapo.candidates.server import Server
from sapo.core.errors import CandidateError, RecordError
from sapo.core.progress import Silent
from sapo.runs.config.schema import Config
from sapo.runs.forecast import estimate
from sapo.runs.gathering import Gathering
from sapo.sequence import run
from sapo.tasks.builtin import builtin_task
from sapo.tasks.load import load_task

TASK = "review-sentiment"
OWN = (
    "Is the review positive or negative as a whole?",
    "You read what customers write. Is this one negative, or is it positive?",
    "Which of the words positive and negative suits the text better?",
)
SMALL = {"policy": "sapo", "selection": {"examples": 4}}
SERVER = {"model": "some-model", "base_url": "http://127.0.0.1:9/v1"}
Configured = Callable[..., Config]


class Notes(Silent):
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def own_replies(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep replies of one test from serving another one, or the user."""
    directory = tmp_path_factory.mktemp("replies")
    monkeypatch.setattr("sapo.candidates.kept.user_cache_path", lambda name: directory)


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def recorded(config: Config, number: int = 1, task: str = TASK) -> dict[str, Any]:
    path = config.run_dir / "candidates" / f"{number}-{task}.json"
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["value"]
    return value


def asked(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("a source was asked")


def ask_nobody(patch: pytest.MonkeyPatch) -> None:
    """Let a test fail if a source is asked."""
    for source in (Builtin, Rules, Server):
        patch.setattr(source, "paraphrases", asked)


def stop_at_the_first_step(patch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> NoReturn:
        raise KeyboardInterrupt

    for step in ("evaluate", "score_candidates", "finetune"):
        patch.setattr(f"sapo.runs.steps.{step}", stop)


def test_candidates_are_recorded_before_the_first_step(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "own.json",
        {TASK: [OWN[0], "It names none of them.", *OWN[1:]], "date-format": ["Sure! The date, please."]},
    )
    config = configured(**SMALL, sequence=[TASK, "date-format"], candidates={"file": str(file), "count": 2})
    with monkeypatch.context() as patch:
        stop_at_the_first_step(patch)
        with pytest.raises(KeyboardInterrupt):
            run(config)
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
    assert second["notes"] == [
        "date-format: no valid paraphrase, so there is only the original instruction (1 rejected)"
    ]


def test_a_run_that_goes_on_takes_what_was_recorded_and_asks_nobody(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(**SMALL, candidates={"sources": ["rules", "builtin"], "count": 2})
    with monkeypatch.context() as patch:
        stop_at_the_first_step(patch)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    before = recorded(config)
    assert [c["origin"] for c in before["candidates"]] == ["original", "rules", "rules"]
    with monkeypatch.context() as patch:
        ask_nobody(patch)
        losses = run(config).data["instructions"][TASK]["losses"]
    assert list(losses) == [c["text"] for c in before["candidates"]]
    assert recorded(config) == before
    # A finished run, too, is read back without asking.
    with monkeypatch.context() as patch:
        ask_nobody(patch)
        assert run(config).data["instructions"][TASK]["losses"] == losses


def test_what_was_recorded_comes_back_whole(configured: Configured) -> None:
    config = configured(**SMALL, candidates={"count": 1})
    run(config)
    task = load_task(TASK)
    again = Gathering(config)(task, 1)
    value = recorded(config)
    assert [(c.text, c.origin) for c in again.candidates] == [(c["text"], c["origin"]) for c in value["candidates"]]
    assert [(r.text, r.reason) for r in again.rejected] == [(r["text"], r["reason"]) for r in value["rejected"]]
    assert [(c.text, c.origin) for c in again.spare] == [(c["text"], c["origin"]) for c in value["spare"]]
    assert again.spare and list(again.notes) == value["notes"]


def test_a_candidates_file_that_was_changed_is_refused_by_name(configured: Configured, tmp_path: Path) -> None:
    file = write(tmp_path / "own.json", OWN)
    config = configured(**SMALL, candidates={"file": str(file)})
    run(config)
    # Only the texts count, not how they are written.
    write(file, {TASK: [{"text": text} for text in OWN], "another": ["x"]})
    run(config)
    write(file, OWN[:2])
    path = config.run_dir / "candidates" / f"1-{TASK}.json"
    with pytest.raises(
        RecordError, match=rf"1-{TASK}\.json was computed from .* different: candidates file\."
    ) as error:
        run(config)
    assert str(path) in str(error.value)
    # What a file held that is gone is recorded.
    file.unlink()
    run(config)


def test_a_damaged_record_is_named(configured: Configured) -> None:
    config = configured(**SMALL, candidates={"count": 1})
    run(config)
    path = config.run_dir / "candidates" / f"1-{TASK}.json"
    stored = json.loads(path.read_text())
    del stored["value"]["candidates"][0]["text"]
    write(path, stored)
    with pytest.raises(RecordError, match=rf"1-{TASK}\.json is damaged .*Delete it"):
        run(config)


def test_a_dry_run_asks_no_server_and_says_what_it_would_cost(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_nobody(monkeypatch)
    config = configured(**SMALL, candidates={"sources": ["builtin", "openai"], "openai": SERVER, "count": 3})
    listener = Notes()
    forecast = estimate(config, listener)
    (note,) = [note for note in listener.notes if "paraphrases" in note]
    assert note.startswith(f"{TASK}: paraphrases not asked for yet: at most ")
    assert "requests to some-model at http://127.0.0.1:9/v1" in note and "tokens, never more than " in note
    # The plan counts as many candidates as there will be.
    assert len(forecast.setup.candidates[TASK]) == 1 + 3
    assert not config.run_dir.exists()


def test_a_run_says_what_a_server_costs_before_it_is_asked(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Notes()

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        assert any(note.startswith(f"{TASK}: asking for paraphrases: at most ") for note in listener.notes)
        raise CandidateError("no server")

    monkeypatch.setattr(Server, "paraphrases", refuse)
    config = configured(**SMALL, candidates={"sources": ["openai"], "openai": SERVER})
    with pytest.raises(CandidateError, match="no server"):
        run(config, listener)
    assert not config.run_dir.exists()


def test_a_source_that_costs_nothing_is_asked_in_a_dry_run_too(configured: Configured) -> None:
    config = configured(**SMALL, candidates={"sources": ["rules"], "count": 2})
    listener = Notes()
    candidates = estimate(config, listener).setup.candidates[TASK]
    assert [c.origin for c in candidates] == ["original", "rules", "rules"]
    assert not any("not asked for" in note for note in listener.notes) and not config.run_dir.exists()


@pytest.mark.parametrize(
    "candidates", [{}, {"file": "none.json"}, {"sources": ["openai"], "openai": {"model": "m"}}], ids=str
)
def test_the_original_policy_asks_nobody(
    candidates: dict[str, Any], configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither the file nor a key for the server exists.
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask_nobody(monkeypatch)
    config = configured(candidates=candidates)
    assert run(config).data["instructions"][TASK]["origin"] == "original"
    assert recorded(config) == {
        "task": TASK,
        "candidates": [{"text": builtin_task(TASK).instruction, "origin": "original"}],
        "rejected": [],
        "spare": [],
        "notes": [],
    }


@pytest.mark.parametrize("policy", ["sapo", "random", "highest", "median"])
def test_a_run_without_a_valid_paraphrase_goes_on_with_the_original_and_says_so(
    policy: str, configured: Configured, tmp_path: Path
) -> None:
    file = write(tmp_path / "own.json", ["Sure! Is it positive or negative?", "What does the review say?"])
    config = configured(**{**SMALL, "policy": policy}, candidates={"file": str(file)})
    listener = Notes()
    instructions = run(config, listener).data["instructions"]
    assert instructions[TASK]["text"] == builtin_task(TASK).instruction
    assert instructions[TASK]["origin"] == "original"
    note = f"{TASK}: no valid paraphrase, so there is only the original instruction (2 rejected)"
    assert listener.notes.count(note) == 1
    assert len(recorded(config)["rejected"]) == 2


def test_fewer_paraphrases_than_asked_for_are_told(configured: Configured, tmp_path: Path) -> None:
    config = configured(**SMALL, candidates={"file": str(write(tmp_path / "own.json", OWN[:2])), "count": 3})
    listener = Notes()
    run(config, listener)
    assert any(f"{TASK}: only 2 of 3 paraphrases are usable" in note for note in listener.notes)


def test_sources_are_asked_in_the_order_of_the_configuration(configured: Configured, tmp_path: Path) -> None:
    file = str(write(tmp_path / "own.json", OWN))
    config = configured(**SMALL, candidates={"sources": ["file", "rules"], "file": file, "count": 4})
    found = Gathering(config)(load_task(TASK), 1)
    assert [c.origin for c in found.candidates] == ["original", "file", "file", "file", "rules"]
    assert [c.text for c in found.candidates[1:4]] == list(OWN)
