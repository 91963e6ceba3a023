"""From a study's configuration to its records: one line for each training, appended when it is finished.

RUN_DIR/study.jsonl           the records; what is there is not computed again
RUN_DIR/states/TRANSITION/    the run that leads to a transition's state, and what was measured in it
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sapo.card import Trained, library_versions
from sapo.config import StudyConfig
from sapo.errors import RecordError
from sapo.evaluate import evaluate
from sapo.finetune import Extras, finetune
from sapo.formats import losses_from_json, losses_to_json
from sapo.gathering import Gathering
from sapo.live import Live, State
from sapo.methods import Assignment
from sapo.progress import Reporter, Silent
from sapo.record import Record
from sapo.selection import selection_rows
from sapo.setup import Setup, set_up
from sapo.steps import Steps
from sapo.storage import fingerprint
from sapo.study.indicators import gradient, indicators, norm
from sapo.study.mediators import Travel, drift
from sapo.study.plan import Transition, Trial, settings_of, state_config, transitions, trials
from sapo.study.records import STUDY, StudyRecord, append_study, read_study
from sapo.tasks import task_fingerprint
from sapo.types import Encoded, Instruction, Losses, Task

_DECIMALS = 4
# Test rows of each earlier task whose outputs are compared: two whole distributions a token are dear.
_DRIFT_ROWS = 32


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
        earlier_gradient: norm of the gradient of the earlier tasks' loss.
    """

    transition: Transition
    setup: Setup
    live: Live
    state: State
    before: dict[str, Losses]
    scores: dict[str, float]
    indicators: Sequence[dict[str, float]]
    earlier_gradient: float

    @property
    def task(self) -> Task:
        """The task that is trained."""
        return self.setup.tasks[-1]

    @property
    def tested(self) -> dict[str, Task]:
        """All tasks whose losses are outcomes, by name."""
        return {task.name: task for task in (*self.setup.tasks, *self.setup.watch)}

    def role(self, name: str) -> str:
        """Return what a task is to this transition."""
        if name == self.transition.task:
            return "own"
        return "earlier" if name in self.transition.earlier else "unseen"


def run_study(config: StudyConfig, progress: Reporter | None = None) -> tuple[StudyRecord, ...]:
    """Make all trainings of a study that are not recorded yet, and return all records.

    Raises:
        SapoError: for anything a user can act on.
    """
    progress = progress or Silent()
    path = config.run_dir / STUDY
    known = {_key(r): r for r in read_study(path)} if path.is_file() else {}
    mine = fingerprint({key: value for key, value in config.plain().items() if key not in _MAY_GROW})
    if any(record.study != mine for record in known.values()):
        raise RecordError(
            f"{path} was made with another configuration (other than {', '.join(_MAY_GROW)}): use another run_dir, or "
            "delete it to start afresh"
        )
    for transition in transitions(config):
        # One training more than the candidates asked for: the original.
        if all((transition.name, t) in known for t in trials(config, _count(known, transition, config))):
            continue
        ground = prepare(config, transition, progress)
        wanted = list(trials(config, len(ground.setup.candidates[transition.task])))
        for number, trial in enumerate(wanted, start=1):
            if (transition.name, trial) in known:
                continue
            label = f"{transition.name}, training {number} of {len(wanted)}"
            record = train(config, ground, trial, mine, label, progress)
            known[transition.name, trial] = record
            append_study(path, record)
    return tuple(known.values())


# More of these may be asked for later: what was recorded stays true.
_MAY_GROW = ("transitions", "seeds", "arms", "run_dir", "tasks", "unseen")


def _key(record: StudyRecord) -> tuple[str, Trial]:
    return record.transition, Trial(record.arm, record.seed, record.candidate)


def _count(known: dict[tuple[str, Trial], StudyRecord], transition: Transition, config: StudyConfig) -> int:
    """Return how many candidates a transition has, as far as its records tell; else as many as were asked for."""
    found = [trial.candidate for name, trial in known if name == transition.name]
    return 1 + (max(found) if found else config.candidates.count)


def prepare(config: StudyConfig, transition: Transition, progress: Reporter, *, alone: bool = True) -> Ground:
    """Return a transition's state, trained or read back, with everything that is measured in it.

    Args:
        config: of the study.
        transition: which one.
        progress: hears about every step.
        alone: whether nobody else works in the state's directory; if not, all of it must be there already.
    """
    own = state_config(config, transition)
    record = Record(own.run_dir, own.plain())
    record.check()
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
            "settings": fingerprint([config.examples, config.scores, config.max_new_tokens, config.max_length]),
        }
        measured = record.reuse("ground.json", inputs)
        if measured is None:
            measured = _measure(config, transition, setup, steps.live, state, progress)
            record.save("ground.json", inputs, measured)
    return Ground(
        transition, setup, steps.live, state,
        {name: losses_from_json(value) for name, value in measured["before"].items()},
        measured["scores"], measured["indicators"], measured["earlier_gradient"],
    )  # fmt: skip


