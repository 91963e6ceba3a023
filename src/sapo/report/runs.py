"""Finished runs as a report takes them: a result, and what else its run directory holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapo.core.errors import RecordError
from sapo.core.storage import read_json
from sapo.core.types import Floats, Task
from sapo.models.answers import Evaluation
from sapo.report.numbers import Figure
from sapo.runs.metrics import resample_matrices
from sapo.runs.results import DRAWS, Prompt, RunResult, fill, per_row
from sapo.selection.selection import Selection
from sapo.tasks.inspection import Inspection

AGAIN = "Start the same `sapo run` again: it computes only what is missing."


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        result: what it found.
        directory: where it is; None for a line of a sweep.
        selections: per task, None where the policy needed no losses; empty without a directory.
        versions: of the libraries that it ran with; empty where that was not recorded.
        machine: what else is known of where it ran, likewise.
        data: what its rows hold, likewise.
    """

    result: RunResult
    directory: Path | None = None
    selections: tuple[Selection | None, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    data: tuple[Inspection, ...] = ()

    @property
    def name(self) -> str:
        """What to call it."""
        return self.result.name or str(self.directory)

    @property
    def labels(self) -> tuple[str, ...]:
        """The tasks with their place in the sequence."""
        return tuple(f"{n} {task}" for n, task in enumerate(self.result.tasks, start=1))

    @property
    def stages(self) -> tuple[str, ...]:
        """What to call the rows of a matrix."""
        how = {"multitask": "after all tasks at once", "single": "after {} alone"}
        return ("zero-shot", *(how.get(self.result.method, "after {}").format(label) for label in self.labels))

    def matrix(self, measure: str, prompt: Prompt) -> Sequence[Sequence[float | None]]:
        """Return a performance matrix, row 0 is zero-shot; None where the method defines no cell."""
        return self.result.matrices[measure][self.result.key(prompt) or prompt]

    def metric(self, measure: str, prompt: Prompt, name: str) -> Figure:
        """Return a metric, with its interval over test rows."""
        found = self.result.estimate(measure, prompt, name)
        bounds = found["interval"]
        return Figure(found["value"], None if bounds is None else (bounds[0], bounds[1]))

    def test_rows(self, measure: str, prompt: Prompt) -> tuple[list[list[Floats]], list[list[Floats]]]:
        """Return scores and weights of the test rows of every cell, by stage and task; NaN where there is no cell."""
        tasks = [Task(t, "", "", (), self.result.primary_metrics[t], (), (), ()) for t in self.result.tasks]

        def rows(stage: int, task: Task) -> tuple[Floats, Floats]:
            return per_row(Evaluation.from_json(self._cell(stage, task.name, prompt)), measure, task)

        return fill(
            [
                [None if value is None else rows(i, task) for task, value in zip(tasks, row, strict=True)]
                for i, row in enumerate(self.matrix(measure, prompt))
            ]
        )

    def resampled(self, measure: str, prompt: Prompt, seed: int) -> Floats:
        """Return bootstrap resamples of a matrix over its test rows, shape [draws, stages + 1, tasks]."""
        scores, weights = self.test_rows(measure, prompt)
        return resample_matrices(scores, weights=weights, draws=DRAWS, seed=seed)

    def _cell(self, stage: int, task: str, prompt: Prompt) -> Any:
        used = self.result.instructions[task]
        unseen = list(self.result.tasks).index(task) >= stage
        kind = "original" if unseen or used.text == used.original else prompt
        assert self.directory is not None
        return _read(self.directory / "cells" / str(stage) / f"{task}.{kind}.json")["value"]


def read_run(directory: Path) -> Run:
    """Return a finished run.

    Raises:
        RecordError: if the directory holds none, and whether it is an unfinished one.
    """
    path = directory / "results.json"
    if not path.is_file():
        raise RecordError(f"{directory} {_lacking(directory)}")
    try:
        result = RunResult.from_json(read_json(path))
    except ValueError as error:
        raise RecordError(f"{path} is damaged, or from an earlier version ({error}). Delete it. {AGAIN}") from error
    selections = tuple(
        None
        if result.instructions[task].losses is None
        else Selection.from_json(_read(directory / "selections" / f"{number}-{task}.json")["value"])
        for number, task in enumerate(result.tasks, start=1)
    )
    environment, data = directory / "environment.json", directory / "data.json"
    known = read_json(environment) if environment.is_file() else {}
    versions = {name: version for name, version in known.get("versions", {}).items() if version}
    machine = {key: str(known[key]) for key in ("python", "platform", "processes", "threads") if key in known}
    if known.get("notes"):
        machine["model"] = "; ".join(map(str, known["notes"]))
    inspections = [Inspection.from_json(one) for one in read_json(data)["tasks"]] if data.is_file() else []
    return Run(result, directory, selections, versions, machine, tuple(inspections))


def _lacking(directory: Path) -> str:
    """Return what is wrong with a directory that holds no results.json."""
    if not directory.is_dir():
        return "is not a directory: give the run_dir of a finished `sapo run`"
    resume = "start the same `sapo run` command again to resume it"
    if (directory / "config.yaml").is_file():
        return f"is an unfinished run (it has no results.json yet): {resume}"
    if (directory / "shared").is_dir():
        return f"is a sweep of which no run has finished: {resume}"
    return "is not a run directory (no config.yaml, no results.json): give the run_dir of a finished `sapo run`"


def shared_prompts(runs: Sequence[Run]) -> tuple[Prompt, ...]:
    """Return the test prompts that all runs have results for, the main one first.

    Raises:
        RecordError: if there is none.
    """
    main = {run.result.test_prompt for run in runs if not run.result.only_originals}
    if not main:
        return ("original",)
    wanted: tuple[Prompt, ...] = ("selected", "original") if "selected" in main else ("original", "selected")
    lacking = {prompt: [run.name for run in runs if run.result.key(prompt) is None] for prompt in wanted}
    shared = tuple(prompt for prompt in wanted if not lacking[prompt])
    if not shared:
        raise RecordError(
            f"these runs were tested with different prompts: {lacking[wanted[0]][0]} was not tested with test prompt "
            f"{wanted[0]}, and {lacking[wanted[1]][0]} not with {wanted[1]}. Run them with evaluate.test_prompt=both"
        )
    return shared


def _read(path: Path) -> Any:
    if not path.is_file():
        raise RecordError(f"{path} is missing. {AGAIN}")
    return read_json(path)
