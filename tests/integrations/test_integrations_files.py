"""What travels: data for other trainers, instructions beside adapters, messages for any runtime."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from small_runs import command

import sapo
from sapo.core.errors import CandidateError, DataError, ModelError, RenderError
from sapo.core.storage import read_json
from sapo.core.types import Example
from sapo.integrations.exports import export_data
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.integrations.trainer import describe, tokenized
from sapo.integrations.trl import Rows, dataset
from sapo.models.layout import turns_of
from sapo.models.render import Renderer
from sapo.runs.stage import load_stage
from sapo.tasks.layouts import layout_of, reworded, sides
from sapo.tasks.sampling import as_example

TEXT = "Many words: yes. Few words: no."


def llamafactory_turns(row: dict[str, Any]) -> list[str]:
    """The turns that LLaMA-Factory makes of an alpaca row: history, then instruction and input on the next line."""
    asked = "\n".join(text for text in (row["instruction"], row["input"]) if text)
    return [turn for exchange in row["history"] for turn in exchange] + [asked]


@pytest.mark.parametrize("suffix", ["", "Answer yes or no."])
@pytest.mark.parametrize("history", [(), (("first question", "first answer"), ("second", "answer"))])
def test_exported_rows_are_the_turns_that_are_scored(suffix: str, history: Any, tmp_path: Path) -> None:
    task = replace(toy_task("a/b", rows=4), suffix=suffix)
    task = replace(task, train=tuple(replace(row, history=history) for row in task.train))
    rows, index = export_data(task, TEXT, "llamafactory", tmp_path)
    entry = read_json(index)["a-b"]
    assert rows.name == entry["file_name"] == "a-b.json" and entry["columns"]["query"] == "input"
    made = read_json(rows)
    assert [llamafactory_turns(row) for row in made] == [turns_of(TEXT, row, suffix) for row in task.train]
    assert [row["output"] for row in made] == [row.answer for row in task.train]
    lines, settings = export_data(task, TEXT, "axolotl", tmp_path)
    found = [json.loads(line)["messages"] for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [[m["content"] for m in row] for row in found] == [
        [*turns_of(TEXT, row, suffix), row.answer] for row in task.train
    ]
    assert all([m["role"] for m in row] == ["user", "assistant"] * (len(history) + 1) for row in found)
    (source,) = yaml.safe_load(settings.read_text(encoding="utf-8"))["datasets"]
    assert source["path"] == str(lines) and source["type"] == "chat_template"
    # The last turn alone is trained, as it alone is scored.
    assert source["message_field_training"] == "train"
    assert all([m["train"] for m in row] == [False] * (len(row) - 1) + [True] for row in found)


def test_rows_of_token_ids_are_what_is_scored(tmp_path: Path) -> None:
    task, renderer = toy_task("toy", rows=4), Renderer(tiny_tokenizer(), 512)
    export_data(task, TEXT, "axolotl", tmp_path)
    lines, settings = export_data(task, TEXT, "axolotl", tmp_path, renderer)
    assert yaml.safe_load(settings.read_text()) == {"datasets": [{"path": str(lines), "ds_type": "json"}]}
    made = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    for row, scored in zip(made, renderer.encode(TEXT, task.suffix, task.train), strict=True):
        assert row["input_ids"] == list(scored.ids) and set(row["attention_mask"]) == {1}
        start = scored.prompt_length
        assert row["labels"] == [-100] * start + row["input_ids"][start:] and len(row["labels"]) > start
    with pytest.raises(DataError, match="llamafactory takes texts"):
        export_data(task, TEXT, "llamafactory", tmp_path, renderer)


def test_rows_that_an_instruction_shows_are_not_trained_on(tmp_path: Path) -> None:
    task = toy_task("toy", rows=4)
    text = f"{TEXT}\n\n{as_example(task.train[1])}"
    rows, _ = export_data(task, text, "llamafactory", tmp_path)
    found, left = read_json(rows), [row.input for row in task.train if row != task.train[1]]
    assert len(found) == len(left) == 3 and all(map(lambda row, text: text in row["input"], found, left))
    assert len(tokenized(task, text, Renderer(tiny_tokenizer(), 512))) == len(dataset(task, text)) == 3


def test_other_data_sets_of_a_dataset_info_stay(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "m.json"}}')
    export_data(toy_task("toy"), TEXT, "llamafactory", tmp_path)
    export_data(toy_task("toy"), TEXT, "llamafactory", tmp_path)
    found = read_json(tmp_path / "dataset_info.json")
    assert set(found) == {"mine", "toy"} and found["mine"] == {"file_name": "m.json"}
    (tmp_path / "dataset_info.json").write_text('{"toy": {"file_name": "theirs.json"}}')
    with pytest.raises(DataError, match=r"toy\.json is another data set 'toy'"):
        export_data(toy_task("toy"), TEXT, "llamafactory", tmp_path)
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="no object of data sets"):
        export_data(toy_task("toy"), TEXT, "llamafactory", tmp_path)


@pytest.mark.parametrize("form", ["llamafactory", "axolotl"])
def test_somebody_elses_file_of_the_same_name_stays(form: Any, tmp_path: Path) -> None:
    rows, _ = export_data(toy_task("toy"), TEXT, form, tmp_path / "first")
    before = rows.read_bytes()
    export_data(toy_task("toy"), "Another one.", form, tmp_path / "first")
    assert rows.read_bytes() != before
    theirs = tmp_path / "second" / rows.name
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    with pytest.raises(DataError, match="not written by this export: move it"):
        export_data(toy_task("toy"), TEXT, form, theirs.parent)
    assert theirs.read_text() == "theirs" and len(list(theirs.parent.iterdir())) == 1


def test_the_command_takes_what_select_chose(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"input": f"row {i}", "output": "yn"[i % 2]}) + "\n" for i in range(8)))
    about = ("--task", str(data), "--instruction", "Say y or n.")
    chosen = tmp_path / "selection.json"
    assert command("select", *about, "--model", str(small_model), "--json", str(chosen), "--no-cache") == 0
    out = tmp_path / "out"
    export = ("export-data", *about, "--out", str(out), "--format", "llamafactory")
    assert command(*export, "--selection", str(chosen)) == 0
    found = read_json(chosen)
    text = found["candidates"][found["chosen"]]["text"]
    assert {row["instruction"] for row in read_json(out / "rows.json")} == {text}
    assert text in capsys.readouterr().out
    assert command(*export, "--chosen", "Another one.") == 2
    assert f"--out {out / 'rows.json'} exists already: choose another one" in capsys.readouterr().err
    assert {row["instruction"] for row in read_json(out / "rows.json")} == {text}
    assert command(*export[:4], "Another one.", *export[5:], "--selection", str(chosen)) == 2
    assert "is of another task" in capsys.readouterr().err
    assert command(*export) == 2 and command(*export, "--chosen", " ") == 2
    assert command(*export, "--selection", str(tmp_path / "none.json")) == 2
    own = ("export-data", *about, "--format", "axolotl", "--chosen", "Say y or n, please.")
    assert command(*own, "--out", str(out), "--model", str(small_model)) == 0
    assert set(json.loads((out / "rows.jsonl").read_text().split("\n")[0])) == {"input_ids", "attention_mask", "labels"}
    with data.open("a") as file:
        file.write(json.dumps({"input": "word " * 400, "output": "y"}) + "\n")
    assert command(*own, "--out", str(tmp_path / "cut"), "--model", str(small_model)) == 0
    told = capsys.readouterr()
    assert "cut in the middle, as longer than max_length: 1 training input" in told.out
    assert "write it with sapo select --json" in told.err
    assert command(*export, "--chosen", "x", "--model", str(small_model)) == 2
    before = data.read_bytes()
    assert command(*own, "--out", str(tmp_path)) == 2 and data.read_bytes() == before
    chosen.write_text("{}")
    assert command(*export, "--selection", str(chosen)) == 2
    assert "selection.json is damaged" in capsys.readouterr().err


def test_an_adapter_of_another_trainer_carries_its_instruction(small_model: Path, tmp_path: Path) -> None:
    loaded = sapo.load_model(str(small_model))
    task = replace(toy_task(rows=4), suffix="Say it.")
    selection = sapo.select(loaded.model, loaded.tokenizer, task, [TEXT])
    model = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = tmp_path / "adapter"
    with pytest.raises(ModelError, match="save it there first"):
        describe(adapter, model, loaded.tokenizer, task, selection)
    model.save_pretrained(adapter)
    describe(adapter, model, loaded.tokenizer, task, selection)
    # Stock peft still loads it, and what is asked is what was scored.
    PeftModel.from_pretrained(sapo.load_model(str(small_model)).model, adapter)
    with pytest.raises(DataError, match=r"text = \['a'\]: allowed is a text"):
        sapo.apply(adapter, ["a"])  # type: ignore[arg-type]
    asked = sapo.apply(adapter, "the input")
    assert asked == [{"role": "user", "content": f"{selection.instruction.text}\n\nText:\nthe input\n\nSay it."}]
    prompt = loaded.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)
    own = Renderer(loaded.tokenizer, 512).prompts(selection.instruction.text, "Say it.", [Example("the input", "")], 8)
    assert tuple(prompt.input_ids) == own[0]
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert selection.instruction.text in card and "library_name: peft" in card
    assert read_json(adapter / "sapo.json")["policy"] == "sapo" and "Lowest pre-update loss of" in card
    # A second task, after the first one.
    describe(adapter, model, loaded.tokenizer, replace(task, name="second"), "Another instruction.", after=adapter)
    assert sapo.apply(adapter, "x", "toy")[0]["content"].startswith(selection.instruction.text)
    assert sapo.apply(adapter, "x")[0]["content"].startswith("Another instruction.")
    # The same weights described again are told once.
    describe(adapter, model, loaded.tokenizer, replace(task, name="second"), "Yet another one.", after=adapter)
    assert [entry["task"] for entry in read_json(adapter / "sapo.json")["tasks"]] == ["toy", "second"]
    assert sapo.apply(adapter, "x")[0]["content"].startswith("Yet another one.")
    # Whether candidates were scored is not known of a text alone.
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert "Yet another one." in card and "No candidate was scored" not in card
    # Training from the start into the same directory has nothing to do with what lay there.
    describe(adapter, model, loaded.tokenizer, task, selection)
    assert [entry["task"] for entry in read_json(adapter / "sapo.json")["tasks"]] == ["toy"]
    with pytest.raises(ModelError, match=r"nowhere is not a stage directory"):
        describe(adapter, model, loaded.tokenizer, task, selection, after=tmp_path / "nowhere")


def test_a_selection_of_another_task_is_refused_wherever_rows_are_worded(tmp_path: Path) -> None:
    model, tokenizer, task = tiny_model(), tiny_tokenizer(), toy_task(rows=4)
    model.save_pretrained(tmp_path)
    selection = sapo.select(model, tokenizer, task, [TEXT])
    other, renderer = replace(task, name="other", instruction="Say whether it is short."), Renderer(tokenizer, 512)
    for wrong in (
        lambda: tokenized(other, selection, renderer),
        lambda: dataset(other, selection, tokenizer),
        lambda: export_data(other, selection, "axolotl", tmp_path),
        lambda: describe(tmp_path, model, tokenizer, other, selection),
    ):
        with pytest.raises(CandidateError, match="the selection is of another task: its original instruction is"):
            wrong()
    for nothing in (None, 5, " "):
        with pytest.raises(CandidateError, match=r"give what sapo\.select returned, or the text to train with"):
            tokenized(task, nothing, renderer)  # type: ignore[arg-type]
    # The chosen instruction alone will do.
    assert tokenized(task, selection.instruction, renderer)[:] == tokenized(task, selection, renderer)[:]


def test_rows_of_another_layout_are_read_by_their_own_renderer_alone(tmp_path: Path) -> None:
    """What they hold as input is not what the model is asked: their answers are in it."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    row = {"instruction": "Does this text have many words?", "input": "x", "output": "yes"}
    rows = Rows([row, {**row, "input": "z", "output": "no"}] * 2)
    selection = sapo.select(model, tokenizer, rows.task, [TEXT], renderer=rows.renderer(tokenizer))
    for wrong in (
        lambda: sapo.select(model, tokenizer, rows.task, [TEXT]),
        lambda: tokenized(rows.task, selection, Renderer(tokenizer, 512)),
        lambda: dataset(rows.task, selection, tokenizer),
        lambda: export_data(rows.task, selection, "llamafactory", tmp_path),
        lambda: sapo.TaskSequence(tmp_path / "s", model, tokenizer, [rows.task]).before("rows", [TEXT]),
    ):
        with pytest.raises(RenderError, match=r"give renderer=rows\.renderer\(tokenizer\)"):
            wrong()
    assert len(tokenized(rows.task, selection, rows.renderer(tokenizer))) == 4


