"""A run that is ready: its three steps, and what they work on.

`sapo.sequence` calls the steps and knows no more of them than their names. Here they meet what is the same for all
steps of a run: its tasks and candidates, the directory, the tracker.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sapo.core.progress import Reporter
from sapo.core.types import Task
from sapo.models.load import LoadedModel
from sapo.runs.inputs import Gathering, Inputs
from sapo.runs.lineage import library_versions
from sapo.runs.matrix import Row, run_result, undefined
from sapo.runs.model import RunModel
from sapo.runs.results import RunResult
from sapo.runs.steps import Chooser, Engine, Tester, Trainer
from sapo.runs.tracking import Tracker
from sapo.selection.selection import Choice
from sapo.tasks.findings import data_table, warnings_of
from sapo.tasks.inspection import Inspection
from sapo.training.schedule import Stage, Training


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready: its steps, and what they work on.

    Attributes:
        config: as plain values, for what is written.
        loaded: what the model is called, its tokenizer and notes; the model itself is in ``model``.
        inspections: what the rows of every task hold.
        notes: what the user should know before it starts, one sentence each.
        chooser, trainer, tester: its three steps.
        tracker: takes figures for the user's experiment tracker.
    """

    config: Mapping[str, Any]
    inputs: Inputs
    schedule: tuple[Training, ...]
    loaded: LoadedModel
    engine: Engine
    inspections: Mapping[str, Inspection]
    notes: tuple[str, ...]
    gathering: Gathering
    model: RunModel
    chooser: Chooser
    trainer: Trainer
    tester: Tester
    tracker: Tracker

    @property
    def start(self) -> Stage:
        """Stage 0."""
        return self.model.start

    def begin(self, progress: Reporter) -> None:
        """Tell the user what was decided and what the data hold, and write what the run was made of."""
        for note in self.notes:
            progress.note(note)
        inspections = tuple(self.inspections.values())
        progress.table("data", *data_table(inspections))
        for inspection in inspections:
            for warning in warnings_of(inspection):
                progress.note(f"note: {warning}")
        progress.plan(self.engine.plan.cost)
        self._write_environment(progress)
        self.engine.directory.write_first("data.json", {"tasks": [one.to_json() for one in inspections]})
        self.gathering.save(self.inputs)

    def choose(self, before: Stage, training: Training, task: Task) -> Choice:
        """Return the instruction to train a task with, chosen under the model in the stage before."""
        place = self.inputs.tasks.index(task) + 1
        rejected = self.inputs.gathered[task.name].rejected
        choice = self.chooser(before, place, task, self.inputs.candidates[task.name], rejected, training)
        self.tracker.chosen(choice, training.stage)
        return choice

    def train(self, before: Stage, training: Training, chosen: Sequence[Choice]) -> Stage:
        """Return the stage that a training leads to."""
        return self.trainer(before, training, chosen, self.tracker.training(training.stage))

    def test(self, stage: Stage, training: Training | None = None, crossed: Mapping[str, str] | None = None) -> Row:
        """Return a stage's row of the performance matrix, and what is measured besides.

        ``training`` led to the stage, None for stage 0; ``crossed`` holds instructions of another run by task, with
        which a task's last stage is tested too.
        """
        tasks, final = (self.inputs.tasks, ()) if training is None else (training.tested, training.final)
        by_name = {task.name: task for task in (*tasks, *self.inputs.watch)}
        row = self.tester(stage, tuple(by_name.values()), final, crossed)
        for (name, prompt), cell in row.cells.items():
            if prompt in self.tester.prompts:
                self.tracker.tested(stage.number, by_name[name], prompt, cell)
        return row

    def finished(self, rows: Sequence[Row]) -> RunResult:
        """Return what all rows together say, and write it."""
        prompts, inputs = self.tester.prompts, self.inputs
        lacking = undefined(self.trainer.method.order)
        result = run_result(
            rows, inputs.tasks, inputs.watch, prompts, self.config, lacking, inputs.held_out, inputs.data
        )
        self.tracker.finished(result.metrics_all)
        self.engine.directory.write("results.json", result.to_json())
        return result

    def _write_environment(self, progress: Reporter) -> None:
        """Record libraries, machine and the model's decisions; say which libraries differ from the last start's."""
        versions = library_versions()
        then = self.engine.directory.read("environment.json").get("versions") or {}
        changed = [f"{n} {then[n]} then, {versions.get(n)} now" for n in then if then[n] != versions.get(n)]
        if changed:
            progress.note(f"resumed with other library versions: {'; '.join(changed)}")
        now = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processes": self.engine.directory.processes.count,
            "threads": torch.get_num_threads(),
            "model": self.loaded.name,
            "notes": list(self.loaded.notes),
            "versions": versions,
        }
        self.engine.directory.write("environment.json", now)
