"""`sapo paraphrase`: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Act, FaultyServer, completion

from sapo.candidates.checks import Pool
from sapo.cli import main
from sapo.tasks.builtin import builtin_paraphrases, builtin_task
from sapo.tasks.load import load_task

TASK = "review-sentiment"
INSTRUCTION = "Say whether the text is positive or negative. Think of all that it says."


@dataclass(frozen=True)
class Outcome:
    """What the command left behind."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All that was printed, without the layout of tables."""
        return " ".join(self.out.split())


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `sapo` with arguments in this process, in an empty directory."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sapo.candidates.kept.user_cache_path", lambda name: tmp_path / "cache")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sapo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


def lines(name: str) -> list[dict[str, Any]]:
    """The rows of a file, which holds one JSON object a line and ends with a line break."""
    text = Path(name).read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def complains(outcome: Outcome, *parts: str) -> None:
    """The user's mistake: exit 2, nothing on standard output, one message without traceback that holds all parts."""
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err
    assert not list(Path().glob("*.jsonl"))


def test_paraphrases_of_a_task_are_written_and_shown(command: Command) -> None:
    outcome = command("paraphrase", "--task", TASK, "--source", "builtin", "--count", 5, "--out", "found.jsonl")
    assert outcome.code == 0
    found = lines("found.jsonl")
    assert len(found) == 5 and all(set(row) == {"text", "origin"} for row in found)
    texts = [row["text"] for row in found]
    assert texts == [text for text in builtin_paraphrases(TASK) if text in texts]
    assert {row["origin"] for row in found} == {"builtin"}
    # Nothing was rejected, so no file says so.
    assert not Path("found.rejected.jsonl").exists()
    for part in (
        builtin_task(TASK).instruction,
        "Valid paraphrases: 5",
        "15 more were valid; kept are those that differ most.",
        "Written to found.jsonl",
    ):
        assert part in outcome.words
    assert all(" ".join(text.split())[:40] in outcome.words for text in texts)


def test_by_default_rules_make_up_for_what_the_library_lacks(command: Command) -> None:
    assert command("paraphrase", "--task", TASK, "--count", 22, "--out", "found.jsonl").code == 0
    origins = [row["origin"] for row in lines("found.jsonl")]
    valid = Pool(load_task(TASK)).add(builtin_paraphrases(TASK), "builtin")
    assert origins == ["builtin"] * valid + ["rules"] * (22 - valid)


def test_an_instruction_alone_is_enough(command: Command) -> None:
    outcome = command("paraphrase", "--instruction", INSTRUCTION, "--count", 3, "--out", "new/found.jsonl")
    assert outcome.code == 0
    found = lines("new/found.jsonl")
    assert len(found) == 3 and {row["origin"] for row in found} == {"rules"}
    assert INSTRUCTION not in [row["text"] for row in found] and INSTRUCTION in outcome.words


def test_an_own_data_file_gives_the_task_with_its_labels(command: Command) -> None:
    rows = [f"text {i},{('good', 'bad')[i % 2]}" for i in range(40)]
    Path("own.csv").write_text("\n".join(["review,verdict", *rows]) + "\n")
    Path("mine.json").write_text(json.dumps(["Is it good or bad, this text?", "How is the text?"]))
    outcome = command(
        "paraphrase", "--task", "own.csv", "--column", "input=review", "--column", "answer=verdict",
        "--instruction", "Say whether the text is good or bad.", "--candidates", "mine.json", "--out", "found.jsonl",
    )  # fmt: skip
    assert outcome.code == 0
    assert lines("found.jsonl") == [{"text": "Is it good or bad, this text?", "origin": "file"}]
    (refused,) = lines("found.rejected.jsonl")
    assert refused == {
        "text": "How is the text?",
        "reason": "lacks the label 'bad', 'good' that the original instruction names",
    }
    assert "only 1 of 20 paraphrases are usable (1 rejected)" in outcome.words


def test_without_refusals_there_is_no_file_of_them(command: Command) -> None:
    Path("mine.json").write_text(json.dumps(["Which is it, negative or positive, all things considered?"]))
    arguments = ("--instruction", INSTRUCTION, "--candidates", "mine.json", "--count", 1, "--out", "found.jsonl")
    outcome = command("paraphrase", *arguments)
    assert outcome.code == 0 and len(lines("found.jsonl")) == 1
    assert {path.name for path in Path().iterdir()} == {"found.jsonl", "mine.json"}
    assert "rejected" not in outcome.words


def test_nothing_valid_is_an_error_and_the_texts_are_kept_with_their_reasons(command: Command) -> None:
    Path("mine.json").write_text(json.dumps(["", "[INST] Is it positive or negative?"]))
    given = ("--instruction", "Say positive or negative.", "--candidates", "mine.json")
    outcome = command("paraphrase", *given, "--out", "found.jsonl")
    assert outcome.code == 2
    assert not Path("found.jsonl").exists() and len(lines("found.rejected.jsonl")) == 2
    assert "no valid paraphrase, so found.jsonl is not written" in outcome.err


