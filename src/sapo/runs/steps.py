"""The steps of a sequence: an instruction chosen, a task trained, a stage tested. Each is computed once.

A step is recorded before its result is used. So a directory holds, after a crash, each step whole or not at all, and no
result rests on something that is not recorded. A step is reused if it was computed from the same inputs, which are
recorded with it. The model is brought into a stage only when a step must be computed in it: a finished run is read back
within seconds, and an interrupted one is resumed where it stopped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from sapo.core.errors import RecordError, ScoreError, TrainError
from sapo.core.processes import ALONE, Processes
from sapo.core.progress import SILENT, Reporter
from sapo.core.storage import fingerprint, unwritable
from sapo.core.types import Example, Instruction, Rejection, Task
from sapo.models.ability import general_texts, measure_ability
from sapo.models.answers import Evaluation, evaluate
from sapo.models.render import Renderer
from sapo.runs.directory import Inputs, RunDirectory
from sapo.runs.model import Model, RunModel
from sapo.runs.plan import Plan
from sapo.runs.results import Prompt, Row
from sapo.selection.cache import LossCache, cache_directory
from sapo.selection.rows import context_length
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Choice, Selection
from sapo.selection.settings import SelectionSettings
from sapo.tasks.load import data_fingerprint
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.guard import Alarm, Guard, guard_over
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.policies import BY_LOSS, MIXTURES, choose_instruction, leading, mixture
from sapo.training.schedule import Stage, Training
from sapo.training.settings import GuardSettings, PaftSettings, Policy, ReselectSettings, TrainSettings
from sapo.training.trainer import Checkpoints, Extras, Log
from sapo.training.wording import Leaders, Mixture, Reselecting, Rewording, Worded

# What else to lower where training diverges.
_KEYS = {
    "o-lora": "o_lora.weight",
    "ewc": "ewc.weight",
    "lwf": "lwf.weight",
    "osf": "osf.learning_rate",
    "full": "full.learning_rate",
}


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses the instruction that a task is trained with (paper, section 4)."""

    directory: RunDirectory
    model: Model
    renderer: Renderer
    policy: Policy
    settings: SelectionSettings
    seed: int
    plan: Plan
    budgets: Mapping[str, float] = field(default_factory=dict)
    progress: Reporter = SILENT
    processes: Processes = ALONE

    def __call__(
        self, stage: Stage, place: int, task: Task, candidates: Sequence[Instruction], rejected: Sequence[Rejection]
    ) -> Choice:
        """Return the instruction to train a task with, chosen under the model in a stage.

        ``place`` is that of the task in its sequence, from 1; the original is the first of ``candidates``; ``rejected``
        goes into the selection.
        """
        selection = None
        if self.policy in BY_LOSS:
            selection = self._select(stage, place, task, candidates, rejected)
        instruction = choose_instruction(self.policy, candidates, selection, self.seed)
        return Choice(task, instruction, selection, tuple(candidates[1:]) if self.policy in MIXTURES else ())

    def _select(
        self, stage: Stage, place: int, task: Task, candidates: Sequence[Instruction], rejected: Sequence[Rejection]
    ) -> Selection:
        settings, start = self.settings, stage.number == 0
        rows = selection_rows(task, settings.examples, settings.sample, self.seed)
        label = f"task {place} {task.name}: scoring {len(candidates)} candidates"
        work = self.plan.score.get(task.name)
        path = f"selections/{place}-{task.name}.json"
        decisive = settings.model_dump(mode="json", exclude={"batch_tokens", "cache"})
        inputs = _inputs(stage, task, [task.train[i] for i in rows], self.renderer) | {
            "candidates": fingerprint([c.text for c in candidates]),
            "selection settings": fingerprint([decisive, self.seed, list(rows)]),
        }
        selection: Selection | None = self.directory.reuse(path, inputs, Selection.from_json, shared=start)
        if selection is not None:
            self.progress.reused(label, 0 if work is None else work.cost)
            return selection
        model = self.model.bring(stage)
        cache = None
        if settings.cache:
            cache = LossCache(cache_directory(), stage.fingerprint, model.device.type, self.processes)
        selection = score_candidates(
            self.model.scorer, self.renderer, task, candidates, rows, settings,
            seed=self.seed, budget=self.budgets.get(task.name), rejected=rejected, cache=cache,
            progress=self.progress, label=label, work=work,
        )  # fmt: skip
        self.directory.save(path, inputs, selection.to_json(), shared=start)
        return selection


