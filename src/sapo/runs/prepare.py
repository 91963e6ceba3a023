"""From a configuration to a run that is ready: everything that it needs, loaded and checked before its first step.

Configuration stops here: every room is given what it uses.
"""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch

from sapo.candidates.local import LocalSettings
from sapo.candidates.opening import open_sources
from sapo.candidates.source import Source
from sapo.core.processes import Processes, join
from sapo.core.progress import SILENT, Reporter
from sapo.core.types import Choice, Task
from sapo.models.load import LoadedModel, best_device, load_model
from sapo.models.render import Renderer
from sapo.runs.config.schema import CandidatesConfig, Config, ModelConfig
from sapo.runs.directory import RunDirectory
from sapo.runs.inputs import Gathering, Inputs, read_inputs
from sapo.runs.lineage import earlier_tasks, library_versions, lineage
from sapo.runs.model import RunModel
from sapo.runs.plan import Plan, make_plan
from sapo.runs.results import Prompt, RunResult, run_result, undefined
from sapo.runs.steps import Chooser, HowTrained, Row, Tester, Trainer
from sapo.runs.tracking import TOLD, Tracker, integrations, told, tracked
from sapo.selection.rows import context_length, selection_rows
from sapo.selection.settings import SelectionSettings
from sapo.tasks.findings import data_table, warnings_of
from sapo.tasks.inspection import Inspection, inspect_task
from sapo.training.methods import make_method
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.policies import BY_LOSS, LOWEST
from sapo.training.schedule import Stage, Training, schedule
from sapo.training.settings import Policy


@dataclass(slots=True)
class Run:
    """A run that is ready: its steps, and what they work on.

    Attributes:
        config: as plain values, for what is written.
        inputs: tasks and candidates.
        schedule: its trainings, in order.
        loaded: the model as it was loaded, with its notes.
        renderer: of its prompts.
        selection: how instructions are chosen.
        plan: what its steps cost.
        inspections: what the rows of every task hold.
        notes: what the user should know before it starts, one sentence each.
        undefined: metrics that lack their cells, by name, with the reason.
        directory: where it is recorded.
        gathering: what gave it its candidates.
        model: in the stage that was needed last.
        chooser, trainer, tester: its three steps.
        tracker: takes figures for the user's experiment tracker.
    """

    config: Mapping[str, Any]
    inputs: Inputs
    schedule: tuple[Training, ...]
    loaded: LoadedModel
    renderer: Renderer
    selection: SelectionSettings
    plan: Plan
    inspections: Mapping[str, Inspection]
    notes: tuple[str, ...]
    undefined: Mapping[str, str]
    directory: RunDirectory
    gathering: Gathering
    model: RunModel
    chooser: Chooser
    trainer: Trainer
    tester: Tester
    tracker: Tracker = field(default_factory=Tracker)

    @property
    def start(self) -> Stage:
        """Stage 0."""
        return self.model.start

    def choose(self, before: Stage, training: Training, task: Task) -> Choice:
        """Return the instruction to train a task with, chosen under the model in the stage before."""
        place = self.inputs.tasks.index(task) + 1
        candidates, rejected = self.inputs.candidates[task.name], self.inputs.rejected[task.name]
        choice = self.chooser(before, place, task, candidates, rejected)
        self.tracker.chosen(choice, training.stage)
        return choice

    def train(self, before: Stage, training: Training, chosen: Sequence[Choice]) -> Stage:
        """Return the stage that a training leads to."""
        return self.trainer(before, training, chosen, self.tracker.training(training.stage))

    def test(self, stage: Stage, training: Training | None = None, crossed: Mapping[str, str] | None = None) -> Row:
        """Return a stage's row of the performance matrix, and what is measured besides.

        Args:
            stage: to test.
            training: that led to it; None for stage 0.
            crossed: instructions of another run by task, with which a task's last stage is tested too.
        """
        tasks, final = (self.inputs.tasks, ()) if training is None else (training.tested, training.final)
        by_name = {task.name: task for task in (*tasks, *self.inputs.watch)}
        row = self.tester(stage, tuple(by_name.values()), final, crossed)
        for (name, prompt), cell in row.cells.items():
            self.tracker.tested(stage.number, by_name[name], prompt, cell)
        return row

    def finished(self, rows: Sequence[Row]) -> RunResult:
        """Return what all rows together say, and write it."""
        prompts, watch = self.tester.prompts, self.inputs.watch
        result = result_of(rows, self.inputs.tasks, watch, prompts, self.config, self.undefined)
        self.tracker.finished(result.metrics_all)
        self.directory.write("results.json", result.to_json())
        return result


