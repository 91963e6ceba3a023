"""What one training consists of beside its rows: how they are worded, what is guarded, how long it lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from sapo.core.storage import fingerprint
from sapo.core.types import Encoded, Instruction, Task, Trained
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.runs.prepare import Setup
from sapo.selection.rows import selection_rows
from sapo.tasks.load import data_fingerprint
from sapo.training.finetune import TrainSettings
from sapo.training.guard import Alarm, Guard, Watched
from sapo.training.lessons import Lesson
from sapo.training.policies import leading, mixture
from sapo.training.trainer import Extras
from sapo.training.wording import Mixture, Reselecting, Rewording, Worded


class _Fixed:
    def __init__(self, instruction: Instruction) -> None:
        self._text = instruction.text

    def text(self, row: int, epoch: int, step: int) -> str:
        return self._text


@dataclass(frozen=True, slots=True)
class Teaching:
    """One training, ready to begin.

    Attributes:
        settings: how it is trained.
        inputs: fingerprints of what decides its outcome beside rows, instructions and settings.
        own: its tasks, with the instructions that it begins with.
        wordings: how each task's rows are worded.
        guard: None where nothing is guarded.
        rewording: words the rows.
        renderer: of their prompts.
        last: epoch, from 0, and number of updates made at the last update.
    """

    settings: TrainSettings
    inputs: dict[str, str]
    own: tuple[Trained, ...]
    wordings: tuple[Worded, ...]
    guard: Guard | None
    rewording: Rewording
    renderer: Renderer
    last: tuple[int, int]

    def rows(self) -> list[Encoded]:
        """Return the rows of all its tasks, with the instructions that it begins with."""
        return [e for t in self.own for e in self.renderer.encode(t.instruction.text, t.task.suffix, t.task.train)]

    @property
    def _choosers(self) -> tuple[Reselecting, ...]:
        return tuple(w for w in self.wordings if isinstance(w, Reselecting))

    @property
    def _changes(self) -> bool:
        return any(not isinstance(w, _Fixed) for w in self.wordings)

    def extras(self) -> Extras:
        """Return what goes beyond minimising the NLL of fixed rows, short of the method's objective."""
        guards = () if self.guard is None else (self.guard,)
        return Extras(reword=self.rewording if self._changes else None, watchers=(*self._choosers, *guards))

    def finished(self) -> tuple[Trained, ...]:
        """Return the tasks with the instruction that each was trained with last."""
        kept = None if self.guard is None else self.guard.back_to
        if kept is not None:
            for chooser in self._choosers:
                chooser.back(kept)
        return tuple(
            replace(t, instruction=w.chosen, switches=tuple(w.switches)) if isinstance(w, Reselecting) else t
            for t, w in zip(self.own, self.wordings, strict=True)
        )

    def worded(self) -> Sequence[Encoded]:
        """Return the rows as they are worded at the last update."""
        if not self._changes:
            return self.rows()
        return [self.rewording(row, *self.last) for row in range(sum(len(t.task.train) for t in self.own))]

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what the guard saw."""
        return () if self.guard is None else tuple(self.guard.alarms)


def teaching(
    setup: Setup,
    scorer: Scorer,
    lesson: Lesson,
    own: tuple[Trained, ...],
    trained: Sequence[Trained],
    tell: Callable[[str], None],
) -> Teaching:
    """Return a lesson's training.

    Args:
        setup: of the run.
        scorer: of its model.
        lesson: which tasks, in which place.
        own: these tasks with their instructions.
        trained: all tasks of the run so far, these included.
        tell: hears what the guard has to say.
    """
    config = setup.config
    updates = setup.plan.work(lesson.tasks).units
    settings = setup.settings
    epoch = ceil(sum(len(task.train) for task in lesson.tasks) / settings.batch_size)
    if len(lesson.tasks) > 1:
        # As many updates as one task after the other: half an update less, for rounding up must not add one.
        settings = replace(settings, epochs=(updates - 0.5) / epoch)
    wordings = tuple(_worded(setup, scorer, t, epoch) for t in own)
    inputs: dict[str, str] = {}
    if any(not isinstance(w, _Fixed) for w in wordings):
        inputs["wording"] = fingerprint([_wording(setup, t) for t in own])
    earlier = () if lesson.apart else tuple(trained[: len(trained) - len(own)])
    guard = _guard(setup, scorer, earlier, updates, tell)
    if config.guard is not None:
        inputs["guard"] = fingerprint([_guarding(setup), [[t.task.name, t.instruction.text] for t in earlier]])
    rewording = Rewording(setup.renderer, [t.task for t in own], wordings)
    last = ceil(settings.epochs) - 1, updates - 1
    return Teaching(settings, inputs, own, wordings, guard, rewording, setup.renderer, last)


def _worded(setup: Setup, scorer: Scorer, trained: Trained, epoch: int) -> Worded:
    config, task = setup.config, trained.task
    draw = mixture(config.policy, len(trained.mixture), config.paft.steps, config.seed)
    if draw is not None:
        return Mixture(trained.mixture, draw)
    if config.policy == "reselect" and trained.selection is not None:
        every = config.reselect.every or epoch
        first = leading(trained.selection, config.reselect.k)
        return Reselecting(scorer, setup.renderer, task, first, setup.held_rows[task.name], every)
    return _Fixed(trained.instruction)


def _wording(setup: Setup, trained: Trained) -> list[Any]:
    """Return what decides how a task's rows are worded, as JSON."""
    config = setup.config
    if config.policy == "reselect" and trained.selection is not None:
        rows = [[row.input, row.answer] for row in setup.held_rows[trained.task.name]]
        first = [c.text for c in leading(trained.selection, config.reselect.k)]
        return [config.policy, config.reselect.model_dump(), first, rows]
    return [config.policy, config.paft.steps if config.policy == "paft" else 0, [p.text for p in trained.mixture]]


def _guarding(setup: Setup) -> dict[str, Any]:
    """Return the guard's settings and the watch tasks whose rows it looks at, as JSON."""
    guard = setup.config.guard
    return (
        {} if guard is None else guard.model_dump() | {"watch": [data_fingerprint(task.train) for task in setup.watch]}
    )


def _guard(
    setup: Setup, scorer: Scorer, earlier: Sequence[Trained], updates: int, tell: Callable[[str], None]
) -> Guard | None:
    """Return the guard over earlier tasks and watch tasks; None where there are none, or none is wanted."""
    chosen = setup.config.guard
    if chosen is None:
        return None

    def stored(task: Task, instruction: str) -> Watched:
        # Training rows: what is decided on must not be what is tested on.
        rows = selection_rows(task, chosen.rows, "stratified", setup.config.seed)
        return Watched(task.name, setup.renderer.encode(instruction, task.suffix, [task.train[i] for i in rows]))

    watched = [stored(t.task, t.instruction.text) for t in earlier]
    watched += [stored(task, task.instruction) for task in setup.watch]
    if not watched:
        tell("forgetting guard: nothing to look at, as nothing was trained before and there are no watch tasks")
    # Of one row, no interval can be made.
    for one in (w for w in watched if len(w.rows) == 1):
        tell(f"forgetting guard: {one.task} is not looked at, as it has a single training row")
    enough = [w for w in watched if len(w.rows) > 1]
    return Guard(scorer, enough, chosen.every, chosen.limit, updates, chosen.action == "stop", tell) if enough else None
