"""Seconds per row of both exact routes, by the size of batches: where `sapo.models.runner.BATCH_TOKENS` comes from.

    python benchmarks/batches.py DATA_DIR TASK [ROWS]

The embedded model scores the first training rows with the original instruction, routes and sizes in turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sapo.models.fit import MAX_LENGTH
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.tasks.load import load_task


def seconds(work: Callable[[Any], Any], given: Any) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work(given)
    return time.perf_counter() - began


def main(data_dir: str, name: str, rows: str = "32") -> None:
    """Print the table."""
    task = load_task(name, Path(data_dir))
    loaded = load_model("embedded", device="cpu")
    encoded = Renderer(loaded.tokenizer, MAX_LENGTH).encode(task.instruction, task.suffix, task.train[: int(rows)])
    tokens = sum(len(e.ids) for e in encoded) / len(encoded)
    table = Table("tokens per batch", "shared prefix", "plain", title=f"{name}: s per row of {tokens:.0f} tokens")
    for size in (512, 1024, 2048, 4096):
        scorer = Scorer(loaded.model, size)
        scorer(encoded[:3])
        figures = [seconds(scorer, encoded), seconds(scorer.plain, encoded)]
        table.add_row(str(size), *(f"{figure / len(encoded):.3f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
