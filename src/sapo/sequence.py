"""The page: before each task, score its candidates in the model's present stage and train with the best.

This is the whole algorithm (paper, section 4), and there is one engine: `sapo run` and sweeps go through this loop, and
studies and a loop of a user's own (`sapo.TaskSequence`) use its steps. So what is measured is what users get. What a
step does is in the room that it is named after; how a run is prepared, and how steps are computed once, is in
`sapo.runs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sapo.core.progress import SILENT, Reporter
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepared
from sapo.runs.results import RunResult


def run(
    config: Config,
    progress: Reporter = SILENT,
    shared: Path | None = None,
    crossed: Mapping[str, str] = MappingProxyType({}),
) -> RunResult:
    """Run one sequence and return what it found; everything is recorded in ``config.run_dir``.

    A run directory that holds finished steps of the same configuration is resumed.

    Args:
        config: of one run, not of a sweep.
        progress: is told every step.
        shared: where the runs of a sweep leave for each other what they compute at the start.
        crossed: instructions by task, another run's, that each task's last stage is tested with too.

    Raises:
        SapoError: for anything a user can act on, before the first step wherever it can be known then.
    """
    with prepared(config, progress, shared) as run:  # tasks, candidates, model: checked, nothing computed yet
        stage = run.start
        rows = [run.test(stage)]  # row 0: zero-shot
        for training in run.schedule:  # one task after the other; all at once; each alone
            before = training.begins_at(run.start, stage)
            chosen = [
                run.choose(before, training, task) for task in training.tasks
            ]  # candidates -> losses -> selection
            stage = run.train(before, training, chosen)
            rows.append(run.test(stage, training, crossed))
        return run.finished(rows)
