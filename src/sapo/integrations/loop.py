"""A task sequence in somebody else's training loop: choices, performance matrix and metrics, kept across calls.

    seq = sapo.TaskSequence("runs/mine", model, tokenizer, tasks)
    if seq.done:                                # interrupted: resume with the model of the last finished task
        model = load(f"runs/models/{seq.done[-1].name}")
    for task in seq.open:
        instruction = seq.before(task, model=model)   # scored under the model in its present state
        model = train(model, task, instruction)
        model.save_pretrained(f"runs/models/{task.name}")
        seq.after(task, model)                  # all tasks are tested
    seq.results.metrics["bwt_final"]            # and: sapo report runs/mine

The steps are those of `sapo run`, with the training left to the caller, and so is the directory, but for stages: models
are the loop's own to keep, each in a directory of its own and before `after` is called, so that an interruption at any
moment leaves the one to resume from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from sapo.candidates.checks import listed
from sapo.candidates.gather import Gathered
from sapo.core.errors import DataError, RecordError, demand_number, nearest
from sapo.core.progress import SILENT, Reporter, Work
from sapo.core.types import Instruction, Task
from sapo.models.fit import MAX_LENGTH, context_length
from sapo.models.render import Renderer
from sapo.runs.directory import RunDirectory, first_value
from sapo.runs.lineage import library_versions
from sapo.runs.matrix import Row, run_result
from sapo.runs.metrics import METRICS
from sapo.runs.model import Model
from sapo.runs.plan import Plan
from sapo.runs.prompts import ORIGINAL, OWN
from sapo.runs.results import RunResult
from sapo.runs.steps import Chooser, Engine, Tester
from sapo.selection.selection import Choice, Selection
from sapo.selection.settings import SelectionSettings
from sapo.tasks.holdout import hold_out
from sapo.tasks.load import task_fingerprint
from sapo.tasks.sampling import used_rows
from sapo.training.policies import BY_LOSS, LOWEST
from sapo.training.schedule import Stage
from sapo.training.select import candidates_of, demand_candidates
from sapo.training.settings import Policy

_POLICIES = ("sapo", "original", "random", "highest", "median")
_PROMPTS = (OWN, ORIGINAL)


class TaskSequence:
    """Which tasks were trained on, each with which instruction, and how well all of them are done at every stage.

    Attributes:
        tasks: in the order in which they are trained. Where one came without test rows, some of its training rows
            are test rows here: train on these tasks, not on those that were given.

    Args:
        run_dir: where everything is kept; one that holds the same sequence is resumed.
        model: any transformers or peft causal LM, before the first task. When a sequence is resumed,
            give the model that the last finished task left, here or to `before`.
        tokenizer: its tokenizer.
        tasks: at least one, with different names.
        policy: "sapo" takes the lowest pre-update loss; "original", "random", "highest" and "median" are controls.
        examples: training rows that candidates are scored on.
        rows: test rows of each task; None: all.
        max_new_tokens: longest answer.
        max_length: most tokens of prompt and answer.
        seed: of rows, of races and of the policy random.
        progress: is told every step; `sapo.core.progress.Bar()` shows a bar for each.

    Raises:
        DataError: if two tasks have one name, or one cannot be tested, or a setting is not allowed.
        RecordError: if the directory holds something else.
    """

    def __init__(
        self,
        run_dir: str | PathLike[str],
        model: Any,
        tokenizer: Any,
        tasks: Sequence[Task],
        *,
        policy: Policy = "sapo",
        examples: int = 250,
        rows: int | None = None,
        max_new_tokens: int = 32,
        max_length: int = MAX_LENGTH,
        seed: int = 42,
        progress: Reporter = SILENT,
    ) -> None:
        _demand(tasks, policy)
        numbers = {"examples": examples, "max_new_tokens": max_new_tokens, "max_length": max_length}
        for name, value in (numbers if rows is None else numbers | {"rows": rows}).items():
            demand_number(name, value)
        demand_number("seed", seed, 0)
        self.tasks = tuple(hold_out(task) for task in tasks)
        self._tested = tuple(used_rows(task, None, rows, seed) for task in self.tasks)
        # The model's name is recorded, not compared: its weights are, and one that was saved has another name.
        base = str(model.config.name_or_path or type(model).__name__)
        self._config = {
            "model": {"base": first_value(Path(run_dir), "model.base", base)},
            "sequence": [task.name for task in tasks],
            "data": [task_fingerprint(task) for task in self.tasks],
            "policy": policy,
            "method": "a loop of your own",
            "seed": seed,
            "selection": {"rule": "lowest", "examples": examples},
            "evaluate": {"rows": rows, "max_new_tokens": max_new_tokens, "prompts": [*_PROMPTS]},
            "max_length": max_length,
        }
        self._directory = RunDirectory(Path(run_dir), self._config)
        self._directory.check()
        self._policy, self._examples, self._progress, self._model = policy, examples, progress, Model(model)
        renderer = Renderer(tokenizer, min(max_length, context_length(model)))
        # Every test row is answered and scored.
        work = {task.name: Work(n := 2 * len(task.test), n, n) for task in self._tested}
        # What scoring costs is known when candidates are.
        self._scoring: dict[str, Work] = {}
        plan = Plan(self._scoring, {}, work, {}, {})
        settings = SelectionSettings(
            examples=examples, strategy="racing" if policy in LOWEST else "exhaustive", budget=None, cache=False
        )
        silent = Engine(self._directory, self._model, renderer, plan)
        engine = replace(silent, progress=progress)
        self._choose = Chooser(engine, policy, settings, seed)
        # What is only read back was never planned.
        self._test, self._read_back = (Tester(one, _PROMPTS, max_new_tokens) for one in (engine, silent))
        # What `before` returned since this object was made.
        self._chosen: dict[str, Choice] = {}
        if not self.open and not (self._directory.path / "results.json").is_file():
            # The process ended between the last record and this.
            with self._directory:
                self._directory.write("results.json", self.results.to_json())

    @property
    def done(self) -> tuple[Task, ...]:
        """The tasks that were trained on and tested, in order."""
        finished = (self._directory.path / "training" / f"{n}-{t.name}.json" for n, t in enumerate(self.tasks, 1))
        return tuple(task for task, path in zip(self.tasks, finished, strict=True) if path.is_file())

    @property
    def open(self) -> tuple[Task, ...]:
        """The tasks that are to be trained on yet, in order."""
        return self.tasks[len(self.done) :]

    def before(self, task: Task | str, candidates: Sequence[str] | None = None, *, model: Any = None) -> Instruction:
        """Return the instruction to train a task with, chosen under the present model.

        Before the first task, all tasks are tested zero-shot.

        Args:
            task: the next one, or its name.
            candidates: paraphrases; by default those that come with the library or that rules make.
            model: in its present state; by default the one that was given last.

        Raises:
            DataError: if it is not the next one.
            RecordError: if the model is not the one that the last finished task left.
            SapoError: as `sapo.select`.
        """
        last_given = self._model.model
        found, number = self._next(task, model), len(self.done) + 1
        gathered = Gathered((Instruction(found.instruction, "original"),), ())
        if self._policy != "original":
            gathered = candidates_of(found, candidates)
            if candidates:
                demand_candidates(found, gathered)
        stage = self._model.stage(number - 1, self._name(number - 1), self._choices(number - 1))
        with self._directory:
            self._directory.write("environment.json", {"versions": library_versions()})
            if number == 1 and not any(self._directory.path.glob("cells/0/*.json")):
                # Nothing was tested yet.
                self._directory.save("start.json", {}, {"state": stage.fingerprint})
            if self._trained(number - 1)["state"] != stage.fingerprint:
                self._model.model = last_given
                last = (
                    f"after {self.tasks[number - 2].name!r}, the last finished task" if number > 1 else "at the start"
                )
                raise RecordError(
                    f"the model differs from the one tested {last}, in its weights or their dtype: pass the model as "
                    f"it was then, or start anew with a run_dir other than {self._directory.path}"
                )
            if number == 1:
                self._test_all(stage)
            kept, rejected = gathered.candidates, gathered.rejected
            for note in gathered.notes:
                self._progress.note(note)
            if candidates and rejected:
                self._progress.note(f"rejected texts: {listed(rejected)}")
            if self._policy in BY_LOSS:
                total = len(kept) * min(self._examples, len(found.train))
                self._scoring[found.name] = Work(total, total, total)
                self._progress.plan(total)
            self._chosen[found.name] = self._choose(stage, number, found, kept, rejected)
        return self._chosen[found.name].instruction

    def after(self, task: Task | str, model: Any = None) -> RunResult | None:
        """Test all tasks with the model that was trained on a task; return all results after the last one.

        Args:
            task: the one that `before` was asked for.
            model: after the training; by default the one that was given last, trained in place.

        Raises:
            DataError: if another task is next, or `before` was not asked.
            SapoError: if an answer or a loss cannot be computed.
        """
        found = self._next(task, model)
        if found.name not in self._chosen:
            raise DataError(
                f"after({found.name!r}) needs before({found.name!r}) first: it returns the instruction to train with"
            )
        number, choice = len(self.done) + 1, self._chosen[found.name]
        with self._directory:
            stage = self._model.stage(number, self._name(number), (*self._choices(number - 1), choice))
            # Tests of a training that was not recorded: made again, it seldom ends with the same bits.
            self._directory.drop_others(f"cells/{number}", {"model": stage.fingerprint})
            self._test_all(stage)
            value = {"instruction": choice.instruction.text, "origin": choice.instruction.origin}
            value["state"] = stage.fingerprint
            self._directory.save(f"training/{stage.name}.json", {"model": stage.fingerprint}, value)
            if number < len(self.tasks):
                return None
            results = self.results
            self._directory.write("results.json", results.to_json())
            return results

    @property
    def results(self) -> RunResult:
        """What was found so far; metrics of a sequence that is not finished have no value.

        Raises:
            RecordError: before the first stage was tested.
        """
        rows = [self._row(number) for number in range(len(self.done) + 1)]
        missing = {} if not self.open else {m.name: "the sequence is not finished" for m in METRICS}
        return run_result(rows, self._tested, (), _PROMPTS, self._config, missing)

    def selection(self, task: Task | str) -> Selection | None:
        """Return the candidates' losses that the choice for a task rests on; None where the policy asks for none.

        Raises:
            DataError: if nothing was chosen for the task yet, or no task has this name.
        """
        name = self._known(task)
        found = {c.task.name: c for c in self._choices(len(self.done))} | self._chosen
        if name not in found:
            raise DataError(f"no instruction was chosen for {name!r} yet: call before({name!r}) when it is next")
        return found[name].selection

    def _known(self, task: Task | str) -> str:
        """Return the name of a task of this sequence."""
        name = task if isinstance(task, str) else task.name
        names = [t.name for t in self.tasks]
        if name not in names:
            raise DataError(
                f"{name!r} is not a task of this sequence.{nearest(name, names)} Its tasks: {', '.join(names)}"
            )
        return name

    def _next(self, task: Task | str, model: Any) -> Task:
        """Take the present model, and return the task if it is the next one."""
        name = self._known(task)
        if not self.open or self.open[0].name != name:
            following = f"the next one is {self.open[0].name}" if self.open else "all of them are finished"
            raise DataError(f"{name!r} is not the next task: {following}. Loop over TaskSequence.open")
        if model is not None:
            self._model.model = model
        return self.open[0]

    def _name(self, number: int) -> str:
        return f"{number}-{self.tasks[number - 1].name}" if number else "start"

    def _trained(self, number: int) -> Any:
        """Return what was recorded of a stage; if nothing was, that is an error."""
        path = f"training/{self._name(number)}.json" if number else "start.json"
        found = self._directory.find(path, {})
        if found is None:
            raise RecordError(f"{self._directory.path} holds no tests of stage {number} yet: call before()")
        return found

    def _choices(self, number: int) -> tuple[Choice, ...]:
        """Return what was chosen for the tasks up to a stage."""
        choices = []
        for place, task in enumerate(self.tasks[:number], start=1):
            found, name = self._trained(place), self._name(place)
            selection: Selection | None = self._directory.find(f"selections/{name}.json", {}, Selection.from_json)
            choices.append(Choice(task, Instruction(found["instruction"], found["origin"]), selection))
        return tuple(choices)

    def _test_all(self, stage: Stage) -> None:
        chosen = {choice.task.name: choice.instruction.text for choice in stage.choices}
        # One test stands for both prompts where they are the same.
        texts = [{task.instruction, chosen.get(task.name, task.instruction)} for task in self._tested]
        self._progress.plan(sum(2 * len(t.test) * len(own) for t, own in zip(self._tested, texts, strict=True)))
        self._test(stage, self._tested)

    def _row(self, number: int) -> Row:
        """Return a stage's row, as its tests were recorded."""
        state = self._trained(number)["state"]
        stage = Stage(number, self._name(number), state, choices=self._choices(number))
        return self._read_back(stage, self._tested)


def _demand(tasks: Sequence[Task], policy: str) -> None:
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