@dataclass(frozen=True, slots=True)
class Tester:
    """Tests stages: answers, scores and losses on the test rows of tasks.

    Attributes:
        prompts: the test prompts, the one of the main matrix first.
        held_out: per task, paraphrases that its last stage is tested with.
        general: whether general ability is measured at every stage.
    """

    directory: RunDirectory
    model: Model
    renderer: Renderer
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    plan: Plan
    held_out: Mapping[str, Sequence[Instruction]] = field(default_factory=dict)
    general: bool = False
    progress: Reporter = SILENT
    processes: Processes = ALONE

    def __call__(
        self, stage: Stage, tasks: Sequence[Task], final: Sequence[Task] = (), crossed: Mapping[str, str] | None = None
    ) -> Row:
        """Return a stage's row of the matrix, and what is measured besides.

        Seen tasks are tested with the instructions they were trained with, unseen ones with the original. For the
        ``final`` ones this is the last stage, which is also tested with the instructions of another run, ``crossed``,
        by task.
        """
        row = self._cells(stage, tasks)
        seconds, ability = row.seconds, None
        if self.general:
            ability, took = self.ability(stage)
            seconds += took
        wordings: dict[str, tuple[tuple[Instruction, Evaluation], ...]] = {}
        crossings: dict[str, Evaluation] = {}
        for task in final:
            held = self.held_out.get(task.name, ())
            tests = [self.cell(stage, task, one.text, f"held-out-{number}") for number, one in enumerate(held, start=1)]
            seconds += sum(took for _, took in tests)
            if tests:
                wordings[task.name] = tuple((one, cell) for one, (cell, _) in zip(held, tests, strict=True))
            if crossed and task.name in crossed:
                crossings[task.name], took = self.cell(stage, task, crossed[task.name], "crossed")
                seconds += took
        return replace(row, wordings=wordings, crossed=crossings, ability=ability, seconds=seconds)

    def _cells(self, stage: Stage, tasks: Sequence[Task]) -> Row:
        chosen = {choice.task.name: choice.instruction.text for choice in stage.choices}
        cells: dict[tuple[str, Prompt], Evaluation] = {}
        seconds = 0.0
        for task in tasks:
            texts = {"selected": chosen.get(task.name, task.instruction), "original": task.instruction}
            tested: dict[str, Evaluation] = {}
            for prompt in self.prompts:
                text = texts[prompt]
                # One test stands for both prompts where they are the same.
                if text not in tested:
                    kind = "original" if text == task.instruction else "selected"
                    tested[text], took = self.cell(stage, task, text, kind)
                    seconds += took
                cells[task.name, prompt] = tested[text]
        return Row(stage, cells, seconds=seconds)

    def cell(self, stage: Stage, task: Task, instruction: str, kind: str) -> tuple[Evaluation, float]:
        """Return one test of a task and the seconds that it took; ``kind`` of prompt names its file."""
        label = f"stage {stage.number}: testing {task.name}" + ("" if kind == "selected" else f" ({kind} prompt)")
        work = self.plan.evaluate[task.name]
        path, start = f"cells/{stage.number}/{task.name}.{kind}.json", stage.number == 0
        inputs = _inputs(stage, task, task.test, self.renderer) | {
            "instruction": fingerprint(instruction),
            "evaluation settings": fingerprint(self.max_new_tokens),
        }
        stored: tuple[Evaluation, float] | None = self.directory.reuse(
            path, inputs, lambda value: (Evaluation.from_json(value), value["seconds"]), shared=start
        )
        if stored is not None:
            self.progress.reused(label, work.cost)
            return stored
        model = self.model.bring(stage)
        began = time.perf_counter()
        with self.progress.step(label, work.units, work.cost) as advance:
            cell = evaluate(
                model, self.renderer, task, instruction, task.test, self.max_new_tokens, advance,
                self.model.scorer, self.processes,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        if not np.isfinite(cell.losses.nll).all():
            row = int(np.flatnonzero(~np.isfinite(cell.losses.nll))[0])
            raise ScoreError(f"task {task.name!r}, test row {row}: its loss is not finite after stage {stage.number}")
        answers = [row.answer for row in task.test]
        value = {"instruction": instruction, "answers": answers, **cell.to_json(), "seconds": seconds}
        self.directory.save(path, inputs, value, shared=start)
        return cell, seconds

    def ability(self, stage: Stage) -> tuple[float, float]:
        """Return the loss on general text in a stage, nats per token, and the seconds that measuring it took."""
        label, units = f"stage {stage.number}: general ability", len(general_texts())
        path, start = f"ability/{stage.number}.json", stage.number == 0
        inputs = {"model": stage.fingerprint, "texts": fingerprint(list(general_texts().items()))}
        stored: tuple[float, float] | None = self.directory.reuse(
            path, inputs, lambda value: (float(value["loss"]), value["seconds"]), shared=start
        )
        if stored is not None:
            self.progress.reused(label, 0)
            return stored
        model = self.model.bring(stage)
        began = time.perf_counter()
        with self.progress.step(label, units, 0) as advance:
            found = measure_ability(model, self.renderer, self.model.scorer, context_length(model), advance)
        seconds = time.perf_counter() - began
        self.directory.save(path, inputs, {"loss": found, "seconds": seconds}, shared=start)
        return found, seconds


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains a run's model, one training after the other.

    Attributes:
        policy: how rows are worded; paft and reselect are its settings.
        held_rows: per task, rows to choose again on.
        watch: tasks that are guarded besides the earlier ones.
        seed: of order and dropout.
        keeps_all: whether earlier stages are kept.
    """

    directory: RunDirectory
    model: RunModel
    renderer: Renderer
    method: SeqLora
    plan: Plan
    progress: Reporter
    processes: Processes
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
        work = self.plan.work(training.tasks)
        label = f"task {training.stage} {training.tasks[0].name}: training"
        if len(training.tasks) > 1:
            label = f"training on {len(training.tasks)} tasks at once"
        settings, epoch = self._settings(training, work.units)
        rewording = Rewording(self.renderer, chosen, [self._worded(choice, epoch) for choice in chosen])
        path = f"training/{training.name}.json"
        inputs = self._inputs(before, training, chosen, settings, rewording)
        history = fingerprint(inputs)
        stored: tuple[Stage, dict[str, str]] | None = self.directory.reuse(
            path, inputs, lambda value: _stage_from_json(value, training, chosen, before)
        )
        if stored is not None:
            stage, files = stored
            self.progress.reused(label, work.cost)
            last = training.stage == training.stages
            self.directory.demand_stage(stage.name, path, files, dropped=not self.keeps_all and not last)
            self._drop(before)
            return replace(stage, history=history)
        training = replace(
            training,
            rows=rewording.first(),
            before=None if before.number == 0 else self.directory.stage_directory(before.name),
        )
        model = self.model.prepare(before, training)
        guard = self._guard(before, work.units)
        extras = Extras(
            objective=self.method.objective(model, training),
            reword=rewording if rewording.changes else None,
            watchers=(*rewording.watchers, *(() if guard is None else (guard,))),
            log=log,
        )
        began = time.perf_counter()
        with self.progress.step(label, work.units, work.cost) as advance, self._explained(training):
            learned = finetune(
                model, training.rows, settings, self.seed, advance, self.processes,
                self._checkpoints(training.name, inputs), extras,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        finished = rewording.finished(None if guard is None else guard.back_to)
        # Rows are remembered as they were worded last.
        worded = replace(training, rows=rewording.last(ceil(settings.epochs) - 1, work.units))
        stage = self.model.save(worded, history, (*before.choices, *finished))
        stage = replace(stage, alarms=() if guard is None else tuple(guard.alarms), seconds=seconds)
        value = {
            "steps": learned.steps,
            "losses": list(learned.losses),
            "objectives": list(learned.objectives),
            "seconds": seconds,
            "state": stage.fingerprint,
            "files": self.directory.stage_files(stage.name),
            "instructions": [{"text": c.instruction.text, "switches": list(c.switches)} for c in finished],
            "alarms": [asdict(alarm) for alarm in stage.alarms],
        }
        self.directory.save(path, inputs, value)
        self.directory.finish(training.name)
        self._drop(before)
        return stage

    def _settings(self, training: Training, updates: int) -> tuple[TrainSettings, int]:
        """Return the settings of a training, and the updates of one epoch."""
        settings = self.settings
        epoch = ceil(sum(len(task.train) for task in training.tasks) / settings.batch_size)
        if len(training.tasks) > 1:
            # As many updates as one task after the other: half an update less, for rounding up must not add one.
            settings = settings.model_copy(update={"epochs": (updates - 0.5) / epoch})
        return settings, epoch

    def _worded(self, choice: Choice, epoch: int) -> Worded | None:
        """Return how the rows of a task are worded; None where its instruction stays the same."""
        task = choice.task
        draw = mixture(self.policy, len(choice.mixture), self.paft.steps, self.seed)
        if draw is not None:
            return Mixture(choice.mixture, draw)
        if self.policy == "reselect" and choice.selection is not None:
            first, rows = leading(choice.selection, self.reselect.k), self.held_rows[task.name]
            every = self.reselect.every or epoch
            leaders = Leaders(self.renderer, task.suffix, first, rows, choice.instruction)
            decides = [every, [c.text for c in first], [[row.input, row.answer] for row in rows]]
            return Reselecting(self.model.scorer, leaders, every, decides)
        return None

    def _guard(self, before: Stage, updates: int) -> Guard | None:
        if self.guard is None:
            return None
        watched = [(choice.task, choice.instruction.text) for choice in before.choices]
        watched += [(task, task.instruction) for task in self.watch]
        return guard_over(watched, self.guard, self.model.scorer, self.renderer, updates, self.seed, self.progress.note)

    def _inputs(
        self,
        before: Stage,
        training: Training,
        chosen: Sequence[Choice],
        settings: TrainSettings,
        rewording: Rewording,
    ) -> dict[str, str]:
        inputs = _inputs(before, training.tasks[0], [r for t in training.tasks for r in t.train], self.renderer) | {
            "suffix": fingerprint([task.suffix for task in training.tasks]),
            "instruction": fingerprint([choice.instruction.text for choice in chosen]),
            "training settings": fingerprint(
                [
                    self.method.settings(), settings.model_dump(mode="json", exclude={"checkpoint_every"}), self.seed
                ]
            ),
        }  # fmt: skip
        if rewording.changes:
            inputs["wording"] = fingerprint([self.policy, self.paft.steps, rewording.decides])
        if self.guard is not None:
            earlier = [[choice.task.name, choice.instruction.text] for choice in before.choices]
            watch = [data_fingerprint(task.train) for task in self.watch]
            inputs["guard"] = fingerprint([self.guard.model_dump(mode="json"), watch, earlier])
        if self.method.remembers:
            inputs["earlier training"] = before.history
        return inputs

    def _drop(self, before: Stage) -> None:
        if before.number > 0 and not self.keeps_all:
            self.directory.drop_stage(before.name)

    def _checkpoints(self, name: str, inputs: Inputs) -> Checkpoints | None:
        every = self.settings.checkpoint_every
        return None if every is None else Checkpoints(self.directory.unfinished(name, inputs), every)

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


def _inputs(stage: Stage, task: Task, rows: Sequence[Example], renderer: Renderer) -> dict[str, str]:
    """Return fingerprints of what every step depends on."""
    return {
        "model": stage.fingerprint,
        "data": data_fingerprint(rows),
        "template": renderer.fingerprint(),
        "suffix": fingerprint(task.suffix),
    }


def _stage_from_json(
    value: Any, training: Training, chosen: Sequence[Choice], before: Stage
) -> tuple[Stage, dict[str, str]]:
    """Return the stage that a training led to, and its files, as they were recorded."""
    finished = tuple(
        replace(c, instruction=_named(c, e["text"]), switches=tuple((int(s), str(text)) for s, text in e["switches"]))
        for c, e in zip(chosen, value["instructions"], strict=True)
    )
    alarms = tuple(Alarm(**alarm) for alarm in value["alarms"])
    choices = (*before.choices, *finished)
    stage = Stage(training.stage, training.name, value["state"], "", choices, alarms, value["seconds"])
    return stage, dict(value["files"])


def _named(choice: Choice, text: str) -> Instruction:
    """Return the candidate with this text."""
    known = [] if choice.selection is None else [c.instruction for c in choice.selection.candidates]
    return next(c for c in (choice.instruction, *known) if c.text == text)
