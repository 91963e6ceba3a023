"""The page of a dry run: what a run would do, and how long it would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from sapo.core.progress import Work
from sapo.report.blocks import NOTHING, Block, Note, Page, Section, Table
from sapo.report.data import data_blocks
from sapo.report.numbers import duration, tokens
from sapo.report.terminal import show
from sapo.runs.config.schema import Config
from sapo.training.policies import BY_LOSS

if TYPE_CHECKING:
    from sapo.runs.forecast import Forecast
    from sapo.runs.run import Run


def print_dry_run(console: Console, config: Config, forecast: Forecast) -> None:
    """Print the plan of a run with its estimated time."""
    show(console, dry_run_page(config, forecast))


def dry_run_page(config: Config, forecast: Forecast) -> Page:
    """Return the plan of a run with its estimated time."""
    run = forecast.run
    about = f"Model {run.loaded.name}, policy {config.policy}, method {config.method}, seed {config.seed}."
    remarks = [f"{note[:1].upper()}{note[1:]}." for note in run.loaded.notes]
    sections = [
        Section("Setting", tuple(map(Note, (about, *remarks)))),
        Section("Tasks, in order", (_tasks(config, run),)),
        Section("Data", data_blocks(tuple(run.inspections.values()))),
        Section("Work and time", _work(config, forecast)),
        Section("Next", _next(config)),
    ]
    return Page("Dry run: nothing was trained and nothing was written", tuple(sections))


def _tasks(config: Config, run: Run) -> Table:
    rows = []
    for n, task in enumerate(run.inputs.tasks, start=1):
        scored = min(config.selection.examples, len(task.train)) if config.policy in BY_LOSS else None
        count, rejected = len(run.inputs.candidates[task.name]), len(run.inputs.gathered[task.name].rejected)
        rows.append(
            (
                f"{n} {task.name}",
                str(len(task.train)),
                NOTHING if scored is None else str(scored),
                str(len(task.test)),
                str(count),
                str(rejected),
            )
        )
    for task in run.inputs.watch:
        rows.append((f"watch: {task.name}", NOTHING, NOTHING, str(len(task.test)), NOTHING, NOTHING))
    columns = ("task", "train rows", "selection rows", "test rows", "candidates", "rejected texts")
    legend = [
        "selection rows: training rows on which candidates are scored; candidates: the original instruction and its "
        "paraphrases; rejected texts: unusable paraphrases."
    ]
    if run.inputs.watch:
        legend.append("watch: tested after every stage, never trained on.")
    return Table(columns, tuple(rows), legend=tuple(legend))


def _work(config: Config, forecast: Forecast) -> tuple[Block, ...]:
    plan = forecast.run.plan
    evaluations = [work for name, work in plan.evaluate.items() for _ in range(plan.tests[name])]
    score, trials = tuple(plan.score.values()), tuple(plan.trials.values())
    kinds: tuple[tuple[str, Sequence[Work], Sequence[Work], str], ...] = (
        ("scoring candidates", tuple(plan.least.values()), score, "row x candidate"),
        *([("trying the leading candidates", trials, trials, "updates")] if trials else []),
        ("training", tuple(plan.train.values()), tuple(plan.train.values()), "updates"),
        (
            f"testing, {len(forecast.run.inputs.tasks) + 1} stages",
            evaluations,
            evaluations,
            "rows, answered and scored",
        ),
    )
    rows, total = [], np.zeros(2)
    for kind, least, most, unit in kinds:
        units, read, cost = (
            [sum(getter(work) for work in works) for works in (least, most)]
            for getter in (attrgetter("units"), attrgetter("tokens"), attrgetter("cost"))
        )
        total += cost
        amount = f"{_range(units, str)} {unit}" if units[1] else NOTHING
        rows.append((kind, amount, _range(read, tokens), _range([forecast.seconds(c) for c in cost], duration)))
    whole = _range([forecast.seconds(float(c)) for c in total], duration)
    rows.append(("total", "", "", whole))
    columns = ("step", "amount", "tokens", "time, about")
    note = (
        f"An estimate; measured {forecast.tokens_per_second:.0f} tokens/s on a few rows. Training a token counts three "
        "times, generating one four times. Steps that a run directory holds already are not computed again."
    )
    raced = (
        "Candidates race: all are scored on the first few rows, and only those that may still win on more. The larger "
        "figures are for races that no candidate drops out of, within selection.budget."
    )
    races = forecast.run.chooser.settings.races
    tight = [name for name, work in plan.score.items() if races and work.cost <= plan.least[name].cost]
    both = "Seen tasks are tested twice, with the selected and the original instruction, where these differ."
    return (
        Table(columns, tuple(rows), text=(0, 1), bold=frozenset({len(rows) - 1})),
        Note(note),
        *([Note(raced)] if plan.least != plan.score else []),
        *([Note(_TIGHT.format(", ".join(tight)), "strong")] if tight else []),
        *([Note(both)] if config.evaluate.test_prompt == "both" else []),
    )


_TIGHT = (
    "{}: selection.budget is spent with the first rows, and the choice will rest on these alone: raise it, or score "
    "fewer candidates, unless the training is meant to be this short."
)


def _range(ends: Sequence[float], text: Callable[[float], str]) -> str:
    """Return both ends, or one where they read alike."""
    return " to ".join(dict.fromkeys(map(text, ends)))


def _next(config: Config) -> tuple[Block, ...]:
    there = config.run_dir.exists()
    where = "exists already: its finished steps are reused" if there else "will be made"
    return (Note(f"Start it with the same command without --dry-run. The run directory {config.run_dir} {where}."),)