@contextmanager
def prepared(config: Config, progress: Reporter = SILENT, shared: Path | None = None) -> Iterator[Run]:
    """Yield a run whose directory is open; nothing of it is computed yet.

    Args:
        config: of one run, not of a sweep.
        progress: hears about every step.
        shared: where the runs of a sweep leave for each other what they compute at the start.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    report_to, known = config.report_to, told(config.run_dir)
    # Before the model is loaded.
    first = join(config.model.device).first
    trackers = integrations([name for name in report_to if name not in known] if first else ())
    run = prepare(config, progress, shared)
    directory, processes = run.directory, run.directory.processes
    with directory:
        tell(run, progress)
        progress.plan(run.plan.cost)
        directory.write("environment.json", _environment(run.loaded, processes))
        directory.write_first("data.json", {"tasks": [i.to_json() for i in run.inspections.values()]})
        run.gathering.save(run.inputs)
        updates = [run.plan.work(training.tasks).units for training in run.schedule]
        with tracked(trackers, directory.path, run.loaded.model, updates) as run.tracker:
            yield run
        if report_to:
            directory.write(TOLD, sorted({*known, *report_to}))


def prepare(config: Config, progress: Reporter = SILENT, shared: Path | None = None, *, pays: bool = True) -> Run:
    """Return a run that is ready; nothing is written but replies of language models, to the user's cache.

    Only the first process reads data and candidates; every one of them loads the model.

    Args:
        config: of one run.
        progress: hears what sources of candidates cost.
        shared: see `prepared`.
        pays: whether sources that cost time or money are asked; if not, others stand in for their candidates.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    gathering, inputs = read(config, progress, shared, pays=pays)
    # Finalisers of dropped objects would run at some later point and could swallow a Ctrl-C there.
    gc.collect()
    return gathering.directory.processes.together(lambda: _load(config, gathering, inputs, progress))


def read(
    config: Config, progress: Reporter = SILENT, shared: Path | None = None, *, pays: bool = True
) -> tuple[Gathering, Inputs]:
    """Return what gives candidates, and all that the user gave, read and checked without loading a model.

    Raises:
        SapoError: for settings, data or candidates that cannot be used.
    """
    processes = join(config.model.device)
    directory = RunDirectory(config.run_dir, config.plain(), processes, shared)
    # Before the model is loaded, and without leaving anything behind should the configuration be wrong.
    directory.check()
    asks = config.policy != "original" or config.evaluate.wordings > 0
    gathering = Gathering(
        directory,
        _sources(config.candidates, config.model, config.seed, progress) if asks else (),
        config.candidates.file if asks else None,
        config.candidates.count,
        config.evaluate.wordings,
        progress,
        pays,
    )
    inputs = processes.once(
        lambda: read_inputs(
            config.sequence, config.watch, config.data_dir, config.tasks, gathering,
            train_rows=config.train.rows, test_rows=config.evaluate.rows,
            held_rows=config.reselect.rows if config.policy == "reselect" else None,
            drop=config.data.drop_overlap, seed=config.seed,
        )
    )  # fmt: skip
    return gathering, inputs


