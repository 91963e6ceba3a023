"""Another trainer's rows beside those that SAPO scores; used by the check_*.py, needs no package."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IGNORED = -100
TOLERANCE = 1e-3

Tokens = tuple[list[int], list[int]]  # token ids, and labels: IGNORED where nothing is learned


@dataclass
class Comparison:
    """Compares rows and losses, and remembers a line for each, and what was not expected.

    Args:
        out: what reference.py was given.
        decode: text of token ids, special tokens included.
        failed: what was not as expected.
        lines: what is printed at the end, past the trainer's own log.
    """

    out: Path
    decode: Callable[[list[int]], str] = str
    failed: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reference: dict[str, Any] = json.loads((self.out / "reference.json").read_text(encoding="utf-8"))
        self.lines.append(f"{'task':10} {'rows':>5} {'identical':>10} {'differing':>10}  expected to differ")

    def rows(self, task: str, made: Sequence[Tokens], expected: Sequence[int] = (), note: str = "") -> None:
        """Compare a task's rows, token ids and labels.

        Args:
            task: its name.
            made: what the trainer makes of all rows, in order.
            expected: which rows (from 0) differ for a known reason or are left out; all others must be identical.
            note: what was set in another way, to be printed.
        """
        scored = [_labelled(row) for row in self.reference["tasks"][task]["rows"]]
        differing = [n for n, row in enumerate(scored) if n >= len(made) or tuple(made[n]) != row]
        same = len(scored) - len(differing)
        known = ", ".join(map(str, expected)) or "none"
        row = f"{task:10} {len(scored):5} {same:10} {len(differing):10}  rows {known}{note and f'  ({note})'}"
        self.lines.append(row)
        if differing != list(expected) or len(made) > len(scored):
            self.failed.append(f"{task}: {len(made)} rows, differing {differing}, expected {list(expected)}")
        if differing and differing[0] < len(made):
            self._show(differing[0], scored[differing[0]], made[differing[0]])

    def loss(self, task: str, logged: float) -> None:
        """Compare the loss that a training step logged with the one that was scored."""
        scored = self.reference["tasks"][task]["loss"]
        self.lines.append(f"{task:10} loss: scored {scored:.6f}, logged {logged:.6f}")
        if not abs(scored - logged) <= TOLERANCE:
            self.failed.append(f"{task}: loss {logged} instead of {scored}")

    def end(self) -> None:
        """Print all lines; exit with an error if anything was not as expected."""
        print("\n" + "\n".join(self.lines))
        if self.failed:
            raise SystemExit("NOT AS EXPECTED\n" + "\n".join(self.failed))
        print("all as expected")

    def _show(self, number: int, scored: Tokens, made: Tokens) -> None:
        for what, one, other in zip(("ids", "labels"), scored, made, strict=True):
            if one == other:
                continue
            at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), -1)
            at = min(len(one), len(other)) if at < 0 else at
            texts = [[i for i in ids[max(0, at - 3) : at + 6] if i != IGNORED] for ids in (one, other)]
            shown = [repr(self.decode(ids)) for ids in texts]
            self.lines.append(f"    row {number}, {what} from {at} on: scored {shown[0]}, made {shown[1]}")


def _labelled(row: dict[str, Any]) -> Tokens:
    return row["ids"], [IGNORED] * row["prompt"] + row["ids"][row["prompt"] :]
