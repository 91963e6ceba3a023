"""Candidates: what the checks reject, and how much rules have to offer.

    python benchmarks/candidates.py DATA_DIR [DATA_DIR ...] [--only checks rewrites harm spread sources] [--rows N]
        [--json FILE]

DATA_DIR holds instructions.json and one folder per task of SuperNI or TRACE; the model is the embedded one.

checks: the hand-written paraphrases and tests/data/bad_paraphrases.json, by halves: patterns and thresholds were set on
every second task by name, and are only measured on the others.
rewrites: how many texts rules make of each instruction.
harm: which of the bad texts a selection would take, by their losses next to those of hand-written ones.
spread: losses of 20 candidates made by rules next to those of 20 hand-written ones, on the same rows.
sources: how low each source reaches on eight tasks. Its best candidate is taken by one half of the rows, and its loss
minus the original's is that on the other half, with the 95 % t interval over those rows.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from sapo.candidates.checks import Pool
from sapo.candidates.demonstrations import demonstrations
from sapo.candidates.gather import gather
from sapo.candidates.opening import HAND_WRITTEN, RULES
from sapo.candidates.rules.rewrite import rewrites
from sapo.core.types import Instruction, Task
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Selection
from sapo.selection.settings import SelectionSettings
from sapo.tasks.load import load_task
from sapo.tasks.sampling import selection_rows

TASKS = (
    "task195_sentiment140_classification",
    "task363_sst2_polarity_classification",
    "task141_odd-man-out_classification_category",
    "task1510_evalution_relation_extraction",
)
REACHED = (
    *TASKS,
    "task273_europarl_classification",
    "task611_mutual_multi_turn_dialogue",
    "date-format",
    "extract-items",
)
SECTIONS = ("checks", "rewrites", "harm", "spread", "sources")
HERE = Path(__file__).parent
PUBLISHED = HERE.parent / "src" / "sapo" / "candidates" / "published.json"
BAD = HERE.parent / "tests" / "data" / "bad_paraphrases.json"
SEED = 42
EXHAUSTIVE = SelectionSettings(rule="lowest", sample="stratified", strategy="exhaustive", delta=0.05, epsilon=0.01)

Record = dict[str, Any]


def checks(instructions: Mapping[str, Any]) -> list[Record]:
    """Return what share of good and bad texts is rejected, by halves and kinds."""
    good = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    bad = json.loads(BAD.read_text(encoding="utf-8"))
    found: list[Record] = []
    names = sorted(good)
    for half, tasks in (("tuning half", names[::2]), ("other half", names[1::2])):
        totals: Counter[str] = Counter()
        away: Counter[str] = Counter()
        for name in tasks:
            task = _task(name, instructions[name])
            pool = Pool(task)
            totals["hand-written"] += len(good[name])
            away["hand-written"] += len(good[name]) - pool.add(good[name], "openai")
            for row in bad[name]:
                kind = row["kind"] + (f", {row['subkind']}" if "subkind" in row else "")
                totals[kind] += 1
                away[kind] += 1 - Pool(task).add([row["text"]], "openai")
        found += [
            {"half": half, "kind": kind, "rejected": away[kind], "of": totals[kind],
             "percent": 100 * away[kind] / totals[kind]}
            for kind in sorted(totals)
        ]  # fmt: skip
    return found


def rewritten(known: Mapping[str, Any]) -> list[Record]:
    """Return how many rewrites rules make of each instruction, and how many of them the checks reject."""
    found = []
    for name in sorted(known):
        task = _task(name, known[name])
        made = rewrites(task.instruction, task.labels)
        found.append({"task": name, "rewrites": len(made), "rejected": len(made) - Pool(task).add(made, "rules")})
    return found


def _task(name: str, known: Mapping[str, Any]) -> Task:
    return Task(name, known["instruction"].strip(), known["suffix"], tuple(known["labels"]), "", (), (), ())


class Bench:
    """The embedded model with a scorer, and the tasks of one benchmark."""

    def __init__(self, data_dir: Path) -> None:
        loaded = load_model("embedded")
        self.scorer, self.renderer = Scorer(loaded.model), Renderer(loaded.tokenizer, 2048)
        self._data_dir = data_dir

    def task(self, name: str) -> Task:
        """Return a task."""
        return load_task(name, self._data_dir)

    def select(
        self, task: Task, candidates: Sequence[Instruction], rows: Sequence[int], settings: SelectionSettings
    ) -> Selection:
        """Return a selection."""
        return score_candidates(self.scorer, self.renderer, task, candidates, rows, settings, seed=SEED)


def spread(bench: Bench, name: str, rows: int) -> list[Record]:
    """Return for each source the lowest loss and the spread of its candidates' losses, in nats per token."""
    task = bench.task(name)
    picked = selection_rows(task, rows, "stratified", SEED)
    found = []
    for source in (HAND_WRITTEN, RULES):
        gathered = gather(task, (source,), 20)
        losses = [c.loss for c in bench.select(task, gathered.candidates, picked, EXHAUSTIVE).candidates]
        values = np.array(losses[1:])
        found.append(
            {"task": name.split("_")[0], "source": source.origin, "candidates": len(values), "original": losses[0],
             "lowest": values.min(), "median": np.median(values), "highest": values.max(),
             "range": np.ptp(values), "sd": values.std(ddof=1)}
        )  # fmt: skip
    return found


