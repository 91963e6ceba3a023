"""What trainings did beyond their own prompts: the cells that `sapo.runs.metrics.FIGURES` rest on, resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sapo.core.types import Floats
from sapo.runs.metrics import FIGURES, TrainedCells, resample_matrices
from sapo.runs.prompts import CROSSED, ORIGINAL, Prompt, instruction_of

# By stage, task and test prompt: scores and weights of the test rows.
Tested = Mapping[tuple[int, str, Prompt], tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class Grid:
    """The tests of one run.

    Attributes:
        tasks: of the sequence, in order.
        watch: tasks that are only tested.
        prompts: the test prompts that are one text for a task.
        texts: the original and the own instruction of each task that was trained on.
        wordings: the held-out paraphrases of each task.
    """

    tasks: Sequence[str]
    watch: Sequence[str]
    prompts: Sequence[Prompt]
    texts: Mapping[str, tuple[str, str]]
    wordings: Mapping[str, Sequence[str]]

    def figures(self, tested: Tested, *, higher_is_better: bool, draws: int, seed: int) -> dict[str, dict[str, Floats]]:
        """Return by name each of `FIGURES` of every trained task that has it, shape [1 + draws]: first its value.

        Test rows are resampled as for the matrix metrics: all cells of a task are paired, and so are two runs that were
        tested on the same rows.
        """
        at = self._resampled(tested, draws, seed)
        trained = {name: self._trained_at(at, name) for name in self.tasks}
        found: dict[str, dict[str, Floats]] = {figure.name: {} for figure in FIGURES}
        for name, stage in trained.items():
            if stage is None:
                continue
            # A task that the same training learns is no other task.
            others = [other for other in (*self.tasks, *self.watch) if trained.get(other) != stage]
            cells = self._cells(at, name, stage, others, trained, 1 + draws)
            for figure in FIGURES:
                values = figure.of(cells, higher_is_better=higher_is_better)
                if values is not None:
                    found[figure.name][name] = values
        return found

    def _resampled(self, tested: Tested, draws: int, seed: int) -> dict[tuple[int, str, Prompt], Floats]:
        """Return the mean of every cell over its test rows and over each resample of them, shape [1 + draws]."""
        names = (*self.tasks, *self.watch)
        keys = dict.fromkeys((stage, prompt) for stage, _, prompt in tested if prompt != CROSSED)
        rows = [[tested.get((stage, name, prompt)) for name in names] for stage, prompt in keys]
        drawn = resample_matrices(rows, draws=draws, seed=seed)
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

    def _cells(
        self, at: Mapping[tuple[int, str, Prompt], Floats], name: str, stage: int, others: Sequence[str],
        trained: Mapping[str, int | None], draws: int,
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
            return np.stack(several, axis=-1) if several else np.empty((draws, 0))

        original, own = self.texts[name]
        final = {text(name, prompt, last): at[last, name, prompt] for prompt in self.prompts}
        return TrainedCells(
            tasks=column([change for task in others for change in changes(task).values()]),
            prompts=column([change for one, change in changes(name).items() if one != own]),
            own=column([final[own]] if own in final else []),
            original=column([final[original]] if original in final else []),
            wordings=column([at[last, name, one] for one in self.wordings.get(name, ()) if (last, name, one) in at]),
        )
