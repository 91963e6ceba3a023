"""One training of a study: from a transition's state, with one candidate, one seed and one optimiser arm."""

from __future__ import annotations

import time
from typing import Any

import torch

from sapo.card import library_versions
from sapo.config import StudyConfig
from sapo.finetune import Extras, finetune
from sapo.progress import Reporter
from sapo.study.ground import Ground, assignment, score
from sapo.study.mediators import Travel, drift
from sapo.study.plan import Trial, settings_of
from sapo.study.records import StudyRecord
from sapo.tasks import task_fingerprint
from sapo.types import Losses

_DECIMALS = 4
# Test rows of each earlier task whose outputs are compared: two whole distributions a token are dear.
_DRIFT_ROWS = 32
_DRIFT_ROWS_LEAN = 8


def train(config: StudyConfig, ground: Ground, trial: Trial, study: str, label: str, progress: Reporter) -> StudyRecord:
    """Return the record of one training from a transition's state."""
    setup, task, renderer = ground.setup, ground.task, ground.setup.renderer
    candidate = setup.candidates[task.name][trial.candidate]
    encoded = renderer.encode(candidate.text, task.suffix, task.train)
    model = ground.live.prepare(ground.state, assignment(config, setup, encoded))
    scorer = ground.live.scorer.on(model)
    began = time.perf_counter()
    travel, loss_before = Travel(), None if config.lean else scorer(encoded).per_token
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
            scores[name] = {"before": ground.scores[name], "after": score(setup, ground.live, model, one, text)}
    mediators = {
        "first_gradient": training.gradient_norms[0],
        "path": travel.path,
        "displacement": travel.displacement,
        "drift": _drift(ground, model, travel.start, _DRIFT_ROWS_LEAN if config.lean else _DRIFT_ROWS),
        "train_before": loss_before,
        "train_after": None if config.lean else scorer(encoded).per_token,
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


def _drift(ground: Ground, model: Any, start: dict[str, torch.Tensor], rows: int) -> float:
    earlier = [ground.tested[name] for name in ground.transition.earlier]
    encode = ground.setup.renderer.encode
    encoded = [e for one in earlier for e in encode(one.instruction, one.suffix, one.test[:rows])]
    return drift(model, start, encoded)


def _losses(role: str, before: Losses, after: Losses) -> dict[str, Any]:
    return {
        "role": role,
        "before": [round(x, _DECIMALS) for x in before.nll.tolist()],
        "after": [round(x, _DECIMALS) for x in after.nll.tolist()],
        "tokens": after.tokens.tolist(),
    }
