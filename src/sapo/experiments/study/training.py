"""One training of a study: from a transition's state, with one candidate, one seed and one optimiser arm."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from sapo.core.progress import Reporter
from sapo.core.types import Losses
from sapo.experiments.study.ground import Ground, score
from sapo.experiments.study.mediators import Travel, drift
from sapo.experiments.study.plan import Trial
from sapo.experiments.study.records import StudyRecord
from sapo.runs.config.study import StudyConfig
from sapo.runs.lineage import library_versions
from sapo.tasks.load import task_fingerprint
from sapo.training.finetune import finetune
from sapo.training.trainer import Extras

_DECIMALS = 4
# Test rows of each earlier task whose outputs are compared: two whole distributions a token are dear.
_DRIFT_ROWS = 32


def train(config: StudyConfig, ground: Ground, trial: Trial, study: str, label: str, progress: Reporter) -> StudyRecord:
    """Return the record of one training from a transition's state."""
    run, task, renderer = ground.run, ground.task, ground.run.renderer
    candidate = run.inputs.candidates[task.name][trial.candidate]
    encoded = renderer.encode(candidate.text, task.suffix, task.train)
    model = run.model.prepare(ground.stage, replace(run.schedule[-1], rows=encoded))
    scorer = run.model.scorer
    settings = config.train
    if trial.arm == "sgd":
        settings = settings.model_copy(update={"learning_rate": config.sgd.learning_rate})
    began = time.perf_counter()
    travel, loss_before = Travel(), scorer(encoded).per_token
    work = run.plan.train[task.name]
    with progress.step(label, work.units, work.cost) as advance:
        training = finetune(
            model, encoded, settings, trial.seed, advance, extras=Extras(watchers=(travel,)), optimiser=trial.arm
        )
    losses, scores = {}, {}
    for name, one in ground.tested.items():
        text = candidate.text if name == task.name else one.instruction
        losses[name] = _losses(
            ground.role(name), ground.before[name], scorer(renderer.encode(text, one.suffix, one.test))
        )
        if config.scores:
            scores[name] = {"before": ground.scores[name], "after": score(run, model, one, text, config.max_new_tokens)}
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
            "data": {name: task_fingerprint(one) for name, one in ground.tested.items()},
            "versions": {library: version for library, version in library_versions().items() if version},
        }
    )  # fmt: skip


def _drift(ground: Ground, model: Any, start: dict[str, torch.Tensor]) -> float:
    earlier = [ground.tested[name] for name in ground.transition.earlier]
    encode = ground.run.renderer.encode
    encoded = [e for one in earlier for e in encode(one.instruction, one.suffix, one.test[:_DRIFT_ROWS])]
    return drift(model, start, encoded)


def _losses(role: str, before: Losses, after: Losses) -> dict[str, Any]:
    return {
        "role": role,
        "before": [round(x, _DECIMALS) for x in before.nll.tolist()],
        "after": [round(x, _DECIMALS) for x in after.nll.tolist()],
        "tokens": after.tokens.tolist(),
    }
