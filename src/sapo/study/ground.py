"""A transition's state, and all that is measured in it before anything is trained from it.

RUN_DIR/states/TRANSITION/    the run that leads to the state; ground.json holds what was measured in it
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sapo.card import Trained
from sapo.config import StudyConfig
from sapo.errors import RecordError
from sapo.evaluate import evaluate
from sapo.formats import losses_from_json, losses_to_json
from sapo.gathering import Gathering
from sapo.live import Live, State
from sapo.methods import Assignment
from sapo.progress import Reporter
from sapo.record import Record
from sapo.selection import selection_rows
from sapo.setup import Setup, set_up
from sapo.steps import Steps
from sapo.storage import fingerprint
from sapo.study.indicators import gradient, indicators, norm
from sapo.study.plan import Transition, state_config
from sapo.tasks import task_fingerprint
from sapo.types import Encoded, Instruction, Losses, Task

MEASURED = "ground.json"


@dataclass(frozen=True, slots=True)
class Ground:
    """A transition's state, and all that is measured in it before anything is trained.

    Attributes:
        transition: which one.
        setup: tasks, candidates, model.
        live: the model, brought into the state for each training.
        state: the state.
        before: losses on test rows by task, with the original instructions.
        scores: of the primary metric, in percent, where they are measured.
        indicators: of each candidate.
        earlier_gradient: norm of the gradient of the earlier tasks' loss; None if left out.
    """

    transition: Transition
    setup: Setup
    live: Live
    state: State
    before: dict[str, Losses]
    scores: dict[str, float]
    indicators: Sequence[dict[str, float | None]]
    earlier_gradient: float | None

    @property
    def task(self) -> Task:
        """The task that is trained."""
        return self.setup.tasks[-1]

    @property
    def count(self) -> int:
        """How many candidates its task has, the original included."""
        return len(self.setup.candidates[self.transition.task])

    @property
    def tested(self) -> dict[str, Task]:
        """All tasks whose losses are outcomes, by name."""
        return {task.name: task for task in (*self.setup.tasks, *self.setup.watch)}

    def role(self, name: str) -> str:
        """Return what a task is to this transition."""
        if name == self.transition.task:
            return "own"
        return "earlier" if name in self.transition.earlier else "unseen"


def prepare(config: StudyConfig, transition: Transition, progress: Reporter, *, alone: bool = True) -> Ground:
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
    record = Record(own.run_dir, own.plain())
    record.check()
    if not alone and not (own.run_dir / MEASURED).is_file():
        raise RecordError(
            f"{own.run_dir / MEASURED} is not there for this worker: run_dir must be a directory that all of them share"
        )
    gathering = Gathering(own, record, progress)
    setup = set_up(own, gathering)
    with record if alone else nullcontext():
        if alone:
            for note in setup.notes:
                progress.note(note)
            gathering.save(setup.tasks, [setup.gathered[task.name] for task in setup.tasks])
        steps = Steps(setup, record, progress)
        trained: list[Trained] = []
        state = steps.start
        for lesson in setup.lessons[:-1]:
            trained.append(Trained(lesson.tasks[0], Instruction(lesson.tasks[0].instruction, "original")))
            state = steps.train(state, lesson, trained).state
        inputs = {
            "model": state.fingerprint,
            "tasks": fingerprint([task_fingerprint(task) for task in (*setup.tasks, *setup.watch)]),
            "candidates": fingerprint([c.text for c in setup.candidates[transition.task]]),
            "settings": fingerprint(
                [config.examples, config.scores, config.max_new_tokens, config.max_length, config.lean]
            ),
        }
        measured = record.reuse(MEASURED, inputs)
        if measured is None:
            measured = _measure(config, transition, setup, steps.live, state, progress)
            record.save(MEASURED, inputs, measured)
    return Ground(
        transition, setup, steps.live, state,
        {name: losses_from_json(value) for name, value in measured["before"].items()},
        measured["scores"], measured["indicators"], measured["earlier_gradient"],
    )  # fmt: skip


def _measure(
    config: StudyConfig, transition: Transition, setup: Setup, live: Live, state: State, progress: Reporter
) -> dict[str, Any]:
    """Return what is measured in a state before anything is trained from it, as JSON."""
    model = live.prepare(state, assignment(config, setup, []))
    scorer, renderer, task = live.scorer, setup.renderer, setup.tasks[-1]
    tested = (*setup.tasks, *setup.watch)
    before: dict[str, Any] = {}
    scores: dict[str, float] = {}
    with progress.step(f"{transition.name}: before training", len(tested), 0) as advance:
        for one in tested:
            before[one.name] = losses_to_json(scorer(renderer.encode(one.instruction, one.suffix, one.test)))
            if config.scores:
                scores[one.name] = score(setup, live, model, one, one.instruction)
            advance(1)
    rows = [task.train[i] for i in selection_rows(task, config.examples, "stratified", config.seeds[0])]
    candidates = setup.candidates[task.name]
    found, rows_of = [], []
    with progress.step(
        f"{transition.name}: {len(candidates)} candidates before training", len(candidates), 0
    ) as advance:
        for candidate in candidates:
            known, losses = indicators(model, scorer, renderer, task, candidate.text, rows, config.lean)
            found.append(asdict(known))
            rows_of.append(losses_to_json(losses))
            advance(1)
    earlier = [e for one in setup.tasks[:-1] for e in renderer.encode(one.instruction, one.suffix, one.test)]
    return {
        "before": before,
        "scores": scores,
        "indicators": found,
        "candidates": rows_of,
        "earlier_gradient": None if config.lean else norm(gradient(model, earlier)),
    }


def assignment(config: StudyConfig, setup: Setup, rows: Sequence[Encoded]) -> Assignment:
    """Return what a method is told of a training of the transition's task on these rows."""
    stages = len(setup.tasks)
    return Assignment(stages, stages, config.seeds[0], rows, None, config.train.batch_size)


def score(setup: Setup, live: Live, model: Any, task: Task, text: str) -> float:
    """Return the mean score of a task's test rows with an instruction, 0 to 100."""
    found = evaluate(
        model, setup.renderer, task, text, task.test, setup.config.evaluate.max_new_tokens, scorer=live.scorer.on(model)
    )
    return float(found.scores[task.metric].mean())
