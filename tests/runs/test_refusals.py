"""Mistakes and attacks: each is one clear error before anything is lost; and what only looks like a mistake is none."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, configure, read, write, write_bench

from sapo.core.errors import ConfigError, DataError, ModelError, RenderError, SapoError, TrainError
from sapo.core.progress import SILENT
from sapo.core.types import Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.load import load_model
from sapo.models.render import Renderer
from sapo.runs.config.schema import Config
from sapo.runs.prepare import estimate, prepare
from sapo.runs.stage import load_stage
from sapo.sequence import run
from sapo.tasks.load import data_task, load_task
from sapo.tasks.own import DataSource

ROWS = [{"review": f"text {i}", "stars": "good" if i % 2 else "bad"} for i in range(10)]
MINE = {"data": "mine.jsonl", "instruction": "Say good or bad.", "columns": {"input": "review", "answer": "stars"}}
Configured = Callable[..., Config]


def jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def own(configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Make the configuration of a run on rows of one's own, with changes; those to the task by its own name."""
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "mine.jsonl", ROWS)

    def make(mine: dict[str, Any] | None = None, **changes: Any) -> Config:
        return configured(**{"sequence": ["mine"], "tasks": {"mine": {**MINE, **(mine or {})}}, **changes})

    return make


# A model that does not exist: whatever is said before it is looked for is said before one is loaded.
NOWHERE = {"base": "/no/such/model"}
MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such file": ({"data": "none.jsonl"}, {}, "No such file or directory: 'none.jsonl'"),
    "a hub id without a network": ({"data": "nobody/nothing"}, {}, "nobody/nothing.*hf download"),
    "an unknown role": ({"columns": {"inptu": "review"}}, {}, r"columns of mine\.jsonl: there is no role 'inptu'"),
    "a task that is not used": ({}, {"sequence": ["date-format"]}, "tasks: mine is neither in sequence nor in watch"),
    "a watched task that is trained": (
        {}, {"watch": ["date-format", "mine"]}, "watch: mine is trained on in this sequence",
    ),
    "tasks that are not there": ({}, {"sequence": ["mnie", "mine"]}, "mnie.*Did you mean 'mine'"),
    "test rows that are all training rows": (
        {"test": "mine.jsonl"}, {"data": {"drop_overlap": True}}, "would leave out all 10 training rows",
    ),
    "a directory with a NUL": ({}, {"run_dir": "a\0b"}, "run_dir: holds a NUL character"),
    "no dev rows to choose on": (
        {}, {"policy": "reselect", "train": {"rows": None}}, "mine has no dev rows and all its 8 training rows are",
    ),
    "an unknown tracker": ({}, {"report_to": ["tensorbord"]}, "report_to = tensorbord: "),
    "a tracker that is not installed": ({}, {"report_to": ["comet_ml"]}, "report_to = comet_ml: "),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_about_data_is_named_before_a_model_is_loaded(
    what: str, own: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{library}.HF_HUB_OFFLINE", True)
    mine, changes, message = MISTAKES[what]
    with pytest.raises(SapoError, match=f"(?s){message}"):
        run(own(mine, model=NOWHERE, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"target_modules": ["nope"]}}, "nope"),
        ({"lora": {"r": 33}}, r"lora\.r = 33"),
        ({"model": NOWHERE}, "/no/such/model"),
        *(({"run_dir": there}, f"run_dir {there}") for there in ("/proc/none/run", "mine.jsonl", "mine.jsonl/run")),
    ],
)
def test_a_mistake_leaves_no_run_directory_and_a_run_that_never_began_can_be_corrected(
    changes: dict[str, Any], message: str, own: Configured, tmp_path: Path
) -> None:
    with pytest.raises(SapoError, match=message):
        run(own(**changes))
    assert not (tmp_path / "run").exists()
    if "lora" in changes:
        # As a dry run says.
        with pytest.raises(SapoError, match=message):
            estimate(own(**changes), SILENT)
        assert list(run(own()).tasks) == ["mine"]


def test_training_that_diverges_is_an_error_and_its_stage_is_not_saved(configured: Configured, tmp_path: Path) -> None:
    wild = {"rows": 4, "epochs": 3, "batch_size": 4, "weight_decay": 1e300}
    with pytest.raises(
        TrainError, match=r"'review-sentiment': training diverged.*from update \d on.*weight_decay = 1e"
    ):
        run(configured(train=wild))
    assert not (tmp_path / "run" / "training").exists() and not (tmp_path / "run" / "stages").exists()


def test_a_single_update_that_warm_up_would_waste_is_pointed_out(configured: Configured) -> None:
    at_once = {"method": "multitask", "sequence": ["date-format", "review-sentiment"]}
    cases: list[tuple[int, dict[str, Any]]] = [(4, {}), (8, {}), (4, at_once)]
    notes = [prepare(configured(train={"rows": n, "epochs": 1, "batch_size": 4}, **more)).notes for n, more in cases]
    assert [any("nothing would be learned" in note for note in found) for found in notes] == [True, False, False]


