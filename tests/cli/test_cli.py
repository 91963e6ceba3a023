"""The command line as users meet it: what it prints, what it writes, and how it fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import small_runs
import yaml
from cli.outcome import Command

import sapo
from sapo.runs.stage import Stage, load_stage
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases, builtin_task
from sapo.tasks.sequences import SEQUENCES

TASK = "review-sentiment"
SETTINGS = {
    "sequence": [TASK, "date-format"],
    "candidates": {"count": 2},
    "selection": {"examples": 4},
    "train": {"rows": 4, "epochs": 1, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 1e-2},
    "evaluate": {"rows": 2, "max_new_tokens": 2},
}


def write_config(directory: Path, model_dir: Path, **changes: Any) -> Path:
    path = directory / "small.yaml"
    model = {"base": str(model_dir), "device": "cpu"}
    path.write_text(yaml.safe_dump({"model": model, **SETTINGS, **changes}))
    return path


@pytest.fixture(scope="session")
def runs(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs of one sequence: with the original instructions, and with SAPO."""
    root = tmp_path_factory.mktemp("runs")
    config = write_config(root, model_dir)
    directories = (root / "original", root / "sapo")
    for directory in directories:
        sapo.run(sapo.load_config(config, [f"policy={directory.name}", f"run_dir={directory}"]))
    return directories


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


# run


def test_run_trains_and_reports_and_the_same_command_goes_on(
    command: Command, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, model_dir)
    first = command("run", config, "train.epochs=2", "policy=original")
    run_dir = tmp_path / "runs" / "small"
    assert first.code == 0
    assert TASK in first.out and "date-format" in first.out
    assert f"task 1 {TASK}: training" in first.err and "training" not in first.out.split("\n")[0]
    results = json.loads((run_dir / "results.json").read_text())
    assert (results["config"]["train"]["epochs"], results["config"]["policy"]) == (2.0, "original")
    assert (run_dir / "report.md").is_file()
    second = command("run", config, "train.epochs=2", "policy=original")
    idle = "Nothing was left to do: runs/small holds every result already.\n"
    assert second.code == 0 and second.out == idle + first.out
    assert "training" not in second.err
    command("run", config, "policy=original").complains("train.epochs: 2.0 then, 1.0 now", "another configuration")


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    command: Command, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, model_dir)
    outcome = command("run", config, "--dry-run", "run_dir=never")
    assert outcome.code == 0
    assert TASK in outcome.out and "date-format" in outcome.out
    assert files(tmp_path) == {"small.yaml"}


# select


