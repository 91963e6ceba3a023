"""What trainings did beyond their own prompts: the cells that `sapo.runs.metrics.FIGURES` rest on, resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats
from sapo.models.answers import Evaluation
from sapo.runs.metrics import DRAWS, FIGURES, TrainedCells, resample_matrices
from sapo.runs.prompts import CROSSED, ORIGINAL, Prompt, instruction_of
from sapo.runs.results import NLL, PRIMARY

# By stage, task and test prompt.
Cells = Mapping[tuple[int, str, Prompt], Evaluation]


def per_row(cell: Evaluation, measure: str, metric: str) -> tuple[Floats, Floats]:
    """Return scores and weights of the test rows, whose weighted mean is the cell's value; ``metric`` is the task's.

    A loss is the mean over tokens, so each row's NLL per token weighs as much as it has tokens.
    """
    if measure == NLL:
        return cell.losses.nll / cell.losses.tokens, cell.losses.tokens.astype(np.float64)
    scores = cell.scores[metric if measure == PRIMARY else measure]
    return scores, np.ones(len(scores))


@dataclass(frozen=True, slots=True)
class Grid:
    """The tests of one run.

    Attributes:
        tasks: of the sequence, in order.
        watch: tasks that are only tested.
        metrics: primary metric by task.
        prompts: the test prompts that are one text for a task.
        texts: the original and the own instruction of each task that was trained on.
        wordings: the held-out paraphrases of each task.
    """

    tasks: Sequence[str]
    watch: Sequence[str]
    metrics: Mapping[str, str]
    prompts: Sequence[Prompt]
    texts: Mapping[str, tuple[str, str]]
    wordings: Mapping[str, Sequence[str]]

    def figures(self, cells: Cells, measure: str, seed: int) -> dict[str, dict[str, Floats]]:
        """Return by name each of `FIGURES` of every trained task that has it, shape [1 + `DRAWS`]: first its value.

        Test rows are resampled as for the matrix metrics: all cells of a task are paired, and so are two runs that were
        tested on the same rows.
        """
        at = self._resampled(cells, measure, seed)
        trained = {name: self._trained_at(at, name) for name in self.tasks}
        found: dict[str, dict[str, Floats]] = {figure.name: {} for figure in FIGURES}
        for name, stage in trained.items():
            if stage is None:
                continue
            # A task that the same training learns is no other task.
            others = [other for other in (*self.tasks, *self.watch) if trained.get(other) != stage]
            of_task = self._of_task(at, name, stage, others, trained)
            for figure in FIGURES:
                values = figure.of(of_task, higher_is_better=measure != NLL)
                if values is not None:
                    found[figure.name][name] = values
        return found

    def _resampled(self, cells: Cells, measure: str, seed: int) -> dict[tuple[int, str, Prompt], Floats]:
        """Return the mean of every cell over its test rows and over each resample of them, shape [1 + `DRAWS`]."""
        names = (*self.tasks, *self.watch)
        tested = {key: per_row(cell, measure, self.metrics[key[1]]) for key, cell in cells.items()}
        keys = dict.fromkeys((stage, prompt) for stage, _, prompt in tested if prompt != CROSSED)
        rows = [[tested.get((stage, name, prompt)) for name in names] for stage, prompt in keys]
        drawn = resample_matrices(rows, draws=DRAWS, seed=seed)
        return {
            (stage, name, prompt): drawn[:, n, j]
            for n, (stage, prompt) in enumerate(keys)
            for j, name in enumerate(names)
            if (stage, name, prompt) in tested
        }

    def _trained_at(self, at: Mapping[tuple[int, str, Prompt], Floats], name: str) -> int | None:
        """Return the stage that a task's training led to: the first one from its place on that tested it."""
        place = list(self.tasks).index(name) + 1
        stages = [i for i, task, prompt in at if task == name and prompt == self.prompts[0] and i >= place]
        return min(stages) if stages and name in self.texts else None

    def _of_task(
        self, at: Mapping[tuple[int, str, Prompt], Floats], name: str, stage: int, others: Sequence[str],
        trained: Mapping[str, int | None],
    ) -> TrainedCells:  # fmt: skip
        stages = sorted(i for i, task, prompt in at if task == name and prompt == self.prompts[0])
        before, last = max(i for i in stages if i < stage), stages[-1]

        def text(task: str, prompt: Prompt, number: int) -> str:
            """Return the instruction; that of a task that is not trained on may stay the name of its kind."""
            original, own = self.texts.get(task, (ORIGINAL, ORIGINAL))
            begins = trained.get(task)
            return instruction_of(prompt, original, original if begins is None or number < begins else own)

        def changes(task: str) -> dict[str, Floats]:
            """Return by text what became of a task, tested with the same text before and after."""
            return {
                text(task, prompt, stage): at[stage, task, prompt] - at[before, task, prompt]
                for prompt in self.prompts
                if (stage, task, prompt) in at and (before, task, prompt) in at
                if text(task, prompt, stage) == text(task, prompt, before)
            }

        def column(several: Sequence[Floats]) -> Floats:
            return np.stack(several, axis=-1) if several else np.empty((1 + DRAWS, 0))

        original, own = self.texts[name]
        final = {text(name, prompt, last): at[last, name, prompt] for prompt in self.prompts}
        return TrainedCells(
            tasks=column([change for task in others for change in changes(task).values()]),
            prompts=column([change for one, change in changes(name).items() if one != own]),
            own=column([final[own]] if own in final else []),
            original=column([final[original]] if original in final else []),
            wordings=column([at[last, name, one] for one in self.wordings.get(name, ()) if (last, name, one) in at]),
        )