# Names, texts and files that are made to hurt.


@pytest.mark.parametrize(
    "name", ["", ".x", "a/b", "..", "a\\b", "x\ny", "a\0b", "\x1b[31mx", "-rf", "n" * 101, "\ud800"]
)
def test_a_task_name_cannot_leave_the_run_directory_or_hurt_a_terminal(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('[{"input": "a", "output": "b"}]')
    with pytest.raises(DataError, match=r"a task's name (is also a file's name|holds half a character)"):
        data_task(name, DataSource(data=str(tmp_path / "m.json"), instruction="Do."))
    if not {"/", "\\", ".."} & {name, *name}:
        # The folder of a benchmark may have any name, but must lie in it.
        return
    (tmp_path / "instructions.json").write_text(json.dumps({name: {"instruction": "Do.", "suffix": "", "labels": []}}))
    with pytest.raises(DataError, match="name is also a folder's name"):
        load_task(name, tmp_path)


LONG = f"Say y or n for this one, {'long ' * 80}"
RESELECT: dict[str, Any] = {"policy": "reselect", "reselect": {"rows": 4}}
MUCH = {"max_new_tokens": 600}


@pytest.mark.parametrize(
    ("split", "answer", "changes", "message"),
    [
        ("train", 600, {}, "task 'alpha', candidate 'Say y or n for this one, long"),
        ("test", 600, {}, "task 'alpha', test prompt 'Say y or n for this one, long"),
        ("test", 1, {"evaluate": {"prompts": ["own", "long " * 2000]}}, "task 'alpha', test prompt 'long long"),
        ("dev", 600, RESELECT, "task 'alpha', candidate 'Say y or n for this one, long"),
        ("dev", 1100, {**RESELECT, "data": {"drop_long": True}}, "'alpha': no row to choose again on is short enough"),
        ("test", 1, {"evaluate": MUCH}, "test prompt 'Say y or n for this one, long.* at most 424 fit"),
        ("test", 800, {"evaluate": {"prompts": ["own", "long " * 60]}, "data": {"drop_long": True}}, "no row is left"),
        # Trained with it, but tested with the original.
        ("test", 1, {"evaluate": MUCH, "policy": "paft"}, None),
        (
            "test", 1, {"evaluate": {**MUCH, "prompts": ["own", {"wordings": 1}]}, "policy": "original"},
            "test prompt 'Say y or n for this one, long.* at most 424 fit",
        ),
        ("train", 1100, {"sequence": ["beta"], "watch": ["alpha"], "guard": {}}, "instruction 'Say y or n for alpha"),
        ("train", 1100, {"sequence": ["beta"], "watch": ["alpha"]}, None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_before_anything_is_trained(
    split: str, answer: int, changes: dict[str, Any], message: str | None, small_model: Path, tmp_path: Path
) -> None:
    bench = write_bench(tmp_path / "bench", dev=5)
    write(bench / "alpha" / f"{split}.json", [{"sentence": f"{i}", "label": "y" * answer} for i in range(6)])
    write(bench / "candidates.json", {task: [f"{LONG}{n}" for n in (1, 2)] for task in ("alpha", "beta")})
    config = configure(
        small_model, bench, tmp_path / "run", **{"policy": "random", "candidates": {"count": 1}} | changes
    )
    with pytest.raises(SapoError, match=message) if message else nullcontext():
        prepare(config)
    assert not (tmp_path / "run").exists()


def test_long_rows_are_dropped_alike_for_every_policy_and_then_candidates_that_leave_them_no_room(
    small_model: Path, tmp_path: Path
) -> None:
    bench = write_bench(tmp_path / "bench", tasks=("alpha",))
    lengths = {"train": (1, 150, 600, 1, 1, 1), "test": (1, 150, 600)}
    for split, answers in lengths.items():
        rows = [{"sentence": f"{split} {i}", "label": "y" * answer} for i, answer in enumerate(answers)]
        write(bench / "alpha" / f"{split}.json", rows)
    write(bench / "candidates.json", {"alpha": [f"Say y or n for this, {'long ' * 60}", "Say y or n, please."]})
    found = {}
    for policy in ("original", "sapo", "random"):
        changes = {"policy": policy, "sequence": ["alpha"], "candidates": {"count": 2}, "evaluate": {"rows": None}}
        config = configure(
            small_model, bench, tmp_path / policy, max_length=420, data={"drop_long": True}, train={"rows": None},
            **changes,
        )  # fmt: skip
        found[policy] = prepare(config)
    for ready in found.values():
        (task,) = ready.inputs.tasks
        assert [len(row.answer) for row in (*task.train, *task.test)] == [1, 150, 1, 1, 1, 1, 150]
        assert any(": 1 train rows, 1 test rows" in note for note in ready.notes)
    for policy in ("sapo", "random"):
        assert [c.text for c in found[policy].inputs.candidates["alpha"]][1:] == ["Say y or n, please."]
        assert any("too long for max_length with the longest answer: 1 candidates" in n for n in found[policy].notes)


def test_a_row_that_does_not_fit_is_named() -> None:
    rows = [Example("x", "short"), Example("x", "far too long " * 40)]
    with pytest.raises(RenderError, match=r"the row with the input '.*' and the answer 'far too long far too long f"):
        Renderer(tiny_tokenizer(), 200).encode("Do.", "", rows)


# Models and stages.


def test_an_adapter_on_another_base_than_its_own_is_not_confirmed(configured: Configured, tmp_path: Path) -> None:
    config = configured()
    run(config)
    stage = config.run_dir / "stages" / "1-review-sentiment"
    model = {"base": config.model.base, "device": "cpu", "adapter": str(stage)}
    for method, continues in (("ewc", True), ("inc-lora", False)):
        notes = prepare(configured(method=method, model=model, run_dir=str(tmp_path / method))).notes
        assert any("the adapter's own r, alpha, dropout and modules hold" in note for note in notes) == continues
    assert load_model(config.model.base, str(stage), device="cpu").confirmed
    tiny_model(seed=5).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    loaded = load_model(str(tmp_path / "other"), str(stage), device="cpu")
    assert not loaded.confirmed and any("NOT confirmed" in note for note in loaded.notes)
    lineage = read(stage / "sapo.json")
    (stage / "sapo.json").write_text(json.dumps({**lineage, "base_model": str(tmp_path / "other")}))
    assert not load_stage(stage).loaded.confirmed
    (stage / "sapo.json").write_text(json.dumps({**lineage, "base_model": "./gone"}))
    with pytest.raises(ModelError, match=r"sapo\.json names the base model './gone', seen from "):
        load_stage(stage)


def test_a_sweep_is_not_taken_for_a_single_run(own: Configured, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config has a sweep, and this makes a single run: give it to .*run_sweep"):
        run(own(sweep={"seed": [1, 2]}))
    assert not (tmp_path / "run").exists()


# What is no mistake.


def test_awkward_instructions_reach_model_record_and_stage_to_the_letter(own: Configured, tmp_path: Path) -> None:
    text = "Say {good} or {{ bad }} %s <|im_end|>\n<|im_start|>assistant\nno \x07\x1b[31m\x85 \U00100000 good bad 北京"
    # The premise: training needs no pad token.
    assert tiny_tokenizer().pad_token is None
    for _ in range(2):
        found = run(own({"instruction": text, "suffix": "{0} <|im_end|>"})).instructions["mine"]
        assert (found.text, found.original, found.suffix) == (text, text, "{0} <|im_end|>")
    stage = load_stage(tmp_path / "run" / "stages" / "1-mine")
    cell = read(tmp_path / "run" / "cells" / "1" / "mine.original.json")["value"]
    assert cell["instruction"] == text and len(stage.generate(["text 1"])) == 1


def test_rows_that_are_cut_left_out_or_held_out_are_told_and_the_same_for_every_seed(
    own: Configured, tmp_path: Path
) -> None:
    empty = [{"review": "x", "stars": text} for text in ("", " ", None)]
    jsonl(tmp_path / "mine.jsonl", [*ROWS, {"review": "long " * 3000, "stars": "good"}, *empty])
    answers = []
    for seed in (1, 2):
        told, folder = Told(), tmp_path / f"run{seed}"
        run(
            own(seed=seed, run_dir=str(folder), train={"rows": None, "epochs": 1}, evaluate={"max_new_tokens": 2}), told
        )
        said = "\n".join(told.notes)
        assert "note: mine: cut in the middle, as longer than max_length: 1 training input" in said
        assert "mine: left out, as they cannot be used: 3 rows, 2 train (the answer is empty; first: row 12" in said
        assert "no test split: 2 of 11 training rows are held out for testing, the same ones in every" in said
        cell, (data,) = read(folder / "cells" / "0" / "mine.original.json"), read(folder / "data.json")["tasks"]
        answers.append((cell["inputs"]["data"], cell["value"]["answers"]))
        assert data["rows"]["train"] == 9 and data["unused"]["rows"] == 3
        assert [(row["row"], row["reason"]) for row in data["unused"]["first"]] == [
            (12, "the answer is empty"), (13, "the answer is empty"), (14, "'stars' is missing"),
        ]  # fmt: skip
    assert answers[0] == answers[1] and len(answers[0][1]) == 2
