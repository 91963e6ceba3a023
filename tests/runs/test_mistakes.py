"""Mistakes and attacks of a kind that once got through: each is one clear error now, before anything is lost."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sapo.core.errors import ConfigError, DataError, ModelError, RecordError, RenderError, SapoError, TrainError
from sapo.core.progress import Silent
from sapo.core.types import Example, Instruction
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.load import load_model
from sapo.models.render import Renderer
from sapo.report.selections import cuts
from sapo.runs.config.schema import Config
from sapo.runs.forecast import estimate
from sapo.runs.plan import make_plan
from sapo.runs.stage import Stage
from sapo.selection.select import select
from sapo.sequence import run
from sapo.tasks.load import load_task
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.settings import LoraSettings


def benchmark(directory: Path, name: str, instruction: str = "Do it.") -> Path:
    folder = directory / "bench" / "folder"
    folder.mkdir(parents=True)
    index = {name: {"instruction": instruction, "suffix": "", "labels": []}}
    (directory / "bench" / "instructions.json").write_text(json.dumps(index))
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps([{"sentence": "a", "label": "b"}] * 4))
    return directory / "bench"


def test_training_that_diverges_is_an_error_and_its_stage_is_not_saved(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    wild = {"rows": 4, "epochs": 3, "batch_size": 4, "weight_decay": 1e300}
    with pytest.raises(
        TrainError, match=r"'review-sentiment': training diverged.*from update \d on.*weight_decay = 1e"
    ):
        run(configured(train=wild))
    assert not (tmp_path / "run" / "training").exists()
    assert not (tmp_path / "run" / "stages").exists()


def test_a_healthy_training_is_not_taken_for_a_diverged_one(configured: Callable[..., Config], tmp_path: Path) -> None:
    run(configured())
    assert (tmp_path / "run" / "stages" / "1-review-sentiment" / "sapo.json").is_file()


@pytest.mark.parametrize(
    "mistake",
    [{"lora": {"target_modules": ["nope"]}}, {"lora": {"r": 33}}, {"sequence": ["review-sentimant"]}],
)
def test_a_mistake_leaves_no_run_directory_behind(
    mistake: dict[str, Any], configured: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(SapoError, match=r"nope|lora\.r = 33|review-sentimant"):
        run(configured(**mistake))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(configured: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RecordError, match="is a file"):
        estimate(configured(), Silent())


def test_other_stages_may_be_kept_without_starting_afresh(tmp_path: Path) -> None:
    with Record(tmp_path / "run", {"keep": "all", "seed": 1}):
        pass
    Record(tmp_path / "run", {"keep": "last", "seed": 1}).check()
    with pytest.raises(RecordError, match="seed: 1 then, 2 now"):
        Record(tmp_path / "run", {"keep": "last", "seed": 2}).check()


def test_scratch_of_a_killed_process_is_swept_away(tmp_path: Path) -> None:
    with Record(tmp_path / "run", {}) as record:
        record.save("cells/0/task.json", {}, 1)
    (tmp_path / "run" / "cells" / "0" / ".scratch").write_text("half")
    (tmp_path / "run" / "stages" / ".scratch").mkdir(parents=True)
    with Record(tmp_path / "run", {}) as record:
        assert record.reuse("cells/0/task.json", {}) == 1
    assert not [p for p in (tmp_path / "run").rglob(".*") if p.name != ".lock"]


@pytest.mark.parametrize("name", ["../folder", "a/b", "..", "a\0b", "a\\b"])
def test_a_task_name_cannot_leave_the_run_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name is also a folder's name"):
        load_task(name, benchmark(tmp_path, name))


def test_half_a_character_in_an_instruction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the instruction of task 'folder' holds half a character"):
        load_task("folder", benchmark(tmp_path, "folder", "Do \ud800 it."))
    with pytest.raises(DataError, match="the suffix holds half a character"):
        load_task("review-sentiment", suffix="\udfff")


def test_a_directory_that_is_no_adapter_is_never_looked_up_on_a_hub(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def online(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("peft was asked")

    monkeypatch.setattr("peft.PeftModel.from_pretrained", online)
    with pytest.raises(ModelError, match=r"no adapter_config\.json and no adapter_model\.safetensors"):
        load_model(str(model_dir), str(tmp_path), device="cpu")


def test_an_adapter_in_place_of_a_model_is_explained(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter, not a model"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"base_model": "x", "max_length": 1, "max_new_tokens": 1, "tasks": []}']
)
def test_a_damaged_lineage_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "sapo.json").write_text(content)
    with pytest.raises(RecordError, match=r"sapo\.json is damaged"):
        Stage.load(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_breaks_the_parser_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=r"rows\.json is not JSON"):
        load_task(str(tmp_path / "rows.json"), instruction="Do it.")


def test_a_path_with_a_nul_character_is_refused(configured: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="run_dir: holds a NUL character"):
        configured(run_dir="a\0b")


def test_a_candidate_that_does_not_fit_is_named_before_anything_is_trained() -> None:
    task = toy_task()
    candidates = {task.name: [Instruction(task.instruction, "original"), Instruction("long " * 100, "file")]}
    with pytest.raises(RenderError, match=r"task 'toy', candidate 1 \('long long"):
        make_plan(
            Renderer(tiny_tokenizer(), 300), [task], [], candidates,
            scores=True, races=True, examples=4, budget=None, updates={task.name: 1}, epochs=1,
            trainings=schedule("sequence", [task]), both_prompts=False, wordings=0,
        )  # fmt: skip


def test_a_huge_input_is_not_tokenised_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tiny_tokenizer(), 300)
    huge = "x" * 200_000
    read: list[int] = []
    inner = renderer.token_ids

    def counting(texts: Sequence[str]) -> list[list[int]]:
        read.extend(map(len, texts))
        return inner(texts)

    monkeypatch.setattr(renderer, "token_ids", counting)
    ids = renderer.prompts("Do it.", "", [Example(huge, "")], 8)[0]
    assert len(ids) == 300 - 8
    assert sum(read) < 2 * len(huge)


def test_a_rank_beyond_the_layers_width_is_refused() -> None:
    # The value projection of the tiny model is 32 by 16.
    SeqLora(LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=("v_proj",))).start(tiny_model())
    with pytest.raises(ModelError, match=r"lora\.r = 17: allowed is at most 16"):
        SeqLora(LoraSettings(r=17, alpha=32, dropout=0.0, target_modules=("v_proj",))).start(tiny_model())


def test_cut_inputs_are_counted_where_people_look() -> None:
    # Prompt and answer take 129 to 131 tokens with the original, 153 or 155 in turn with the long candidate.
    task, longer = toy_task(), ["yes or no? " + "Think. " * 10]
    selection = select(
        tiny_model(), tiny_tokenizer(), task, longer, 4, sample="first", strategy="exhaustive", max_length=154
    )
    assert [(c.losses.cut > 0).tolist() for c in selection.candidates] == [[False] * 4, [False, True] * 2]
    assert cuts(selection) == "2 of 4 inputs were too long with some candidate and were cut in the middle."
    assert cuts(replace(selection, candidates=selection.candidates[:1])) == ""
