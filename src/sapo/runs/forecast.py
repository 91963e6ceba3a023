"""How long a run will take: its plan, times a speed measured on the model itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sapo.core.progress import Reporter
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.run import Run

_CALIBRATION_ROWS = 8


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a dry run tells.

    Attributes:
        run: everything that was loaded and checked.
        tokens_per_second: forward tokens per second, measured by scoring a few rows.
    """

    run: Run
    tokens_per_second: float

    def seconds(self, cost: float) -> float:
        """Return the estimated seconds of work that costs so many forward tokens."""
        return cost / self.tokens_per_second


def estimate(config: Config, progress: Reporter) -> Forecast:
    """Load and check everything, measure the model's speed on a few rows, and write nothing.

    Raises:
        SapoError: for whatever would stop the run.
    """
    run = prepare(config, progress, pays=False)
    for note in run.notes:
        progress.note(note)
    task = run.inputs.tasks[0]
    rows = run.renderer.encode(task.instruction, task.suffix, task.train[:_CALIBRATION_ROWS])
    tokens = sum(len(e.ids) for e in rows)
    scorer = run.model.scorer
    with progress.step("measuring the model's speed", 1, 1):
        scorer.plain(rows)
        began = time.perf_counter()
        scorer.plain(rows)
        elapsed = time.perf_counter() - began
    return Forecast(run, tokens / elapsed)