def _load(config: Config, gathering: Gathering, inputs: Inputs, progress: Reporter) -> Run:
    directory = gathering.directory
    processes, policy, seed, train = directory.processes, config.policy, config.seed, config.train
    method = make_method(
        config.method, config.lora, o_lora=config.o_lora, ewc=config.ewc, replay=config.replay, lwf=config.lwf
    )
    start = partial(_load_start, config.model, method, processes)
    loaded = start()
    context = context_length(loaded.model)
    renderer = Renderer(loaded.tokenizer, min(config.max_length, context))
    trainings = schedule(method.order, inputs.tasks, seed, train.batch_size)
    selection = _selection(config.selection, policy)
    raced = selection.races and policy in BY_LOSS
    evaluate = config.evaluate
    plan = make_plan(
        renderer, inputs.tasks, inputs.watch, inputs.candidates,
        scores=policy in BY_LOSS,
        races=raced,
        examples=selection.examples,
        budget=selection.budget if raced else None,
        updates={t.name: ceil(train.epochs * ceil(len(t.train) / train.batch_size)) for t in inputs.tasks},
        epochs=train.epochs,
        trainings=trainings,
        both_prompts=evaluate.test_prompt == "both" and policy != "original",
        wordings=evaluate.wordings,
    )  # fmt: skip
    describe = partial(
        lineage,
        base=loaded.name, method=method.name, policy=policy,
        limits={"max_length": config.max_length, "max_new_tokens": evaluate.max_new_tokens},
        template=renderer.fingerprint(), versions=library_versions(),
        earlier=_earlier(config.model.adapter, config.model.base), whole=method.whole,
    )  # fmt: skip
    model = RunModel(
        loaded, lambda: start().model, method, directory,
        lambda choices, state: describe(trained=choices, state=state), selection.batch_tokens, processes,
    )  # fmt: skip
    # Weights of the model itself often need another rate than an adapter.
    own_rate = {"full": config.full.learning_rate, "osf": config.osf.learning_rate}.get(config.method)
    how = HowTrained(
        train.model_copy(update={"learning_rate": own_rate or train.learning_rate}), policy, config.paft,
        config.reselect, inputs.held_rows, config.guard, inputs.watch, seed, config.keep == "all",
    )  # fmt: skip
    prompts: tuple[Prompt, ...] = ("selected", "original")
    if evaluate.test_prompt != "both":
        prompts = (evaluate.test_prompt,)
    budget = selection.budget if raced else None
    budgets = {} if budget is None else {name: budget * work.cost for name, work in plan.train.items()}
    rows = selection.examples if policy in BY_LOSS else 0
    return Run(
        config=config.plain(),
        inputs=inputs,
        schedule=trainings,
        loaded=loaded,
        renderer=renderer,
        selection=selection,
        plan=plan,
        inspections=_inspected(inputs, renderer, selection, rows, seed),
        notes=(
            *loaded.notes,
            *([f"{processes.count} processes share rows and batches"] if processes.count > 1 else []),
            *_forced(config.selection, policy),
            *(_GIVEN if config.model.adapter and config.method == "seq-lora" else ()),
            *_input_notes(inputs, evaluate.wordings, config.reselect.rows),
            *_short(plan, train.warmup),
        ),
        undefined=undefined(method.order),
        directory=directory,
        gathering=gathering,
        model=model,
        chooser=Chooser(
            directory, model, renderer, policy, selection, seed, plan,
            budgets=budgets, progress=progress, processes=processes,
        ),
        trainer=Trainer(directory, model, renderer, method, how, plan, progress, processes),
        tester=Tester(
            directory, model, renderer, prompts, evaluate.max_new_tokens, plan,
            held_out=inputs.held_out, general=evaluate.general, progress=progress, processes=processes,
        ),
    )  # fmt: skip


def tell(run: Run, progress: Reporter) -> None:
    """Tell the user what was decided and what the data hold, before anything is computed."""
    for note in run.notes:
        progress.note(note)
    inspections = tuple(run.inspections.values())
    progress.table("data", *data_table(inspections))
    for inspection in inspections:
        for warning in warnings_of(inspection):
            progress.note(f"note: {warning}")


def result_of(
    rows: Sequence[Row],
    tasks: Sequence[Task],
    watch: Sequence[Task],
    prompts: Sequence[Prompt],
    config: Mapping[str, Any],
    undefined: Mapping[str, str],
) -> RunResult:
    """Return what the rows of a performance matrix say.

    Args:
        rows: row 0 first.
        tasks: of the sequence.
        watch: tasks that are only tested.
        prompts: test prompts, the one of the main matrix first.
        config: as plain values.
        undefined: metrics that lack their cells, by name, with the reason.
    """
    choices = {choice.task.name: choice for row in rows for choice in row.stage.choices}
    return run_result(
        tasks=tasks,
        watch=watch,
        prompts=prompts,
        cells={(row.stage.number, *key): cell for row in rows for key, cell in row.cells.items()},
        trained=list(choices.values()),
        config=config,
        seconds={
            "scoring": sum(c.selection.seconds for c in choices.values() if c.selection is not None),
            "training": sum(row.stage.seconds for row in rows),
            "evaluating": sum(row.seconds for row in rows),
        },
        undefined=undefined,
        wordings={task: tests for row in rows for task, tests in row.wordings.items()},
        crossed={task: cell for row in rows for task, cell in row.crossed.items()},
        ability={row.stage.number: row.ability.loss for row in rows if row.ability is not None},
        alarms=[(row.stage.name, alarm) for row in rows for alarm in row.stage.alarms],
    )


