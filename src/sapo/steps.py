"""The steps of a run, each computed once: a step that the record holds for the same inputs is reused.

The model is brought into a state only when a step must be computed, so a finished run is read back within
seconds, and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from sapo.card import Trained, library_versions, lineage, model_card
from sapo.errors import RecordError, ScoreError, TrainError
from sapo.evaluate import Evaluation, evaluate
from sapo.finetune import Checkpoints, finetune
from sapo.formats import losses_from_json, losses_to_json, selection_from_json, selection_to_json
from sapo.paraphrase import Gathered, Ranking
from sapo.plan import Work
from sapo.progress import Reporter
from sapo.record import Inputs, Record
from sapo.results import Prompt
from sapo.score import Scorer
from sapo.search import SearchSettings, search
from sapo.selection import SelectionSettings, score_candidates
from sapo.setup import Setup
from sapo.state import state_fingerprint
from sapo.storage import fingerprint, unwritable, write_json, write_text
from sapo.types import Example, Instruction, Selection, Task


@dataclass(frozen=True, slots=True)
class State:
    """The model after a stage; stage 0 is the start. Equal fingerprints mean equal weights."""

    stage: int
    name: str
    fingerprint: str


class Steps:
    """Computes or reuses the steps of one run.

    Attributes:
        start: the state before any training.
        seconds: wall time by kind of step, that of reused steps included.
    """

    def __init__(self, setup: Setup, record: Record, progress: Reporter) -> None:
        self._setup, self._record, self._progress = setup, record, progress
        self._method, self._renderer, self._plan = setup.method, setup.renderer, setup.plan
        self._template = setup.renderer.fingerprint()
        self._model = setup.loaded.model
        self._scorer = Scorer(self._model, setup.config.selection.batch_tokens, setup.processes)
        self.start = State(0, "start", state_fingerprint(self._model))
        self._live = self.start
        self.seconds = {"scoring": 0.0, "training": 0.0, "evaluating": 0.0}

    def measure(self, state: State, task: Task, rows: Sequence[int]) -> Selection:
        """Return all candidates' pre-update losses in a state, on the given training rows."""
        number = state.stage + 1
        candidates, rejected = self._setup.candidates[task.name], self._setup.rejected[task.name]
        settings = self._setup.selection_settings(task)
        label = f"task {number} {task.name}: scoring {len(candidates)} candidates"
        work = self._plan.score[task.name]
        path = f"selections/{number}-{task.name}.json"
        # The budget as it was given: in tokens it depends on the data, which have a fingerprint of their own.
        chosen = asdict(settings) | {"budget": self._setup.config.selection.budget}
        inputs = self._inputs(state, task, [task.train[i] for i in rows]) | {
            "candidates": fingerprint([c.text for c in candidates]),
            "selection settings": fingerprint([chosen, list(rows)]),
        }
        selection = self._record.reuse(path, inputs, selection_from_json)
        if selection is not None:
            self._progress.reused(label, work.cost)
        else:
            self._bring(state)
            selection = self._select(state, task, candidates, rows, settings, label, work)
            selection = replace(selection, rejected=rejected)
            if self._setup.config.candidates.search is not None:
                selection = self._search(state, task, selection, rows, settings)
            self._record.save(path, inputs, selection_to_json(selection))
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
                self._scorer, self._renderer, task, candidates, rows, settings,
                advance=advance, watch=watch, cache=self._setup.cache(state.fingerprint),
            )  # fmt: skip

    def _search(
        self, state: State, task: Task, first: Selection, rows: Sequence[int], settings: SelectionSettings
    ) -> Selection:
        chosen, setup = self._setup.config.candidates.search, self._setup
        if chosen is None:
            return first
        other = [i for i in range(len(task.train)) if i not in set(rows)][: len(rows)]

        def propose(ranking: Ranking, known: Sequence[Instruction]) -> Gathered:
            return setup.processes.once(lambda: setup.gathering.more(task, ranking, known, chosen.count))

        def measure(candidates: Sequence[Instruction], budget: float | None) -> Selection:
            label = f"task {state.stage + 1} {task.name}: searching, {len(candidates)} candidates"
            none = Work(len(candidates) * len(rows), 0, 0)
            return self._select(state, task, candidates, rows, replace(settings, budget=budget), label, none)

        def unseen(candidates: Sequence[Instruction]) -> Selection | None:
            if not other:
                return None
            exhaustive = replace(settings, strategy="exhaustive", budget=None)
            label = f"task {state.stage + 1} {task.name}: checking the search on {len(other)} unseen rows"
            none = Work(len(candidates) * len(other), 0, 0)
            return self._select(state, task, candidates, other, exhaustive, label, none)

        return search(first, SearchSettings(chosen.rounds, chosen.count, settings.budget), propose, measure, unseen)

    def train(self, state: State, trained: Sequence[Trained]) -> State:
        """Return the state after training on the last of ``trained``, the adapter written beside its lineage."""
        stage = state.stage + 1
        settings, seed = self._setup.settings, self._setup.config.seed
        task, instruction = trained[-1].task, trained[-1].instruction
        name = f"{stage}-{task.name}"
        label = f"task {stage} {task.name}: training"
        work = self._plan.train[task.name]
        path = f"training/{name}.json"
        inputs = self._inputs(state, task, task.train) | {
            "instruction": fingerprint(instruction.text),
            "training settings": fingerprint([self._method.settings(), asdict(settings), seed]),
        }
        stored: tuple[float, State, dict[str, str]] | None = self._record.reuse(
            path, inputs, lambda value: (value["seconds"], State(stage, name, value["state"]), dict(value["files"]))
        )
        if stored is not None:
            self._progress.reused(label, work.cost)
            self.seconds["training"] += stored[0]
            self._demand_stage(name, path, stored[2], last=stage == len(self._setup.tasks))
            return stored[1]
        model = self._method.prepare(self._bring(state), seed)
        encoded = self._renderer.encode(instruction.text, task.suffix, task.train)
        began = time.perf_counter()
        with self._progress.step(label, work.units, work.cost) as advance:
            try:
                training = finetune(
                    model, encoded, settings, seed, advance, self._setup.processes, self._checkpoints(name, inputs)
                )
            except TrainError as error:
                raise TrainError(f"task {task.name!r}: {error}") from error
            except OSError as error:
                # Trainer needs a temporary directory, and a place for checkpoints where there are some.
                where = Path(str(error.filename or tempfile.gettempdir()))
                raise RecordError(unwritable(where, error.strerror or str(error))) from error
        seconds = time.perf_counter() - began
        after = self._save_stage(name, model, trained)
        value = {
            "steps": training.steps,
            "losses": list(training.losses),
            "seconds": seconds,
            "state": after,
            "files": self._record.stage_files(name),
        }
        self._record.save(path, inputs, value)
        self._record.finish(name)
        self.seconds["training"] += seconds
        self._live = State(stage, name, after)
        return self._live

    def evaluate(self, state: State, task: Task, instruction: str, prompt: Prompt) -> Evaluation:
        """Return one cell: answers, scores and losses on the task's test rows."""
        max_new_tokens = self._setup.config.evaluate.max_new_tokens
        label = f"stage {state.stage}: testing {task.name}" + (" (original prompt)" if prompt == "original" else "")
        work = self._plan.evaluate[task.name]
        path = f"cells/{state.stage}/{task.name}.{prompt}.json"
        inputs = self._inputs(state, task, task.test) | {
            "instruction": fingerprint(instruction),
            "evaluation settings": fingerprint(max_new_tokens),
        }
        stored: tuple[float, Evaluation] | None = self._record.reuse(
            path, inputs, lambda value: (value["seconds"], _cell(value))
        )
        if stored is not None:
            self._progress.reused(label, work.cost)
            self.seconds["evaluating"] += stored[0]
            return stored[1]
        model = self._bring(state)
        began = time.perf_counter()
        with self._progress.step(label, work.units, work.cost) as advance:
            cell = evaluate(
                model, self._renderer, task, instruction, task.test, max_new_tokens, advance, self._scorer,
                self._setup.processes,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        if not np.isfinite(cell.losses.nll).all():
            row = int(np.flatnonzero(~np.isfinite(cell.losses.nll))[0])
            raise ScoreError(f"task {task.name!r}, test row {row}: its loss is not finite after stage {state.stage}")
        value = {
            "instruction": instruction,
            "predictions": list(cell.predictions),
            "answers": [row.answer for row in task.test],
            "scores": {metric: scores.tolist() for metric, scores in cell.scores.items()},
            "losses": losses_to_json(cell.losses),
            "seconds": seconds,
        }
        self._record.save(path, inputs, value)
        self.seconds["evaluating"] += seconds
        return cell

    def _demand_stage(self, name: str, step: str, files: dict[str, str], *, last: bool) -> None:
        """Refuse a stage directory that is not as it was written; ``keep: last`` may have dropped an earlier one."""
        directory = self._record.stage_directory(name)
        dropped = self._setup.config.keep == "last" and not last and not directory.exists()
        found = {} if dropped else self._record.stage_files(name)
        changed = [] if dropped else [file for file, digest in files.items() if found.get(file) != digest]
        if changed:
            what = directory / changed[0] if directory.is_dir() else directory
            why = "was changed since" if changed[0] in found else "is missing"
            raise RecordError(
                f"{what} {why}. Put it back as it was, or delete {self._record.directory / step} to train that task "
                "again."
            )

    def _checkpoints(self, name: str, inputs: Inputs) -> Checkpoints | None:
        every = self._setup.config.train.checkpoint_every
        return None if every is None else Checkpoints(self._record.unfinished(name, inputs), every)

    def _inputs(self, state: State, task: Task, rows: Sequence[Example]) -> dict[str, str]:
        return {
            "model": state.fingerprint,
            "data": fingerprint([[row.input, row.answer, row.history, row.references] for row in rows]),
            "template": self._template,
            "suffix": fingerprint(task.suffix),
        }

    def _bring(self, state: State) -> Any:
        """Return the model in this state, loading the stage's adapter unless the model is there already."""
        if self._live != state:
            directory = self._record.stage_directory(state.name)
            again = self._record.directory / "training" / f"{state.name}.json"
            afresh = f"and a step after it is not finished. Delete {again} to train that task again."
            weights = directory / "adapter_model.safetensors"
            if not weights.is_file():
                raise RecordError(f"{weights if directory.is_dir() else directory} is missing, {afresh}")
            try:
                self._model = self._method.resume(self._model, directory)
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                raise RecordError(f"{directory} cannot be loaded ({error}), {afresh}") from error
            found = state_fingerprint(self._model)
            if found != state.fingerprint:
                raise RecordError(f"{directory} does not hold the weights that were trained, {afresh}")
            self._live = state
        self._scorer = self._scorer.on(self._model)
        return self._model

    def _save_stage(self, name: str, model: Any, trained: Sequence[Trained]) -> str:
        setup, after = self._setup, ""
        limits = {"max_length": setup.config.max_length, "max_new_tokens": setup.config.evaluate.max_new_tokens}

        def write(directory: Path) -> None:
            nonlocal after
            self._model = self._method.finish(model, directory)
            after = state_fingerprint(self._model)
            data = lineage(
                base=setup.loaded.name, method=self._method.name, policy=setup.config.policy, trained=trained,
                state=after, limits=limits, template=self._template, versions=library_versions(),
                earlier=setup.earlier,
            )  # fmt: skip
            write_json(directory / "sapo.json", data)
            write_text(directory / "README.md", model_card(data))

        self._record.save_stage(name, write)
        if len(set(setup.processes.gather(after))) > 1:
            raise TrainError(f"stage {name}: the processes ended with different weights; run it in one process")
        return after


def _cell(stored: Any) -> Evaluation:
    return Evaluation(
        predictions=tuple(stored["predictions"]),
        scores={metric: np.array(scores, dtype=np.float64) for metric, scores in stored["scores"].items()},
        losses=losses_from_json(stored["losses"]),
    )
