"""Lineage and model card against hand-written values, the Hub's own parser, and a Markdown parser that is not ours."""

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from report.making import make_selection as selection_of

from sapo.core.errors import ModelError, RecordError
from sapo.core.storage import write_json
from sapo.core.types import Instruction, Rejection, Task
from sapo.integrations.testing import toy_task
from sapo.runs.card import model_card
from sapo.runs.lineage import earlier_tasks, lineage, stored_prompts
from sapo.selection.selection import Choice, Selection
from sapo.tasks.load import task_fingerprint

HOSTILE = (
    "[bold red]x[/] | `c` ``` <script>alert(1)</script> **b** _i_ [l](http://e) \\| &lt; $m$ # h www.e.org\n"
    "```\n| a | b |\x1b[31m\u202e\r# no heading"
)
VISIBLE = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
OLD = {
    "task": "old", "instruction": "Do it now.", "origin": "builtin", "original_instruction": "Do it.",
    "suffix": "Say so.", "labels": [],
}  # fmt: skip
FORMAT_1 = {
    "format": 1, "base_model": "some/model", "method": "seq-lora", "policy": "sapo", "state": "0123456789abcdef",
    "max_length": 64, "max_new_tokens": 4, "tasks": [OLD],
}  # fmt: skip


def make_selection(
    task: Task, losses: Sequence[float], chosen: int, texts: Sequence[str] | None = None, **changes: Any
) -> Selection:
    """A selection on two rows, whose intervals reach an eighth to either side."""
    texts = texts or [task.instruction, *(f"Candidate {i}." for i in range(1, len(losses)))]
    intervals = [None, *((loss - losses[0] - 0.125, loss - losses[0] + 0.125) for loss in losses[1:])]
    return selection_of(losses, intervals, chosen=chosen, texts=texts, task=task.name, **changes)


def make_lineage(*trained: Choice, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "some/model", "method": "inc-lora", "policy": "sapo", "trained": trained, "state": "0123456789abcdef",
        "limits": {"max_length": 64, "max_new_tokens": 4}, "template": "fedcba9876543210",
        "versions": {"torch": "2.9", "peft": None},
    }  # fmt: skip
    return lineage(**(settings | changes))


def original(task: Task) -> Choice:
    return Choice(task, Instruction(task.instruction, "original"))


def selected(task: Task, selection: Selection, index: int | None = None) -> Choice:
    taken = selection.candidates[selection.chosen if index is None else index].instruction
    return Choice(task, taken, selection)


