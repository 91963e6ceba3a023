"""The steps of a sequence: an instruction chosen, a task trained, a stage tested. Each is computed once.

A step is recorded before its result is used. So a directory holds, after a crash, each step whole or not at all, and no
result rests on something that is not recorded. A step is reused if it was computed from the same inputs, which are
recorded with it. The model is brought into a stage only when a step must be computed in it: a finished run is read back
within seconds, and an interrupted one is resumed where it stopped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sapo.core.errors import RecordError, ScoreError, TrainError
from sapo.core.progress import SILENT, Reporter
from sapo.core.storage import cache_directory, fingerprint, unwritable
from sapo.core.types import Example, Instruction, Rejection, Task
from sapo.models.ability import general_rows, general_texts
from sapo.models.answers import Evaluation, evaluate
from sapo.models.fit import context_length
from sapo.models.render import Renderer
from sapo.runs.directory import Hashes, RunDirectory
from sapo.runs.matrix import Row
from sapo.runs.model import Model, RunModel
from sapo.runs.plan import Plan
from sapo.runs.prompts import CROSSED, NONE, ORIGINAL, OWN, Prompt, cell_name, instruction_of
from sapo.selection.cache import LossCache
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Choice, Selection
from sapo.selection.settings import SelectionSettings, TrialSettings
from sapo.tasks.load import data_fingerprint
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.guard import Alarm, guard_over, stopped
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.policies import BY_LOSS, MIXTURES, choose_instruction, leading
from sapo.training.schedule import Stage, Training
from sapo.training.settings import GuardSettings, PaftSettings, Policy, ReselectSettings, TrainSettings
from sapo.training.trainer import Checkpoints, Extras, Log
from sapo.training.trial import other_rows, try_leading
from sapo.training.wording import Leaders, Mixture, Reselecting, Rewording, Worded

# What else to lower where training diverges.
_KEYS = {
    "o-lora": "o_lora.weight",
    "ewc": "ewc.weight",
    "lwf": "lwf.weight",
    "osf": "osf.learning_rate",
    "full": "full.learning_rate",
}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Engine:
    """What the three steps work with, and how a step is computed once."""

    directory: RunDirectory
    model: Model
    renderer: Renderer
    plan: Plan
    progress: Reporter = SILENT

    def inputs(self, stage: Stage, task: Task, rows: Sequence[Example]) -> dict[str, str]:
        """Return fingerprints of what every step depends on."""
        return {
            "model": stage.fingerprint,
            "data": data_fingerprint(rows),
            "template": self.renderer.fingerprint(),
            "suffix": fingerprint(task.suffix),
        }

    def once(
        self,
        path: str,
        inputs: Hashes,
        stage: Stage,
        parse: Callable[[Any], T],
        compute: Callable[[], dict[str, Any]],
        label: str,
        cost: float,
    ) -> T:
        """Return a step's value: read back if the step is finished, else computed and recorded.

        Steps at stage 0 are shared with the other runs of a sweep.
        """
        shared = stage.number == 0
        found: T | None = self.directory.reuse(path, inputs, parse, shared=shared)
        if found is not None:
            self.progress.reused(label, cost)
            return found
        value = compute()
        self.directory.save(path, inputs, value, shared=shared)
        return parse(value)


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses the instruction that a task is trained with (paper, section 4).

    Attributes:
        trainer: tries the leading candidates; None where the choice is not by a trial.
    """

    engine: Engine
    policy: Policy
    settings: SelectionSettings
    seed: int
    trainer: Trainer | None = None

    def __call__(
        self, stage: Stage, place: int, task: Task, candidates: Sequence[Instruction], rejected: Sequence[Rejection],
        training: Training | None = None,
    ) -> Choice:  # fmt: skip
        """Return the instruction to train a task with, chosen under the model in a stage.

        ``place`` is that of the task in its sequence, from 1; the original is the first of ``candidates``; ``rejected``
        goes into the selection; ``training`` is the one that follows, of which there may be a trial.
        """
        selection = None
        if self.policy in BY_LOSS:
            selection = self._select(stage, place, task, candidates, rejected, training)
        instruction = choose_instruction(self.policy, candidates, selection, self.seed, place)
        return Choice(task, instruction, selection, tuple(candidates[1:]) if self.policy in MIXTURES else ())

    def _select(
        self, stage: Stage, place: int, task: Task, candidates: Sequence[Instruction], rejected: Sequence[Rejection],
        training: Training | None,
    ) -> Selection:  # fmt: skip
        engine, settings = self.engine, self.settings
        rows = selection_rows(task, settings.examples, settings.sample, self.seed)
        label, work = f"task {place} {task.name}: scoring {len(candidates)} candidates", engine.plan.score[task.name]
        decisive = settings.model_dump(mode="json", exclude={"batch_tokens", "cache", "trial"})
        inputs = engine.inputs(stage, task, [task.train[i] for i in rows]) | {
            "candidates": fingerprint([c.text for c in candidates]),
            "selection settings": fingerprint([decisive, self.seed, list(rows)]),
        }
        if self.trainer is not None and training is not None:
            tries = self.trainer.tries(stage, training)
            # The first entry tells trials that are the beginning of the training from earlier ones.
            inputs["trial"] = fingerprint(["beginning", settings.trial.model_dump(mode="json"), tries])

        def scored() -> dict[str, Any]:
            model, cache = engine.model.bring(stage), None
            if settings.cache:
                cache = LossCache(
                    cache_directory("losses"), stage.fingerprint, model.device.type, engine.directory.processes
                )
            budget = None if settings.budget is None else settings.budget * engine.plan.train[task.name].cost
            selection = score_candidates(
                engine.model.scorer, engine.renderer, task, candidates, rows, settings,
                seed=self.seed, budget=budget, rejected=rejected, cache=cache,
                progress=engine.progress, label=label, work=work,
            )  # fmt: skip
            if self.trainer is not None and training is not None:
                selection = self.trainer.tried(stage, training, task, selection, settings.trial)
            return selection.to_json()

        path = f"selections/{place}-{task.name}.json"
        return engine.once(path, inputs, stage, Selection.from_json, scored, label, work.cost)


