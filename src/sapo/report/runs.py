"""Finished run directories, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo.core.errors import RecordError
from sapo.core.storage import read_json
from sapo.core.types import Floats, Selection, Task
from sapo.models.answers import Evaluation
from sapo.runs.metrics import resample_matrices
from sapo.runs.results import DRAWS, Prompt, RunResult, fill, per_row

_AGAIN = "Start the same `sapo run` again: it computes only what is missing."


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        directory: where it is.
        data: its results.json.
        selections: per task, None where the policy needed no losses.
        versions: of the libraries that it ran with; empty where that was not recorded.
        machine: what else is known of where it ran, likewise.
    """

    directory: Path
    data: Mapping[str, Any]
    selections: tuple[Selection | None, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the sequence's tasks."""
        return tuple(self.data["tasks"])

    @property
    def stages(self) -> tuple[str, ...]:
        """What to call the rows of a matrix."""
        how = {"multitask": "after all tasks at once", "single": "after {} alone"}
        return ("zero-shot", *(how.get(self.config["method"], "after {}").format(label) for label in self.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The tasks with their place in the sequence."""
        return tuple(f"{n} {task}" for n, task in enumerate(self.tasks, start=1))

    @property
    def scores(self) -> str:
        """The primary metric, or the metrics of all tasks where they differ."""
        kinds = {task: self.data["primary_metrics"][task] for task in self.tasks}
        if len(set(kinds.values())) == 1:
            return str(kinds[self.tasks[0]])
        return ", ".join(f"{task}: {kind}" for task, kind in kinds.items())

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        values: Mapping[str, Any] = self.data["config"]
        return values

    @property
    def only_originals(self) -> bool:
        """Whether every task is tested with its original instruction, so that both test prompts are the same."""
        return all(entry["text"] == entry["original"] for entry in self.data["instructions"].values())

    @property
    def mixed(self) -> bool:
        """Whether tasks were trained with several paraphrases in turn."""
        return any(entry.get("mixture") for entry in self.data["instructions"].values())

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The test prompts that differ, the main one first."""
        tested: tuple[Prompt, ...] = tuple(self.data["matrices"]["primary"])
        return tested[:1] if self.only_originals else tested

    def key(self, prompt: Prompt) -> str | None:
        """Return the test prompt under which results for this one are stored, None if there are none."""
        if prompt in self.data["matrices"]["primary"]:
            return prompt
        return self.prompts[0] if self.only_originals else None

    def matrix(self, metric: str, prompt: Prompt) -> list[list[float | None]]:
        """Return a performance matrix, row 0 is zero-shot; None where the method defines no cell."""
        rows: list[list[float | None]] = self.data["matrices"][metric][self.key(prompt)]
        return rows

    def metrics(self, metric: str, prompt: Prompt) -> Mapping[str, Any]:
        """Return the metrics of a matrix by name, each with value, interval and reason."""
        values: Mapping[str, Any] = self.data["metrics_all"][metric][self.key(prompt)]
        return values

    def undefined(self, metric: str, prompt: Prompt) -> tuple[str, ...]:
        """Return the names of the metrics that this run has no cells for."""
        return tuple(name for name, found in self.metrics(metric, prompt).items() if found["value"] is None)

    def test_rows(self, metric: str, prompt: Prompt) -> tuple[list[list[Floats]], list[list[Floats]]]:
        """Return scores and weights of the test rows of every cell, by stage and task; NaN where there is no cell."""
        return fill(
            [
                [
                    None
                    if value is None
                    else per_row(Evaluation.from_json(self._cell(i, task, prompt)["value"]), metric, self._task(task))
                    for task, value in zip(self.tasks, row, strict=True)
                ]
                for i, row in enumerate(self.matrix(metric, prompt))
            ]
        )

    def resampled(self, metric: str, prompt: Prompt, seed: int) -> Floats:
        """Return bootstrap resamples of a matrix over its test rows, shape [draws, stages + 1, tasks]."""
        scores, weights = self.test_rows(metric, prompt)
        return resample_matrices(scores, weights=weights, draws=DRAWS, seed=seed)

    def test_data(self) -> dict[str, str]:
        """Return per task the fingerprint of its test rows."""
        return {task: str(self._cell(0, task, "original")["inputs"]["data"]) for task in self.tasks}

    def test_counts(self) -> dict[str, int]:
        """Return per task the number of its test rows."""
        return {task: len(self._cell(0, task, "original")["value"]["predictions"]) for task in self.tasks}

    def test_cuts(self) -> dict[str, int]:
        """Return per task the number of its test rows whose input was cut to fit the model, where there are any."""
        cuts = {
            task: sum(c > 0 for c in self._cell(0, task, "original")["value"]["losses"]["cut"]) for task in self.tasks
        }
        return {task: count for task, count in cuts.items() if count}

    def _task(self, name: str) -> Task:
        return Task(name, "", "", (), self.data["primary_metrics"][name], (), (), ())

    def _cell(self, stage: int, task: str, prompt: Prompt) -> Any:
        entry = self.data["instructions"][task]
        unseen = self.tasks.index(task) >= stage
        same = unseen or entry["text"] == entry["original"]
        return _read(self.directory / "cells" / str(stage) / f"{task}.{'original' if same else prompt}.json")


def read_run(directory: Path) -> Run:
    """Return a finished run.

    Raises:
        RecordError: if the directory holds none, and whether it is an unfinished one.
    """
    path = directory / "results.json"
    if not path.is_file():
        if not directory.is_dir():
            raise RecordError(f"{directory} is not a directory: give the run_dir of a finished `sapo run`")
        if (directory / "config.yaml").is_file():
            raise RecordError(
                f"{directory} is an unfinished run (it has no results.json yet): start the same `sapo run` command "
                "again, it goes on from there"
            )
        if (directory / "shared").is_dir():
            raise RecordError(
                f"{directory} is a sweep of which no run has finished: start the same `sapo run` command again, it "
                "goes on from there"
            )
        raise RecordError(
            f"{directory} is not a run directory (it has neither config.yaml nor results.json): give the run_dir of "
            "a finished `sapo run`"
        )
    data = read_json(path)
    try:
        data = RunResult.from_json(data).to_json()
    except ValueError as error:
        raise RecordError(f"{path} is damaged, or from an earlier version ({error}). Delete it. {_AGAIN}") from error
    selections = tuple(
        None if data["instructions"][task]["losses"] is None else _selection(directory, f"{number}-{task}")
        for number, task in enumerate(data["tasks"], start=1)
    )
    environment = directory / "environment.json"
    known = read_json(environment) if environment.is_file() else {}
    versions = {name: version for name, version in known.get("versions", {}).items() if version}
    machine = {key: str(known[key]) for key in ("python", "platform", "processes", "threads") if key in known}
    notes = "; ".join(map(str, known.get("notes", ())))
    return Run(directory, data, selections, versions, machine | ({"model": notes} if notes else {}))


def shared_prompts(runs: Sequence[Run]) -> tuple[Prompt, ...]:
    """Return the test prompts that all runs have results for, the first run's main one first.

    Raises:
        RecordError: if there is none.
    """
    both: tuple[Prompt, ...] = ("selected", "original")
    wanted = sorted(both, key=lambda prompt: prompt != runs[0].data["test_prompt"])
    shared = tuple(prompt for prompt in wanted if all(run.key(prompt) is not None for run in runs))
    if not shared:
        found = "; ".join(f"{run.directory}: {', '.join(run.prompts)}" for run in runs)
        raise RecordError(
            f"these runs were tested with different prompts ({found}): run them with evaluate.test_prompt=both"
        )
    return shared[:1] if all(run.only_originals for run in runs) else shared


def _selection(directory: Path, name: str) -> Selection:
    return Selection.from_json(_read(directory / "selections" / f"{name}.json")["value"])


def _read(path: Path) -> Any:
    if not path.is_file():
        raise RecordError(f"{path} is missing. {_AGAIN}")
    return read_json(path)
