"""How long a run will take: its plan, times a speed measured on the model itself."""

from __future__ import annotations

import time

from sapo.core.progress import Reporter
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.runs.run import Run

_CALIBRATION_ROWS = 8


def estimate(config: Config, progress: Reporter) -> tuple[Run, float]:
    """Return a run that is ready, and its model's speed in forward tokens per second, by scoring a few rows.

    Nothing is written.

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
    return run, tokens / elapsed
