"""The steps of a run, each computed once: a step that the record holds for the same inputs is reused.

The model is brought into a state only when a step must be computed, so a finished run is read back within
seconds, and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sapo.candidates.gather import Gathered
from sapo.candidates.search import SearchSettings, search
from sapo.candidates.source import Ranking
from sapo.core.errors import RecordError, ScoreError, TrainError
from sapo.core.progress import Reporter
from sapo.core.storage import fingerprint, unwritable
from sapo.core.types import Example, Instruction, Selection, Task, Trained
from sapo.models.ability import Ability, general_fingerprint, general_texts, measure_ability
from sapo.models.answers import Evaluation, evaluate
from sapo.runs.directory import Inputs, Record
from sapo.runs.formats import evaluation_from_json, evaluation_to_json, selection_from_json, selection_to_json
from sapo.runs.plan import Work
from sapo.runs.prepare import Setup
from sapo.runs.states import Live, State
from sapo.runs.tracking import Tracker
from sapo.selection.rows import context_length
from sapo.selection.scoring import SelectionSettings, score_candidates
from sapo.tasks.load import data_fingerprint
from sapo.training.finetune import finetune
from sapo.training.guard import Alarm
from sapo.training.lessons import Lesson
from sapo.training.methods.assignment import Assignment
from sapo.training.teaching import teaching
from sapo.training.trainer import Checkpoints

# What else to lower where training diverges.
_KEYS = {
    "o-lora": "o_lora.weight",
    "ewc": "ewc.weight",
    "lwf": "lwf.weight",
    "osf": "osf.learning_rate",
    "full": "full.learning_rate",
}


@dataclass(frozen=True, slots=True)
class Taught:
    """What a training led to.

    Attributes:
        state: after it.
        trained: its tasks with the instruction that each was trained with last.
        alarms: of the forgetting guard.
    """

    state: State
    trained: tuple[Trained, ...]
    alarms: tuple[Alarm, ...]


class Steps:
    """Computes or reuses the steps of one run.

    Attributes:
        start: the state before any training.
        live: the model.
        tracker: takes figures for the user's experiment tracker.
        seconds: wall time by kind of step, that of reused steps included.
    """

    def __init__(self, setup: Setup, record: Record, progress: Reporter, tracker: Tracker | None = None) -> None:
        self._setup, self._record, self._progress, self.tracker = setup, record, progress, tracker or Tracker()
        self._method, self._renderer, self._plan = setup.method, setup.renderer, setup.plan
        self._template = setup.renderer.fingerprint()
        self.live = Live(setup, record)
        self.start = self.live.start
        self.seconds = {"scoring": 0.0, "training": 0.0, "evaluating": 0.0}

    def measure(self, state: State, task: Task, place: int, rows: Sequence[int]) -> Selection:
        """Return all candidates' pre-update losses in a state, on the given training rows of the task at a place."""
        candidates, rejected = self._setup.candidates[task.name], self._setup.rejected[task.name]
        settings = self._setup.selection_settings(task)
        label = f"task {place} {task.name}: scoring {len(candidates)} candidates"
        work = self._plan.score[task.name]
        path = f"selections/{place}-{task.name}.json"
        # The budget as it was given: in tokens it depends on the data, which have a fingerprint of their own.
        chosen = asdict(settings) | {"budget": self._setup.config.selection.budget}
        inputs = self._inputs(state, task, [task.train[i] for i in rows]) | {
            "candidates": fingerprint([c.text for c in candidates]),
            "selection settings": fingerprint([chosen, list(rows)]),
        }
        start = state == self.start
        selection = self._record.reuse(path, inputs, selection_from_json, shared=start)
        if selection is not None:
            self._progress.reused(label, work.cost)
        else:
            self.live.bring(state)
            selection = self._select(state, task, candidates, rows, settings, label, work)
            selection = replace(selection, rejected=rejected)
            if self._setup.config.candidates.search is not None:
                selection = self._search(state, task, place, selection, rows, settings)
            self._record.save(path, inputs, selection_to_json(selection), shared=start)
        self.seconds["scoring"] += selection.seconds
        return selection

    def _select(
        self,
        state: State,
        task: Task,
        candidates: Sequence[Instruction],
        rows: Sequence[int],
        settings: SelectionSettings,
        label: str,
        work: Work,
    ) -> Selection:
        with (
            self._progress.step(label, work.units, work.cost) as advance,
            self._progress.race([c.text for c in candidates], len(rows)) as watch,
        ):
            return score_candidates(
                self.live.scorer, self._renderer, task, candidates, rows, settings,
                advance=advance, watch=watch, cache=self._setup.cache(state.fingerprint),
            )  # fmt: skip

    def _search(
        self, state: State, task: Task, place: int, first: Selection, rows: Sequence[int], settings: SelectionSettings
    ) -> Selection:
        chosen, setup = self._setup.config.candidates.search, self._setup
        if chosen is None:
            return first
        other = [i for i in range(len(task.train)) if i not in set(rows)][: len(rows)]

        def propose(ranking: Ranking, known: Sequence[Instruction]) -> Gathered:
            # What is held out for testing must not come back as a candidate.
            there = (*known, *setup.held_out[task.name])
            return setup.processes.once(lambda: setup.gathering.more(task, ranking, there, chosen.count))

        def measure(candidates: Sequence[Instruction], budget: float | None) -> Selection:
            label = f"task {place} {task.name}: searching, {len(candidates)} candidates"
            none = Work(len(candidates) * len(rows), 0, 0)
            return self._select(state, task, candidates, rows, replace(settings, budget=budget), label, none)

        def unseen(candidates: Sequence[Instruction]) -> Selection | None:
            if not other:
                return None
            exhaustive = replace(settings, strategy="exhaustive", budget=None)
            label = f"task {place} {task.name}: checking the search on {len(other)} unseen rows"
            none = Work(len(candidates) * len(other), 0, 0)
            return self._select(state, task, candidates, other, exhaustive, label, none)

        return search(first, SearchSettings(chosen.rounds, chosen.count, settings.budget), propose, measure, unseen)

    def train(self, state: State, lesson: Lesson, trained: Sequence[Trained]) -> Taught:
        """Return what training on the lesson's tasks, the last ones of ``trained``, led to.

        The stage is written beside its lineage; where each task is trained alone, it knows of that task only.
        """
        seed, own = self._setup.config.seed, tuple(trained[-len(lesson.tasks) :])
        taught = teaching(self._setup, self.live.scorer, lesson, own, trained, self._progress.note)
        label = f"task {lesson.stage} {lesson.tasks[0].name}: training"
        if len(lesson.tasks) > 1:
            label = f"training on {len(lesson.tasks)} tasks at once"
        work = self._plan.work(lesson.tasks)
        path = f"training/{lesson.name}.json"
        inputs = self._inputs(state, lesson.tasks[0], [row for task in lesson.tasks for row in task.train]) | {
            "suffix": fingerprint(_one_or_all([task.suffix for task in lesson.tasks])),
            "instruction": fingerprint(_one_or_all([t.instruction.text for t in own])),
            "training settings": fingerprint([self._method.settings(), asdict(taught.settings), seed]),
            **taught.inputs,
            **({"earlier training": state.history} if self._method.remembers else {}),
        }
        history = fingerprint(inputs)
        stored: tuple[float, Taught, dict[str, str]] | None = self._record.reuse(
            path, inputs, lambda value: _taught(value, lesson, history, own)
        )
        if stored is not None:
            seconds, found, files = stored
            self._progress.reused(label, work.cost)
            self.seconds["training"] += seconds
            last = lesson.stage == len(self._setup.tasks)
            self.live.demand(lesson.name, path, files, dropped=self._setup.config.keep == "last" and not last)
            return found
        before = None if state == self.start else self._record.stage_directory(state.name)
        encoded = taught.rows()
        assignment = Assignment(
            lesson.stage, len(self._setup.tasks), seed, encoded, before, self._setup.config.train.batch_size
        )
        model = self.live.prepare(state, assignment)
        extras = replace(
            taught.extras(),
            objective=self._method.objective(model, assignment),
            log=self.tracker.training(lesson.stage),
        )
        began = time.perf_counter()
        with self._progress.step(label, work.units, work.cost) as advance, self._explained(lesson):
            training = finetune(
                model, encoded, taught.settings, seed, advance, self._setup.processes,
                self._checkpoints(lesson.name, inputs), extras,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        finished = taught.finished()
        # Rows are kept as they were worded last.
        worded = replace(assignment, rows=taught.worded())
        lineage = finished if lesson.apart else (*trained[: len(trained) - len(own)], *finished)
        after = self.live.save(lesson.name, worded, history, lineage)
        value = {
            "steps": training.steps,
            "losses": list(training.losses),
            "objectives": list(training.objectives),
            "seconds": seconds,
            "state": after.fingerprint,
            "files": self._record.stage_files(lesson.name),
            "instructions": [{"text": t.instruction.text, "switches": list(t.switches)} for t in finished],
            "alarms": [asdict(alarm) for alarm in taught.alarms()],
        }
        self._record.save(path, inputs, value)
        self._record.finish(lesson.name)
        self.seconds["training"] += seconds
        return Taught(after, finished, taught.alarms())

    def evaluate(self, state: State, task: Task, instruction: str, kind: str) -> Evaluation:
        """Return one cell: answers, scores and losses on the task's test rows; ``kind`` of prompt names its file."""
        max_new_tokens = self._setup.config.evaluate.max_new_tokens
        label = f"stage {state.stage}: testing {task.name}" + ("" if kind == "selected" else f" ({kind} prompt)")
        work = self._plan.evaluate[task.name]
        path = f"cells/{state.stage}/{task.name}.{kind}.json"
        inputs = self._inputs(state, task, task.test) | {
            "instruction": fingerprint(instruction),
            "evaluation settings": fingerprint(max_new_tokens),
        }
        stored: tuple[float, Evaluation] | None = self._record.reuse(
            path, inputs, lambda value: (value["seconds"], evaluation_from_json(value)), shared=state == self.start
        )
        if stored is not None:
            self._progress.reused(label, work.cost)
            self.seconds["evaluating"] += stored[0]
            return stored[1]
        model = self.live.bring(state)
        began = time.perf_counter()
        with self._progress.step(label, work.units, work.cost) as advance:
            cell = evaluate(
                model, self._renderer, task, instruction, task.test, max_new_tokens, advance, self.live.scorer,
                self._setup.processes,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        if not np.isfinite(cell.losses.nll).all():
            row = int(np.flatnonzero(~np.isfinite(cell.losses.nll))[0])
            raise ScoreError(f"task {task.name!r}, test row {row}: its loss is not finite after stage {state.stage}")
        answers = [row.answer for row in task.test]
        value = {"instruction": instruction, "answers": answers, **evaluation_to_json(cell), "seconds": seconds}
        self._record.save(path, inputs, value, shared=state == self.start)
        self.seconds["evaluating"] += seconds
        return cell

    def ability(self, state: State) -> Ability:
        """Return the model's general ability in a state."""
        label, units = f"stage {state.stage}: general ability", len(general_texts())
        path = f"ability/{state.stage}.json"
        inputs = {"model": state.fingerprint, "template": self._template, "texts": general_fingerprint()}
        stored: tuple[float, Ability] | None = self._record.reuse(
            path, inputs, lambda value: (value["seconds"], Ability.from_json(value)), shared=state == self.start
        )
        if stored is not None:
            self._progress.reused(label, 0)
            self.seconds["evaluating"] += stored[0]
            return stored[1]
        model = self.live.bring(state)
        began = time.perf_counter()
        with self._progress.step(label, units, 0) as advance:
            found = measure_ability(model, self._renderer, self.live.scorer, context_length(model), advance)
        seconds = time.perf_counter() - began
        self._record.save(path, inputs, found.to_json() | {"seconds": seconds}, shared=state == self.start)
        self.seconds["evaluating"] += seconds
        return found

    @contextmanager
    def _explained(self, lesson: Lesson) -> Iterator[None]:
        """Say of an error in training which task it is about, and what can be done."""
        try:
            yield
        except TrainError as error:
            own_key = _KEYS.get(self._method.name)
            hint = f". Method {self._method.name} has {own_key} of its own" if own_key else ""
            raise TrainError(f"task {lesson.tasks[0].name!r}: {error}{hint}") from error
        except OSError as error:
            # Trainer needs a temporary directory, and a place for checkpoints where there are some.
            where = Path(str(error.filename or tempfile.gettempdir()))
            raise RecordError(unwritable(where, error.strerror or str(error))) from error

    def _checkpoints(self, name: str, inputs: Inputs) -> Checkpoints | None:
        every = self._setup.config.train.checkpoint_every
        return None if every is None else Checkpoints(self._record.unfinished(name, inputs), every)

    def _inputs(self, state: State, task: Task, rows: Sequence[Example]) -> dict[str, str]:
        return {
            "model": state.fingerprint,
            "data": data_fingerprint(rows),
            "template": self._template,
            "suffix": fingerprint(task.suffix),
        }


def _taught(value: Any, lesson: Lesson, history: str, own: Sequence[Trained]) -> tuple[float, Taught, dict[str, str]]:
    """Return seconds, outcome and files of a training that was recorded."""
    # What an earlier version recorded had one instruction from beginning to end.
    last = value.get("instructions") or [{"text": t.instruction.text, "switches": []} for t in own]
    trained = tuple(
        replace(t, instruction=_named(t, e["text"]), switches=tuple((int(s), str(text)) for s, text in e["switches"]))
        for t, e in zip(own, last, strict=True)
    )
    state = State(lesson.stage, lesson.name, value["state"], history)
    alarms = tuple(Alarm(**alarm) for alarm in value.get("alarms", []))
    return value["seconds"], Taught(state, trained, alarms), dict(value["files"])


def _named(trained: Trained, text: str) -> Instruction:
    """Return the candidate with this text."""
    known = [] if trained.selection is None else [c.instruction for c in trained.selection.candidates]
    return next(c for c in (trained.instruction, *known) if c.text == text)


def _one_or_all(texts: Sequence[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)
