"""The page: for each task gather candidates, score them, choose, fine-tune, evaluate, record.

This is the whole algorithm (paper, section 4). What each line does is in the room it is named after; what
makes it resumable is in `sapo.steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapo.card import Trained
from sapo.config import Config
from sapo.evaluate import Evaluation
from sapo.formats import inspection_to_json
from sapo.gathering import Gathering
from sapo.policies import BY_LOSS, choose_instruction
from sapo.processes import join
from sapo.progress import Reporter, Silent
from sapo.record import Record
from sapo.results import Prompt, Results, tabulate
from sapo.selection import selection_rows
from sapo.setup import Setup, environment, set_up
from sapo.steps import State, Steps
from sapo.types import Instruction, Selection, Task


def run(config: Config, progress: Reporter | None = None) -> Results:
    """Run one sequence and return what it found; everything is recorded in ``config.run_dir``.

    A run directory that holds finished steps of the same configuration is gone on with.

    Raises:
        SapoError: for anything a user can act on, before the first step wherever it can be known then.
    """
    progress = progress or Silent()
    processes = join(config.model.device)
    record = Record(config.run_dir, config.plain(), processes)
    # Before the model is loaded, and without leaving anything behind should the configuration be wrong.
    record.check()
    gathering = Gathering(config, record, progress)
    setup = set_up(config, gathering, processes)
    with record:
        tell(setup, progress)
        progress.plan(setup.plan.cost)
        record.write("environment.json", environment(setup.loaded, processes))
        record.write_first("data.json", {"tasks": [inspection_to_json(i) for i in setup.inspections.values()]})
        gathering.save(setup.tasks, [setup.gathered[task.name] for task in setup.tasks])
        steps = Steps(setup, record, progress)
        return _follow(setup, steps, record)


def tell(setup: Setup, progress: Reporter) -> None:
    """Tell the user what was decided and what the data holds, before anything is computed."""
    for note in setup.notes:
        progress.note(note)
    progress.table("data", *setup.data_table)
    for warning in setup.data_warnings:
        progress.note(f"note: {warning}")


def _follow(setup: Setup, steps: Steps, record: Record) -> Results:
    config = setup.config
    trained: list[Trained] = []
    selections: list[Selection | None] = []
    state = steps.start
    cells = _evaluate_stage(setup, steps, state, trained)
    for task in setup.tasks:
        selection = _measure(setup, steps, state, task)
        instruction = choose_instruction(config.policy, setup.candidates[task.name], selection, config.seed)
        trained.append(Trained(task, instruction, selection))
        selections.append(selection)
        before, state = state, steps.train(state, trained)
        cells |= _evaluate_stage(setup, steps, state, trained)
        if config.keep == "last" and before.stage > 0:
            record.drop_stage(before.name)
    results = _results(setup, cells, trained, selections, steps.seconds)
    record.write("results.json", results.data)
    return results


def _measure(setup: Setup, steps: Steps, state: State, task: Task) -> Selection | None:
    if setup.config.policy not in BY_LOSS:
        return None
    chosen = setup.config.selection
    return steps.measure(state, task, selection_rows(task, chosen.examples, chosen.sample, setup.config.seed))


def _evaluate_stage(
    setup: Setup, steps: Steps, state: State, trained: Sequence[Trained]
) -> dict[tuple[int, str, Prompt], Evaluation]:
    """Return the stage's row of the matrix: every task of the sequence and every watch task."""
    chosen = {t.task.name: t.instruction for t in trained}
    cells: dict[tuple[int, str, Prompt], Evaluation] = {}
    for task in (*setup.tasks, *setup.watch):
        # An unseen task has no selected instruction yet: both prompts are the original then.
        selected = chosen.get(task.name, Instruction(task.instruction, "original")).text
        texts = {"selected": selected, "original": task.instruction}
        evaluated: dict[str, Evaluation] = {}
        for prompt in test_prompts(setup.config):
            text = texts[prompt]
            if text not in evaluated:
                kind: Prompt = "original" if text == task.instruction else "selected"
                evaluated[text] = steps.evaluate(state, task, text, kind)
            cells[state.stage, task.name, prompt] = evaluated[text]
    return cells


def test_prompts(config: Config) -> tuple[Prompt, ...]:
    """Return the test prompts of a run, the one of the main matrix first."""
    wanted = config.evaluate.test_prompt
    return ("selected", "original") if wanted == "both" else (wanted,)


def _results(
    setup: Setup,
    cells: Mapping[tuple[int, str, Prompt], Evaluation],
    trained: Sequence[Trained],
    selections: Sequence[Selection | None],
    seconds: Mapping[str, float],
) -> Results:
    config = setup.config
    prompts = test_prompts(config)
    tables = tabulate(cells, setup.tasks, setup.watch, prompts, config.seed)
    kinds = {task.metric for task in setup.tasks}
    data: dict[str, Any] = {
        "tasks": [task.name for task in setup.tasks],
        "primary_metric": kinds.pop() if len(kinds) == 1 else "mixed",
        "primary_metrics": {task.name: task.metric for task in (*setup.tasks, *setup.watch)},
        "test_prompt": prompts[0],
        "matrix": tables["matrices"]["primary"][prompts[0]],
        "metrics": tables["metrics_all"]["primary"][prompts[0]],
        **tables,
        "instructions": {
            t.task.name: {
                "text": t.instruction.text,
                "origin": t.instruction.origin,
                "original": t.task.instruction,
                "suffix": t.task.suffix,
                "losses": None if selection is None else {c.instruction.text: c.loss for c in selection.candidates},
            }
            for t, selection in zip(trained, selections, strict=True)
        },
        "config": config.plain(),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    return Results(data)
