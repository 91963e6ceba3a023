"""The pages of dry runs: what a run or a study would do, and how long it would take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sapo.core.progress import Work
from sapo.experiments.study.plan import Transition, transitions
from sapo.experiments.study.records import StudyRecord
from sapo.report.blocks import NOTHING, Block, Note, Page, Section, Table
from sapo.report.data import data_blocks
from sapo.report.numbers import duration, tokens
from sapo.runs.config.schema import Config
from sapo.runs.config.study import StudyConfig
from sapo.runs.prompts import ORIGINAL, OWN
from sapo.training.policies import BY_LOSS

if TYPE_CHECKING:
    from sapo.runs.run import Run


_SELECTED = (
    "selection rows: training rows on which candidates are scored; candidates: the original instruction and its "
    "paraphrases; rejected texts: unusable paraphrases."
)
_RACED = (
    "Candidates race: most drop out before they were scored on all rows, so that scoring takes less than this. "
    "selection.budget, if set, limits what follows the first round."
)
_BOTH = "Own and original are two tests of a task once it is trained with another instruction than its original."


def dry_run_page(config: Config, run: Run, speed: float) -> Page:
    """Return the plan of a run with its estimated time; ``speed`` is in forward tokens per second."""
    about = f"Model {run.loaded.name}, policy {config.policy}, method {config.method}, seed {config.seed}."
    remarks = [f"{note[:1].upper()}{note[1:]}." for note in run.loaded.notes]
    where = "exists: its finished steps are reused" if config.run_dir.exists() else "will be made"
    start = f"Start it with the same command without --dry-run. The run directory {config.run_dir} {where}."
    sections = (
        Section("Setting", tuple(map(Note, (about, *remarks)))),
        Section("Tasks, in order", (_tasks(config, run),)),
        Section("Data", data_blocks(tuple(run.inspections.values()))),
        Section("Work and time", tuple(_work(config, run, speed))),
        Section("Next", (Note(start),)),
    )
    return Page("Dry run: nothing was trained and nothing was written", sections)


def study_dry_run_page(config: StudyConfig, records: Sequence[StudyRecord], lacking: Mapping[Transition, int]) -> Page:
    """Return what a study would train, next to what is recorded; ``lacking`` are the trainings still to be made."""
    each = sum(record.seconds for record in records) / len(records) if records else None
    rows = [
        (one.name, str(sum(record.transition == one.name for record in records)), lacking.get(one, 0))
        for one in transitions(config)
    ]
    rows.append(("total", str(sum(int(row[1]) for row in rows)), sum(lacking.values())))
    timed = tuple((*row, str(n), NOTHING if each is None else duration(n * each)) for *row, n in rows)
    columns = ("transition", "recorded", "to be trained", "time, about")
    about = "Of one process: the mean wall time of the recorded trainings; making the states is not counted."
    untimed = "No training is recorded yet: after the first one, the same command estimates the time."
    start = f"Start it with the same command without --dry-run; records are in {config.run_dir}."
    sections = (
        Section(
            "Trainings", (Table(columns, timed, bold=frozenset({len(timed) - 1})), Note(about if records else untimed))
        ),
        Section("Next", (Note(start),)),
    )
    return Page("Dry run: nothing was trained and nothing was written", sections)


def _tasks(config: Config, run: Run) -> Table:
    rows = []
    for n, task in enumerate(run.inputs.tasks, start=1):
        scored = str(min(config.selection.examples, len(task.train))) if config.policy in BY_LOSS else NOTHING
        texts = (run.inputs.candidates[task.name], run.inputs.gathered[task.name].rejected)
        counts = (len(task.test), *map(len, texts))
        rows.append((f"{n} {task.name}", str(len(task.train)), scored, *map(str, counts)))
    for task in run.inputs.watch:
        rows.append((f"watch: {task.name}", NOTHING, NOTHING, str(len(task.test)), NOTHING, NOTHING))
    columns = ("task", "train rows", "selection rows", "test rows", "candidates", "rejected texts")
    watched = ("watch: tested after every stage, never trained on.",) if run.inputs.watch else ()
    return Table(columns, tuple(rows), legend=(_SELECTED, *watched))


def _work(config: Config, run: Run, speed: float) -> Iterator[Block]:
    plan, trials = run.engine.plan, run.engine.plan.trials
    # Each row counts twice in the plan: it is answered, and its loss is computed.
    once = {name: replace(work, units=work.units // 2) for name, work in plan.evaluate.items()}
    testing = [work for name, work in once.items() for _ in range(plan.tests[name])]
    stages = f"testing, {len(run.schedule) + 1} stages"
    kinds: tuple[tuple[str, Collection[Work], str], ...] = (
        ("scoring candidates", plan.score.values(), "row x candidate"),
        *([("trying the leading candidates", trials.values(), "updates")] if trials else []),
        ("training", plan.train.values(), "updates"),
        (stages, testing, "rows, each answered and scored"),
    )
    rows, total = [], 0.0
    for kind, works, unit in kinds:
        units, cost = sum(work.units for work in works), sum(work.cost for work in works)
        total += cost
        read = tokens(sum(work.tokens for work in works))
        rows.append((kind, f"{units} {unit}" if units else NOTHING, read, duration(cost / speed)))
    rows.append(("total", "", "", duration(total / speed)))
    columns = ("step", "amount", "tokens", "time, about")
    yield Table(columns, tuple(rows), text=(0, 1), bold=frozenset({len(rows) - 1}))
    yield Note(
        f"An estimate; measured {speed:.0f} tokens/s on a few rows. Training a token counts three "
        "times. How long answers become is not known: their length is taken between the longest true answer and "
        "evaluate.max_new_tokens. Finished steps in the run directory are not computed again."
    )
    if plan.score and run.chooser.settings.races:
        yield Note(_RACED)
    if {OWN, ORIGINAL} <= set(config.evaluate.texts):
        yield Note(_BOTH)
