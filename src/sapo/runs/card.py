"""The model card, README.md: Hub metadata, how to load and prompt the model, and where it comes from.

Instructions, names of tasks and candidates come from anywhere: in the card they are text, never markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sapo.core.untrusted import plain
from sapo.models.load import EMBEDDED

_EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Characters of a candidate that a table shows; sapo.json holds it in full.
_SHOWN = 160
_NOTHING = "–"
# How a prompt is laid out, by the layout of `sapo.json`.
_ASKED = {
    "own": "The user turn is the instruction, a blank line, `Text:`, the input, and, after another blank line, the "
    "suffix, if there is one.",
    "system": "The instruction is the system message, the input the user turn.",
    "alpaca": "The user turn is the instruction and, on the next line, the input.",
    "other": "The prompts were laid out in a way of their own, with this instruction in them.",
}


def model_card(data: Mapping[str, Any]) -> str:
    """Return the README.md for a `sapo.json` of any format: valid Hub metadata, how to prompt, where it comes from.

    Raises:
        KeyError, TypeError, ValueError: if that is not what `data` holds.
    """
    tasks, last = data["tasks"], data["tasks"][-1]["task"]
    merged = bool(data.get("merged"))
    what = "Model" if merged else "LoRA adapter"
    lines = [
        *_header(data, merged),
        "",
        f"# {what} after {len(tasks)} task(s), the last one {_inline(last)}",
        "",
        f"Base model: {_inline(data['base_model'])}. Method: {_inline(data['method'])}. "
        f"Policy: {_inline(data['policy'])}. {_state(data, merged)}",
        "",
        _prompting(tasks),
        "",
        *_loading(data, merged),
    ]
    for entry in tasks:
        lines += ["", *_task(entry), "", _ASKED[entry.get("layout", "own")]]
    return "\n".join([*lines, "", *_fingerprints(data)]) + "\n"


def _prompting(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Return how to prompt: other trainers may have trained without a chat template."""
    known = all(entry.get("layout", "own") != "other" for entry in tasks)
    return "Prompt it exactly as it was trained" + (", through the base model's chat template." if known else ".")


def _header(data: Mapping[str, Any], merged: bool) -> list[str]:
    header: dict[str, Any] = {}
    reference = _hub_id(str(data["base_model"]))
    if reference:
        header = {"base_model": reference, "base_model_relation": "finetune" if merged else "adapter"}
    header |= {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["sapo", "merged"] if merged else ["lora", "sapo"],
    }
    return ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(), "---"]


def _hub_id(base: str) -> str:
    """Return the Hub's name of a base model, empty where it has none: metadata must not carry a path."""
    if base == EMBEDDED:
        return _EMBEDDED_ORIGIN
    try:
        validate_repo_id(base)
    except HFValidationError:
        return ""
    return "" if Path(base).exists() else base


def _state(data: Mapping[str, Any], merged: bool) -> str:
    if not merged:
        return "The adapter in this folder is cumulative: it alone, on the base model, is the state after all tasks."
    if "merge" not in data:
        return "All weights were trained: this folder is a plain model, the state after all tasks, and needs no other."
    merge = data["merge"]
    return (
        "The adapter is merged into the base model in float32: this folder is a plain model that needs neither. "
        f"Measured on {merge['prompts']} prompts, its logits differ from those of base and adapter by at most "
        f"{merge['difference']:.1e}, where the largest logit is {merge['scale']:.1f}."
    )


def _loading(data: Mapping[str, Any], merged: bool) -> list[str]:
    base = str(data["base_model"])
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    # `sapo generate` asks in this library's layout alone, and nobody can tell what another one was.
    layouts = {entry.get("layout", "own") for entry in data["tasks"]}
    asking = "With sapo, `sapo.apply(FOLDER, TEXT)` gives the messages to ask with."
    use = ['sapo generate FOLDER --input "TEXT"'] if layouts == {"own"} else []
    if merged:
        code = [
            imports,
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        ]
    else:
        embedded = base == EMBEDDED
        code = [
            "from peft import PeftModel",
            imports,
            *(["from sapo.models.load import embedded_model_dir"] if embedded else []),
            f"base = {'embedded_model_dir()' if embedded else _literal(base)}",
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "FOLDER")',
        ]
        use.append("sapo export FOLDER --merge OUT")
    return [
        "## How to load it",
        "",
        f"`FOLDER` is this folder. With {'transformers' if merged else 'peft'}:",
        "",
        *["```python", *code, "```"],
        *(["", asking] if "other" not in layouts else []),
        *(["", "On sapo's command line:", "", "```sh", *use, "```"] if use else []),
    ]


def _literal(text: str) -> str:
    """Return a text as a Python literal that cannot end a code block."""
    return json.dumps(text).replace("`", "\\x60")


