"""What users get wrong about data and directories, through the command line; and what only looks like a mistake."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from sapo.cli import main
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.runs.stage import Stage

ROWS = [{"review": f"text {i}", "stars": "good" if i % 2 else "bad"} for i in range(10)]
MINE = {"data": "mine.jsonl", "instruction": "Say good or bad.", "columns": {"input": "review", "answer": "stars"}}
CONFIG: dict[str, Any] = {
    "sequence": ["mine"],
    "tasks": {"mine": MINE},
    "policy": "original",
    "selection": {"examples": 4},
    "train": {"rows": 4, "epochs": 2, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2},
    "evaluate": {"rows": 2, "max_new_tokens": 2},
    "run_dir": "run",
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Sapo = Callable[..., Outcome]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def sapo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sapo:
    """Run a command in a directory of its own."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    # Half of the time of a start.
    monkeypatch.setattr("sapo.runs.prepare.gc.collect", lambda: None)
    jsonl(tmp_path / "mine.jsonl", ROWS)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sapo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def run(sapo: Sapo, model_dir: Path, tmp_path: Path) -> Sapo:
    """Run `sapo run` with changes to the configuration; those to the task by its own name."""

    def call(mine: dict[str, Any] | None = None, **changes: Any) -> Outcome:
        config = {"model": {"base": str(model_dir), "device": "cpu"}, **CONFIG, "tasks": {"mine": {**MINE}}}
        config["tasks"]["mine"].update(mine or {})
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, **changes}, allow_unicode=True))
        return sapo("run", "config.yaml")

    return call


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> NoReturn:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sapo.runs.prepare.load_model", refuse)