def test_an_adapter_trained_on_rows_of_ones_own_is_asked_as_they_were(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    system = [{"role": "system", "content": "Say it."}, {"role": "user", "content": "x"}]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"prompt": system, "completion": [{"role": "assistant", "content": "y"}]},
         lambda text: [{"role": "system", "content": "New."}, {"role": "user", "content": text}]),
        ({"instruction": "Say it.", "input": "x", "output": "y"},
         lambda text: [{"role": "user", "content": f"New.\n{text}"}]),
    ]  # fmt: skip
    for row, asked in cases:
        rows = Rows([row], "Say it.")
        with pytest.raises(DataError, match=r"layout=rows\.layout"):
            describe(tmp_path, model, tokenizer, rows.task, "New.")
        with pytest.raises(DataError, match=r"'sytem': allowed: own, system, alpaca, other\. Did you mean 'system'"):
            describe(tmp_path, model, tokenizer, rows.task, "New.", layout="sytem")
        describe(tmp_path, model, tokenizer, rows.task, "New.", layout=rows.layout)
        # As a row itself asks, with another instruction.
        where, _ = layout_of([row])
        other_words = reworded(row, where, "Say it.", "New.")
        assert other_words is not None
        assert sapo.apply(tmp_path, "x") == asked("x") == sides(other_words, where)[0]
        assert sapo.apply(tmp_path, "another") == asked("another")
        line = "instruction is the system message" if rows.layout == "system" else "The user turn is the instruction"
        assert line in (tmp_path / "README.md").read_text(encoding="utf-8")
        with pytest.raises(ModelError, match="prompts of another layout"):
            load_stage(tmp_path)
        (tmp_path / "sapo.json").unlink()
    other = Rows([{"prompt": "Say it. x", "completion": " y"}], "Say it.")
    describe(tmp_path, model, tokenizer, other.task, "New.", layout=other.layout)
    with pytest.raises(ModelError, match="put its instruction where it stood"):
        sapo.apply(tmp_path, "t")
    # The card promises nothing of what is refused.
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Prompt it exactly as it was trained.\n" in card and "laid out in a way of their own" in card
    assert "sapo.apply" not in card and "sapo generate" not in card