def sources(bench: Bench, name: str, rows: int) -> list[Record]:
    """Return for each source how far its best candidate lies below the original, in nats per token, and its price."""
    task, found = bench.task(name), []
    for source in (HAND_WRITTEN, RULES, demonstrations(2000)):
        candidates = gather(task, (source,), 20).candidates
        picked = selection_rows(task, rows, "stratified", SEED)
        selection = bench.select(task, candidates, picked, EXHAUSTIVE)
        nll = np.array([c.losses.nll for c in selection.candidates])
        tokens = np.array(selection.candidates[0].losses.tokens)
        taken, held = slice(0, None, 2), slice(1, None, 2)
        best = int(np.argmin(nll[:, taken].sum(axis=1)))
        differences = (nll[best, held] - nll[0, held]) / tokens[held].mean()
        half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
        row = [task.train[selection.rows[0]]]
        lengths = [len(bench.renderer.encode(candidates[i].text, task.suffix, row)[0].ids) for i in (0, best)]
        found.append(
            {"task": name.split("_")[0], "source": source.origin, "candidates": len(candidates) - 1,
             "original": selection.candidates[0].loss, "difference": differences.mean(),
             "low": differences.mean() - half, "high": differences.mean() + half,
             "tokens": lengths[1], "tokens of original": lengths[0], "text": candidates[best].text}
        )  # fmt: skip
    return found


def harm(bench: Bench, name: str, rows: int) -> list[Record]:
    """Return for each kind of bad texts how many pass the checks, and how many of these beat hand-written ones."""
    task = bench.task(name)
    picked = selection_rows(task, rows, "stratified", SEED)
    good = gather(task, (HAND_WRITTEN,), 20).candidates
    bad = json.loads(BAD.read_text(encoding="utf-8"))[name]
    passed = [bool(Pool(task).add([row["text"]], "openai")) for row in bad]
    everyone = [*good, *(Instruction(row["text"], "given") for row in bad)]
    losses = [c.loss for c in bench.select(task, everyone, picked, EXHAUSTIVE).candidates]
    best, median = min(losses[: len(good)]), float(np.median(losses[: len(good)]))
    theirs = losses[len(good) :]
    return [
        {"task": name.split("_")[0], "kind": kind, "texts": len(mine),
         "pass": sum(passed[i] for i in mine),
         "beat the median": sum(theirs[i] < median for i in mine),
         "pass and beat the median": sum(passed[i] and theirs[i] < median for i in mine),
         "beat all": sum(theirs[i] < best for i in mine),
         "pass and beat all": sum(passed[i] and theirs[i] < best for i in mine)}
        for kind in sorted({row["kind"] for row in bad})
        if (mine := [i for i, row in enumerate(bad) if row["kind"] == kind])
    ]  # fmt: skip


def show(title: str, rows: Sequence[Record]) -> None:
    """Print records as a table; texts are only written to the file."""
    table = Table(title=title)
    names = [name for name, value in rows[0].items() if name != "text" and not isinstance(value, list)]
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names))
    Console(width=140).print(table)


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dirs", nargs="+", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    instructions: dict[str, Any] = {}
    for folder in given.data_dirs:
        instructions |= json.loads((folder / "instructions.json").read_text(encoding="utf-8"))
    result: dict[str, list[Record]] = {}
    if "checks" in given.only:
        result["checks"] = checks(instructions)
        show("rejected by the checks", result["checks"])
    if "rewrites" in given.only:
        result["rewrites"] = rewritten({name: instructions[name] for name in json.loads(PUBLISHED.read_text("utf-8"))})
        show("made by rules", result["rewrites"])
    for section, measure in (
        ("harm", lambda bench, name: harm(bench, name, given.rows)),
        ("spread", lambda bench, name: spread(bench, name, given.rows)),
        ("sources", lambda bench, name: sources(bench, name, given.rows)),
    ):
        if section in given.only:
            bench = Bench(given.data_dirs[0])
            result[section] = []
            for name in REACHED if section == "sources" else TASKS:
                result[section] += measure(bench, name)
                show(section, result[section])
    if given.json:
        given.json.write_text(json.dumps(result, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