@dataclass(frozen=True, slots=True)
class Tester:
    """Tests stages: answers, scores and losses on the test rows of tasks.

    Attributes:
        prompts: the test prompts that are one text for a task, the one of the main matrix first.
        held_out: per task, paraphrases that its last stage is tested with.
        general: whether general ability is measured at every stage.
    """

    engine: Engine
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    held_out: Mapping[str, Sequence[Instruction]] = field(default_factory=dict)
    general: bool = False

    def __call__(
        self, stage: Stage, tasks: Sequence[Task], final: Sequence[Task] = (), crossed: Mapping[str, str] | None = None
    ) -> Row:
        """Return a stage's row of the matrix, and what is measured besides.

        For the ``final`` tasks this is the last stage, which is also tested with their held-out paraphrases and with
        the instructions of another run, ``crossed``, by task.
        """
        chosen = {choice.task.name: choice.instruction.text for choice in stage.choices}
        last = {task.name for task in final}
        cells: dict[tuple[str, Prompt], Evaluation] = {}
        seconds = 0.0
        for task in tasks:
            original, own = task.instruction, chosen.get(task.name, task.instruction)
            texts = {prompt: instruction_of(prompt, original, own) for prompt in self.prompts}
            if task.name in last:
                texts |= {one.text: one.text for one in self.held_out.get(task.name, ())}
                texts |= {CROSSED: crossed[task.name]} if crossed and task.name in crossed else {}
            tested: dict[str, Evaluation] = {}
            for prompt, text in texts.items():
                # One test stands for all prompts of the same text.
                if text not in tested:
                    tested[text], took = self._cell(stage, task, text, cell_name(text, original, own))
                    seconds += took
                cells[task.name, prompt] = tested[text]
        ability = None
        if self.general:
            ability, took = self._ability(stage)
            seconds += took
        return Row(stage, cells, ability, seconds)

    def _cell(self, stage: Stage, task: Task, instruction: str, name: str) -> tuple[Evaluation, float]:
        """Return one test of a task and the seconds that it took; its file is called after the task and ``name``."""
        engine, work = self.engine, self.engine.plan.evaluate[task.name]
        how = {OWN: "", ORIGINAL: " (original prompt)", NONE: " (no instruction)"}.get(name, " (another wording)")
        label = f"stage {stage.number}: testing {task.name}{how}"
        inputs = engine.inputs(stage, task, task.test) | {
            "instruction": fingerprint(instruction),
            "evaluation settings": fingerprint(self.max_new_tokens),
        }

        def tested() -> dict[str, Any]:
            model, began = engine.model.bring(stage), time.perf_counter()
            with engine.progress.step(label, work.units, work.cost) as advance:
                cell = evaluate(
                    model, engine.renderer, task, instruction, task.test, self.max_new_tokens, advance,
                    engine.model.scorer, engine.directory.processes,
                )  # fmt: skip
            if not np.isfinite(cell.losses.nll).all():
                row = int(np.flatnonzero(~np.isfinite(cell.losses.nll))[0])
                where = f"task {task.name!r}, test row {row}"
                raise ScoreError(f"{where}: its loss is not finite after stage {stage.number}")
            seconds, answers = time.perf_counter() - began, [row.answer for row in task.test]
            return {"instruction": instruction, "answers": answers, **cell.to_json(), "seconds": seconds}

        path = f"cells/{stage.number}/{task.name}.{name}.json"
        return engine.once(
            path, inputs, stage, lambda v: (Evaluation.from_json(v), v["seconds"]), tested, label, work.cost
        )

    def _ability(self, stage: Stage) -> tuple[float, float]:
        """Return the loss on general text in a stage, nats per token, and the seconds that measuring it took."""
        engine, label, texts = self.engine, f"stage {stage.number}: general ability", general_texts()

        def measured() -> dict[str, Any]:
            model, began = engine.model.bring(stage), time.perf_counter()
            with engine.progress.step(label, len(texts), 0) as advance:
                # On a copy: texts share no prefix, and a first call here would decide against it for all others.
                scorer = engine.model.scorer.on(model)
                found = scorer(general_rows(engine.renderer, context_length(model)), advance).per_token
            return {"loss": found, "seconds": time.perf_counter() - began}

        beginning = [engine.renderer.beginning] if engine.renderer.beginning else []
        inputs = {"model": stage.fingerprint, "texts": fingerprint([*beginning, *texts.items()])}
        path = f"ability/{stage.number}.json"
        return engine.once(path, inputs, stage, lambda v: (float(v["loss"]), v["seconds"]), measured, label, 0)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains a run's model, one training after the other.

    Attributes:
        model: the engine's, which can be trained.
        policy: how rows are worded; paft and reselect are its settings.
        held_rows: per task, rows to choose again on.
        watch: tasks that are guarded besides the earlier ones.
        seed: of order and dropout.
        keeps_all: whether earlier stages are kept.
    """

    engine: Engine
    model: RunModel
    method: SeqLora
    settings: TrainSettings
    policy: Policy
    paft: PaftSettings
    reselect: ReselectSettings
    held_rows: Mapping[str, tuple[Example, ...]]
    guard: GuardSettings | None
    watch: tuple[Task, ...]
    seed: int
    keeps_all: bool

    def __call__(self, before: Stage, training: Training, chosen: Sequence[Choice], log: Log) -> Stage:
        """Return the stage that a training leads to, from the stage before and its tasks' instructions.

        ``log`` is told what the training logs. The stage is written with its lineage; where each task is trained
        alone, it knows of that task only.
        """
        directory, work = self.engine.directory, self.engine.plan.trainings[training.stage]
        label = f"task {training.stage} {training.tasks[0].name}: training"
        settings, epoch = self.settings, ceil(sum(len(t.train) for t in training.tasks) / self.settings.batch_size)
        if len(training.tasks) > 1:
            label = f"training on {len(training.tasks)} tasks at once"
            # As many updates as one task after the other: half an update less, for rounding up must not add one.
            settings = settings.model_copy(update={"epochs": (work.units - 0.5) / epoch})
        rewording = Rewording(self.engine.renderer, chosen, [self._worded(choice, epoch) for choice in chosen])
        path, name = f"training/{training.name}.json", training.name
        inputs = self._inputs(before, training, chosen, settings, rewording)
        parse = partial(_stage_from_json, training, chosen, before, fingerprint(inputs))
        stored: tuple[Stage, dict[str, str]] | None = directory.reuse(path, inputs, parse)
        if stored is not None:
            self.engine.progress.reused(label, work.cost)
            # The process may have ended between the record and this.
            directory.finish(name)
            last = training.stage == training.stages
            directory.demand_stage(name, path, stored[1], dropped=not last)
        else:
            stored = parse(self._train(before, training, inputs, settings, rewording, label, log))
        if before.number > 0 and not self.keeps_all:
            directory.drop_stage(before.name)
        return stored[0]

    def _train(
        self, before: Stage, training: Training, inputs: Hashes, settings: TrainSettings, rewording: Rewording,
        label: str, log: Log,
    ) -> dict[str, Any]:  # fmt: skip
        """Train, write the stage and the step, and return the step's value."""
        engine, directory, name = self.engine, self.engine.directory, training.name
        work = engine.plan.trainings[training.stage]
        training = replace(self._begun(before, training), rows=rewording.first())
        model = self.model.prepare(before, training)
        guard = None
        if self.guard is not None:
            guard = guard_over(
                name, self._watched(before), self.guard, self.model.scorer, engine.renderer, work.units, self.seed,
                engine.progress.note,
            )  # fmt: skip
        extras = Extras(
            objective=self.method.objective(model, training),
            reword=rewording if rewording.changes else None,
            watchers=rewording.watchers if guard is None else (*rewording.watchers, guard),
            log=log,
        )
        checkpoints, every = None, self.settings.checkpoint_every
        if every is not None:
            checkpoints = Checkpoints(directory.unfinished(name, inputs), every)
        began = time.perf_counter()
        with engine.progress.step(label, work.units, work.cost) as advance, self._explained(training):
            learned = finetune(
                model, training.rows, settings, self.seed, advance, engine.directory.processes, checkpoints, extras
            )
        seconds = time.perf_counter() - began
        alarms = [] if guard is None else guard.alarms
        kept = stopped(alarms)
        finished = [replace(c, stopped=kept) for c in rewording.finished(kept and kept[0])]
        # Rows are remembered as they were worded last, but for those of a training that was taken back whole.
        done, an_epoch = kept[0] if kept else work.units, ceil(len(training.rows) / settings.batch_size)
        last = rewording.last((done - 1) // an_epoch, done) if all(c.learned for c in finished) else ()
        worded = replace(training, rows=last)
        state = self.model.save(worded, fingerprint(dict(inputs)), (*before.choices, *finished))
        value = {
            "steps": learned.steps,
            "losses": list(learned.losses),
            "objectives": list(learned.objectives),
            "seconds": seconds,
            "state": state,
            "files": directory.stage_files(name),
            "instructions": [{"text": c.instruction.text, "switches": list(c.switches)} for c in finished],
            "alarms": [asdict(alarm) for alarm in alarms],
        }
        directory.save(f"training/{name}.json", inputs, value)
        directory.finish(name)
        return value

    def _begun(self, before: Stage, training: Training) -> Training:
        """Return a training that knows where its method finds what it remembers."""
        directory = self.engine.directory
        return replace(training, before=None if before.number == 0 else directory.stage_directory(before.name))

    def tried(
        self, before: Stage, training: Training, task: Task, selection: Selection, settings: TrialSettings
    ) -> Selection:
        """Return a selection for a task of a training with the choice by a trial, from the stage before."""
        engine, begun = self.engine, self._begun(before, training)
        model, longest = self.model.prepare(before, begun), context_length(self.model.model)
        watched = {one.name: (one, text, engine.renderer) for one, text in self._watched(before)}
        others = other_rows(watched, settings, self.seed, engine.renderer, longest)
        with self._explained(begun):
            selection = try_leading(
                selection, model, self.model.scorer, engine.renderer, task, others, settings, self.settings,
                seed=self.seed, objective=self.method.objective(model, begun), processes=engine.directory.processes,
                progress=engine.progress,
            )  # fmt: skip
        self.model.restored(before, training)
        return selection

    def tries(self, before: Stage, training: Training) -> list[Any]:
        """Return what a trial depends on besides the candidates and its settings, as JSON."""
        decisive = self.settings.model_dump(mode="json", exclude={"checkpoint_every"})
        own = [data_fingerprint(task.train) for task in training.tasks]
        watched = [[data_fingerprint(task.train), task.suffix, text] for task, text in self._watched(before)]
        if not watched and self.engine.renderer.beginning:
            # Then general text is measured, and begins with it.
            watched = [[self.engine.renderer.beginning]]
        history = before.history if self.method.remembers else ""
        return [self.method.settings(), decisive, training.stage, training.stages, own, watched, history]

    def _watched(self, before: Stage) -> list[tuple[Task, str]]:
        """Return earlier tasks with the instructions that they learned with, and watch tasks with their own."""
        earlier = [(choice.task, choice.instruction.text) for choice in before.choices if choice.learned]
        return earlier + [(task, task.instruction) for task in self.watch]

    def _worded(self, choice: Choice, epoch: int) -> Worded | None:
        """Return how the rows of a task are worded; None where its instruction stays the same."""
        task = choice.task
        if choice.mixture:
            return Mixture(self.policy, choice.mixture, self.paft.steps, self.seed)
        if self.policy == "reselect" and choice.selection is not None:
            first, rows = leading(choice.selection, self.reselect.k), self.held_rows[task.name]
            every = self.reselect.every or epoch
            leaders = Leaders(self.engine.renderer, task.suffix, first, rows, choice.instruction)
            decides = [every, [c.text for c in first], [[row.input, row.answer] for row in rows]]
            return Reselecting(self.model.scorer, leaders, every, decides)
        return None

    def _inputs(
        self, before: Stage, training: Training, chosen: Sequence[Choice], settings: TrainSettings, rewording: Rewording
    ) -> dict[str, str]:
        decisive = settings.model_dump(mode="json", exclude={"checkpoint_every"})
        inputs = self.engine.inputs(before, training.tasks[0], [r for t in training.tasks for r in t.train]) | {
            "suffix": fingerprint([task.suffix for task in training.tasks]),
            "instruction": fingerprint([choice.instruction.text for choice in chosen]),
            "training settings": fingerprint([self.method.settings(), decisive, self.seed]),
        }
        if rewording.changes:
            inputs["wording"] = fingerprint([self.policy, self.paft.steps, rewording.decides])
        if self.guard is not None:
            earlier = [[choice.task.name, choice.instruction.text] for choice in before.choices if choice.learned]
            watch = [data_fingerprint(task.train) for task in self.watch]
            inputs["guard"] = fingerprint([self.guard.model_dump(mode="json"), watch, earlier])
        if self.method.remembers:
            inputs["earlier training"] = before.history
        return inputs

    @contextmanager
    def _explained(self, training: Training) -> Iterator[None]:
        """Say of an error in training which task it is about, and what can be done."""
        try:
            yield
        except TrainError as error:
            own_key = _KEYS.get(self.method.name)
            hint = f". Method {self.method.name} has {own_key} of its own" if own_key else ""
            raise TrainError(f"task {training.tasks[0].name!r}: {error}{hint}") from error
        except OSError as error:
            # Trainer needs a temporary directory, and a place for checkpoints where there are some.
            where = Path(str(error.filename or tempfile.gettempdir()))
            raise RecordError(unwritable(where, error.strerror or str(error))) from error


def _stage_from_json(
    training: Training, chosen: Sequence[Choice], before: Stage, history: str, value: Any
) -> tuple[Stage, dict[str, str]]:
    """Return the stage that a training led to, and its files, as they were recorded."""
    alarms = tuple(Alarm(**alarm) for alarm in value["alarms"])
    choices = list(before.choices)
    for c, e in zip(chosen, value["instructions"], strict=True):
        switches = tuple((int(step), str(text)) for step, text in e["switches"])
        choices.append(replace(c, instruction=_named(c, e["text"]), switches=switches, stopped=stopped(alarms)))
    stage = Stage(training.stage, training.name, value["state"], history, tuple(choices), alarms, value["seconds"])
    return stage, dict(value["files"])


def _named(choice: Choice, text: str) -> Instruction:
    """Return the candidate with this text."""
    known = [] if choice.selection is None else [c.instruction for c in choice.selection.candidates]
    return next(c for c in (choice.instruction, *known) if c.text == text)