_GIVEN = ("the adapter's own r, alpha, dropout and modules hold, not lora.*",)


def _selection(settings: SelectionSettings, policy: Policy) -> SelectionSettings:
    """Return how instructions are chosen: candidates race only where the lowest loss is all that is wanted."""
    if policy in LOWEST and settings.races:
        return settings
    return settings.model_copy(update={"strategy": "exhaustive"})


def _forced(settings: SelectionSettings, policy: Policy) -> tuple[str, ...]:
    """Say where every loss is needed, so that nothing can be raced for."""
    if settings.strategy != "racing" or policy not in BY_LOSS or _selection(settings, policy).races:
        return ()
    why = "selection.rule confident" if policy in LOWEST else f"policy {policy}"
    return (f"{why} needs every loss: all candidates are scored on all selection rows (exhaustive)",)


def _input_notes(inputs: Inputs, wordings: int, held_rows: int) -> tuple[str, ...]:
    return (
        *(f"{task.name}: {note}" for task in (*inputs.tasks, *inputs.watch) for note in task.notes),
        *(note for found in inputs.gathered.values() for note in found.notes),
        *(
            f"{name}: {len(held)} of evaluate.wordings = {wordings} paraphrases are held out: there are no more "
            "besides the candidates"
            for name, held in inputs.held_out.items()
            if len(held) < wordings
        ),
        *(
            f"{name}: {len(rows)} rows to choose again on, of reselect.rows = {held_rows}"
            for name, rows in inputs.held_rows.items()
            if len(rows) < held_rows
        ),
    )


def _short(plan: Plan, warmup: float) -> tuple[str, ...]:
    return tuple(
        f"{name}: a single update, at which warm-up begins with learning rate 0: nothing would be learned. "
        "Set train.warmup to 0, or more epochs, or a smaller train.batch_size"
        for name, work in plan.train.items()
        if work.units == 1 and warmup > 0
    )


def _inspected(
    inputs: Inputs, renderer: Renderer, selection: SelectionSettings, examples: int, seed: int
) -> dict[str, Inspection]:
    def selected(task: Task) -> tuple[int, ...]:
        return selection_rows(task, examples, selection.sample, seed) if examples else ()

    return {
        task.name: inspect_task(task, renderer, selected(task), inputs.dropped[task.name]) for task in inputs.tasks
    } | {task.name: inspect_task(replace(task, train=()), renderer) for task in inputs.watch}


def _load_start(model: ModelConfig, method: SeqLora, processes: Processes) -> LoadedModel:
    device = processes.device(model.device or best_device())
    # Methods that train the weights themselves need all digits of them.
    dtype = model.dtype or ("float32" if method.whole else None)
    loaded = load_model(model.base, model.adapter, dtype, device)
    return replace(loaded, model=method.start(loaded.model))


def _earlier(*given: str | None) -> tuple[Mapping[str, Any], ...]:
    """Return the tasks of the stage that the run starts from, if it starts from one."""
    for directory in given:
        found = earlier_tasks(Path(directory).expanduser()) if directory else []
        if found:
            return tuple(found)
    return ()


def _sources(chosen: CandidatesConfig, model: ModelConfig, seed: int, progress: Reporter) -> tuple[Source, ...]:
    server = None
    if chosen.openai is not None:
        from sapo.candidates.server import ServerSettings

        server = ServerSettings(**chosen.openai.model_dump())
    return open_sources(
        chosen.asked,
        file=chosen.file,
        local=LocalSettings(chosen.local.model or model.base, model.dtype, model.device, chosen.local.temperature),
        server=server,
        seed=seed,
        tell=progress.note,
    )


def _environment(loaded: LoadedModel, processes: Processes) -> dict[str, Any]:
    """Return library versions, machine and the model's decisions, as JSON values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "model": loaded.name,
        "notes": list(loaded.notes),
        "versions": library_versions(),
    }
