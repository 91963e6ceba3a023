"""What the user gave, read and checked before a model is loaded: tasks with the rows that are used, and candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from sapo.candidates.files import candidates_file
from sapo.candidates.gather import Gathered, gather, with_spare
from sapo.candidates.source import Source
from sapo.core.errors import ConfigError, DataError, RenderError
from sapo.core.progress import Reporter
from sapo.core.storage import fingerprint
from sapo.core.types import Example, Instruction, Task
from sapo.models.render import Renderer
from sapo.runs.directory import RunDirectory
from sapo.runs.prompts import OWN, Prompt, instruction_of
from sapo.selection.settings import SelectionSettings
from sapo.tasks.holdout import hold_out
from sapo.tasks.inspection import Inspection, drop_overlap, inspect_rows, lengths_of
from sapo.tasks.load import load_sequence, task_fingerprint
from sapo.tasks.own import DataSource
from sapo.tasks.sampling import held_rows_of, selection_rows, used_rows, without_shown

if TYPE_CHECKING:
    from sapo.candidates.server import ServerJudge

# Tokens that a chat template may add to a row.
_TEMPLATE = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tasks and candidates of a run.

    Attributes:
        tasks: of the sequence, with the rows that the run uses.
        watch: tasks that are only tested.
        data: fingerprint of each task as it was given, before rows were drawn.
        dropped: per task, training rows left out because they are also tested.
        held_rows: per task, rows that are neither trained on nor tested; empty unless the policy needs them.
        candidates: per task, the original first.
        held_out: per task, the paraphrases that are not candidates but for testing.
        gathered: per task, all of them as they were gathered, with the texts that were rejected.
    """

    tasks: tuple[Task, ...]
    watch: tuple[Task, ...]
    data: Mapping[str, str]
    dropped: Mapping[str, int]
    held_rows: Mapping[str, tuple[Example, ...]]
    candidates: Mapping[str, tuple[Instruction, ...]]
    held_out: Mapping[str, tuple[Instruction, ...]]
    gathered: Mapping[str, Gathered]

    def given(self, texts: Mapping[str, str]) -> Inputs:
        """Return the same with the original and a text of the user's as the candidates of these tasks."""
        candidates = {task.name: self.candidates[task.name][:1] for task in self.tasks}
        for name, text in texts.items():
            if text != candidates[name][0].text:
                candidates[name] += (Instruction(text, "given"),)
        return replace(self, candidates=candidates)

    def fitting(self, renderer: Renderer, prompts: Sequence[Prompt], max_new_tokens: int) -> Inputs:
        """Return the same without the rows, and then without the candidates, that are too long though inputs are cut.

        Which rows stay depends on the original and on the texts among ``prompts`` alone, so runs with other policies
        have the same ones. ``prompts`` are those that every stage is tested with.
        """

        def fit(task: Task, texts: Iterable[str], rows: Sequence[Example]) -> tuple[Example, ...]:
            longest = max(texts, key=len)

            def fits(row: Example) -> bool:
                # No token is shorter than a byte: most rows need not be tried.
                if len(f"{longest}{task.suffix}{row.answer}".encode()) + _TEMPLATE < renderer.max_length:
                    return True
                try:
                    renderer.encode(longest, task.suffix, [row])
                except RenderError:
                    return False
                return True

            return tuple(filter(fits, rows))

        def kept(task: Task) -> Task:
            texts = [instruction_of(prompt, task.instruction, task.instruction) for prompt in prompts]
            train, test = fit(task, [task.instruction], task.train), fit(task, texts, task.test)
            lost = {"train": len(task.train) - len(train), "test": len(task.test) - len(test)}
            if not any(lost.values()):
                return task
            note = "left out, as instruction, suffix and answer are too long for max_length: " + ", ".join(
                f"{count} {split} rows" for split, count in lost.items() if count
            )
            if not train or not test:
                raise DataError(f"task {task.name!r}: {note}; no row is left")
            return replace(task, train=train, test=test, notes=(*task.notes, note))

        def has_room(task: Task, text: str, *, trained: bool) -> bool:
            try:
                if trained:
                    _demand_room(renderer, task, "candidate", [text], (*task.train, *held.get(task.name, ())))
                if not trained or OWN in prompts:
                    _demand_room(renderer, task, "test prompt", [text], task.test, max_new_tokens)
            except RenderError:
                return False
            return True

        tasks, watch = (tuple(map(kept, tasks)) for tasks in (self.tasks, self.watch))
        held = {
            task.name: fit(task, [task.instruction], self.held_rows[task.name])
            for task in tasks
            if task.name in self.held_rows
        }
        if none := [name for name, rows in held.items() if not rows]:
            raise DataError(f"task {none[0]!r}: no row to choose again on is short enough for max_length")
        candidates, held_out, noted = {}, {}, []
        for task in tasks:
            # The original stays, and so does a text of the user's: whoever wrote it is told that it is too long.
            original, *others = self.candidates[task.name]
            stay = [one for one in others if one.origin == "given" or has_room(task, one.text, trained=True)]
            rest = [one for one in self.held_out[task.name] if has_room(task, one.text, trained=False)]
            candidates[task.name], held_out[task.name] = (original, *stay), tuple(rest)
            if lost := len(others) - len(stay) + len(self.held_out[task.name]) - len(rest):
                note = f"left out, as they are too long for max_length with the longest answer: {lost} candidates"
                task = replace(task, notes=(*task.notes, note))
            noted.append(task)
        return replace(self, tasks=tuple(noted), watch=watch, held_rows=held, candidates=candidates, held_out=held_out)

    def demand_room(
        self, renderer: Renderer, prompts: Sequence[Prompt], max_new_tokens: int, *, looks_back: bool
    ) -> None:
        """Refuse instructions that leave no room for the longest answer: better now than after hours of training.

        ``prompts`` are those that every stage is tested with; ``looks_back``: losses of watch tasks are computed on
        training rows too.

        Raises:
            RenderError: naming task and instruction.
        """
        for task in self.tasks:
            rows = (*task.train, *self.held_rows.get(task.name, ()))
            _demand_room(renderer, task, "candidate", self._trained_with(task), rows)
        for task in self.watch if looks_back else ():
            _demand_room(renderer, task, "instruction", [task.instruction], task.train)
        for task in (*self.tasks, *self.watch):
            _demand_room(renderer, task, "test prompt", self._tested_with(task, prompts), task.test, max_new_tokens)

    def _trained_with(self, task: Task) -> list[str]:
        return [c.text for c in self.candidates.get(task.name, ())] or [task.instruction]

    def _tested_with(self, task: Task, prompts: Sequence[Prompt]) -> list[str]:
        own, held = self._trained_with(task), [one.text for one in self.held_out.get(task.name, ())]
        asked = [instruction_of(prompt, task.instruction, text) for prompt in prompts for text in own]
        return [*dict.fromkeys([*asked, *held])]

    def inspected(self, renderer: Renderer, selection: SelectionSettings | None, seed: int) -> dict[str, Inspection]:
        """Return what the rows of every task hold; of watch tasks, the test rows alone.

        ``selection`` is None where candidates are not scored.
        """
        found = {}
        for task in self.tasks:
            rows = () if selection is None else selection_rows(task, selection.examples, selection.sample, seed)
            found[task.name] = inspect_rows(task, rows, self.dropped[task.name], lengths_of(task, renderer))
        watched = [replace(task, train=()) for task in self.watch]
        return found | {task.name: inspect_rows(task, lengths=lengths_of(task, renderer)) for task in watched}

    def notes(self, wordings: int, held_rows: int) -> tuple[str, ...]:
        """Return what was decided about data and candidates, and where there are fewer than were asked for."""
        return (
            *(f"{task.name}: {note}" for task in (*self.tasks, *self.watch) for note in task.notes),
            *(note for found in self.gathered.values() for note in found.notes),
            *(
                f"{name}: {len(held)} of {wordings} paraphrases are held out for evaluate.prompts: there are no more "
                "besides the candidates"
                for name, held in self.held_out.items()
                if len(held) < wordings
            ),
            *(
                f"{name}: {len(rows)} rows to choose again on, of reselect.rows = {held_rows}"
                for name, rows in self.held_rows.items()
                if len(rows) < held_rows
            ),
        )