def _task(entry: Mapping[str, Any]) -> list[str]:
    lines = [f"## {_inline(entry['task'])}", "", "Instruction:", "", *_block(entry["instruction"])]
    if entry["suffix"]:
        lines += ["", "Suffix:", "", *_block(entry["suffix"])]
    if entry["instruction"] != entry["original_instruction"]:
        lines += ["", "Original instruction:", "", *_block(entry["original_instruction"])]
    if entry.get("mixture"):
        lines += ["", f"Choice with {len(entry['mixture'])} paraphrases in turn; `sapo.json` has them."]
    if entry.get("switches"):
        lines += ["", f"The choice of the instruction changed while this was trained ({len(entry['switches'])})."]
    selection = entry.get("selection")
    if selection is None:
        # Format 1 did not say whether candidates were scored.
        return lines if "selection" not in entry else [*lines, "", "No candidate was scored for this task."]
    return [*lines, "", _choice(entry["instruction"], selection), "", *_candidates(entry["instruction"], selection)]


def _choice(instruction: str, selection: Mapping[str, Any]) -> str:
    """Return in one sentence how the instruction came to be the one that was trained with."""
    candidates = selection["candidates"]
    index = [c["text"] for c in candidates].index(instruction)
    loss, lowest = candidates[index]["loss"], min(c["loss"] for c in candidates)
    if index != selection["chosen"]:
        how = f"Not the rule's choice, but another of {len(candidates)} candidates"
    elif loss == lowest:
        how = f"Lowest pre-update loss of {len(candidates)} candidates"
    else:
        how = f"Chosen by the rule {_inline(selection['rule'])} from {len(candidates)} candidates"
    others = [] if index == 0 else [f"original {candidates[0]['loss']:.3f}"]
    if loss != lowest:
        others.append(f"lowest {lowest:.3f}")
    sentence = ", ".join([f"{how}: {loss:.3f} nats per token", *others])
    return sentence + ("; it is the original instruction." if index == 0 else ".")


def _candidates(instruction: str, selection: Mapping[str, Any]) -> list[str]:
    candidates = selection["candidates"]
    lines = ["| loss | to original | 95 % interval | | candidate |", "| ---: | ---: | ---: | :--- | :--- |"]
    for i in sorted(range(len(candidates)), key=lambda i: candidates[i]["loss"]):
        candidate = candidates[i]
        text, ci = " ".join(candidate["text"].split()), candidate["ci"]
        fewer = candidate.get("examples", selection["rows"]) < selection["rows"]
        named = (("original", i == 0), ("trained", candidate["text"] == instruction))
        marks = [name for name, holds in (*named, (f"on {candidate.get('examples')} rows", fewer)) if holds]
        cells = [
            f"{candidate['loss']:.4f}",
            f"{candidate['delta']:+.4f}" if i else _NOTHING,
            f"[{ci[0]:+.4f}, {ci[1]:+.4f}]" if ci else _NOTHING,
            ", ".join(marks),
            _inline(text if len(text) <= _SHOWN else text[: _SHOWN - 3].rstrip() + "..."),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    legend = (
        f"Losses are in nats per answer token, on {selection['rows']} training rows, before any training on this "
        "task. The intervals hold for all candidates together. `sapo.json` has every text in full"
    )
    rejected = len(selection["rejected"])
    more = f", and {rejected} rejected text(s) with reasons" if rejected else ""
    raced = " Candidates raced: a loss from fewer rows is an estimate." if selection.get("race") else ""
    if (selection.get("race") or {}).get("end") == "budget":
        lower = f"{selection['race']['tolerance']:.2g} nats per token"
        raced += f" The budget ended the race: another candidate's loss may be lower by up to {lower}."
    return [*lines, "", f"{legend}{more}.{raced}"]


def _fingerprints(data: Mapping[str, Any]) -> list[str]:
    rows = [("weights", data["state"]), ("prompt template", data.get("template"))]
    rows += [(f"data of {entry['task']}", entry.get("data")) for entry in data["tasks"]]
    rows += [(f"version of {library}", found) for library, found in data.get("versions", {}).items()]
    lines = ["## Fingerprints and versions", "", "| of | value |", "| :--- | :--- |"]
    return lines + [f"| {_inline(what)} | {_inline(str(value))} |" for what, value in rows if value is not None]


# An ampersand or backslash of the text must not join those that escape; the rest takes a backslash. Addresses of
# web pages would become links by themselves.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"}
_MARKUP = re.compile(r"[&<>\\`*_\[\]|~#$!@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def _inline(text: str) -> str:
    """Return a text as one line that is nothing but text, also in a table."""
    line = plain(" ".join(text.split()))
    return _MARKUP.sub(lambda found: _ENTITIES.get(found.group(), f"\\{found.group()}"), line)


def _block(text: str) -> list[str]:
    """Return the text as an indented code block: nothing in it is markup, whatever it holds."""
    return [f"    {plain(line)}" for line in re.split("\r\n|\r|\n", text)]
