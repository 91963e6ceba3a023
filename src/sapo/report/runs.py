"""Finished runs as a report takes them: a result, and what else its run directory holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sapo.core.errors import RecordError
from sapo.core.storage import read_json
from sapo.core.types import Floats
from sapo.models.answers import Evaluation
from sapo.report.numbers import Figure, prompt_name
from sapo.runs.figures import Grid, per_row
from sapo.runs.metrics import DRAWS, FIGURES, METRICS, Table, metric_draws, resample_matrices
from sapo.runs.prompts import ORIGINAL, OWN, Prompt, cell_name, instruction_of
from sapo.runs.results import NLL, PRIMARY, RunResult
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

    def trained_at(self, place: int) -> int:
        """Return the stage right after the training on the task at a place, from 1."""
        return len(self.result.tasks) if self.result.method == "multitask" else place

    def matrix(self, measure: str, prompt: Prompt) -> Sequence[Sequence[float | None]]:
        """Return a performance matrix, row 0 is zero-shot; None where the method defines no cell."""
        return self.result.matrices[measure][self.result.key(prompt) or prompt]

    def columns(self, measure: str, prompt: Prompt) -> dict[str, list[float | None]]:
        """Return what stages were tested on, a value for each: tasks, watch tasks and, as a loss, general text."""
        found = {label: [row[j] for row in self.matrix(measure, prompt)] for j, label in enumerate(self.labels)}
        key = self.result.key(prompt) or prompt
        found |= {f"watch: {task}": list(of[measure][key]) for task, of in self.result.watch.items()}
        if measure == NLL and self.result.ability:
            losses = {at.stage: at.loss for at in self.result.ability}
            found["general text"] = [losses.get(stage) for stage in range(len(self.stages))]
        return found

    def metric(self, measure: str, prompt: Prompt, name: str) -> Figure:
        """Return a metric or figure, with its interval over test rows."""
        return Figure.of(self.result.estimate(measure, prompt, name))

    def test_rows(self, measure: str, prompt: Prompt) -> Table:
        """Return scores and weights of the test rows of every cell."""

        def rows(stage: int, task: str) -> tuple[Floats, Floats]:
            return per_row(self._cell(stage, task, prompt), measure, self.result.primary_metrics[task])

        return [
            [None if value is None else rows(i, task) for task, value in zip(self.result.tasks, row, strict=True)]
            for i, row in enumerate(self.matrix(measure, prompt))
        ]

    def resampled(self, measure: str, prompt: Prompt, seed: int) -> Floats:
        """Return a matrix and its bootstrap resamples over test rows, shape [1 + draws, stages + 1, tasks]."""
        return resample_matrices(self.test_rows(measure, prompt), draws=DRAWS, seed=seed)

    def draws(self, measure: str, prompt: Prompt, seed: int, names: Collection[str]) -> dict[str, Floats]:
        """Return metrics, and figures of the trained tasks, and their draws over test rows, shape [1 + draws]."""
        lacking = [metric.name for metric in METRICS if metric.name not in names]
        higher = measure != NLL
        found = metric_draws(self.resampled(measure, prompt, seed), higher_is_better=higher, undefined=lacking)
        if any(figure.name in names for figure in FIGURES):
            of_tasks = self._figure_draws(measure, seed)
            found |= {name: np.mean(list(of_tasks[name].values()), axis=0) for name in of_tasks if name in names}
        return found

    def _figure_draws(self, measure: str, seed: int) -> dict[str, dict[str, Floats]]:
        result, prompts = self.result, tuple(self.result.matrices[PRIMARY])
        texts = {task: (used.original, used.text) for task, used in result.instructions.items()}
        wordings = {task: one.texts for task, one in (result.robustness or {}).items()}
        cells = {
            (stage, task, prompt): self._cell(stage, task, prompt)
            for prompt in prompts
            for stage, row in enumerate(result.matrices[PRIMARY][prompt])
            for task, value in zip(result.tasks, row, strict=True)
            if value is not None
        }
        for task, of in result.watch.items():
            known = [i for i, value in enumerate(of[PRIMARY][prompts[0]]) if value is not None]
            cells |= {(i, task, prompt): self._cell(i, task, prompt) for i in known for prompt in prompts}
        for task, held in wordings.items():
            last = max(stage for stage, name, _ in cells if name == task)
            cells |= {(last, task, text): self._cell(last, task, text) for text in held}
        grid = Grid(result.tasks, [*result.watch], result.primary_metrics, prompts, texts, wordings)
        return grid.figures(cells, measure, seed)

    def _cell(self, stage: int, task: str, prompt: Prompt) -> Evaluation:
        # Of a watch task no instruction is known: the original and its own are the same.
        original, own, place = ORIGINAL, ORIGINAL, stage
        if task in self.result.instructions:
            used, place = self.result.instructions[task], list(self.result.tasks).index(task)
            original, own = used.original, used.text if place < stage else used.original
        assert self.directory is not None
        name = cell_name(instruction_of(prompt, original, own), original, own)
        cells = self.directory / "cells" / str(stage)
        path = cells / f"{task}.{name}.json"
        if task not in self.result.instructions and not path.exists():
            # A text that is the watch task's instruction was tested once, as the original.
            path = cells / f"{task}.{ORIGINAL}.json"
        return Evaluation.from_json(read_json(path, AGAIN)["value"])


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
        else Selection.from_json(read_json(directory / "selections" / f"{number}-{task}.json", AGAIN)["value"])
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
    if (directory / "states").is_dir():
        return "is a study of which no training has finished: start the same `sapo study` command again to resume it"
    if (directory / "shared").is_dir():
        return f"is a sweep of which no run has finished: {resume}"
    return "is not a run directory (no config.yaml, no results.json): give the run_dir of a finished `sapo run`"


def only_originals(runs: Sequence[Run], prompt: Prompt) -> bool:
    """Whether tasks were trained with their original instructions alone, and are tested with them."""
    return prompt in (OWN, ORIGINAL) and all(run.result.only_originals for run in runs)


def shared_prompts(runs: Sequence[Run]) -> tuple[Prompt, ...]:
    """Return the test prompts that all runs have results for, the main one first.

    Raises:
        RecordError: if there is none.
    """
    originals = all(run.result.only_originals for run in runs)
    results = [run.result for run in runs if originals or not run.result.only_originals]
    main = [one.test_prompt for one in results]
    known = [*sorted(main, key=lambda prompt: prompt != OWN), *(p for one in results for p in one.matrices[PRIMARY])]
    # Where only originals were trained with, they are what every task was trained with.
    wanted = dict.fromkeys(ORIGINAL if originals and prompt == OWN else prompt for prompt in known)
    lacking = {prompt: [run.name for run in runs if run.result.key(prompt) is None] for prompt in wanted}
    shared = tuple(prompt for prompt in wanted if not lacking[prompt])
    if not shared:
        few = "; ".join(
            f"{names[0]} was not tested with test prompt {prompt_name(prompt)}" for prompt, names in lacking.items()
        )
        raise RecordError(f"these runs were tested with different prompts: {few}. Give them the same evaluate.prompts")
    return shared