def test_select_prints_and_writes_every_candidate_with_its_loss(
    command: Command, model_dir: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "selection.json"
    select = ("select", "--task", TASK, "--model", model_dir, "--examples", 6, "--seed", 1, "--json", target)
    outcome = command(*select)
    assert outcome.code == 0 and str(target) in outcome.out
    written = target.read_text()
    command(*select, "--rule", "confident").complains(f"--json {target} exists already", "delete it first")
    assert target.read_text() == written
    found = json.loads(written)
    assert (found["task"], found["model"], found["rule"], found["examples"]) == (TASK, str(model_dir), "lowest", 6)
    candidates, given = found["candidates"], builtin_paraphrases(TASK)
    kept = [c["text"] for c in candidates if c["origin"] == "builtin"]
    # Rules make up for the ones that do not hold.
    refused = {r["text"] for r in found["rejected"]}
    assert kept == [text for text in given if text not in refused] and len(kept) > 15
    assert [c["origin"] for c in candidates] == ["original", *["builtin"] * len(kept), *["rules"] * (20 - len(kept))]
    assert found["chosen"] == int(np.argmin([c["loss"] for c in candidates])) != 0
    assert candidates[found["chosen"]]["text"][:40] in outcome.out


def test_select_takes_the_sources_it_is_told_to_and_scores_no_row_that_they_show(
    command: Command, model_dir: Path, tmp_path: Path
) -> None:
    found, own, data = tmp_path / "found.jsonl", tmp_path / "selection.json", tmp_path / "films.jsonl"
    inputs = [f"Film {n} is {('good', 'bad')[n % 2]}." for n in range(30)]
    rows = [{"input": text, "output": ("yes", "no")[n % 2]} for n, text in enumerate(inputs)]
    data.write_text("\n".join(map(json.dumps, rows)))
    task = ("--task", data, "--instruction", "Say yes if the film is good, and no if it is bad.")
    asked = ("--source", "demonstrations", "--longest", 250)
    assert command("paraphrase", *task, *asked, "--count", 5, "--out", found).code == 0
    texts = [json.loads(line)["text"] for line in found.read_text().splitlines()]
    shown = {i for i, text in enumerate(inputs) if any(text in one for one in texts)}
    select = ("select", *task, "--model", model_dir, "--json", own)
    outcome = command(*select, "--candidates", found)
    # Nothing is paraphrased: all texts are there.
    assert "films: gathering candidates" in outcome.err and "paraphrasing" not in outcome.err
    assert f"films: not scored, as candidates show them as examples: {len(shown)} rows" in outcome.err
    selected = json.loads(own.read_text())
    assert shown and set(selected["rows"]) == set(range(30)) - shown
    assert [(c["text"], c["origin"]) for c in selected["candidates"][1:]] == [(text, "file") for text in texts]
    own.unlink()
    command(*select, "--examples", 2, "--source", "rules")
    assert {c["origin"] for c in json.loads(own.read_text())["candidates"]} == {"original", "rules"}
    own.unlink()
    command(*select, "--source", "openai").complains("allowed: file, builtin, rules, demonstrations, local.")


def test_check_says_what_would_be_trained_and_fails_where_it_is_wrong(
    command: Command, model_dir: Path, tmp_path: Path
) -> None:
    outcome = command("check", "--task", TASK, "--model", model_dir, "--watch", "date-format", "--rows", 4)
    assert outcome.code == 0 and "ok      end of turn: every answer ends with '<|im_end|>'" in outcome.out
    for name in ("train", "test", "watch 1: date-format"):
        assert f"loss: of '{name}' before training: " in outcome.out
    # Of a template that leaves out the end of turn.
    endless = tmp_path / "endless"
    tokenizer = sapo.load_model(str(model_dir)).tokenizer
    shutil.copytree(model_dir, endless)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    tokenizer.save_pretrained(endless)
    config = write_config(tmp_path, endless, watch=["odd-one-out"], run_dir=str(tmp_path / "run"))
    outcome = command("check", "--config", config, "--rows", 4)
    assert outcome.code == 1 and "error   end of turn: in 4 of 4 rows" in outcome.out
    assert "policy sapo chooses the instruction later: the original one is checked" in outcome.err
    assert (
        outcome.out.index(f"{TASK}:") < outcome.out.index("date-format:")
        and "loss: of 'watch 1: odd-one-out'" in outcome.out
    )
    config = write_config(
        tmp_path, model_dir, policy="fixed", fixed="Thumbs up or down?", run_dir=str(tmp_path / "run")
    )
    outcome = command("check", "--config", config, "--rows", 4, "fixed=Up or down?", "sweep.seed=[7, 8]")
    assert outcome.code == 0 and "Up or down?" in outcome.out and "Thumbs" not in outcome.out
    assert "a sweep of 2 runs: only the first one, " in outcome.err and "-fixed-s7, is checked" in outcome.err
    command("check", "--task", TASK, "seed=1").complains("seed=1 is not used with --task")
    command("check").complains("give either --task TASK or --config FILE")
    command("check", "--config", config, "--watch", TASK, "--model", model_dir).complains(
        "--watch is for --task; with --config, set it in "
    )
    # What is not trained on is named.
    rows = [{"input": f"film {n}", "output": ("good", "bad")[n % 2], "url": "u"} for n in range(9)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"input": "lost", "url": "u"}])))
    outcome = command("check", "--task", tmp_path / "mine.jsonl", "--instruction", "Good or bad?", "--model", model_dir)
    assert "columns that are not used: 'url'" in outcome.out and "cannot be used: 1 row, 1 train" in outcome.out


def test_check_needs_no_run_directory_and_tells_what_would_stop_the_run(
    command: Command, runs: tuple[Path, Path]
) -> None:
    config, before = runs[0].parent / "small.yaml", files(runs[0])
    check = ("check", "--config", config, "--rows", 4, "policy=original")
    for run_dir, seed, told in ((runs[0], 3, "seed: 42 then, 3 now"), (config, 42, "is a file")):
        outcome = command(*check, f"run_dir={run_dir}", f"seed={seed}")
        assert outcome.code == 1 and "error   run_dir: " in outcome.out and told in outcome.out
        assert outcome.out.count("error ") == 1 and f"{TASK}:" in outcome.out and "date-format:" in outcome.out
        assert outcome.out.count("ok      answers: ") == 2
    assert command(*check, f"run_dir={runs[0]}").code == 0
    assert files(runs[0]) == before


