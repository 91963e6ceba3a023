"""The page: for each task gather candidates, score them, choose, fine-tune, evaluate, record.

This is the whole algorithm (paper, section 4). What each line does is in the room it is named after; what
makes it resumable is in `sapo.runs.steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sapo.core.processes import join
from sapo.core.progress import Reporter, Silent
from sapo.core.types import Instruction, Selection, Task, Trained
from sapo.models.answers import Evaluation
from sapo.runs.config.schema import Config
from sapo.runs.directory import Record
from sapo.runs.findings import Findings, test_prompts
from sapo.runs.gathering import Gathering
from sapo.runs.prepare import Setup, environment, set_up
from sapo.runs.results import Prompt, RunResult, run_result, undefined
from sapo.runs.states import State
from sapo.runs.steps import Steps
from sapo.runs.tracking import TOLD, integrations, told, tracked
from sapo.selection.rows import selection_rows
from sapo.training.lessons import Lesson
from sapo.training.policies import BY_LOSS, MIXTURES, choose_instruction

_NO_TEXTS: Mapping[str, str] = MappingProxyType({})


def run(
    config: Config,
    progress: Reporter | None = None,
    shared: Path | None = None,
    crossed: Mapping[str, str] = _NO_TEXTS,
) -> RunResult:
    """Run one sequence and return what it found; everything is recorded in ``config.run_dir``.

    A run directory that holds finished steps of the same configuration is gone on with.

    Args:
        config: of one run, not of a sweep.
        progress: hears about every step.
        shared: where the runs of a sweep leave for each other what they compute at the start.
        crossed: instructions by task, another run's, that each task's last state is tested with too.

    Raises:
        SapoError: for anything a user can act on, before the first step wherever it can be known then.
    """
    progress = progress or Silent()
    processes = join(config.model.device)
    record = Record(config.run_dir, config.plain(), processes, shared)
    # Before the model is loaded, and without leaving anything behind should the configuration be wrong.
    record.check()
    known = told(config.run_dir)
    trackers = integrations([n for n in config.report_to if n not in known] if processes.first else ())
    gathering = Gathering(config, record, progress)
    setup = set_up(config, gathering, processes)
    with record:
        tell(setup, progress)
        progress.plan(setup.plan.cost)
        record.write("environment.json", environment(setup.loaded, processes))
        record.write_first("data.json", {"tasks": [one.to_json() for one in setup.inspections.values()]})
        gathering.save(setup.tasks, [setup.gathered[task.name] for task in setup.tasks])
        updates = [setup.plan.work(lesson.tasks).units for lesson in setup.lessons]
        with tracked(trackers, config.run_dir, setup.loaded.model, updates) as tracker:
            steps = Steps(setup, record, progress, tracker)
            found = _follow(setup, steps, record, crossed)
            results = run_result(
                tasks=setup.tasks,
                watch=setup.watch,
                prompts=test_prompts(config),
                cells=found.cells,
                trained=found.trained,
                config=config.plain(),
                seconds=steps.seconds,
                undefined=undefined(setup.method.order),
                wordings=found.wordings,
                crossed=found.crossed,
                ability={stage: ability.loss for stage, ability in found.ability.items()},
                alarms=found.alarms,
            )
            tracker.finished(results.metrics_all)
        record.write("results.json", results.to_json())
        if config.report_to:
            record.write(TOLD, sorted({*known, *config.report_to}))
        return results


def tell(setup: Setup, progress: Reporter) -> None:
    """Tell the user what was decided and what the data holds, before anything is computed."""
    for note in setup.notes:
        progress.note(note)
    progress.table("data", *setup.data_table)
    for warning in setup.data_warnings:
        progress.note(f"note: {warning}")


def _follow(setup: Setup, steps: Steps, record: Record, crossed: Mapping[str, str]) -> Findings:
    found, state = Findings(), steps.start
    _evaluate(setup, steps, state, setup.tasks, found)
    for lesson in setup.lessons:
        before = steps.start if lesson.apart else state
        for task in lesson.tasks:
            found.trained.append(_choose(setup, steps, before, task))
            steps.tracker.chosen(found.trained[-1], lesson.stage)
        taught = steps.train(before, lesson, found.trained)
        found.trained[-len(lesson.tasks) :] = taught.trained
        found.alarms += [(lesson.name, alarm) for alarm in taught.alarms]
        state = taught.state
        _evaluate(setup, steps, state, lesson.tested, found)
        _evaluate_wordings(setup, steps, state, lesson, crossed, found)
        if setup.config.keep == "last" and before.stage > 0:
            record.drop_stage(before.name)
    return found


def _choose(setup: Setup, steps: Steps, state: State, task: Task) -> Trained:
    config, candidates = setup.config, setup.candidates[task.name]
    selection: Selection | None = None
    if config.policy in BY_LOSS:
        rows = selection_rows(task, config.selection.examples, config.selection.sample, config.seed)
        selection = steps.measure(state, task, setup.tasks.index(task) + 1, rows)
    instruction = choose_instruction(config.policy, candidates, selection, config.seed)
    return Trained(task, instruction, selection, candidates[1:] if config.policy in MIXTURES else ())


def _evaluate(setup: Setup, steps: Steps, state: State, tasks: tuple[Task, ...], found: Findings) -> None:
    """Fill the stage's row of the matrix: these tasks and every watch task; and its general ability."""
    chosen = {t.task.name: t.instruction for t in found.trained}
    for task in (*tasks, *setup.watch):
        # An unseen task has no selected instruction yet: both prompts are the original then.
        selected = chosen.get(task.name, Instruction(task.instruction, "original")).text
        texts = {"selected": selected, "original": task.instruction}
        evaluated: dict[str, Evaluation] = {}
        for prompt in test_prompts(setup.config):
            text = texts[prompt]
            if text not in evaluated:
                kind: Prompt = "original" if text == task.instruction else "selected"
                evaluated[text] = steps.evaluate(state, task, text, kind)
            found.cells[state.stage, task.name, prompt] = evaluated[text]
            steps.tracker.tested(state.stage, task, prompt, evaluated[text])
    if setup.config.evaluate.general:
        found.ability[state.stage] = steps.ability(state)


def _evaluate_wordings(
    setup: Setup, steps: Steps, state: State, lesson: Lesson, crossed: Mapping[str, str], found: Findings
) -> None:
    """Test tasks in their last state with paraphrases held out for that, and with another run's instruction."""
    for task in lesson.final:
        for number, held in enumerate(setup.held_out[task.name], start=1):
            cell = steps.evaluate(state, task, held.text, f"held-out-{number}")
            found.wordings.setdefault(task.name, []).append((held, cell))
        if task.name in crossed:
            found.crossed[task.name] = steps.evaluate(state, task, crossed[task.name], "crossed")
