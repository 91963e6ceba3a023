"""A transition's state, and all that is measured in it before anything is trained from it.

RUN_DIR/states/TRANSITION/    the run that leads to the state; ground.json holds what was measured in it
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sapo.core.errors import RecordError
from sapo.core.progress import Reporter
from sapo.core.storage import fingerprint
from sapo.core.types import Choice, Instruction, Losses, Task
from sapo.experiments.study.indicators import gradient, indicators, norm
from sapo.experiments.study.plan import Transition, state_config
from sapo.models.answers import evaluate
from sapo.runs.config.study import StudyConfig
from sapo.runs.prepare import prepare
from sapo.runs.run import Run
from sapo.tasks.load import task_fingerprint
from sapo.tasks.sampling import selection_rows
from sapo.training.schedule import Stage

MEASURED = "ground.json"


@dataclass(frozen=True, slots=True)
class Ground:
    """A transition's state, and all that is measured in it before anything is trained.

    Attributes:
        transition: which one.
        run: that leads to the stage: tasks, candidates, model.
        stage: that every training begins at.
        before: losses on test rows by task, with the original instructions.
        scores: of the primary metric, in percent, where they are measured.
        indicators: of each candidate.
        earlier_gradient: norm of the gradient of the earlier tasks' loss.
    """

    transition: Transition
    run: Run
    stage: Stage
    before: dict[str, Losses]
    scores: dict[str, float]
    indicators: Sequence[dict[str, float]]
    earlier_gradient: float

    @property
    def task(self) -> Task:
        """The task that is trained."""
        return self.run.inputs.tasks[-1]

    @property
    def count(self) -> int:
        """How many candidates its task has, the original included."""
        return len(self.run.inputs.candidates[self.transition.task])

    @property
    def tested(self) -> dict[str, Task]:
        """All tasks whose losses are outcomes, by name."""
        return {task.name: task for task in (*self.run.inputs.tasks, *self.run.inputs.watch)}

    def role(self, name: str) -> str:
        """Return what a task is to this transition."""
        if name == self.transition.task:
            return "own"
        return "earlier" if name in self.transition.earlier else "unseen"


def begin(config: StudyConfig, transition: Transition, progress: Reporter, *, alone: bool = True) -> Ground:
    """Return a transition's state, trained or read back, with everything that is measured in it.

    Args:
        config: of the study.
        transition: which one.
        progress: hears about every step.
        alone: whether nobody else works in the state's directory; if not, all of it must be there already.

    Raises:
        RecordError: if it is not.
    """
    own = state_config(config, transition)
    if not alone and not (own.run_dir / MEASURED).is_file():
        raise RecordError(
            f"{own.run_dir / MEASURED} is not there for this worker: run_dir must be a directory that all of them share"
        )
    run = prepare(own, progress)
    directory, task = run.directory, run.inputs.tasks[-1]
    with directory if alone else nullcontext():
        if alone:
            for note in run.notes:
                progress.note(note)
            run.gathering.save(run.inputs)
        stage = run.start
        for training in run.schedule[:-1]:
            originals = [Choice(task, Instruction(task.instruction, "original")) for task in training.tasks]
            stage = run.train(stage, training, originals)
        inputs = {
            "model": stage.fingerprint,
            "tasks": fingerprint([task_fingerprint(task) for task in (*run.inputs.tasks, *run.inputs.watch)]),
            "candidates": fingerprint([c.text for c in run.inputs.candidates[task.name]]),
            "settings": fingerprint([config.examples, config.scores, config.max_new_tokens, config.max_length]),
        }
        measured = directory.reuse(MEASURED, inputs)
        if measured is None:
            measured = _measure(config, transition, run, stage, progress)
            directory.save(MEASURED, inputs, measured)
    return Ground(
        transition, run, stage,
        {name: Losses.from_json(value) for name, value in measured["before"].items()},
        measured["scores"], measured["indicators"], measured["earlier_gradient"],
    )  # fmt: skip


def _measure(config: StudyConfig, transition: Transition, run: Run, stage: Stage, progress: Reporter) -> dict[str, Any]:
    """Return what is measured in a state before anything is trained from it, as JSON."""
    model = run.model.prepare(stage, run.schedule[-1])
    scorer, renderer, task = run.model.scorer, run.renderer, run.inputs.tasks[-1]
    tested = (*run.inputs.tasks, *run.inputs.watch)
    before: dict[str, Any] = {}
    scores: dict[str, float] = {}
    with progress.step(f"{transition.name}: before training", len(tested), 0) as advance:
        for one in tested:
            before[one.name] = scorer(renderer.encode(one.instruction, one.suffix, one.test)).to_json()
            if config.scores:
                scores[one.name] = score(run, model, one, one.instruction, config.max_new_tokens)
            advance(1)
    rows = [task.train[i] for i in selection_rows(task, config.examples, "stratified", config.seeds[0])]
    candidates = run.inputs.candidates[task.name]
    found = []
    with progress.step(
        f"{transition.name}: {len(candidates)} candidates before training", len(candidates), 0
    ) as advance:
        for candidate in candidates:
            found.append(asdict(indicators(model, scorer, renderer, task, candidate.text, rows)))
            advance(1)
    earlier = [e for one in run.inputs.tasks[:-1] for e in renderer.encode(one.instruction, one.suffix, one.test)]
    return {
        "before": before,
        "scores": scores,
        "indicators": found,
        "earlier_gradient": norm(gradient(model, earlier)),
    }


def score(run: Run, model: Any, task: Task, text: str, max_new_tokens: int) -> float:
    """Return the mean score of a task's test rows with an instruction, 0 to 100."""
    found = evaluate(model, run.renderer, task, text, task.test, max_new_tokens, scorer=run.model.scorer)
    return float(found.scores[task.metric].mean())
