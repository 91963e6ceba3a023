"""`sapo.select`: the losses that it rests on, any kind of data in, a table, the same data with the choice out."""

import builtins
import json
import math
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from adapted import snapshot
from datasets import Dataset, DatasetDict
from exact_losses import by_hand
from peft import PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import sapo
from sapo.core.errors import DataError, ModelError, RecordError, SapoError, ScoreError
from sapo.core.types import Example, Instruction, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fit import context_length
from sapo.models.render import Renderer
from sapo.selection.selection import Selection
from sapo.tasks.given import given_task
from sapo.tasks.inplace import Rows
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.layouts import exchange
from sapo.tasks.load import load_task
from sapo.tasks.sampling import selection_rows

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
        "instruction": "kept",
    },
    "sharegpt": lambda old, row: {
        "conversations": [
            {"from": "system", "value": old},
            {"from": "human", "value": row["text"]},
            {"from": "gpt", "value": row["label"]},
        ]
    },
    "prompt": lambda old, row: {"prompt": f"{old}\n{row['text']}\n", "completion": row["label"]},
    "alpaca": lambda old, row: {"instruction": old, "input": row["text"], "output": row["label"]},
    "text": lambda old, row: {"text": f"### {old}\n{row['text']}\n### {row['label']}"},
}


def laid_out(kind: str, instruction: str) -> list[dict[str, Any]]:
    return [LAYOUTS[kind](instruction, row) for row in PLAIN]


def select(data: Any, **more: Any) -> sapo.Selection:
    return sapo.select(tiny_model(), tiny_tokenizer(), data, NEW, strategy="exhaustive", **more)


PARAPHRASES = (
    "Reply yes when there are many words and no when there are few.",
    "Are there many words? If so yes, if not no.",
    "yes for a long text, no for a short one.",
)


def uneven(rows: int = 12) -> Task:
    """Free answers from two to forty characters."""
    train = tuple(Example(f"row {i}", "so " * (1 + 13 * (i % 2)) + str(i)) for i in range(rows))
    return replace(toy_task(), labels=(), train=train)


def pooled(model: Any, task: Task, instruction: str, rows: tuple[int, ...]) -> tuple[float, float]:
    """(sum over sum, mean of per-example means) from one full pass an example."""
    encoded = Renderer(tiny_tokenizer(), 512).encode(instruction, task.suffix, [task.train[i] for i in rows])
    nll, tokens = by_hand(model, encoded), np.array([row.supervised for row in encoded])
    return float(nll.sum() / tokens.sum()), float((nll / tokens).mean())


def test_the_lowest_pooled_loss_is_chosen_and_reported() -> None:
    model, task = tiny_model(), uneven()
    before = snapshot(model)
    selection = sapo.select(model, tiny_tokenizer(), task, PARAPHRASES, 8)
    assert snapshot(model) == before
    texts = [task.instruction, *PARAPHRASES]
    expected, means = zip(*(pooled(model, task, text, selection.rows) for text in texts), strict=True)
    given = [Instruction(text, "given") for text in PARAPHRASES]
    assert [c.instruction for c in selection.candidates] == [Instruction(task.instruction, "original"), *given]
    assert [c.losses.per_token for c in selection.candidates] == pytest.approx(expected, rel=1e-6)
    assert [c.delta for c in selection.candidates] == pytest.approx([x - expected[0] for x in expected], abs=1e-5)
    assert selection.chosen == int(np.argmin(expected))
    assert selection.instruction.text == texts[selection.chosen]
    assert list(selection.ranked) == np.argsort(expected).tolist()
    assert (selection.task, selection.rule, selection.sample) == ("toy", "lowest", "stratified")
    assert selection.route == "shared prefix" and 0 < selection.seconds < 60
    # The premise: with these answers the two definitions are far apart.
    assert min(abs(a - b) for a, b in zip(expected, means, strict=True)) > 1e-3


