"""A transition's state, what is measured in it, and each training from it.

RUN_DIR/states/TRANSITION/    the run that leads to the state; ground.json holds what was measured in it
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sapo.core.errors import RecordError, TrainError
from sapo.core.progress import Reporter
from sapo.core.storage import fingerprint
from sapo.core.types import Instruction, Losses, Task
from sapo.experiments.study.indicators import Travel, drift, gradient, indicators, norm
from sapo.experiments.study.plan import Transition, Trial, state_config
from sapo.experiments.study.records import StudyRecord
from sapo.models.answers import evaluate
from sapo.runs.config.study import StudyConfig
from sapo.runs.lineage import library_versions
from sapo.runs.prepare import prepare
from sapo.runs.run import Run
from sapo.selection.selection import Choice
from sapo.tasks.load import task_fingerprint
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.schedule import Stage
from sapo.training.trainer import Extras

MEASURED = "ground.json"
_DECIMALS = 4
# Test rows of each earlier task whose outputs are compared: two whole distributions a token are dear.
_DRIFT_ROWS, _DRIFT_ROWS_LEAN = 32, 8


@dataclass(frozen=True, slots=True)
class _Ground:
    """What every training of a transition has in common.

    Attributes:
        run: that leads to the stage: tasks, candidates, model.
        stage: that every training begins at.
        tested: all tasks whose losses are outcomes, by name; the last of the sequence is the one that is trained.
        measured: as JSON: "before" (losses on test rows by task, with the original instructions), "scores" (mean of
            the primary metric in percent, by task), "indicators" of each candidate, "candidates" (the losses behind
            the pre-update loss, row by row), "earlier_gradient" (norm of the gradient of the earlier tasks' loss; None
            if lean).
    """

    run: Run
    stage: Stage
    tested: dict[str, Task]
    measured: dict[str, Any]


# The state that this process worked from last, and whose it is: trainings of one state come one after the other.
_kept: tuple[tuple[str, str], _Ground] | None = None


def forget() -> None:
    """Drop the state that is kept between trainings."""
    global _kept
    _kept = None


def begin(config: StudyConfig, transition: Transition, progress: Reporter) -> int:
    """Bring about a transition's state and measure in it; return how many candidates it has, the original included."""
    return len(_ground(config, transition, progress, writes=True).run.inputs.candidates[transition.task])


def train(
    config: StudyConfig, transition: Transition, trial: Trial, study: str, label: str, progress: Reporter
) -> StudyRecord:
    """Return the record of one training from a transition's state; ``study`` is the fingerprint of the study.

    The transition was begun before, in this process or in another one with the same run_dir, or that is an error.
    """
    ground = _ground(config, transition, progress, writes=False)
    run, task, renderer = ground.run, ground.tested[transition.task], ground.run.engine.renderer
    candidate = run.inputs.candidates[task.name][trial.candidate]
    encoded = renderer.encode(candidate.text, task.suffix, task.train)
    model = run.model.prepare(ground.stage, replace(run.schedule[-1], rows=encoded))
    scorer, settings = run.model.scorer, config.train
    if trial.arm == "sgd":
        settings = settings.model_copy(update={"learning_rate": config.sgd.learning_rate})
    began = time.perf_counter()
    travel, loss_before = Travel(), None if config.lean else scorer(encoded).per_token
    work = run.engine.plan.train[task.name]
    try:
        with progress.step(label, work.units, work.cost) as advance:
            training = finetune(
                model, encoded, settings, trial.seed, advance, extras=Extras(watchers=(travel,)), optimiser=trial.arm
            )
    except TrainError as error:
        raise TrainError(f"{error}{'. Arm sgd has sgd.learning_rate of its own' * (trial.arm == 'sgd')}") from error
    losses, scores, before = {}, {}, ground.measured
    for name, one in ground.tested.items():
        text = candidate.text if name == task.name else one.instruction
        then, now = Losses.from_json(before["before"][name]), scorer(renderer.encode(text, one.suffix, one.test))
        losses[name] = {
            "role": "own" if name == task.name else "earlier" if name in transition.earlier else "unseen",
            "before": [round(x, _DECIMALS) for x in then.nll.tolist()],
            "after": [round(x, _DECIMALS) for x in now.nll.tolist()],
            "tokens": now.tokens.tolist(),
        }
        if config.scores:
            after = _score(run, model, one, text, config.max_new_tokens)
            scores[name] = {"before": before["scores"][name], "after": after}
    earlier = [ground.tested[name] for name in transition.earlier]
    few = _DRIFT_ROWS_LEAN if config.lean else _DRIFT_ROWS
    drifting = [e for one in earlier for e in renderer.encode(one.instruction, one.suffix, one.test[:few])]
    mediators = {
        "first_gradient": training.gradient_norms[0],
        "path": travel.path,
        "displacement": travel.displacement,
        "drift": drift(model, travel.start, drifting),
        "train_before": loss_before,
        "train_after": None if config.lean else scorer(encoded).per_token,
        "rate_sum": sum(training.rates),
        "earlier_gradient": before["earlier_gradient"],
    }
    return StudyRecord.from_json(
        {
            "format": 1, "study": study, "transition": transition.name, "earlier": list(transition.earlier),
            "task": task.name, "arm": trial.arm, "seed": trial.seed, "candidate": trial.candidate,
            "text": candidate.text, "origin": candidate.origin, "indicators": before["indicators"][trial.candidate],
            "mediators": mediators, "losses": losses, "scores": scores or None,
            "seconds": time.perf_counter() - began,
            "config": {key: value for key, value in config.plain().items() if key != "run_dir"},
            "data": dict(run.inputs.data),
            "versions": {library: version for library, version in library_versions().items() if version},
        }
    )  # fmt: skip


