"""The page of a dry run: what a run would do, and how long it would take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from sapo.core.progress import Work
from sapo.report.blocks import NOTHING, Block, Note, Page, Section, Table
from sapo.report.data import data_blocks
from sapo.report.numbers import duration, tokens
from sapo.runs.config.schema import Config
from sapo.runs.prompts import ORIGINAL, OWN
from sapo.training.policies import BY_LOSS

if TYPE_CHECKING:
    from sapo.runs.forecast import Forecast
    from sapo.runs.run import Run


_SELECTED = (
    "selection rows: training rows on which candidates are scored; candidates: the original instruction and its "
    "paraphrases; rejected texts: unusable paraphrases."
)
_RACED = (
    "Candidates race: all are scored on the first few rows, and only those that may still win on more. The larger "
    "figures are for races that no candidate drops out of, within selection.budget."
)
_TIGHT = (
    "{}: selection.budget is spent with the first rows, and the choice will rest on these alone: raise it, or score "
    "fewer candidates, unless the training is meant to be this short."
)
_BOTH = "Own and original are two tests of a task once it is trained with another instruction than its original."


def dry_run_page(config: Config, forecast: Forecast) -> Page:
    """Return the plan of a run with its estimated time."""
    run = forecast.run
    about = f"Model {run.loaded.name}, policy {config.policy}, method {config.method}, seed {config.seed}."
    remarks = [f"{note[:1].upper()}{note[1:]}." for note in run.loaded.notes]
    where = "exists: its finished steps are reused" if config.run_dir.exists() else "will be made"
    start = f"Start it with the same command without --dry-run. The run directory {config.run_dir} {where}."
    sections = (
        Section("Setting", tuple(map(Note, (about, *remarks)))),
        Section("Tasks, in order", (_tasks(config, run),)),
        Section("Data", data_blocks(tuple(run.inspections.values()))),
        Section("Work and time", tuple(_work(config, forecast))),
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


def _work(config: Config, forecast: Forecast) -> Iterator[Block]:
    plan, races = forecast.run.plan, forecast.run.chooser.settings.races
    trials = plan.trials.values()
    # Each row counts twice in the plan: it is answered, and its loss is computed.
    once = {name: replace(work, units=work.units // 2) for name, work in plan.evaluate.items()}
    testing = [work for name, work in once.items() for _ in range(plan.tests[name])]
    stages = f"testing, {len(forecast.run.inputs.tasks) + 1} stages"
    kinds: tuple[tuple[str, Collection[Work], Collection[Work], str], ...] = (
        ("scoring candidates", plan.least.values(), plan.score.values(), "row x candidate"),
        *([("trying the leading candidates", trials, trials, "updates")] if trials else []),
        ("training", plan.train.values(), plan.train.values(), "updates"),
        (stages, testing, testing, "rows, each answered and scored"),
    )
    rows, total = [], np.zeros(2)
    for kind, least, most, unit in kinds:
        units, read, cost = (
            [sum(getter(work) for work in works) for works in (least, most)]
            for getter in (attrgetter("units"), attrgetter("tokens"), attrgetter("cost"))
        )
        total += cost
        amount = f"{_range(units, str)} {unit}" if units[1] else NOTHING
        rows.append((kind, amount, _range(read, tokens), _range(map(forecast.seconds, cost), duration)))
    rows.append(("total", "", "", _range(map(forecast.seconds, total), duration)))
    columns = ("step", "amount", "tokens", "time, about")
    yield Table(columns, tuple(rows), text=(0, 1), bold=frozenset({len(rows) - 1}))
    yield Note(
        f"An estimate; measured {forecast.tokens_per_second:.0f} tokens/s on a few rows. Training a token counts three "
        "times. How long answers become is not known: their length is taken between the longest true answer and "
        "evaluate.max_new_tokens. Finished steps in the run directory are not computed again."
    )
    if plan.least != plan.score:
        yield Note(_RACED)
    tight = [name for name, work in plan.score.items() if races and work.cost <= plan.least[name].cost]
    if tight:
        yield Note(_TIGHT.format(", ".join(tight)), "strong")
    if {OWN, ORIGINAL} <= set(config.evaluate.texts):
        yield Note(_BOTH)


def _range(ends: Iterable[float], text: Callable[[float], str]) -> str:
    """Return both ends, or one where they read alike."""
    return " to ".join(dict.fromkeys(map(text, ends)))