def test_an_unusual_text_of_the_users_own_is_scored_and_noted() -> None:
    task, noted = toy_task(), f"Sure! {PARAPHRASES[0]}"
    selection = sapo.select(tiny_model(), tiny_tokenizer(), task, [noted], 4)
    assert [c.instruction.text for c in selection.candidates] == [task.instruction, noted]
    assert f"{noted[:60]!r}: holds an assistant's preamble" in selection.notes[0]
    assert Selection.from_json(selection.to_json()).notes == selection.notes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"examples": 0}, "examples = 0: input should be greater than 0"),
        ({"examples": "many"}, "examples = 'many': .* integer"),
        ({"delta": 0.5}, r"delta = 0\.5: input should be less than 0\.5"),
        ({"epsilon": math.inf}, "epsilon = inf: input should be a finite number"),
        ({"rule": "best"}, "rule = 'best': allowed: lowest, confident, trial"),
        ({"candidates": ("Say something.", " ")}, r"'toy'.*'Say something\.'.*lacks the label 'yes', 'no'.*empty"),
        ({"candidates": ()}, "none were given"),
        ({"candidates": {"a": 1}}, "allowed is a list of texts"),
        ({"seed": -1}, "seed = -1: allowed is"),
        ({"max_length": "512"}, "max_length = '512': allowed is a whole number, 1 or more"),
        ({"data": PLAIN, "instruction": " "}, "instruction = ' ': allowed is"),
        ({"tokenizer": None}, "tokenizer = None: give the model's tokenizer"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(wrong: dict[str, Any], message: str) -> None:
    given = {"model": tiny_model(), "tokenizer": tiny_tokenizer(), "data": toy_task(), "candidates": PARAPHRASES}
    with pytest.raises(SapoError, match=message):
        sapo.select(**given | wrong)


# Id of "~" in the tiny tokenizer: code point 126 minus 33.
TILDE = 93


def test_a_loss_that_is_not_a_number_names_the_candidate_and_the_training_row() -> None:
    model, task = tiny_model(), toy_task()
    with torch.no_grad():
        model.get_input_embeddings().weight[TILDE] = math.nan
    rows = selection_rows(task, 5, "stratified", 42)
    given = (PARAPHRASES[0], f"{PARAPHRASES[1][:-1]} ~.", PARAPHRASES[2])
    with pytest.raises(
        ScoreError, match=rf"'toy': candidate 2 \('Are there many.*nan on training row {rows[0]} \(5 such rows\)"
    ):
        sapo.select(model, tiny_tokenizer(), task, given, 5, strategy="exhaustive")
    bad = rows[3]
    train = tuple(Example("~", e.answer) if i == bad else e for i, e in enumerate(task.train))
    assert bad != 3
    with pytest.raises(ScoreError, match=rf"candidate 0 .*on training row {bad} \(1 such rows\)"):
        sapo.select(model, tiny_tokenizer(), replace(task, train=train), PARAPHRASES, 5)


def gpt2(context: int) -> Any:
    with torch.random.fork_rng():
        return GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=context)).eval()


@pytest.mark.parametrize("make", [lambda: tiny_model(context=192), lambda: gpt2(192)], ids=["llama", "gpt2"])
def test_inputs_are_cut_to_what_the_model_was_made_for(make: Any) -> None:
    long = tuple(Example("many words " * 40, "yes") for _ in range(3))
    model = make()
    assert context_length(model) == 192
    selection = sapo.select(model, tiny_tokenizer(), replace(toy_task(), train=long), PARAPHRASES)
    assert all(c.losses.cut.min() > 0 for c in selection.candidates)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_rows_come_back_as_they_were_but_for_the_instruction(kind: str) -> None:
    rows = laid_out(kind, OLD)
    selection = select(Dataset.from_list(rows), instruction=OLD)
    expected = laid_out(kind, selection.instruction.text)
    assert selection.apply(rows) == expected
    # Nothing in a text means anything.
    assert exchange(rows, OLD, "New {x} $1 \\1.") == laid_out(kind, "New {x} $1 \\1.")
    # A second call changes nothing, also where the new text holds the old one.
    framed = exchange(rows, OLD, f"Guideline:\n{OLD}")
    assert framed != list(rows) and exchange(framed, OLD, f"Guideline:\n{OLD}") == framed
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
    with pytest.raises(DataError, match="max_length = '512'"):
        sapo.score(tiny_model(), tiny_tokenizer(), PLAIN, [OLD], instruction=OLD, max_length="512")  # type: ignore[arg-type]
    for losses, candidate in zip(exact, found[0].candidates, strict=True):
        assert losses.per_token == pytest.approx(candidate.losses.per_token, rel=1e-6)


