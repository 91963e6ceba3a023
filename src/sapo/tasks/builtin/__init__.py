"""Seven small tasks with 20 hand-written paraphrases each: to try and to test things.

Five differ in kind. The other two pull against one of them each: the same inputs, other answers, so whoever learns one
of the two answers the other wrongly. Most reviews praise and blame at once, or negate, so that no single word gives
their sentiment away.

The rows were drawn once, from word lists, and are recorded: published figures refer to exactly these.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from sapo.core.types import Example, Task

BUILTIN = (
    "review-sentiment", "odd-one-out", "count-letter", "extract-items", "date-format", "review-stars", "date-us",
)  # fmt: skip


@cache
def _stored(name: str) -> dict[str, Any]:
    content = files(__package__).joinpath("data", f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(content)
    return found


@cache
def builtin_task(name: str) -> Task:
    """Return one of `BUILTIN`: 400 train, 100 dev and 100 test rows."""
    stored = _stored(name)
    train, dev, test = (tuple(Example(*row) for row in stored[split]) for split in ("train", "dev", "test"))
    return Task(
        name, stored["instruction"], stored["suffix"], tuple(stored["labels"]), stored["metric"], train, dev, test
    )


def builtin_paraphrases(name: str) -> tuple[str, ...]:
    """Return the 20 hand-written paraphrases of a built-in task's instruction, without the original."""
    return tuple(_stored(name)["paraphrases"])