def test_markup_and_broken_characters_are_shown_as_they_are_and_written_whole(command: Command) -> None:
    texts = ["[bold]Is it[/] positive or negative, {x}: [red] \\[?", "Is it positive, or \u202enegative? 判断 😀!"]
    broken = [
        "Half of it \ud83d: positive or negative?",
        "It rings \x1b[31m: positive or negative?",
        "</s>[/nothing] at all",
    ]
    Path("mine.json").write_text(json.dumps([*texts, *broken]))
    given = ("--instruction", "Say positive or negative: {x}, for [bold] texts [.", "--candidates", "mine.json")
    outcome = command("paraphrase", *given, "--out", "found.jsonl")
    assert outcome.code == 0 and "Traceback" not in outcome.err
    assert [row["text"] for row in lines("found.jsonl")] == texts
    content = Path("found.rejected.jsonl").read_bytes().decode("utf-8", "surrogatepass")
    assert [json.loads(line)["text"] for line in content.splitlines()] == broken
    for part in ("[bold]Is it[/] positive or negative, {x}: [red] \\[?", "[/nothing] at all", "for [bold] texts [."):
        assert part in outcome.words
    assert not {"\x1b", "\u202e", "\ud83d"} & set(outcome.out)


def test_the_written_file_can_be_given_to_select(command: Command, model_dir: Path) -> None:
    assert command("paraphrase", "--task", TASK, "--count", 4, "--out", "found.jsonl").code == 0
    outcome = command(
        "select", "--task", TASK, "--candidates", "found.jsonl", "--model", model_dir, "--examples", 2,
        "--json", "chosen.json",
    )  # fmt: skip
    assert outcome.code == 0
    candidates = json.loads(Path("chosen.json").read_text())["candidates"]
    assert [c["text"] for c in candidates[1:]] == [row["text"] for row in lines("found.jsonl")]
    assert {c["origin"] for c in candidates[1:]} == {"file"}


def test_a_server_is_asked_with_what_it_may_cost_said_first(command: Command) -> None:
    with FaultyServer() as server:
        outcome = command(
            "paraphrase", "--instruction", "Say yes or no.", "--source", "openai", "--server-model", "some-model",
            "--base-url", server.url, "--max-requests", 3, "--count", 2, "--out", "found.jsonl",
        )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "requests to some-model" in outcome.err
    assert {row["origin"] for row in lines("found.jsonl")} <= {"openai"}


def test_a_server_is_not_asked_more_often_than_was_said(command: Command) -> None:
    with FaultyServer([Act(body=completion("Sure! It names nothing."))] * 50) as server:
        outcome = command(
            "paraphrase", "--instruction", "Say yes or no.", "--source", "openai", "--server-model", "some-model",
            "--base-url", server.url, "--count", 2, "--out", "found.jsonl",
        )  # fmt: skip
    said = re.search(r"at most (\d+) requests", outcome.err)
    assert outcome.code == 2 and said is not None
    assert 0 < len(server.requests) <= int(said.group(1))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ("--source", "rule"),
            ("--source 'rule'", "file, builtin, rules, demonstrations, local, openai", "Did you mean 'rules'?"),
        ),
        (("--source", "rules", "--source", "builtin", "--source", "rules"), ("--source rules is given twice",)),
        (("--source", "file"), ("--source file needs --candidates",)),
        (("--source", "rules", "--candidates", "x.json"), ("--candidates is for --source file: add that",)),
        (("--source", "openai"), ("--source openai needs --server-model",)),
        (("--server-model", "m"), ("--server-model is for --source openai: add that",)),
        (("--candidates", "none.json"), ("candidates file", "none.json", "No such file")),
        (("--source", "openai", "--server-model", "m"), ("OPENAI_API_KEY",)),
        (("--source", "openai", "--server-model", "m", "--base-url", "localhost"), ("localhost",)),
        (("--source", "local", "--model", "none-such-directory/x/y"), ("none-such-directory/x/y",)),
        (("--count", 0), ("--count",)),
        (("--temperature", 0), ("--temperature",)),
        (("--seed", -1), ("--seed",)),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(command: Command, arguments: tuple[object, ...], parts: tuple[str, ...]) -> None:
    complains(command("paraphrase", "--task", TASK, *arguments, "--out", "found.jsonl"), *parts)


def test_a_task_or_an_instruction_is_needed(command: Command) -> None:
    for given in ((), ("--instruction", "  ")):
        complains(command("paraphrase", *given, "--out", "found.jsonl"), "--task or --instruction is needed")
    complains(command("paraphrase", "--task", "review", "--out", "found.jsonl"), "there is no task 'review'")


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("there").mkdir()
    Path("file").write_text("")
    monkeypatch.setattr("sapo.tasks.load.load_task", lambda *args, **kwargs: pytest.fail("the task was loaded"))
    for out in ("there", "file/found.jsonl", "."):
        complains(command("paraphrase", "--task", TASK, "--out", out), f"--out {out} cannot be written")
    complains(command("paraphrase", "--task", TASK), "--out")
