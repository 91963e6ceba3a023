"""Instructions that show what is asked for: examples from the training rows, and frames that spell out the task.

Examples have a price, paid in every row of training and of every later use. So the source is off by default, and
`candidates.longest` limits its texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from itertools import chain, zip_longest
from random import Random
from typing import Any

import regex

from sapo.candidates.language import language
from sapo.candidates.rules.rewrite import fill
from sapo.candidates.source import Ready, Source
from sapo.core.errors import CandidateError
from sapo.core.types import Example, Task
from sapo.tasks.holdout import hold_out
from sapo.tasks.sampling import as_example

# Examples in one instruction. The fewer are the first ones of the more, so that no more rows than that are set aside.
SHOTS = (1, 2, 3, 5)
# Not the run's: runs with different seeds show the same examples.
_SEED = 0


def demonstrations(longest: int) -> Source:
    """Return the source of the original in frames with examples and with what the rows say.

    Its texts have at most ``longest`` characters and 1, 2, 3 or 5 examples. A task without rows to show, or only with
    longer ones, is a CandidateError.
    """
    return Ready("demonstrations", partial(_texts, longest=longest))


def _texts(task: Task, longest: int) -> Sequence[str]:
    blocks = [as_example(row) for row in _shown(task, longest)]
    frames, slots = _spelled_out(task)
    texts = []
    for frame in frames:
        for shots in SHOTS if "{examples}" in frame else (0,):
            text = fill(frame, {**slots, "examples": "\n\n".join(blocks[:shots])})
            if shots <= len(blocks) and text is not None and len(text) <= longest:
                texts.append(text)
    return texts


def _shown(task: Task, longest: int) -> Sequence[Example]:
    """Return the rows to show: as many as most examples, each answer in turn, none that a run tests."""
    if not task.train:
        raise CandidateError(
            f"task {task.name!r} has no training rows, of which source demonstrations shows some: give the task's data "
            "(--task), or leave the source out"
        )
    whole = hold_out(task)
    tested, room = {row.input for row in whole.test}, longest - len(task.instruction)
    rows = [
        row
        for row in dict.fromkeys(whole.train)
        if not row.history and row.input not in tested and len(as_example(row)) <= room
    ]
    if not rows:
        raise CandidateError(
            f"task {task.name!r} has no training row to show as an example (source demonstrations): it needs rows "
            f"of one turn that are not tested, with at most {max(room, 0)} characters (candidates.longest = "
            f"{longest} without the instruction). Raise that, or leave the source out"
        )
    Random(_SEED).shuffle(rows)
    # First those of which as many as that have room.
    rows.sort(key=lambda row: len(as_example(row)) > room // SHOTS[-1])
    groups: dict[str, list[Example]] = {}
    for row in rows:
        groups.setdefault(row.answer, []).append(row)
    by_turns = chain.from_iterable(zip_longest(*groups.values()))
    return [row for row in by_turns if row is not None][: SHOTS[-1]]


def _spelled_out(task: Task) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the frames of the instruction's language, and what fills them; what is not known there is empty."""
    languages = json.loads(files("sapo.candidates").joinpath("demonstrations.json").read_text(encoding="utf-8"))
    words: Mapping[str, Any] = languages.get(language(task.instruction) or "other", languages["other"])
    kind, values = _form(task)
    slots = {
        "text": task.instruction.strip(),
        "input": words.get("input", "").format(words=_words(row.input for row in task.train)),
        "form": words.get(kind, "").format(**values),
    }
    return words["frames"], slots


def _form(task: Task) -> tuple[str, Mapping[str, object]]:
    """Return which kind of answer all training rows have, and what there is to say about it."""
    answers = [row.answer.strip() for row in task.train]
    shapes = {regex.sub(r"\d", "0", answer) for answer in answers}
    if task.labels:
        return "labels", {"labels": ", ".join(task.labels)}
    if all(answer.isdecimal() for answer in answers):
        return "number", {}
    if len(shapes) == 1 and "0" in (shape := shapes.pop()):
        return "shape", {"shape": shape}
    if task.metric == "list_f1":
        return "list", {}
    return (
        ("word", {}) if all(len(answer.split()) == 1 for answer in answers) else ("words", {"words": _words(answers)})
    )


def _words(texts: Iterable[str]) -> str:
    """Return how many words the shortest and the longest text have."""
    counts = [len(text.split()) for text in texts]
    least, most = min(counts), max(counts)
    return f"{least} word{'s' * (least != 1)}" if least == most else f"{least} to {most} words"