def test_what_is_no_stage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"no sapo\.json"):
        sapo.apply(tmp_path, "x")
    for name in ("no/such-repository", "not a name", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match="neither a directory nor a repository"):
            sapo.apply(name, "x")


def test_a_repository_of_the_hub_is_asked_for_its_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"task": "t", "instruction": "Do it.", "suffix": ""}
    (tmp_path / "sapo.json").write_text(json.dumps({"format": 2, "tasks": [entry]}))
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert sapo.apply("me/adapter", "x") == [{"role": "user", "content": "Do it.\n\nText:\nx"}]
    assert asked == [("me/adapter", "sapo.json")]


# Where the instruction stands.

SAID = {"instruction": "Say it.", "input": "a", "output": "b"}


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


SYSTEM = chat(("system", "Say it."), ("user", "a"), ("assistant", "b"))


@pytest.mark.parametrize(
    ("rows", "layout"),
    [
        ([SAID, {**SAID, "input": "c"}], "alpaca"),
        ([SAID, {**SAID, "instruction": "Say it. Now."}], "other"),
        ([SAID, {**SAID, "system": "You are kind."}], "other"),
        ([{**SAID, "system": ""}], "alpaca"),
        ([SYSTEM, SYSTEM], "system"),
        ([SYSTEM, chat(("system", "Say it. Now."), ("user", "a"), ("assistant", "b"))], "other"),
        ([chat(("user", "Say it. a"), ("assistant", "b"))], "other"),
        ([{"prompt": SYSTEM["messages"][:2], "completion": SYSTEM["messages"][2:]}], "system"),
        ([{"prompt": "Say it. a", "completion": "b"}], "other"),
    ],
)
def test_the_layout_is_that_of_all_rows(rows: list[dict[str, Any]], layout: str) -> None:
    assert Rows(rows, "Say it.").layout == layout


@pytest.mark.parametrize(
    ("row", "held"),
    [
        ({"prompt": "Say it."}, "prompt"),
        ({"prompt": 3, "completion": "b"}, "prompt, completion"),
        ({"prompt": None}, "of none"),
    ],
)
def test_a_layout_that_is_not_known_names_the_columns(row: dict[str, Any], held: str) -> None:
    with pytest.raises(DataError, match=f"there are values in the columns {held}. Known: instruction and output;"):
        Rows([row])