def _ground(config: StudyConfig, transition: Transition, progress: Reporter, *, writes: bool) -> _Ground:
    """Return a transition's state with everything that is measured in it, kept from the last call where it is the same.

    ``writes``: this process, alone, may make the state; if not, all of it must be there already, or that is an error.
    """
    global _kept
    key = config.model_dump_json(), transition.name
    if _kept is not None and _kept[0] == key:
        return _kept[1]
    # The model of the transition before must not be in memory with the next one.
    _kept = None
    own = state_config(config, transition)
    if not writes and not (own.run_dir / MEASURED).is_file():
        raise RecordError(f"{own.run_dir / MEASURED} does not exist here: all workers must share run_dir")
    run = prepare(own, progress)
    directory, task = run.engine.directory, run.inputs.tasks[-1]
    tested = {one.name: one for one in (*run.inputs.tasks, *run.inputs.watch)}
    with directory if writes else nullcontext():
        if writes:
            for note in run.notes:
                progress.note(note)
            run.gathering.save(run.inputs)
        stage = run.start
        for training in run.schedule[:-1]:
            originals = [Choice(one, Instruction(one.instruction, "original")) for one in training.tasks]
            stage = run.train(stage, training, originals)
        inputs = {
            "model": stage.fingerprint,
            "tasks": fingerprint([task_fingerprint(one) for one in tested.values()]),
            "candidates": fingerprint([c.text for c in run.inputs.candidates[task.name]]),
            "settings": fingerprint(
                [config.examples, config.scores, config.max_new_tokens, config.max_length, *["lean"] * config.lean]
            ),
        }
        measured = directory.reuse(MEASURED, inputs)
        if measured is None:
            measured = _measure(config, transition, run, stage, tested, progress)
            directory.save(MEASURED, inputs, measured)
    ground = _Ground(run, stage, tested, measured)
    _kept = key, ground
    return ground


def _measure(
    config: StudyConfig, transition: Transition, run: Run, stage: Stage, tested: dict[str, Task], progress: Reporter
) -> dict[str, Any]:
    """Return what is measured in a state before anything is trained from it, as JSON."""
    task, model = tested[transition.task], run.model.prepare(stage, run.schedule[-1])
    scorer, renderer, candidates = run.model.scorer, run.engine.renderer, run.inputs.candidates[task.name]
    before, scores, found, by_row = {}, {}, [], []
    with progress.step(f"{transition.name}: before training", len(tested), 0) as advance:
        for name, one in tested.items():
            before[name] = scorer(renderer.encode(one.instruction, one.suffix, one.test)).to_json()
            if config.scores:
                scores[name] = _score(run, model, one, one.instruction, config.max_new_tokens)
            advance(1)
    rows = [task.train[i] for i in selection_rows(task, config.examples, "stratified", config.seeds[0])]
    label = f"{transition.name}: {len(candidates)} candidates before training"
    with progress.step(label, len(candidates), 0) as advance:
        for candidate in candidates:
            known, losses = indicators(model, scorer, renderer, task, candidate.text, rows, lean=config.lean)
            found.append(known)
            by_row.append(losses.to_json())
            advance(1)
    earlier = [e for one in run.inputs.tasks[:-1] for e in renderer.encode(one.instruction, one.suffix, one.test)]
    return {
        "before": before,
        "scores": scores,
        "indicators": found,
        "candidates": by_row,
        "earlier_gradient": None if config.lean else norm(gradient(model, earlier)),
    }


def _score(run: Run, model: Any, task: Task, text: str, max_new_tokens: int) -> float:
    """Return the mean score of a task's test rows with an instruction, 0 to 100."""
    found = evaluate(model, run.engine.renderer, task, text, task.test, max_new_tokens, scorer=run.model.scorer)
    return float(found.scores[task.metric].mean())
