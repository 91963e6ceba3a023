"""What travels with an adapter: `sapo.json` for programs and a model card for people and the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sapo.types import Instruction, Task


@dataclass(frozen=True, slots=True)
class Trained:
    """A task that a stage was trained on, with the instruction it was trained with."""

    task: Task
    instruction: Instruction


def lineage(base: str, method: str, policy: str, trained: Sequence[Trained], state: str, limits: Any) -> dict[str, Any]:
    """Return the content of `sapo.json`.

    Args:
        base: name of the model the run started from, as the user gave it.
        method: how parameters were updated.
        policy: how instructions were chosen.
        trained: all tasks so far, in order.
        state: fingerprint of the resulting weights.
        limits: `max_length` and `max_new_tokens` of the run.
    """
    return {
        "format": 1,
        "base_model": base,
        "method": method,
        "policy": policy,
        "state": state,
        **limits,
        "tasks": [
            {
                "task": t.task.name,
                "instruction": t.instruction.text,
                "origin": t.instruction.origin,
                "original_instruction": t.task.instruction,
                "suffix": t.task.suffix,
                "labels": list(t.task.labels),
            }
            for t in trained
        ],
    }


def model_card(data: dict[str, Any], base_reference: str) -> str:
    """Return the stage's README.md from its `sapo.json`: valid Hub metadata, then how to prompt the model."""
    header: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "sapo"]}
    if base_reference:
        header = {"base_model": base_reference, **header}
    last = data["tasks"][-1]
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# LoRA adapter after {len(data['tasks'])} task(s), the last one {last['task']}",
        "",
        f"Base model: `{data['base_model']}`. Method: {data['method']}. Policy: {data['policy']}. "
        "The adapter in this folder is cumulative: it alone, on the base model, gives the state after all tasks below.",
        "",
        "Prompt it exactly as it was trained. The user turn is the instruction, a blank line, `Text:`, the input, "
        "and, after another blank line, the suffix; it goes through the base model's chat template.",
    ]
    for entry in data["tasks"]:
        lines += ["", f"## {entry['task']}", "", "Instruction:", "", *_block(entry["instruction"])]
        if entry["suffix"]:
            lines += ["", "Suffix:", "", *_block(entry["suffix"])]
        if entry["instruction"] != entry["original_instruction"]:
            lines += ["", "Original instruction:", "", *_block(entry["original_instruction"])]
    return "\n".join(lines) + "\n"


def _block(text: str) -> list[str]:
    """Return the text as an indented code block: nothing in it is markup, whatever it holds."""
    return [f"    {line}" for line in text.splitlines()]
