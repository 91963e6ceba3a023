"""Trainings of a study whose effects are given, for tests of its statistics and of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sapo.core.types import Floats
from sapo.experiments.study.records import StudyRecord

TOKENS = (2, 3)
LEVEL = 2.0


def training(
    candidate: int = 0,
    seed: int = 1,
    *,
    arm: str = "adamw",
    transition: str = "a>b",
    effects: Mapping[str, float] = {"b": -1.0, "a": -0.5, "u": 0.25},
    **changes: Any,
) -> StudyRecord:
    """The record of a training of the last task of a transition; tasks that it does not name are unseen."""
    earlier, task = transition.split(">")[:-1], transition.split(">")[-1]
    losses = {}
    for name, effect in effects.items():
        # Rows differ; their losses per token have the effect as their mean.
        level, shift = -effect if name == task else LEVEL - effect, np.array([0.3, -0.3])
        losses[name] = {
            "role": "own" if name == task else "earlier" if name in earlier else "unseen",
            "before": (LEVEL * np.array(TOKENS)).tolist(),
            "after": (level * np.array(TOKENS) + shift).tolist(),
            "tokens": list(TOKENS),
        }
    data = {
        "format": 1, "study": "f00", "transition": transition, "earlier": earlier, "task": task, "arm": arm,
        "seed": seed, "candidate": candidate, "text": f"text {candidate}", "origin": "file",
        "indicators": {"pre_update": 1.0 + 0.1 * candidate, "length": 5.0},
        "mediators": {"path": 1.0, "train_before": 1.0, "train_after": 0.5, "rate_sum": 1.0, "earlier_gradient": 1.0},
        "losses": losses, "scores": None, "seconds": 50.0, "config": {"seeds": [1, 2]}, "versions": {"torch": "2"},
    }  # fmt: skip
    return StudyRecord.from_json(data | changes)


def tables(found: Mapping[str, Floats], *, transition: str = "a>b", losses: Sequence[float] = ()) -> list[StudyRecord]:
    """Trainings whose effects by task are these tables of candidates x seeds."""
    candidates, seeds = next(iter(found.values())).shape
    losses = losses or range(candidates)
    return [
        training(
            c, s, transition=transition, effects={task: float(table[c, s]) for task, table in found.items()},
            indicators={"pre_update": float(losses[c])},
        )
        for c in range(candidates)
        for s in range(seeds)
    ]  # fmt: skip


def study(
    random: np.random.Generator,
    *,
    transitions: tuple[str, ...] = ("a>b", "a>b>c", "c>a"),
    candidates: int = 9,
    seeds: tuple[int, ...] = (1, 2, 3),
    arms: tuple[str, ...] = ("adamw", "sgd"),
    link: float = 0.0,
    noise: float = 0.1,
    **changes: Any,
) -> list[StudyRecord]:
    """Trainings whose effects on tasks other than the own one share a candidate part, ``link`` of it from the loss."""
    found = []
    for transition in transitions:
        tasks = [*transition.split(">"), "u", "v"]
        loss, edit = random.normal(size=candidates), random.random(candidates)
        for arm in arms:
            part = -link * loss + np.sqrt(1 - link**2) * random.normal(size=candidates)
            for seed in seeds:
                for c in range(candidates):
                    shared, own = 0.2 * part[c], -1.0 + noise * random.normal()
                    effects = {task: shared + noise * random.normal() for task in tasks} | {tasks[-3]: own}
                    mediators = {name: float(random.gamma(2.0)) for name in ("path", "displacement", "first_gradient")}
                    mediators |= {"drift": 0.1, "train_before": 2.0, "train_after": 1.0, "rate_sum": 1.0}
                    indicators = {"pre_update": float(loss[c]), "length": float(c % 4), "edit": float(edit[c])}
                    data = {"indicators": indicators, "mediators": mediators | {"earlier_gradient": 0.5}} | changes
                    found.append(training(c, seed, arm=arm, transition=transition, effects=effects, **data))
    return found