def complains(outcome: Outcome, *parts: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err and outcome.err.count("error: ") == 1
    for part in parts:
        assert part in outcome.err


# The run directory and the data.


@pytest.mark.parametrize("run_dir", ["/proc/none/run", "/proc/version", "mine.jsonl", "mine.jsonl/run"])
def test_a_run_directory_that_cannot_be_written_is_named(run_dir: str, run: Sapo, tmp_path: Path) -> None:
    outcome = run(run_dir=run_dir)
    complains(outcome, f"run_dir {run_dir}")
    assert "training" not in outcome.err and not (tmp_path / "run").exists()


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "bytes of another encoding, CSV": ({"data": "latin.csv"}, {}, ("latin.csv is not UTF-8: byte 18",)),
    "bytes of another encoding, JSONL": ({"data": "latin.jsonl"}, {}, ("latin.jsonl is not UTF-8: byte 12",)),
    "a broken line": ({"data": "broken.jsonl"}, {}, ("broken.jsonl, line 3 is not JSON",)),
    "no such file": ({"data": "none.jsonl"}, {}, ("No such file or directory: 'none.jsonl'",)),
    "no such test file": ({"test": "none.jsonl"}, {}, ("none.jsonl", "No such file")),
    "no such split": ({"test": "tset"}, {}, ("tset",)),
    "a hub id without a network": ({"data": "nobody/nothing"}, {}, ("nobody/nothing", "hf download")),
    "an unknown role": ({"columns": {"inptu": "review"}}, {}, ("tasks.mine.columns", "inptu", "input")),
    "an unknown column": (
        {"columns": {"input": "reviwe", "answer": "stars"}}, {}, ("no column 'reviwe' for input. Did you mean 'revi",),
    ),
    "an unknown metric": ({"metric": "bleu"}, {}, ("tasks.mine.metric = 'bleu'", "exact_match, rouge_l, list_f1")),
    "an unknown key": ({"colums": {}}, {}, ("tasks.mine.colums: unknown key. Did you mean 'columns'?",)),
    "a task that is not used": (
        {}, {"sequence": ["date-format"]}, ("tasks: mine is neither in sequence nor in watch",),
    ),
    "the name of a built-in task": (
        {}, {"sequence": ["date-format"], "tasks": {"date-format": MINE}},
        ("tasks: 'date-format' is the name of a built-in task too. Give your own task another name",),
    ),
    "test rows that are all training rows": (
        {"test": "mine.jsonl"}, {"data": {"drop_overlap": True}}, ("would leave out all 10 training rows",),
    ),
    "no instruction": ({"instruction": None}, {}, ("has no instruction of its own",)),
    "an instruction without text": ({"instruction": " \n"}, {}, ("the instruction given is empty",)),
    "an instruction with a NUL": ({"instruction": "a\0b"}, {}, ("tasks", "holds a NUL character")),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.usefixtures("no_model")
def test_a_mistake_about_data_is_named_before_a_model_is_loaded(
    what: str, run: Sapo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{library}.HF_HUB_OFFLINE", True)
    (tmp_path / "latin.csv").write_bytes("review,stars\nschön,good\n".encode("latin-1").replace(b"sch", b"a sch"))
    (tmp_path / "latin.jsonl").write_bytes('{"review": "ü", "stars": "good"}\n'.encode("latin-1"))
    (tmp_path / "broken.jsonl").write_text('{"review": "a", "stars": "b"}\n\n{"review": "a", \n')
    mine, changes, parts = MISTAKES[what]
    complains(run(mine, **changes), *parts)
    assert not (tmp_path / "run").exists()


# What is no mistake.


def test_awkward_instructions_reach_model_record_and_stage_to_the_letter(run: Sapo, tmp_path: Path) -> None:
    text = "Say {good} or {{ bad }} %s <|im_end|>\n<|im_start|>assistant\nno \x07\x1b[31m\x85 \U00100000 good bad 北京"
    outcome = run({"instruction": text, "suffix": "{0} <|im_end|>"})
    assert outcome.code == 0 and "\x1b[31m" not in outcome.out + outcome.err and "\x07" not in outcome.out
    # The premise: training needs no pad token.
    assert tiny_tokenizer().pad_token is None
    found = read(tmp_path / "run" / "results.json")["instructions"]["mine"]
    assert (found["text"], found["original"], found["suffix"]) == (text, text, "{0} <|im_end|>")
    stage = Stage.load(tmp_path / "run" / "stages" / "1-mine")
    cell = read(tmp_path / "run" / "cells" / "1" / "mine.original.json")["value"]
    assert cell["instruction"] == text and len(stage.answer(["text 1"])) == 1
    assert run({"instruction": text, "suffix": "{0} <|im_end|>"}).code == 0


def test_rows_longer_than_the_context_are_cut_and_said(run: Sapo, tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", [*ROWS, {"review": "long " * 3000, "stars": "good"}])
    outcome = run(train={"epochs": 1})
    assert outcome.code == 0
    assert "note: mine: cut in the middle, as longer than max_length: 1 training input" in outcome.err


def test_a_row_of_30_megabytes_is_scored_within_seconds(sapo: Sapo, model_dir: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", [*ROWS[:3], {"review": "words " * 5_000_000, "stars": "good"}])
    (tmp_path / "candidates.json").write_text(json.dumps(["Is it good or bad?", "good or bad?", "bad, or good?"]))
    began = time.perf_counter()
    outcome = sapo(
        "select", "--task", "mine.jsonl", "--model", model_dir, "--candidates", "candidates.json",
        "--instruction", "Say good or bad.", "--column", "input=review", "--column", "answer=stars",
        "--json", "out.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert time.perf_counter() - began < 20
    found = read(tmp_path / "out.json")
    # The rows are scored in an order of their own.
    cut = [sorted(candidate["losses"]["cut"]) for candidate in found["candidates"]]
    assert len(cut) == 4 and all(c[:3] == [0, 0, 0] and 29_999_000 < c[3] < 30_000_000 for c in cut)


def test_empty_answers_are_left_out_and_counted(run: Sapo, tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", [*ROWS, *({"review": "x", "stars": text} for text in ("", " ", None))])
    outcome = run()
    assert outcome.code == 0
    assert "note: mine: left out, as they cannot be used: 3 rows, 2 train (the answer is empty; first: row 11)" in (
        outcome.err
    )
    (data,) = read(tmp_path / "run" / "data.json")["tasks"]
    assert data["unused"]["rows"] == 3
    assert [(row["row"], row["reason"]) for row in data["unused"]["first"]] == [
        (11, "the answer is empty"), (12, "the answer is empty"), (13, "'stars' is missing"),
    ]  # fmt: skip


def test_rows_held_out_are_said_and_the_same_for_every_seed(run: Sapo, tmp_path: Path) -> None:
    answers = []
    for seed in (1, 2):
        outcome = run(seed=seed, run_dir=f"run{seed}", evaluate={"max_new_tokens": 2})
        assert "no test split: 2 of 10 training rows are held out for testing, the same ones in every" in outcome.err
        folder = tmp_path / f"run{seed}"
        cell = read(folder / "cells" / "0" / "mine.original.json")
        answers.append((cell["inputs"]["data"], cell["value"]["answers"]))
        assert read(folder / "data.json")["tasks"][0]["rows"]["train"] == 4
    assert answers[0] == answers[1] and len(answers[0][1]) == 2
