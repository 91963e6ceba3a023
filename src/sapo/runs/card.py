"""The model card, README.md: Hub metadata, how to load and prompt the model, and where it comes from.

Instructions, names of tasks and candidates come from anywhere: in the card they are text, never markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from jinja2 import Template

from sapo.core.untrusted import inline_markdown, plain
from sapo.models.settings import EMBEDDED
from sapo.training.guard import ended

_EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
# How a prompt is laid out, by the layout of `sapo.json`.
_ASKED = {
    "own": "The user turn is the instruction, a blank line, `Text:`, the input, and, after another blank line, the "
    "suffix, if there is one.",
    "system": "The instruction is the system message, the input the user turn.",
    "alpaca": "The user turn is the instruction and, on the next line, the input.",
    "other": "The prompts were laid out in a way of their own, with this instruction in them.",
}
_ASKED_PURE = (
    "There was no instruction: the user turn is the input and, after a blank line, the suffix, if there is one."
)


def model_card(data: Mapping[str, Any]) -> str:
    """Return the README.md for a `sapo.json` of any format: valid Hub metadata, how to prompt, where it comes from.

    Raises:
        KeyError, TypeError, ValueError: if ``data`` is not what `sapo.json` holds.
    """
    base, merged, quantization = str(data["base_model"]), bool(data.get("merged")), data.get("quantization")
    layouts = {entry.get("layout", "own") for entry in data["tasks"]}
    # `sapo generate` asks in this library's layout alone.
    commands = ['sapo generate FOLDER --input "TEXT"'] if layouts == {"own"} else []
    reference = _hub_id(base)
    metadata = ModelCardData(
        base_model=reference,
        base_model_relation=reference and ("finetune" if merged else "adapter"),
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["sapo", "merged"] if merged else ["lora", "sapo"],
    )
    facts = [("weights", data["state"]), ("prompt template", data.get("template"))]
    facts += [(f"data of {entry['task']}", entry.get("data")) for entry in data["tasks"]]
    facts += [(f"version of {library}", found) for library, found in data.get("versions", {}).items()]
    card = _template().render(
        card_data=metadata.to_yaml(), library_name=metadata.library_name, inline=inline_markdown, block=_block,
        literal=json.dumps(base).replace("`", "\\x60"), base_model=base, method=data["method"], policy=data["policy"],
        embedded=base == EMBEDDED, merged=merged, quantization=quantization,
        tokenizer=bool(data.get("tokenizer")), merge=data.get("merge"), layouts=layouts,
        tasks=[_task(entry) for entry in data["tasks"]], facts=facts,
        commands=commands if merged or quantization else [*commands, "sapo export FOLDER --merge OUT"],
    )  # fmt: skip
    # What the template leaves out leaves blank lines. Texts hold none: they are one line, or indented.
    return re.sub("\n{3,}", "\n\n", f"{ModelCard(card)}\n")


@cache
def _template() -> Template:
    """Return the template, compiled once for all cards of a process."""
    template: Template = Template(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    return template


def _hub_id(base: str) -> str | None:
    """Return the Hub's name of a base model, None where it has none: metadata must not carry a path."""
    if base == EMBEDDED:
        return _EMBEDDED_ORIGIN
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return None if Path(base).exists() else base


def _task(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's entry with what the template shows of it; format 1 did not say whether candidates were scored."""
    instruction, original = entry["instruction"], entry["original_instruction"]
    texts = [("Instruction", instruction), ("Suffix", entry["suffix"])]
    texts += [("Original instruction", original if original != instruction else "")]
    asked = _ASKED[entry.get("layout", "own")] if instruction else _ASKED_PURE
    found = {**entry, "texts": [t for t in texts if t[1]], "asked": asked}
    if entry.get("stopped") is not None:
        found["stopped"] = ended(*entry["stopped"])
    if entry.get("selection") is not None:
        candidates = entry["selection"]["candidates"]
        losses = [candidate["loss"] for candidate in candidates]
        taken = [candidate["text"] for candidate in candidates].index(instruction)
        found["selection"] = {**entry["selection"], "taken": taken, "loss": losses[taken], "lowest": min(losses)}
    return found


def _block(text: str) -> str:
    """Return the text as an indented code block: nothing in it is markup, whatever it holds."""
    return "\n".join(f"    {plain(line)}" for line in re.split("\r\n|\r|\n", text))
