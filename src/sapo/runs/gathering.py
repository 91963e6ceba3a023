"""Candidates of a run: gathered before its first step, and the same ones again when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from sapo.candidates.files import candidates_file
from sapo.candidates.gather import Gathered, gather, with_spare
from sapo.candidates.local import LocalSettings
from sapo.candidates.opening import open_sources
from sapo.candidates.source import Source
from sapo.core.progress import Reporter, Silent
from sapo.core.storage import fingerprint
from sapo.core.types import Instruction, Task
from sapo.runs.config.schema import Config
from sapo.runs.directory import Record
from sapo.runs.formats import gathered_from_json, gathered_to_json

if TYPE_CHECKING:
    from sapo.candidates.server import ServerJudge


class Gathering:
    """Gives every task its candidates.

    Args:
        config: of the run.
        record: holds what an earlier start gathered; by default that of the configuration's run directory.
        progress: hears what sources cost and where candidates come from.
        pays: whether sources that cost time or money are asked. If not, texts of the original's length stand in for
            what they would give.
    """

    def __init__(
        self, config: Config, record: Record | None = None, progress: Reporter | None = None, *, pays: bool = True
    ) -> None:
        self._config, self._pays, self._progress = config, pays, progress or Silent()
        self._record = record or Record(config.run_dir, config.plain())
        asks = config.policy != "original" or config.evaluate.wordings > 0
        self._count = config.candidates.count + config.evaluate.wordings
        self._file = config.candidates.file if asks else None
        self._sources, self._judge = _sources(config, self._progress) if asks else ((), None)

    def __call__(self, task: Task, number: int) -> Gathered:
        """Return the candidates of the task at a place of the sequence, from 1; in one process of a job alone.

        Raises:
            CandidateError: if a source can give nothing, for a reason that the user can act on.
            RecordError: if an earlier start gathered for another instruction, or from another file.
        """
        inputs = self._of_task(task)
        # A file that is gone cannot differ; what it held is recorded.
        if self._file is not None and self._file.exists():
            inputs |= self._of_file(task)
        found: Gathered | None = self._record.find(_path(task, number), inputs, gathered_from_json)
        return found or self._gather(task)

    def save(self, tasks: Sequence[Task], gathered: Sequence[Gathered]) -> None:
        """Write what was gathered; in all processes of a job."""
        for number, (task, found) in enumerate(zip(tasks, gathered, strict=True), start=1):
            path, inputs = _path(task, number), self._of_task(task)
            if self._record.reuse(path, inputs) is None:
                self._record.save(path, inputs | self._of_file(task), gathered_to_json(task.name, found))

    def _of_task(self, task: Task) -> dict[str, str]:
        return {
            "instruction": fingerprint(task.instruction),
            "suffix": fingerprint(task.suffix),
            "labels": fingerprint(list(task.labels)),
        }

    def _of_file(self, task: Task) -> dict[str, str]:
        texts = None if self._file is None else candidates_file(self._file, task.name)
        return {"candidates file": fingerprint(texts)}

    def _gather(self, task: Task) -> Gathered:
        """Return a task's candidates, telling first what sources that cost something would take."""
        count = self._count
        if not self._sources:
            return Gathered((Instruction(task.instruction, "original"),), ())
        costs = [cost for source in self._sources if (cost := source.cost(task, with_spare(count)))]
        if self._judge is not None:
            costs.append(self._judge.cost)
        if costs and not self._pays:
            stand_ins = (Instruction(task.instruction, "original"),) * (count + 1)
            return Gathered(stand_ins, (), (), (f"{task.name}: paraphrases not asked for yet: {'; '.join(costs)}",))
        for cost in costs:
            self._progress.note(f"{task.name}: asking for paraphrases: {cost}")
        with self._progress.step(f"{task.name}: gathering candidates", count, 0) as advance:
            return gather(task, self._sources, count, advance, self._judge)


def hold_back(
    found: Gathered, candidates: int, wordings: int
) -> tuple[tuple[Instruction, ...], tuple[Instruction, ...]]:
    """Return candidates, the original first, and paraphrases that are none, for testing only.

    Which ones does not depend on the run. Where there are too few for both, candidates come first.
    """
    original, *paraphrases = found.candidates
    count = min(wordings, max(0, len(paraphrases) - candidates))
    held = set(Random(0).sample(range(len(paraphrases)), count))
    stay = (p for i, p in enumerate(paraphrases) if i not in held)
    return (original, *stay), tuple(p for i, p in enumerate(paraphrases) if i in held)


def _sources(config: Config, progress: Reporter) -> tuple[tuple[Source, ...], ServerJudge | None]:
    chosen, model = config.candidates, config.model
    server = None
    if chosen.openai is not None:
        from sapo.candidates.client import ServerSettings

        server = ServerSettings(**chosen.openai.model_dump())
    return open_sources(
        chosen.asked,
        file=chosen.file,
        local=LocalSettings(chosen.local.model or model.base, model.dtype, model.device, chosen.local.temperature),
        server=server,
        judge=chosen.judge,
        seed=config.seed,
        tell=progress.note,
    )


def _path(task: Task, number: int) -> str:
    return f"candidates/{number}-{task.name}.json"
