"""What people found who tried own data, resumption and stages of other runs: each once got through."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sapo.core.errors import DataError, ModelError, RecordError, RenderError
from sapo.core.types import Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.load import load_model
from sapo.models.render import Renderer
from sapo.report.blocks import Listing
from sapo.report.tasks import task_page
from sapo.runs.config.schema import Config
from sapo.runs.prepare import set_up
from sapo.runs.stage import Stage
from sapo.sequence import run
from sapo.tasks.findings import warnings_of
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.load import load_task
from sapo.tasks.own import DataSource, data_task


@pytest.mark.parametrize("damaged", ["adapter_model.safetensors", "sapo.json", None])
def test_a_finished_run_whose_stage_was_damaged_or_lost_does_not_pass_for_finished(
    configured: Callable[..., Config], damaged: str | None
) -> None:
    config = configured()
    run(config)
    stage = config.run_dir / "stages" / "1-review-sentiment"
    if damaged is None:
        shutil.rmtree(stage)
    else:
        (stage / damaged).write_text('{"a": 1}')
    expected = r"1-review-sentiment(/\S+ was changed since| is missing)\. Put it back as it was, or delete \S+ to train"
    with pytest.raises(RecordError, match=expected):
        run(config)
    (config.run_dir / "training" / "1-review-sentiment.json").unlink()
    shutil.rmtree(config.run_dir / "cells" / "1")
    run(config)
    assert (stage / "adapter_model.safetensors").stat().st_size > 100


def test_an_adapter_on_another_base_than_its_own_is_not_confirmed(
    configured: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured()
    run(config)
    stage = config.run_dir / "stages" / "1-review-sentiment"
    assert load_model(config.model.base, str(stage), device="cpu").confirmed
    tiny_model(seed=5).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    loaded = load_model(str(tmp_path / "other"), str(stage), device="cpu")
    assert not loaded.confirmed and any("NOT confirmed" in note for note in loaded.notes)
    lineage = json.loads((stage / "sapo.json").read_text())
    (stage / "sapo.json").write_text(json.dumps({**lineage, "base_model": str(tmp_path / "other")}))
    assert not Stage.load(stage).loaded.confirmed


def test_a_stage_whose_base_has_moved_says_where_it_was_looked_for(configured: Callable[..., Config]) -> None:
    config = configured()
    run(config)
    stage = config.run_dir / "stages" / "1-review-sentiment"
    lineage = json.loads((stage / "sapo.json").read_text())
    (stage / "sapo.json").write_text(json.dumps({**lineage, "base_model": "./gone"}))
    with pytest.raises(ModelError, match=r"sapo\.json names the base model './gone', seen from "):
        Stage.load(stage)


def test_labels_that_differ_in_case_or_blanks_only_are_pointed_out() -> None:
    task = replace(toy_task(), labels=("yes", "Yes", " yes", "no"))
    (sentence,) = [s for s in warnings_of(inspect_rows(task)) if "case or white space only" in s]
    assert "'yes', 'Yes', ' yes'" in sentence and "'no'" not in sentence
    assert not any("case or white space" in s for s in warnings_of(inspect_rows(toy_task())))


def test_a_rare_answer_keeps_answers_from_passing_for_labels(tmp_path: Path) -> None:
    rows = [{"input": str(n), "output": "yes" if n % 2 else "no"} for n in range(30)]
    (tmp_path / "m.json").write_text(json.dumps(rows))
    assert set(load_task(str(tmp_path / "m.json"), instruction="Do.").labels) == {"yes", "no"}
    (tmp_path / "m.json").write_text(json.dumps([*rows, {"input": "x", "output": "perhaps"}]))
    own = load_task(str(tmp_path / "m.json"), instruction="Do.")
    assert own.labels == () and own.metric == "rouge_l"


def test_an_unusable_test_file_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('[{"input": "a", "output": "b"}]')
    (tmp_path / "other.json").write_text('[{"text": "a", "label": "b"}]')
    with pytest.raises(DataError, match=r"^\S*other\.json: none of the 1 test rows can be used"):
        load_task(str(tmp_path / "train.json"), instruction="Do.", test=str(tmp_path / "other.json"))


@pytest.mark.parametrize("name", ["x\ny", "\x1b[31mx", "-rf", "n" * 101])
def test_a_task_name_that_no_terminal_or_disk_likes_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('[{"input": "a", "output": "b"}]')
    with pytest.raises(DataError, match="a task's name is also a file's name"):
        data_task(name, DataSource(data=str(tmp_path / "m.json"), instruction="Do."))


def test_an_answer_that_cannot_fit_is_quoted() -> None:
    rows = [Example("x", "short"), Example("x", "far too long " * 40)]
    with pytest.raises(RenderError, match="the row with the answer 'far too long far too long far too long f"):
        Renderer(tiny_tokenizer(), 200).encode("Do.", "", rows)


def test_a_huge_text_is_shown_in_part_and_counted() -> None:
    row = Example("a" * 3_000_000, "b")
    page = task_page(replace(toy_task(), train=(row,)))
    texts = [block.text for section in page.sections for block in section.blocks if isinstance(block, Listing)]
    assert max(map(len, texts)) < 5000 and any("[... 2996000 characters ...]" in text for text in texts)


def test_a_single_update_that_warm_up_would_waste_is_pointed_out(configured: Callable[..., Config]) -> None:
    assert any("nothing would be learned" in note for note in set_up(configured()).notes)
    assert not any(
        "nothing would be learned" in n for n in set_up(configured(train={"rows": 8, "batch_size": 4})).notes
    )