def _demand_room(
    renderer: Renderer, task: Task, what: str, texts: Iterable[str], rows: Sequence[Example], new_tokens: int = 0
) -> None:
    """Refuse a text with which the longest answer of some rows, or so many new tokens, would not fit."""
    longest = [max(rows, key=lambda row: len(row.answer))]
    for text in texts:
        try:
            renderer.encode(text, task.suffix, longest)
            if new_tokens:
                renderer.prompts(text, task.suffix, longest, new_tokens)
        except RenderError as error:
            raise RenderError(f"task {task.name!r}, {what} {text[:60]!r}: {error}") from error


def read_inputs(
    sequence: str | Sequence[str],
    watch: Sequence[str],
    data_dir: Path | None,
    own: Mapping[str, DataSource],
    gathering: Gathering,
    *,
    train_rows: int | None,
    test_rows: int | None,
    held_rows: int | None,
    drop: bool,
    seed: int,
) -> Inputs:
    """Return the tasks and candidates of a run.

    ``own`` holds the user's own tasks by name. Row limits are for each task, None for all; ``held_rows`` is None where
    nothing is chosen again while a task is trained. ``drop``: training rows whose input is also tested are left out.

    Raises:
        SapoError: for data or candidates that cannot be used, or that contradict each other.
    """
    tasks = load_sequence(sequence, data_dir, own)
    watched = load_sequence(watch, data_dir, own)
    data = {task.name: task_fingerprint(task) for task in (*tasks, *watched)}
    both = sorted({t.name for t in tasks} & {t.name for t in watched})
    if both:
        raise ConfigError(f"watch: {', '.join(both)} is trained on in this sequence; watch other tasks")
    unread = [name for name in own if name not in {t.name for t in (*tasks, *watched)}]
    if unread:
        raise ConfigError(
            f"tasks: {', '.join(unread)} is neither in sequence nor in watch: add it there, or leave it out"
        )
    split = [hold_out(task) for task in tasks]
    apart = [drop_overlap(task) if drop else (task, 0) for task in split]
    # Of all rows, so that candidates that show or describe them are the same whatever the seed.
    gathered = {task.name: gathering(task, number) for number, (task, _) in enumerate(apart, start=1)}

    def unshown(task: Task) -> Task:
        return without_shown(task, gathered[task.name].candidates)

    held = {}
    if held_rows is not None:
        given = [(task, held_rows_of(task, train_rows, held_rows, seed)) for task, _ in apart]
        held = {task.name: unshown(replace(task, train=rows)).train for task, rows in given}
    tasks = tuple(unshown(used_rows(task, train_rows, test_rows, seed)) for task, _ in apart)
    watched = tuple(used_rows(hold_out(task), train_rows, test_rows, seed) for task in watched)
    parts = {name: gathering.part(found) for name, found in gathered.items()}
    return Inputs(
        tasks, watched, data, {task.name: rows for task, rows in apart}, held,
        {name: candidates for name, (candidates, _) in parts.items()},
        {name: held_out for name, (_, held_out) in parts.items()},
        gathered,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gathering:
    """Gives every task its candidates: gathered before a run's first step, and the same ones when it is resumed.

    Attributes:
        directory: holds what an earlier start gathered.
        sources: asked in order; none where the policy needs no candidates.
        judge: asked last about each text; None for no such check.
        file: of candidates, where there is one among the sources.
        count: candidates wanted, the original not among them.
        wordings: paraphrases wanted for testing only.
        progress: is told what sources cost and where candidates come from.
        pays: whether sources that cost time or money are asked. If not, texts of the original's length stand in for
            what they would give.
    """

    directory: RunDirectory
    sources: tuple[Source, ...]
    judge: ServerJudge | None
    file: Path | None
    count: int
    wordings: int
    progress: Reporter
    pays: bool = True

    def __call__(self, task: Task, number: int) -> Gathered:
        """Return the candidates of the task at a place of the sequence, from 1; in one process of a job alone.

        Raises:
            CandidateError: if a source can give nothing, for a reason that the user can act on.
            RecordError: if an earlier start gathered for another instruction, or from another file.
        """
        inputs = _inputs_of(task)
        # A file that is gone cannot differ; what it held is recorded.
        if self.file is not None and self.file.exists():
            inputs |= self._of_file(task)
        found: Gathered | None = self.directory.find(_path(task, number), inputs, Gathered.from_json)
        return found or self._gather(task)

    def part(self, found: Gathered) -> tuple[tuple[Instruction, ...], tuple[Instruction, ...]]:
        """Return candidates, the original first, and paraphrases that are not, for testing only.

        Which ones does not depend on the run. Where there are too few for both, candidates come first.
        """
        original, *paraphrases = found.candidates
        count = min(self.wordings, max(0, len(paraphrases) - self.count))
        held = set(Random(0).sample(range(len(paraphrases)), count))
        stay = (p for i, p in enumerate(paraphrases) if i not in held)
        return (original, *stay), tuple(p for i, p in enumerate(paraphrases) if i in held)

    def save(self, inputs: Inputs) -> None:
        """Write what was gathered; in all processes of a job."""
        for number, task in enumerate(inputs.tasks, start=1):
            path, of_task = _path(task, number), _inputs_of(task)
            if self.directory.reuse(path, of_task) is None:
                found = {"task": task.name, **inputs.gathered[task.name].to_json()}
                self.directory.save(path, of_task | self._of_file(task), found)

    def _of_file(self, task: Task) -> dict[str, str]:
        texts = None if self.file is None else candidates_file(self.file, task.name)
        return {"candidates file": fingerprint(texts)}

    def _gather(self, task: Task) -> Gathered:
        """Return a task's candidates, telling first what sources that cost something would take."""
        count = self.count + self.wordings
        if not self.sources:
            return Gathered((Instruction(task.instruction, "original"),), ())
        costs = [cost for source in self.sources if (cost := source.cost(task, with_spare(count)))]
        if self.judge is not None:
            costs.append(self.judge.cost)
        if costs and not self.pays:
            stand_ins = (Instruction(task.instruction, "original"),) * (count + 1)
            return Gathered(stand_ins, (), (), (f"{task.name}: paraphrases not asked for yet: {'; '.join(costs)}",))
        for cost in costs:
            self.progress.note(f"{task.name}: asking for paraphrases: {cost}")
        with self.progress.step(f"{task.name}: gathering candidates", count, 0) as advance:
            return gather(task, self.sources, count, advance, self.judge)


def _inputs_of(task: Task) -> dict[str, str]:
    return {
        "instruction": fingerprint(task.instruction),
        "suffix": fingerprint(task.suffix),
        "labels": fingerprint(list(task.labels)),
    }


def _path(task: Task, number: int) -> str:
    return f"candidates/{number}-{task.name}.json"
