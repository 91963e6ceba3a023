"""`sapo paraphrase`: what it prints and writes, and how it fails."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli.outcome import Command, Outcome
from faulty_server import Act, FaultyServer, completion

from sapo.candidates.checks import Pool
from sapo.tasks.builtin import builtin_paraphrases, builtin_task
from sapo.tasks.load import load_task

TASK = "review-sentiment"
INSTRUCTION = "Say whether the text is positive or negative. Think of all that it says."


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty directory, with no key and no server known."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def lines(name: str) -> list[dict[str, Any]]:
    """The rows of a file, which holds one JSON object a line and ends with a line break."""
    text = Path(name).read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_paraphrases_of_a_task_are_written_and_shown(command: Command) -> None:
    outcome = command("paraphrase", "--task", TASK, "--source", "builtin", "--count", 5, "--out", "found.jsonl")
    assert outcome.code == 0
    found = lines("found.jsonl")
    assert len(found) == 5 and all(set(row) == {"text", "origin"} for row in found)
    texts = [row["text"] for row in found]
    assert texts == [text for text in builtin_paraphrases(TASK) if text in texts]
    assert {row["origin"] for row in found} == {"builtin"}
    given = Path("found.jsonl").read_text()
    again = command("paraphrase", "--task", TASK, "--out", "found.jsonl")
    again.complains("--out found.jsonl exists already: choose another one, or delete it first")
    assert Path("found.jsonl").read_text() == given
    # Nothing was rejected, so no file says so.
    assert not Path("found.rejected.jsonl").exists()
    for part in (
        builtin_task(TASK).instruction,
        "Valid paraphrases: 5",
        "15 more are valid; the most different are kept.",
        "Written to found.jsonl",
    ):
        assert part in outcome.words
    assert all(" ".join(text.split())[:40] in outcome.words for text in texts)


def test_by_default_rules_make_up_for_what_the_library_lacks(command: Command) -> None:
    assert command("paraphrase", "--task", TASK, "--count", 22, "--out", "found.jsonl").code == 0
    origins = [row["origin"] for row in lines("found.jsonl")]
    valid = Pool(load_task(TASK)).add(builtin_paraphrases(TASK), "builtin")
    assert origins == ["builtin"] * valid + ["rules"] * (22 - valid)
    # An instruction alone is enough.
    outcome = command("paraphrase", "--instruction", INSTRUCTION, "--count", 3, "--out", "new/found.jsonl")
    assert outcome.code == 0 and {row["origin"] for row in lines("new/found.jsonl")} == {"rules"}
    texts = [row["text"] for row in lines("new/found.jsonl")]
    assert len(texts) == 3 and INSTRUCTION not in texts and INSTRUCTION in outcome.words


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


def test_nothing_valid_is_an_error_and_the_texts_are_kept_with_their_reasons(command: Command) -> None:
    Path("mine.json").write_text(json.dumps(["", "Is it \x1b[31m positive or negative?"]))
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
        "\x00[/nothing] at all",
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


def test_a_server_is_asked_no_more_often_than_was_said_first(command: Command) -> None:
    def ask(server: FaultyServer, *arguments: object) -> Outcome:
        return command(
            "paraphrase", "--instruction", "Say yes or no.", "--source", "openai", "--server-model", "some-model",
            "--base-url", server.url, *arguments, "--count", 2, "--out", "found.jsonl",
        )  # fmt: skip

    with FaultyServer() as server:
        outcome = ask(server, "--max-requests", 3)
    assert outcome.code == 0 and "requests to some-model" in outcome.err
    assert {row["origin"] for row in lines("found.jsonl")} <= {"openai"}
    with FaultyServer([Act(body=completion("Sure! It names nothing."))] * 50) as server:
        Path("found.jsonl").unlink()
        outcome = ask(server)
    said = re.search(r"at most (\d+) requests", outcome.err)
    assert outcome.code == 2 and said is not None
    assert 0 < len(server.requests) <= int(said.group(1))


def test_a_wrong_option_is_named(command: Command) -> None:
    server = ("--source", "openai", "--server-model", "m")
    cases: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        (
            ("--source", "rule"),
            ("--source 'rule'", "file, builtin, rules, demonstrations, local, openai", "Did you mean 'rules'?"),
        ),
        (("--source", "file"), ("--source file needs --candidates",)),
        (("--source", "rules", "--candidates", "c.json"), ("--candidates is for --source file: add that",)),
        (("--candidates", "~nobody-by-this-name/c"), ("--candidates ~nobody-by-this-name/c: '~nobody",)),
        (("--server-model", "m"), ("--server-model is for --source openai: add that",)),
        (("--source", "openai"), ("--source openai needs --server-model",)),
        (("--base-url", "http://x", "--server-model", ""), ("--server-model is empty",)),
        (("--base-url", "http://x"), ("--base-url is for --source openai: add that",)),
        (("--model", "embedded"), ("--model is for --source local: add that",)),
        (("--temperature", 0.5, "--source", "rules"), ("--temperature is for --source local or openai: add one",)),
        (("--seed", 3), ("--seed is for --source local or openai: add one",)),
        (("--longest", 90), ("--longest is for --source demonstrations: add that",)),
        (("--max-tokens", 90), ("--max-tokens is for --source openai: add that",)),
        (("--candidates", "none.json"), ("candidates file", "none.json", "No such file")),
        (server, ("OPENAI_API_KEY",)),
        ((*server, "--base-url", "localhost"), ("--base-url localhost",)),
        (("--source", "local", "--model", "none-such-directory/x/y"), ("none-such-directory/x/y",)),
        (("--count", 0), ("--count",)),
        (("--temperature", 0), ("--temperature",)),
        (("--seed", -1, "--source", "local"), ("--seed",)),
    ]
    for arguments, parts in cases:
        command("paraphrase", "--task", TASK, *arguments, "--out", "found.jsonl").complains(*parts)
    for given in ((), ("--instruction", "  ")):
        command("paraphrase", *given, "--out", "found.jsonl").complains("pass --task or --instruction")
    command("paraphrase", "--task", "review", "--out", "found.jsonl").complains("there is no task 'review'")
    assert not list(Path().glob("*.jsonl"))


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("there").mkdir()
    Path("file").write_text("")
    monkeypatch.setattr("sapo.tasks.load.load_task", lambda *args, **kwargs: pytest.fail("the task was loaded"))
    for out in ("there", "file/found.jsonl", "."):
        command("paraphrase", "--task", TASK, "--out", out).complains(f"--out {out} cannot be written")
    command("paraphrase", "--task", TASK).complains("--out")
