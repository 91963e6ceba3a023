"""The public way: anybody's data in, a table to look at, the same data with the chosen instruction out."""

from __future__ import annotations

import builtins
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from peft import PromptTuningConfig, get_peft_model

import sapo
from sapo.core.errors import DataError, ModelError, RecordError, SapoError
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.render import Renderer
from sapo.tasks.given import given_task
from sapo.tasks.load import load_task

OLD = "Say yes for many and no for few."
NEW = ["Answer yes if there are many, no if there are few.", "Many words: yes. Few words: no."]
PLAIN = [{"text": f"row {i} has {'many' if i % 2 else 'few'}", "label": "yes" if i % 2 else "no"} for i in range(8)]
LAYOUTS: dict[str, Any] = {
    "messages": lambda old, row: {
        "messages": [
            {"role": "system", "content": old},
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": row["label"]},
        ],
        "source": "kept",
    },
    "prompt": lambda old, row: {"prompt": f"{old}\n{row['text']}\n", "completion": row["label"]},
    "alpaca": lambda old, row: {"instruction": old, "input": row["text"], "output": row["label"]},
    "text": lambda old, row: {"text": f"### {old}\n{row['text']}\n### {row['label']}"},
}


def laid_out(kind: str, instruction: str) -> list[dict[str, Any]]:
    return [LAYOUTS[kind](instruction, row) for row in PLAIN]


def select(data: Any, **more: Any) -> sapo.Selection:
    return sapo.select(tiny_model(), tiny_tokenizer(), data, NEW, strategy="exhaustive", **more)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_rows_come_back_as_they_were_but_for_the_instruction(kind: str) -> None:
    rows = laid_out(kind, OLD)
    selection = select(Dataset.from_list(rows), instruction=OLD)
    expected = laid_out(kind, selection.instruction.text)
    assert selection.apply(rows) == expected
    assert selection.apply(Dataset.from_list(rows)).to_list() == expected
    assert selection.apply(DatasetDict(train=Dataset.from_list(rows)))["train"].to_list() == expected
    assert selection.apply(pd.DataFrame(rows)).to_dict("records") == expected
    with pytest.raises(DataError, match="does not hold the instruction"):
        selection.apply(laid_out(kind, "Another one."))
    # One token a byte: what is supervised is the answer, and the same end of text or turn in every row.
    answers = [a if isinstance(a, str) else a[0]["content"] for a in selection.completions(rows)["completion"]]
    losses = selection.candidates[0].losses
    ends = losses.tokens[np.argsort(selection.rows)] - [len(answer.encode()) for answer in answers]
    assert len(set(ends.tolist())) == 1
    assert ends[0] >= 1


def test_every_kind_of_table_gives_the_same_losses(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pd.DataFrame(PLAIN).to_csv(path, index=False)
    kinds = [PLAIN, Dataset.from_list(PLAIN), pd.DataFrame(PLAIN), path, str(path)]
    task = load_task(path, instruction=OLD)
    found = [select(task), *(select(data, instruction=OLD) for data in kinds)]
    first = [c.losses for c in found[0].candidates]
    assert all([c.losses for c in other.candidates] == first for other in found)
    exact = sapo.score(tiny_model(), tiny_tokenizer(), PLAIN, [OLD, *NEW], instruction=OLD)
    encoded = Renderer(tiny_tokenizer(), 512).encode(OLD, "", task.train)
    assert exact[0].tokens.tolist() == [row.supervised for row in encoded]
    for losses, candidate in zip(exact, found[0].candidates, strict=True):
        assert losses.per_token == pytest.approx(candidate.losses.per_token, rel=1e-6)


def test_a_selection_is_printed_ranked_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "Say <b>yes</b> for many \x1b[31mand no for few words."
    selection = sapo.select(tiny_model(), tiny_tokenizer(), PLAIN, [*NEW, evil], instruction=OLD, progress=True)
    capsys.readouterr()
    lines = [line for line in str(selection).splitlines() if not line.startswith("note: ")]
    ranked = [selection.candidates[i] for i in selection.ranked]
    assert len(lines) == 2 + len(ranked)
    for line, candidate in zip(lines[2:], ranked, strict=True):
        assert f"{candidate.loss:.4f}" in line
    assert "\x1b" not in str(selection)
    assert sum("chosen" in line for line in lines) == 1
    frame = selection.to_pandas()
    assert frame["loss"].tolist() == [c.loss for c in ranked]
    assert frame.loc[frame.status == "chosen", "text"].item() == selection.instruction.text
    assert "<b>" not in selection._repr_html_()
    selection.save(tmp_path / "selection.json")
    assert sapo.Selection.load(str(tmp_path / "selection.json")) == selection
    (tmp_path / "selection.json").write_text("{}")
    with pytest.raises(RecordError, match=r"selection\.json is damaged"):
        sapo.Selection.load(tmp_path / "selection.json")


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (PLAIN, {}, "instruction"),
        (DatasetDict(train=Dataset.from_list(PLAIN)), {"instruction": OLD}, "rows in a DatasetDict: allowed are one"),
        (5, {}, "rows in a int"),
        ([], {"instruction": OLD}, "no"),
        ([5], {"instruction": OLD}, "row 1"),
        (laid_out("prompt", OLD), {"instruction": "Something else."}, "row 1 does not hold the instruction"),
        (PLAIN, {"instruction": OLD, "columns": {"input": "txt"}}, "txt"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(data: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        given_task(data, **settings)


def test_nothing_is_left_out_in_silence() -> None:
    rows: list[dict[str, Any]] = [{**row, "label": np.str_(row["label"]), "id": np.int64(7)} for row in PLAIN]
    rows += [{"text": None, "label": "no"}, {"text": "many " * 900, "label": "yes"}]
    selection = sapo.select(tiny_model(), tiny_tokenizer(), rows, [NEW[0], OLD], instruction=OLD, strategy="exhaustive")
    said = str(selection)
    for part in ("'id'", "left out, as they cannot be used: 1 row", "1 of 9 inputs were too long", "(same as the"):
        assert part in said
    with pytest.raises(DataError, match=r"with selection\.instruction\.text"):
        selection.apply(PLAIN)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed = -1: allowed is"),
        ({"examples": "many"}, "examples = 'many'"),
        ({"instruction": " "}, "instruction = ' ': allowed is"),
        ({"tokenizer": None}, "tokenizer = None: give the model's tokenizer"),
        ({"candidates": {"a": 1}}, "allowed is a list of texts"),
    ],
)
def test_wrong_types_are_named(wrong: dict[str, Any], message: str) -> None:
    given = {"model": tiny_model(), "tokenizer": tiny_tokenizer(), "data": PLAIN, "instruction": OLD}
    with pytest.raises(SapoError, match=message):
        sapo.select(**{**given, **wrong})


def test_an_adapter_of_virtual_tokens_is_refused() -> None:
    model = get_peft_model(tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="adapter is of type PROMPT_TUNING"):
        sapo.select(model, tiny_tokenizer(), PLAIN, NEW, instruction=OLD)


def test_all_public_names_are_shown_and_none_hides_a_builtin() -> None:
    names = {name for name in dir(sapo) if not name.startswith("_")}
    assert names == {name for name in sapo.__all__ if not name.startswith("_")}
    assert all(getattr(sapo, name) is not None for name in names)
    assert not names & {*vars(builtins), *typing.__all__}