def rendered(card: str) -> str:
    """The card's body as HTML."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(ModelCard(card).text))


def cells(page: str, tag: str = "td") -> list[str]:
    return [html.unescape(cell) for cell in re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", page, re.DOTALL)]


# sapo.json


def test_a_lineage_holds_everything_about_each_task() -> None:
    task = toy_task("first", rows=6)
    selection = make_selection(task, [2.0, 1.5], chosen=1, rejected=(Rejection("no", "too short"),))
    data = make_lineage(selected(task, selection), original(toy_task("second")))
    candidates = [
        {"text": task.instruction, "origin": "original", "loss": 2.0, "nll_sum": 4.0, "tokens": 2, "delta": 0.0,
         "ci": None, "examples": 2, "status": "scored", "round": None},
        {"text": "Candidate 1.", "origin": "file", "loss": 1.5, "nll_sum": 3.0, "tokens": 2, "delta": -0.5,
         "ci": [-0.625, -0.375], "examples": 2, "status": "chosen", "round": None},
    ]  # fmt: skip
    selection_entry = {
        "rule": "lowest", "sample": "stratified", "rows": 2, "chosen": 1, "tolerance": 1e-5, "strategy": "exhaustive",
        "race": None, "route": "plain", "candidates": candidates, "rejected": [{"text": "no", "reason": "too short"}],
    }  # fmt: skip
    first = {
        "task": "first", "instruction": "Candidate 1.", "origin": "file", "original_instruction": task.instruction,
        "suffix": "Answer yes or no.", "labels": ["yes", "no"], "metric": "exact_match", "data": task_fingerprint(task),
        "train_rows": 6, "selection": selection_entry,
    }  # fmt: skip
    second = data["tasks"].pop()
    assert data == {
        "format": 2, "base_model": "some/model", "method": "inc-lora", "policy": "sapo", "state": "0123456789abcdef",
        "max_length": 64, "max_new_tokens": 4, "template": "fedcba9876543210", "versions": {"torch": "2.9", "peft":
        None}, "tasks": [first],
    }  # fmt: skip
    assert second["selection"] is None and second["task"] == "second" and second["train_rows"] == 16


def test_a_lineage_begins_with_the_tasks_that_the_run_started_from() -> None:
    data = make_lineage(original(toy_task("new")), earlier=[OLD])
    assert [entry["task"] for entry in data["tasks"]] == ["old", "new"] and data["tasks"][0] == OLD


def test_the_entries_of_a_stage_can_be_handed_to_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert earlier_tasks(tmp_path) == []
    write_json(tmp_path / "sapo.json", FORMAT_1)
    monkeypatch.setenv("STAGES", str(tmp_path))
    assert earlier_tasks(tmp_path) == earlier_tasks("$STAGES") == [OLD]
    with pytest.raises(ModelError, match=r"environment variable \$NOWHERE, which is not set"):
        earlier_tasks("$NOWHERE/one")
    write_json(tmp_path / "sapo.json", {"tasks": [{}]})
    with pytest.raises(RecordError, match=r"sapo\.json is damaged"):
        earlier_tasks(tmp_path)
    write_json(tmp_path / "sapo.json", FORMAT_1 | {"format": 3})
    with pytest.raises(
        ModelError, match=r"sapo\.json has format 3, but this version of sapo reads 1 to 2: use a newer"
    ):
        earlier_tasks(tmp_path)


def test_a_task_trained_twice_is_prompted_as_the_last_time_and_counts_as_last() -> None:
    again = Choice(toy_task("a"), Instruction("Second time.", "file"))
    data = make_lineage(original(toy_task("a")), original(toy_task("b")), again)
    assert list(stored_prompts(data)) == ["b", "a"]
    assert stored_prompts(data)["a"] == ("Second time.", "Answer yes or no.")


# The card's metadata


METADATA = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "sapo"]}


@pytest.mark.parametrize("base", ["some/model", "gpt2", "embedded"])
def test_the_metadata_names_a_base_from_the_hub(base: str) -> None:
    card = model_card(make_lineage(original(toy_task()), base=base))
    assert ModelCard(card).data.to_dict() == METADATA | {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct" if base == "embedded" else base,
        "base_model_relation": "adapter",
    }
    if base == "embedded":
        assert "from sapo.models.load import embedded_model_dir\nbase = embedded_model_dir()\n" in card


@pytest.mark.parametrize("base", ["/models/mine", "./mine", "~/mine", "models/deep/mine", "C:\\mine", "there/mine"])
def test_the_metadata_carries_no_path(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "mine").mkdir(parents=True)
    assert ModelCard(model_card(make_lineage(original(toy_task()), base=base))).data.to_dict() == METADATA


def test_the_card_of_a_merged_model_says_so() -> None:
    merge = {"state": "x", "dtype": "float32", "difference": 7.9e-06, "scale": 4.68, "prompts": 3, "confirmed": True}
    data = make_lineage(original(toy_task())) | {"merged": True, "merge": merge}
    card = model_card(data)
    assert ModelCard(card).data.to_dict() == {
        "base_model": "some/model", "base_model_relation": "finetune", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["sapo", "merged"],
    }  # fmt: skip
    assert "merged into the base model in float32" in card and "at most 7.9e-06" in card and "logit is 4.7" in card
    assert "peft import" not in card and "sapo export" not in card


# The card's text


def test_the_card_has_fingerprints_versions_and_prompts() -> None:
    task = toy_task()
    page = rendered(model_card(make_lineage(original(task))))
    rows = cells(page)
    assert dict(zip(rows[::2], rows[1::2], strict=True)) == {
        "weights": "0123456789abcdef",
        "prompt template": "fedcba9876543210",
        "data of toy": task_fingerprint(task),
        "version of torch": "2.9",
    }
    blocks = cells(page, "code")
    assert f"{task.instruction}\n" in blocks and "Answer yes or no.\n" in blocks
    assert 'base = "some/model"' in "".join(blocks) and 'sapo generate FOLDER --input "TEXT"' in "".join(blocks)
    assert "No candidate was scored for this task." in page


@pytest.mark.parametrize(
    ("sums", "chosen", "trained", "rule", "sentence"),
    [
        ([2.0, 1.5, 1.75], 1, 1, "lowest",
         "Lowest pre-update loss of 3 candidates: 1.500 nats per token, original 2.000."),
        ([1.25, 1.5], 0, 0, "lowest",
         "Lowest pre-update loss of 2 candidates: 1.250 nats per token; it is the original instruction."),
        ([2.0, 1.5], 0, 0, "confident",
         "Chosen by the rule confident from 2 candidates: 2.000 nats per token, lowest 1.500; it is the original "
         "instruction."),
        ([2.0, 1.5, 1.75], 2, 2, "confident",
         "Chosen by the rule confident from 3 candidates: 1.750 nats per token, original 2.000, lowest 1.500."),
        ([2.0, 1.5, 1.75], 1, 2, "lowest",
         "Not the rule's choice, but another of 3 candidates: 1.750 nats per token, original 2.000, lowest 1.500."),
    ],
)  # fmt: skip
def test_the_card_says_how_the_instruction_was_chosen(
    sums: list[float], chosen: int, trained: int, rule: str, sentence: str
) -> None:
    task = toy_task()
    rejected = (Rejection("no", "too short"), Rejection("no!", "too short"))
    selection = make_selection(task, sums, chosen, rule=rule, rejected=rejected)
    page = rendered(model_card(make_lineage(selected(task, selection, trained))))
    assert f"<p>{sentence}</p>" in html.unescape(page)
    assert "on 2 training rows" in page and "and 2 rejected text(s) with reasons." in page


def test_hostile_texts_are_no_markup_in_the_card() -> None:
    task = replace(toy_task(), name=HOSTILE, instruction=HOSTILE, suffix=HOSTILE)
    texts = [HOSTILE, f"{HOSTILE} 1", f"{HOSTILE} 2"]
    data = make_lineage(
        selected(task, make_selection(task, [2.0, 1.5, 1.75], 1, texts)),
        base=HOSTILE, method=HOSTILE, policy=HOSTILE, state=HOSTILE, versions={HOSTILE: HOSTILE},
    )  # fmt: skip
    card = model_card(data)
    page = rendered(card)
    assert "<script" not in page and "<a " not in page and "\x1b" not in card and "\r" not in card
    assert page.count("<em>") == page.count("<strong>") == 0
    assert page.count("<table>") == 1 and page.count("<tr>") == 5
    assert (page.count("<h1>"), page.count("<h2>")) == (1, 3)
    line = " ".join(VISIBLE.split())
    assert cells(page, "h2")[1] == line
    assert cells(page)[-2:] == [f"version of {line}", line]
    blocks = cells(page, "code")
    # Markdown ends a line, and with it an indented block, at a carriage return too.
    assert VISIBLE.replace("\r", "\n") + " 1\n" in blocks and VISIBLE.replace("\r", "\n") + "\n" in blocks
    code = next(block for block in blocks if "PeftModel" in block)
    assert re.search(r"^base = .*$", code, re.MULTILINE) is not None
    scope: dict[str, Any] = {}
    exec(re.search(r"^base = .*$", code, re.MULTILINE).group(), scope)  # type: ignore[union-attr]
    assert scope["base"] == HOSTILE
    # Addresses must not become links on pages that look for them.
    outside = re.sub(r"(?m)^    .*$|```python.*?```", "", ModelCard(card).text, flags=re.DOTALL | re.MULTILINE)
    assert "http:" not in outside and "www.e" not in outside and "http\\:" in outside


@pytest.mark.parametrize("instruction", ["a\r# b", "\n\n# b", "    # b", "\t# b", "a\n\n\n# b\n"])
def test_an_instruction_stays_in_its_block(instruction: str) -> None:
    page = rendered(model_card(make_lineage(Choice(toy_task(), Instruction(instruction, "file")))))
    assert (page.count("<h1>"), page.count("<h2>")) == (1, 3)
    assert any("# b" in block for block in cells(page, "code"))


def test_a_lineage_of_the_first_format_still_has_a_card() -> None:
    card = model_card(FORMAT_1)
    assert ModelCard(card).data.to_dict()["base_model"] == "some/model"
    page = rendered(card)
    assert cells(page) == ["weights", "0123456789abcdef"]
    assert "Do it now.\n" in cells(page, "code") and "candidate" not in page
