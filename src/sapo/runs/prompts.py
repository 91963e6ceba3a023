"""Test prompts: the instruction that a task is tested with, by a name or as a text.

own        the instruction that the task was trained with; the original for tasks that were not trained on yet
original   the task's own
none       no instruction: the input, and the suffix where the task has one
a text     this instruction, for every task; a held-out paraphrase is such a text for one task
"""

from __future__ import annotations

from sapo.core.storage import fingerprint

Prompt = str
OWN, ORIGINAL, NONE = "own", "original", "none"
# What the run with policy sapo chose; the run of a sweep with the original instructions is tested with it too.
CROSSED = "crossed"
NAMED = (OWN, ORIGINAL, NONE, CROSSED)


def instruction_of(prompt: Prompt, original: str, own: str) -> str:
    """Return the instruction that a prompt stands for, where a task has these two."""
    return {OWN: own, ORIGINAL: original, NONE: ""}.get(prompt, prompt)


def short(prompt: Prompt) -> str:
    """Return a name that files and trackers can hold."""
    return prompt if prompt in NAMED else f"text-{fingerprint(prompt)[:8]}"


def cell_name(text: str, original: str, own: str) -> str:
    """Return what the file of a test is called: one test stands for all prompts of the same text."""
    return ORIGINAL if text == original else OWN if text == own else short(text or NONE)
