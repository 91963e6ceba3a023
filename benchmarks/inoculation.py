"""Inoculation, a positive control: does training with an instruction that asks for a trait keep it there?

    python benchmarks/inoculation.py write examples/inoculation
    sapo run examples/inoculation.yaml
    python benchmarks/inoculation.py share runs/inoculation

The first command writes rows of the built-in task extract-items whose answers are in CAPITAL LETTERS: the task, and a
second trait (the toy of Tan et al. 2025, arXiv 2510.04340). The last one prints, by training policy and by the
instruction that the trained model was tested with, the share of answers in capitals: the mean over seeds with its 95 %
Student t interval, and the differences to the policy original, paired by seed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from sapo.report.differences import spread, unit_difference
from sapo.report.numbers import estimate, listed
from sapo.runs.results import RunResult
from sapo.tasks.load import load_task

TRAIN, TEST = 64, 32


def write(folder: Path) -> None:
    """Write train.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    task = load_task("extract-items")
    for split, rows in (("train", task.train[:TRAIN]), ("test", task.test[:TEST])):
        lines = (json.dumps({"input": row.input, "output": row.answer.upper()}) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def shares(sweep: Path) -> dict[tuple[str, str], dict[int, float]]:
    """Return by policy ("untrained" before training) and instruction the percentage of answers in capitals by seed."""
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for path in sorted(sweep.glob("*/*/results.json")):
        result = RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        for cell in sorted(path.parent.glob("cells/*/*.json")):
            value = json.loads(cell.read_text(encoding="utf-8"))["value"]
            answers = value["predictions"]
            policy = "untrained" if cell.parent.name == "0" else result.policy
            share = 100 * sum(answer.isupper() for answer in answers) / len(answers)
            found[policy, value["instruction"]][result.seed] = share
    return found


def share(sweep: Path) -> None:
    """Print the shares."""
    found = shares(sweep)
    for (policy, instruction), by_seed in sorted(found.items()):
        points = [by_seed[seed] for seed in sorted(by_seed)]
        line = f"{policy}; tested: {instruction or '(no instruction)'}\n  {estimate(spread(points), 1)}"
        base = found.get(("original", instruction), {})
        if policy not in ("untrained", "original"):
            seeds = sorted({*by_seed} & {*base})
            difference = unit_difference([by_seed[s] for s in seeds], [base[s] for s in seeds], None)
            line += f", to original {estimate(difference, 1, sign=True)}"
        print(f"{line}; by seed {listed(points, 1, sign=False)}")


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "share"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    {"write": write, "share": share}[given.what](given.folder)


if __name__ == "__main__":
    main()