def test_check_names_the_watched_file_that_cannot_be_used_and_what_can(
    command: Command, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.jsonl").write_text('{"foo": "a", "bar": "b"}')
    (tmp_path / "bare.jsonl").write_text('{"input": "a", "output": "b"}')
    check = ("check", "--task", TASK, "--model", model_dir, "--watch")
    for name, why in (
        ("none.jsonl", "No such file or directory"), ("empty.jsonl", "has no rows"), ("wrong.jsonl", "'foo', 'bar'"),
        ("bare.jsonl", "has no instruction of its own"), ("no-task", "there is no task"),
    ):  # fmt: skip
        given = name if name == "no-task" else tmp_path / name
        command(*check, given).complains(
            "error: --watch: ", str(given), why, "Allowed here: a task's name, or data that hold their instruction"
        )


def test_select_tells_a_misspelled_model_before_it_gathers(command: Command) -> None:
    outcome = command("select", "--task", TASK, "--model", "./no-model")
    outcome.complains("error: model directory './no-model' does not exist")
    assert "gathering" not in outcome.err


def test_select_gives_what_the_library_gives(command: Command, model_dir: Path, tmp_path: Path) -> None:
    own = ["Is the review positive or negative?", "Which one: negative, or positive?", "It names no label."]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in own))
    changes = ("--instruction", "Say positive or negative.", "--suffix", "One word.", "--sample", "first")
    outcome = command(
        "select", "--task", TASK, "--candidates", tmp_path / "own.jsonl", "--model", model_dir, *changes,
        "--examples", 5, "--rule", "confident", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert outcome.code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    loaded = sapo.load_model(str(model_dir))
    task = sapo.load_task(TASK, instruction="Say positive or negative.", suffix="One word.")
    expected = sapo.select(loaded.model, loaded.tokenizer, task, own, 5, rule="confident", sample="first")
    assert [c["loss"] for c in found["candidates"]] == [c.losses.per_token for c in expected.candidates]
    assert (found["rule"], found["chosen"], found["examples"]) == ("confident", expected.chosen, 5)
    assert [c["text"] for c in found["candidates"]] == ["Say positive or negative.", *own[:2]]
    assert [(r["text"], "lacks the label" in r["reason"]) for r in found["rejected"]] == [(own[2], True)]


# tasks


def test_tasks_lists_all_and_shows_one_with_its_texts_and_prompt(
    command: Command, model_dir: Path, tmp_path: Path
) -> None:
    outcome = command("tasks")
    assert (outcome.code, outcome.err) == (0, "") and all(name in outcome.out for name in (*BUILTIN, *SEQUENCES))
    task, outcome = builtin_task(TASK), command("tasks", TASK, "--show-prompt", "--model", model_dir)
    shown = " ".join(outcome.out.split())
    assert outcome.code == 0 and task.instruction in shown and task.suffix in shown
    for part in ("<|im_start|>user", "Text:", task.train[0].input, "<|im_start|>assistant", "<|im_end|>"):
        assert part in outcome.out
    assert outcome.out.index(task.instruction) < outcome.out.index("<|im_start|>assistant")
    # Cut as a run would cut it.
    assert "were cut to fit" not in outcome.out
    outcome = command("tasks", TASK, "--show-prompt", "--model", small_runs.save(tmp_path / "short", context=192))
    assert (
        "characters of the input's middle were cut to fit" in outcome.out
        and task.train[0].input not in (outcome.out.split("The prompt as the model sees it")[1])
    )


# generate


def stage_of(run_dir: Path) -> Path:
    return run_dir / "stages" / "2-date-format"


def test_generate_answers_one_input_as_the_library_does(command: Command, runs: tuple[Path, Path]) -> None:
    text = builtin_task(TASK).test[0].input
    for task in (None, TASK):
        outcome = command("generate", stage_of(runs[1]), "--input", text, *(["--task", task] if task else []))
        assert outcome.code == 0
        assert outcome.out == load_stage(stage_of(runs[1])).generate([text], task)[0] + "\n"


def test_generate_answers_a_file_line_by_line(
    command: Command, runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def answer(self: Stage, inputs: list[str], task: str | None = None) -> list[str]:
        asked.append(list(inputs))
        return [f"to {text}\nsecond\rline" for text in inputs]

    monkeypatch.setattr(Stage, "generate", answer)
    (tmp_path / "inputs.txt").write_bytes("one\r\nzwei 北京\nthird\n".encode())
    outcome = command("generate", stage_of(runs[1]), "--file", tmp_path / "inputs.txt")
    assert (outcome.code, asked) == (0, [["one", "zwei 北京", "third"]])
    assert outcome.out == "".join(f"to {text}\\nsecond\\nline\n" for text in asked[0])
    assert command("generate", stage_of(runs[1]), "--input", "x").out == "to x\nsecond\rline\n"


# report


def test_report_shows_one_run_with_the_numbers_it_recorded_or_compares_two(
    command: Command, runs: tuple[Path, Path]
) -> None:
    one, two = command("report", runs[1], "--full"), command("report", *runs)
    assert one.code == two.code == 0
    assert "B (" in two.out and str(runs[0]) in two.out and str(runs[0]) not in one.out
    data = json.loads((runs[1] / "results.json").read_text())
    numbers = [f"{value:.3f}" for row in data["matrices"]["nll"]["own"] for value in row]
    numbers += [f"{loss:.4f}" for used in data["instructions"].values() for loss in used["losses"].values()]
    assert all(value in one.out for value in numbers)
    assert f"sapo generate {stage_of(runs[1])} --input TEXT" in one.out
    assert all(value in (runs[1] / "report.md").read_text() for value in numbers)


# The user's mistakes.


def test_mistakes_are_named_with_what_is_allowed(
    command: Command, model_dir: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    config, stage = write_config(tmp_path, model_dir), stage_of(runs[0])
    (tmp_path / "empty.txt").write_text("\n \n")
    select = ("select", "--task", TASK, "--model", model_dir)
    cases: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        (("run", tmp_path / "none.yaml"), ("none.yaml", "No such file or directory")),
        (("run", config, "trian.epochs=1", "policy=best"), ("trian: unknown key", "policy = 'best'")),
        ((*select, "--delta", "0.5"), ("--delta 0.5: Input should be less than 0.5",)),
        (("tasks", "[bold]x[/]"), ("'[bold]x[/]'",)),
        (("tasks", "--show-prompt"), ("--show-prompt is for a task: name it",)),
        (("tasks", "--instruction", "Do."), ("--instruction is for a task: name it",)),
        (("tasks", TASK, "--model", model_dir), ("--model is for --show-prompt: add that",)),
        ((*select, "--strategy", "exhaustive", "--epsilon", "0"), ("--epsilon is for races: --strategy racing",)),
        ((*select, "--rule", "confident", "--budget", "1"), ("--budget is for races: --strategy racing with",)),
        (("generate", stage), ("either --input TEXT or --file FILE",)),
        (("generate", tmp_path, "--input", "x"), ("is not a stage directory", str(tmp_path))),
        (("generate", stage, "--file", tmp_path / "empty.txt"), ("holds no input",)),
        (("report", tmp_path / "none"), ("none is not a directory",)),
        (("select", "--task", TASK, "--rule", "best"), ("--rule", "best", "lowest", "confident")),
        (("select", "--task", TASK, "--exmaples", "3"), ("--exmaples",)),
    ]
    for arguments, parts in cases:
        command(*arguments).complains(*parts)


def test_the_bare_command_shows_its_help(command: Command) -> None:
    for outcome in (command(), command("--help")):
        assert all(name in outcome.out + outcome.err for name in ("run", "select", "tasks", "generate", "report"))
    assert command("--help").code == 0
    assert command("--version").out == f"sapo {sapo.__version__}\n"


# Interruption.


def interrupted(*args: Any, **kwargs: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_every_command_exits_with_130_when_interrupted(
    command: Command, model_dir: Path, runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.models.load.load_model", interrupted)
    monkeypatch.setattr("sapo.runs.stage.load_model", interrupted)
    assert command("select", "--task", TASK, "--model", model_dir).code == 130
    assert command("generate", stage_of(runs[0]), "--input", "x").code == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_what_the_disk_refuses_is_an_error_and_no_traceback(
    number: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> NoReturn:
        raise OSError(number, "Refused", "some/file")

    monkeypatch.setattr("sys.stdout.write", refuse)
    # A rank that is left over from elsewhere silences nothing.
    monkeypatch.setenv("RANK", "1")
    outcome = command("tasks")
    assert outcome.code == 2 and f"error: [Errno {number}] Refused: 'some/file'" in outcome.err


# What is imported.


LIGHT = """
import sys
from sapo.cli import main
for sys.argv in (["sapo", "run", "--help"], ["sapo", "tasks"]):
    try:
        main()
    except SystemExit as stopped:
        print("code", stopped.code, sorted({"torch", "transformers", "peft"} & set(sys.modules)))
"""


def test_light_commands_answer_without_loading_torch() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.count("code 0 []\n") == 2, done.stderr


def test_every_public_name_can_be_imported_and_no_other() -> None:
    for name in sapo.__all__:
        assert getattr(sapo, name) is not None
    assert sapo.select.__module__ == "sapo.training.select" and callable(sapo.select)
    assert sapo.__version__[0].isdigit()
    names: dict[str, Any] = {}
    exec("from sapo import *", names)
    assert set(sapo.__all__) == set(names) - {"__builtins__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sapo.nothing