def _measure(
    config: StudyConfig, transition: Transition, setup: Setup, live: Live, state: State, progress: Reporter
) -> dict[str, Any]:
    """Return what is measured in a state before anything is trained from it, as JSON."""
    model = live.prepare(state, _assignment(config, setup, []))
    scorer, renderer, task = live.scorer, setup.renderer, setup.tasks[-1]
    tested = (*setup.tasks, *setup.watch)
    before: dict[str, Any] = {}
    scores: dict[str, float] = {}
    with progress.step(f"{transition.name}: before training", len(tested), 0) as advance:
        for one in tested:
            before[one.name] = losses_to_json(scorer(renderer.encode(one.instruction, one.suffix, one.test)))
            if config.scores:
                scores[one.name] = _score(setup, live, model, one, one.instruction)
            advance(1)
    rows = [task.train[i] for i in selection_rows(task, config.examples, "stratified", config.seeds[0])]
    candidates = setup.candidates[task.name]
    found = []
    with progress.step(
        f"{transition.name}: {len(candidates)} candidates before training", len(candidates), 0
    ) as advance:
        for candidate in candidates:
            found.append(asdict(indicators(model, scorer, renderer, task, candidate.text, rows)))
            advance(1)
    earlier = [e for one in setup.tasks[:-1] for e in renderer.encode(one.instruction, one.suffix, one.test)]
    return {
        "before": before,
        "scores": scores,
        "indicators": found,
        "earlier_gradient": norm(gradient(model, earlier)),
    }


def train(config: StudyConfig, ground: Ground, trial: Trial, study: str, label: str, progress: Reporter) -> StudyRecord:
    """Return the record of one training from a transition's state."""
    setup, task, renderer = ground.setup, ground.task, ground.setup.renderer
    candidate = setup.candidates[task.name][trial.candidate]
    encoded = renderer.encode(candidate.text, task.suffix, task.train)
    model = ground.live.prepare(ground.state, _assignment(config, setup, encoded))
    scorer = ground.live.scorer.on(model)
    began = time.perf_counter()
    travel, loss_before = Travel(), scorer(encoded).per_token
    work = setup.plan.train[task.name]
    with progress.step(label, work.units, work.cost) as advance:
        training = finetune(
            model, encoded, settings_of(config, trial.arm), trial.seed, advance, extras=Extras(watchers=(travel,))
        )
    losses, scores = {}, {}
    for name, one in ground.tested.items():
        text = candidate.text if name == task.name else one.instruction
        losses[name] = _losses(
            ground.role(name), ground.before[name], scorer(renderer.encode(text, one.suffix, one.test))
        )
        if config.scores:
            scores[name] = {"before": ground.scores[name], "after": _score(setup, ground.live, model, one, text)}
    mediators = {
        "first_gradient": training.gradient_norms[0],
        "path": travel.path,
        "displacement": travel.displacement,
        "drift": _drift(ground, model, travel.start),
        "train_before": loss_before,
        "train_after": scorer(encoded).per_token,
        "rate_sum": sum(training.rates),
        "earlier_gradient": ground.earlier_gradient,
    }
    return StudyRecord.from_json(
        {
            "format": 1, "study": study, "transition": ground.transition.name,
            "earlier": list(ground.transition.earlier), "task": task.name, "arm": trial.arm, "seed": trial.seed,
            "candidate": trial.candidate, "text": candidate.text, "origin": candidate.origin,
            "indicators": ground.indicators[trial.candidate], "mediators": mediators, "losses": losses,
            "scores": scores or None, "seconds": time.perf_counter() - began,
            "config": {key: value for key, value in config.plain().items() if key != "run_dir"},
            "versions": {library: version for library, version in library_versions().items() if version},
        }
    )  # fmt: skip


def _assignment(config: StudyConfig, setup: Setup, rows: Sequence[Encoded]) -> Assignment:
    stages = len(setup.tasks)
    return Assignment(stages, stages, config.seeds[0], rows, None, config.train.batch_size)


def _drift(ground: Ground, model: Any, start: dict[str, torch.Tensor]) -> float:
    earlier = [ground.tested[name] for name in ground.transition.earlier]
    encode = ground.setup.renderer.encode
    encoded = [e for one in earlier for e in encode(one.instruction, one.suffix, one.test[:_DRIFT_ROWS])]
    return drift(model, start, encoded)


def _losses(role: str, before: Losses, after: Losses) -> dict[str, Any]:
    return {
        "role": role,
        "before": [round(x, _DECIMALS) for x in before.nll.tolist()],
        "after": [round(x, _DECIMALS) for x in after.nll.tolist()],
        "tokens": after.tokens.tolist(),
    }


def _score(setup: Setup, live: Live, model: Any, task: Task, text: str) -> float:
    found = evaluate(
        model, setup.renderer, task, text, task.test, setup.config.evaluate.max_new_tokens, scorer=live.scorer.on(model)
    )
    return float(found.scores[task.metric].mean())
