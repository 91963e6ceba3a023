"""A task sequence in somebody else's training loop: choices, performance matrix and metrics, kept across calls.

    seq = sapo.Sequence("runs/mine", model, tokenizer, tasks)
    if seq.done:                                # interrupted: go on with the model of the last finished task
        model = load(f"runs/models/{seq.done[-1].name}")
    for task in seq.open:
        instruction = seq.before(task, model=model)   # scored under the model as it is now
        model = train(model, task, instruction)
        model.save_pretrained(f"runs/models/{task.name}")
        seq.after(task, model)                  # all tasks are tested
    seq.results.metrics["bwt"]                  # and: sapo report runs/mine

The directory holds what `sapo run` would have written there, but for stages: models are the loop's own to keep, each
in a directory of its own and before `after` is called, so that an interruption at any moment leaves the one to go on
with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path
from typing import Any

from sapo.candidates.builtin import Builtin
from sapo.candidates.checks import admit
from sapo.candidates.gather import gather
from sapo.candidates.rules.source import Rules
from sapo.core.errors import DataError, RecordError, nearest
from sapo.core.progress import Reporter, Silent
from sapo.core.storage import fingerprint
from sapo.core.types import Instruction, Selection, Strategy, Task, Trained
from sapo.models.answers import Evaluation, evaluate
from sapo.models.fingerprint import state_fingerprint
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.runs.directory import Record, first_value
from sapo.runs.findings import instruction_entry
from sapo.runs.formats import evaluation_from_json, evaluation_to_json, selection_from_json, selection_to_json
from sapo.runs.lineage import library_versions
from sapo.runs.metrics import METRICS
from sapo.runs.results import Prompt, Results, tabulate
from sapo.selection.rows import MAX_LENGTH, context_length, selection_rows
from sapo.selection.scoring import SelectionSettings, score_candidates
from sapo.tasks.holdout import hold_out
from sapo.tasks.load import data_fingerprint, task_fingerprint
from sapo.training.policies import BY_LOSS, Policy, choose_instruction

_COUNT = 20
_POLICIES = ("sapo", "original", "random", "highest", "median")
_PROMPTS: tuple[Prompt, ...] = ("selected", "original")


class Sequence:
    """Which tasks were trained on, each with which instruction, and how well all of them are done at every stage.

    Attributes:
        tasks: in the order in which they are trained. Where one came without test rows, some of its training rows
            are test rows here: train on these tasks, not on those that were given.

    Args:
        run_dir: where everything is kept; one that holds the same sequence is gone on with.
        model: any transformers or peft causal LM, as it is before the first task. Of a sequence that is gone on with,
            `before` is given the model that the last finished task left, or it is given here.
        tokenizer: its tokenizer.
        tasks: at least one, with different names.
        policy: "sapo" takes the lowest pre-update loss; "original", "random", "highest" and "median" are controls.
        examples: training rows that candidates are scored on.
        rows: test rows of each task; None: all.
        max_new_tokens: longest answer.
        max_length: most tokens of prompt and answer.
        seed: of rows, of races and of the policy random.
        progress: hears about every step: an entered `sapo.cli.progress.terminal.Terminal` shows a bar.

    Raises:
        DataError: if tasks cannot be told apart or tested, or a setting is not allowed.
        RecordError: if the directory holds something else.
    """

    def __init__(
        self,
        run_dir: str | Path,
        model: Any,
        tokenizer: Any,
        tasks: Several[Task],
        *,
        policy: Policy = "sapo",
        examples: int = 250,
        rows: int | None = None,
        max_new_tokens: int = 32,
        max_length: int = MAX_LENGTH,
        seed: int = 42,
        progress: Reporter | None = None,
    ) -> None:
        _demand(tasks, policy)
        for name, value in (("examples", examples), ("rows", rows), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise DataError(f"{name} = {value}: allowed is a positive number")
        self.tasks = tuple(hold_out(task) for task in tasks)
        self._model, self._policy, self._examples, self._seed = model, policy, examples, seed
        self._rows, self._max_new_tokens = rows, max_new_tokens
        self._progress = progress or Silent()
        self._renderer = Renderer(tokenizer, min(max_length, context_length(model)))
        # The model's name is told, not compared: its weights are, and one that was saved has another name.
        base = str(model.config.name_or_path or type(model).__name__)
        self._config = {
            "model": {"base": first_value(Path(run_dir), "model.base", base)},
            "sequence": [task.name for task in tasks],
            "data": [task_fingerprint(task) for task in self.tasks],
            "policy": policy,
            "method": "a loop of your own",
            "seed": seed,
            "selection": {"rule": "lowest", "examples": examples},
            "evaluate": {"rows": rows, "max_new_tokens": max_new_tokens, "test_prompt": "both"},
            "max_length": max_length,
        }
        self._record = Record(Path(run_dir), self._config)
        self._record.check()
        # What `before` told since this object was made.
        self._chosen: dict[str, Trained] = {}
        if not self.open and not (self._record.directory / "results.json").is_file():
            # The process ended between the last record and this.
            with self._record:
                self._record.write("results.json", self._results())

    @property
    def done(self) -> tuple[Task, ...]:
        """The tasks that were trained on and tested, in order."""
        finished = (self._record.directory / "training" / f"{n}-{t.name}.json" for n, t in enumerate(self.tasks, 1))
        return tuple(task for task, path in zip(self.tasks, finished, strict=True) if path.is_file())

    @property
    def open(self) -> tuple[Task, ...]:
        """The tasks that are to be trained on yet, in order."""
        return self.tasks[len(self.done) :]

    def before(self, task: Task | str, candidates: Several[str] | None = None, *, model: Any = None) -> Instruction:
        """Return the instruction to train a task with, chosen under the model as it is now.

        Before the first task, all tasks are tested zero-shot.

        Args:
            task: the next one, or its name.
            candidates: paraphrases; by default those that come with the library or that rules make.
            model: as it is now; by default the one that was given last.

        Raises:
            DataError: if it is not the next one.
            RecordError: if the model is not the one that the last finished task left.
            SapoError: as `sapo.select`.
        """
        found = self._next(task)
        self._model = self._model if model is None else model
        stage = len(self.done) + 1
        state = state_fingerprint(self._model)
        with self._record:
            self._record.write("environment.json", {"versions": library_versions()})
            if stage == 1:
                self._test(0, state)
            else:
                self._demand_left(stage - 1, state)
            self._chosen[found.name] = self._choose(found, stage, candidates)
        return self._chosen[found.name].instruction

    def after(self, task: Task | str, model: Any = None) -> Results | None:
        """Test all tasks with the model that was trained on a task; return all results after the last one.

        Args:
            task: the one that `before` was asked for.
            model: after the training; by default the one that was given last, trained in place.

        Raises:
            DataError: if another task is next, or `before` was not asked.
            SapoError: if an answer or a loss cannot be computed.
        """
        found = self._next(task)
        if found.name not in self._chosen:
            raise DataError(f"after({found.name!r}) without before({found.name!r}): it tells what to train with")
        self._model = self._model if model is None else model
        stage, trained = len(self.done) + 1, self._chosen[found.name]
        with self._record:
            state = state_fingerprint(self._model)
            # Tests of a training that was not recorded: made again, it seldom ends with the same bits.
            self._record.drop_others(f"cells/{stage}", {"model": state})
            self._test(stage, state)
            value = {"instruction": trained.instruction.text, "origin": trained.instruction.origin, "state": state}
            self._record.save(f"training/{stage}-{found.name}.json", {"model": state}, value)
            if stage < len(self.tasks):
                return None
            results = Results(self._results())
            self._record.write("results.json", results.data)
            return results

    @property
    def results(self) -> Results:
        """What was found so far; metrics of a sequence that is not finished have no value.

        Raises:
            RecordError: before the first stage was tested.
        """
        return Results(self._results())

    def selection(self, task: Task | str) -> Selection | None:
        """Return the candidates' losses that the choice for a task rests on; None where the policy asks for none.

        Raises:
            DataError: if nothing was chosen for the task yet, or there is none of this name.
        """
        name, found = self._known(task), self._trained()
        if name not in found:
            raise DataError(f"no instruction was chosen for {name!r} yet: call before({name!r}) when it is next")
        return found[name].selection

    def _known(self, task: Task | str) -> str:
        """Return the name of a task of this sequence."""
        name = task if isinstance(task, str) else task.name
        names = [t.name for t in self.tasks]
        if name not in names:
            raise DataError(
                f"{name!r} is no task of this sequence.{nearest(name, names)} Its tasks: {', '.join(names)}"
            )
        return name

    def _next(self, task: Task | str) -> Task:
        name = self._known(task)
        if not self.open or self.open[0].name != name:
            following = f"the next one is {self.open[0].name}" if self.open else "all of them are finished"
            raise DataError(f"{name!r} is not the next task: {following}. Loop over Sequence.open")
        return self.open[0]

    def _demand_left(self, stage: int, state: str) -> None:
        """Refuse a model that is not what the last finished task left."""
        task = self.tasks[stage - 1]
        left = self._record.find(f"training/{stage}-{task.name}.json", {})
        if left is None or left["state"] != state:
            raise RecordError(
                f"the model is not the one that was tested after {task.name!r}, the last finished task: give the model "
                f"that was saved then (its weights, or their dtype, differ), or begin afresh in another run_dir than "
                f"{self._record.directory}"
            )

    def _choose(self, task: Task, stage: int, given: Several[str] | None) -> Trained:
        original = (Instruction(task.instruction, "original"),)
        if self._policy == "original":
            return Trained(task, original[0])
        if given is None:
            gathered = gather(task, (Builtin(), Rules()), _COUNT)
            candidates, rejected = gathered.candidates, gathered.rejected
        else:
            candidates, rejected = admit(task, given, "given")
        selection = None
        if self._policy in BY_LOSS:
            rows = selection_rows(task, self._examples, "stratified", self._seed)
            strategy: Strategy = "racing" if self._policy == "sapo" else "exhaustive"
            settings = SelectionSettings(
                "lowest", "stratified", self._seed, strategy, delta=0.05, epsilon=0.01, budget=None
            )
            inputs = self._inputs(task, state_fingerprint(self._model)) | {
                "candidates": fingerprint([c.text for c in candidates])
            }
            path = f"selections/{stage}-{task.name}.json"
            selection = self._record.reuse(path, inputs, selection_from_json)
            if selection is None:
                total = len(rows) * len(candidates)
                label = f"task {stage} {task.name}: scoring {len(candidates)} candidates"
                self._progress.plan(total)
                with (
                    self._progress.step(label, total, total) as advance,
                    self._progress.race([c.text for c in candidates], len(rows)) as watch,
                ):
                    selection = score_candidates(
                        Scorer(self._model), self._renderer, task, candidates, rows, settings,
                        rejected=rejected, advance=advance, watch=watch,
                    )  # fmt: skip
                self._record.save(path, inputs, selection_to_json(selection))
        return Trained(task, choose_instruction(self._policy, candidates, selection, self._seed), selection)

    def _test(self, stage: int, state: str) -> None:
        """Compute the stage's row of the matrix."""
        scorer, seen = Scorer(self._model), self._trained()
        cells = [(task, kind, text) for task in self.tasks for kind, text in self._texts(task, stage, seen).items()]
        self._progress.plan(sum(2 * len(self._tested(task)) for task, _, _ in cells))
        for task, kind, text in cells:
            path, rows = f"cells/{stage}/{task.name}.{kind}.json", self._tested(task)
            inputs = self._inputs(task, state) | {"instruction": fingerprint(text)}
            label = f"stage {stage}: testing {task.name}" + ("" if kind == "selected" else f" ({kind} prompt)")
            # Every row is answered and scored.
            units = 2 * len(rows)
            if self._record.reuse(path, inputs) is not None:
                self._progress.reused(label, units)
                continue
            began = time.perf_counter()
            with self._progress.step(label, units, units) as advance:
                cell = evaluate(
                    self._model, self._renderer, task, text, rows, self._max_new_tokens, advance, scorer
                )  # fmt: skip
            value = {"instruction": text, "answers": [row.answer for row in rows], **evaluation_to_json(cell)}
            self._record.save(path, inputs, value | {"seconds": time.perf_counter() - began})

    def _trained(self) -> dict[str, Trained]:
        """Return what was chosen for every task so far, from memory or the directory."""
        found = dict(self._chosen)
        for stage, task in enumerate(self.tasks, start=1):
            training = self._record.find(f"training/{stage}-{task.name}.json", {})
            if training is not None and task.name not in found:
                selection = self._record.find(f"selections/{stage}-{task.name}.json", {}, selection_from_json)
                found[task.name] = Trained(task, Instruction(training["instruction"], training["origin"]), selection)
        return found

    def _tested(self, task: Task) -> tuple[Any, ...]:
        # Every run is tested on the same rows, whatever its seed.
        rows = selection_rows(replace(task, train=task.test), self._rows or len(task.test), "stratified", 0)
        return tuple(task.test[i] for i in rows)

    def _texts(self, task: Task, stage: int, seen: Mapping[str, Trained]) -> dict[Prompt, str]:
        """Return the instructions that a task is tested with at a stage, each text once."""
        trained = seen.get(task.name) if self.tasks.index(task) < stage else None
        if trained is not None and trained.instruction.text != task.instruction:
            return {"selected": trained.instruction.text, "original": task.instruction}
        return {"original": task.instruction}

    def _inputs(self, task: Task, state: str) -> dict[str, str]:
        return {
            "model": state,
            "data": data_fingerprint(self._tested(task)),
            "template": self._renderer.fingerprint(),
            "suffix": fingerprint(task.suffix),
        }

    def _results(self) -> dict[str, Any]:
        seen, cells = self._trained(), dict[tuple[int, str, Prompt], Evaluation]()
        evaluating = 0.0
        for stage in range(len(self.done) + 1):
            for task in self.tasks:
                texts = self._texts(task, stage, seen)
                for prompt in _PROMPTS:
                    kind = prompt if prompt in texts else "original"
                    found = self._record.find(
                        f"cells/{stage}/{task.name}.{kind}.json",
                        {},
                        lambda value: (value["seconds"], evaluation_from_json(value)),
                    )
                    if found is None:
                        raise RecordError(
                            f"{self._record.directory} holds no tests of stage {stage} yet: call before()"
                        )
                    cells[stage, task.name, prompt] = found[1]
                    # One test stands for both prompts where they are the same.
                    evaluating += found[0] if kind == prompt else 0.0
        missing = {} if not self.open else {m.name: "the sequence is not finished" for m in METRICS}
        tables = tabulate(cells, self.tasks, (), _PROMPTS, self._seed, missing)
        kinds = {task.metric for task in self.tasks}
        return {
            "tasks": [task.name for task in self.tasks],
            "primary_metric": kinds.pop() if len(kinds) == 1 else "mixed",
            "primary_metrics": {task.name: task.metric for task in self.tasks},
            "test_prompt": "selected",
            "matrix": tables["matrices"]["primary"]["selected"],
            "metrics": tables["metrics_all"]["primary"]["selected"],
            **tables,
            "instructions": {name: instruction_entry(trained, self._policy) for name, trained in seen.items()},
            "test_data": {task.name: data_fingerprint(self._tested(task)) for task in self.tasks},
            "test_rows": {task.name: len(self._tested(task)) for task in self.tasks},
            "config": self._config,
            "seconds": {
                "scoring": sum(trained.selection.seconds for trained in seen.values() if trained.selection),
                "evaluating": evaluating,
            },
        }


def _demand(tasks: Several[Task], policy: str) -> None:
    if isinstance(tasks, (Task, str)) or not all(isinstance(task, Task) for task in tasks):
        raise DataError(f"tasks = {tasks!r:.80}: give a list of what sapo.load_task returns")
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise DataError(f"tasks {names}: give at least one, and different names")
    if policy not in _POLICIES:
        raise DataError(f"policy = {policy!r}: allowed: {', '.join(_POLICIES)}.{nearest(policy, _POLICIES)}")
    for task in tasks:
        if not task.train:
            raise DataError(f"task {task.name!r} has no training rows")
