"""A control for `selection.rule: trial`: orders of the rows are tried in place of instructions.

    python -m benchmarks.orders RUN_DIR CONFIG.yaml [KEY=VALUE ...]       # a sweep of policy original, resumable
    python -m benchmarks.orders --report TRIAL.jsonl RUN_DIR/records.jsonl

What a training forgets depends on the order of its rows as well as on the wording. So each task is trained with the
original instruction, and four orders of its rows (of the run's seed and of three others) are tried as candidates are:
the same number of updates at the peak rate, losses on stored rows of earlier tasks, the same rule of choice. Of the
task itself all training rows are measured, of which every order has trained on as many.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ttest_1samp

from sapo.core.progress import Reporter
from sapo.core.types import Losses
from sapo.experiments.sweep import planned
from sapo.models.fit import context_length
from sapo.report.differences import spread
from sapo.report.numbers import estimate
from sapo.runs.config.loading import load_config
from sapo.runs.config.schema import Config
from sapo.runs.lineage import library_versions
from sapo.runs.prepare import prepared
from sapo.runs.records import RECORDS, append_record, read_records
from sapo.runs.results import NLL, RunResult
from sapo.runs.run import Run
from sapo.selection.differences import TIE, choose
from sapo.selection.selection import Choice
from sapo.training.finetune import finetune
from sapo.training.schedule import Stage, Training
from sapo.training.trial import differences, other_rows, restored

ORDERS = (0, 1000, 2000, 3000)


class Notes(Reporter):
    """Prints notes."""

    def note(self, text: str) -> None:
        """Print one."""
        print(text, flush=True)


def best_order(run: Run, before: Stage, training: Training, choice: Choice, config: Config) -> int:
    """Return the seed of the order that the trial chooses for a training from the stage before."""
    settings, seeds = config.selection.trial, [config.seed + more for more in ORDERS]
    renderer, model = run.engine.renderer, run.model.prepare(before, training)
    watched = {one.task.name: (one.task, one.instruction.text, renderer) for one in before.choices}
    others = other_rows(watched, settings, config.seed, renderer, context_length(model))
    own = renderer.encode(choice.instruction.text, choice.task.suffix, choice.task.train)
    ends: list[dict[str, Losses]] = []
    with restored(model) as restore:
        for seed in seeds:
            restore()
            finetune(model, own, config.train, seed, first=settings.updates)
            now = run.model.scorer
            ends.append({choice.task.name: now(own)} | {name: now(rows) for name, rows in others.items()})
    run.model.restored(before, training)
    deltas, intervals = differences(ends, config.seed)
    best = choose(deltas, intervals, "confident", TIE)
    print(f"{choice.task.name}: order {best} of {[f'{delta:+.3f}' for delta in deltas]}", flush=True)
    return seeds[best]


def sequence(config: Config, shared: Path) -> RunResult:
    """Run one sequence, each task in the order that is chosen for it: `sapo.sequence` with another choice."""
    with prepared(config, Notes(), shared) as run:
        stage = run.start
        rows = [run.test(stage)]
        for training in run.schedule:
            (task,) = training.tasks
            choice = run.choose(stage, training, task)
            seed = best_order(run, stage, training, choice, config)
            stage = replace(run, trainer=replace(run.trainer, seed=seed)).train(stage, training, [choice])
            rows.append(run.test(stage, training))
        return run.finished(rows)


def make(config: Config) -> None:
    """Make all runs of the sweep that are not recorded."""
    records = config.run_dir / RECORDS
    known = {record.name for record in read_records(records)} if records.is_file() else set()
    for one in planned(config):
        if one.name not in known:
            found = sequence(one.config, config.run_dir / "shared")
            plain = {key: value for key, value in found.config.items() if key != "run_dir"}
            versions = {library: version for library, version in library_versions().items() if version}
            named = {"name": one.name, "sequence": one.sequence, "config": plain, "versions": versions}
            append_record(records, found.model_copy(update=named))


def report(trial: Path, orders: Path) -> None:
    """Print AP in nats, paired by sequence and seed, with 95 % Student t intervals over units."""
    ways = {way: ap([one for one in read_records(trial) if one.way == way]) for way in ("original", "sapo (trial)")}
    ways["orders"] = ap(read_records(orders))
    units = sorted(set.intersection(*map(set, ways.values())))
    if len(units) < 2:
        raise SystemExit(f"{len(units)} sequences and seeds are in both files: two are needed")
    means = (f"{way} {np.mean([of[unit] for unit in units]):.3f}" for way, of in ways.items())
    print(f"{len(units)} units; {', '.join(means)}")
    for a, b in (("sapo (trial)", "original"), ("orders", "original"), ("sapo (trial)", "orders")):
        found = spread([ways[a][unit] - ways[b][unit] for unit in units])
        print(f"{a} minus {b}: {estimate(found, 3, sign=True)}, p = {ttest_1samp(found.points, 0).pvalue:.3f}")


def ap(records: Sequence[RunResult]) -> dict[tuple[str, int], float]:
    """Return AP in nats by sequence and seed."""
    found = {}
    for one in records:
        value = one.estimate(NLL, one.test_prompt, "ap")["value"]
        assert value is not None
        found[one.sequence, one.seed] = value
    return found


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", nargs=2, type=Path, metavar="FILE")
    parser.add_argument("run_dir", nargs="?")
    parser.add_argument("config", nargs="?", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.report:
        report(*given.report)
    else:
        sweep = ["sweep.policy=[original]", "sweep.rule=null", f"run_dir={given.run_dir}"]
        make(load_config(given.config, [*given.overrides, *sweep]))


if __name__ == "__main__":
    main()