@pytest.mark.parametrize("kind", ["alpaca", "messages"])
def test_rows_that_hold_their_instruction_are_read_alike_from_a_file_and_in_memory(kind: str, tmp_path: Path) -> None:
    """What cannot be used is left out with the same reason, and a number is the text that it is spelled with."""
    numbers = [{**row, "label": "37"} for row in PLAIN]
    rows = [LAYOUTS[kind](OLD, row) for row in [*numbers, {**PLAIN[0], "label": None}]]
    if kind == "alpaca":
        rows = [*({**row, "output": int(row["output"])} for row in rows[:-1]), rows[-1]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    of_file = load_task(path)
    for data in (rows, Dataset.from_list(rows), pd.DataFrame(rows, dtype=object)):
        found = given_task(data)
        assert isinstance(found, Rows)
        assert found.task.unused == of_file.unused and [x.row for x in of_file.unused] == [9]
        assert [row.answer for row in found.task.train] == [row.answer for row in of_file.train] == ["37"] * 8
    selection = select(rows)
    assert "left out, as they cannot be used: 1 row" in str(selection)
    # A row that was left out stays a row of the data set, worded as the others.
    assert "own layout" not in str(selection) and "this library's own layout" in str(select(path))
    assert len(selection.apply(rows)) == 9 and selection.instruction.text in str(selection.apply(rows)[-1])
    # So does one in which nobody asks anything.
    empty: list[dict[str, Any]] = [{"messages": None, "id": 7}, {"messages": []}]
    for nothing in [{"instruction": None, "output": "no"}] if kind == "alpaca" else empty:
        assert selection.apply([*rows, nothing])[-1] == nothing
        assert len(selection.apply(pd.DataFrame([*rows, nothing], dtype=object))) == 10
    for something in ({"question": "q", "answer": "a", "prompt": ""}, {"instruction": "", "input": "x", "output": "y"}):
        with pytest.raises(DataError, match=r"no known layout|does not hold the instruction"):
            selection.apply([*rows, something])


def test_rows_in_memory_that_ask_the_same_are_found_as_in_a_file() -> None:
    asked = ("Ärger", "ärger", "ÄRGER")
    rows = [
        LAYOUTS["messages"](OLD, {"text": text, "label": answer})
        for text, answer in zip(asked, ("yes", "no", "yes"), strict=True)
    ]
    found = given_task(rows)
    assert isinstance(found, Rows)
    inspection = inspect_rows(found.task)
    assert (inspection.duplicates, inspection.conflicts) == (1, 3)


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
        (5, {}, "rows in a int"),
        ([], {"instruction": OLD}, "no"),
        ([5], {"instruction": OLD}, "row 1"),
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
    for part in ("'id'", "left out, as they cannot be used: 1 row", "1 of 9 inputs were too long", ": same as the"):
        assert part in said
    with pytest.raises(DataError, match=r"with selection\.instruction\.text"):
        selection.apply(PLAIN)


def test_an_adapter_of_virtual_tokens_is_refused() -> None:
    model = get_peft_model(tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="adapter is of type PROMPT_TUNING"):
        sapo.select(model, tiny_tokenizer(), PLAIN, NEW, instruction=OLD)


def test_all_public_names_are_shown_and_none_hides_a_builtin() -> None:
    names = {name for name in dir(sapo) if not name.startswith("_")}
    assert names == {name for name in sapo.__all__ if not name.startswith("_")}
    assert all(getattr(sapo, name) is not None for name in names)
    assert not names & {*vars(builtins), *typing.__all__}
