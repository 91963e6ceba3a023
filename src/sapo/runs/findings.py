"""From what a run computed to `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sapo.core.types import Instruction, Task, Trained
from sapo.models.ability import Ability
from sapo.models.answers import Evaluation
from sapo.runs.config.schema import Config
from sapo.runs.prepare import Setup
from sapo.runs.results import NLL, PRIMARY, Prompt, Results, tabulate, undefined, value
from sapo.tasks.load import data_fingerprint
from sapo.training.guard import Alarm
from sapo.training.policies import Policy


@dataclass(slots=True)
class Findings:
    """What a run found so far; filled while it goes on.

    Attributes:
        cells: of the performance matrix, by stage, task and test prompt.
        trained: the tasks so far.
        ability: general ability by stage, where it is measured.
        alarms: of the forgetting guard, by task that was trained then.
        wordings: per task its last state under held-out paraphrases, where there are any.
        crossed: per task its last state under another run's instruction, where one is given.
    """

    cells: dict[tuple[int, str, Prompt], Evaluation] = field(default_factory=dict)
    trained: list[Trained] = field(default_factory=list)
    ability: dict[int, Ability] = field(default_factory=dict)
    alarms: list[tuple[str, Alarm]] = field(default_factory=list)
    wordings: dict[str, list[tuple[Instruction, Evaluation]]] = field(default_factory=dict)
    crossed: dict[str, Evaluation] = field(default_factory=dict)


def test_prompts(config: Config) -> tuple[Prompt, ...]:
    """Return the test prompts of a run, the one of the main matrix first."""
    wanted = config.evaluate.test_prompt
    return ("selected", "original") if wanted == "both" else (wanted,)


def results_of(setup: Setup, found: Findings, seconds: Mapping[str, float]) -> Results:
    """Return what `results.json` holds."""
    config, prompts = setup.config, test_prompts(setup.config)
    missing = undefined(setup.method.order)
    tables = tabulate(found.cells, setup.tasks, setup.watch, prompts, config.seed, missing)
    kinds = {task.metric for task in setup.tasks}
    data: dict[str, Any] = {
        "tasks": [task.name for task in setup.tasks],
        "primary_metric": kinds.pop() if len(kinds) == 1 else "mixed",
        "primary_metrics": {task.name: task.metric for task in (*setup.tasks, *setup.watch)},
        "test_prompt": prompts[0],
        "matrix": tables["matrices"]["primary"][prompts[0]],
        "metrics": tables["metrics_all"]["primary"][prompts[0]],
        **tables,
        "instructions": {t.task.name: instruction_entry(t, config.policy) for t in found.trained},
        "test_data": {task.name: data_fingerprint(task.test) for task in setup.tasks},
        "test_rows": {task.name: len(task.test) for task in setup.tasks},
        **_extras(setup.tasks, found),
        "config": config.plain(),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    return Results(data)


def instruction_entry(trained: Trained, policy: Policy) -> dict[str, Any]:
    """Return what `results.json` tells of a task's instruction."""
    selection = trained.selection
    return {
        "text": trained.instruction.text,
        "origin": trained.instruction.origin,
        "original": trained.task.instruction,
        "suffix": trained.task.suffix,
        "losses": None if selection is None else {c.instruction.text: c.loss for c in selection.candidates},
        **({"mixture": [p.text for p in trained.mixture]} if trained.mixture else {}),
        **({"switches": len(trained.switches)} if policy == "reselect" else {}),
    }


def _extras(tasks: Sequence[Task], found: Findings) -> dict[str, Any]:
    """Return what only some runs measure."""
    by_name = {task.name: task for task in tasks}
    extras: dict[str, Any] = {}
    if found.wordings:
        extras["robustness"] = {
            name: {
                "texts": [instruction.text for instruction, _ in cells],
                **{m: [value(cell, m, by_name[name]) for _, cell in cells] for m in (PRIMARY, NLL)},
            }
            for name, cells in found.wordings.items()
        }
    if found.crossed:
        extras["crossed"] = {"by": "sapo"} | {
            m: {name: value(cell, m, by_name[name]) for name, cell in found.crossed.items()} for m in (PRIMARY, NLL)
        }
    if found.ability:
        extras["ability"] = [{"stage": stage, **a.to_json()} for stage, a in sorted(found.ability.items())]
    if found.alarms:
        extras["guard"] = [{"task": task, **asdict(alarm)} for task, alarm in found.alarms]
    return extras
