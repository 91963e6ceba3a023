"""Time and memory against rows, candidates, tasks and runs, with the tiny model: what grows how fast.

    python -m benchmarks.growth [--only rows candidates tasks runs] [--most 10000]

Each figure comes from a process of its own, in CPU seconds of one thread (other work on the machine hardly moves them)
and as the peak of its memory above what it held before. A unit is what the work must grow with:

- rows: 4 candidates on 10 to 10 000 rows, all losses (`sapo.score`) and a race (`sapo.select`); a unit is a row;
- candidates: 2 to 200 on 50 rows, likewise; a unit is a candidate;
- tasks: a run of 2 to 50 tasks, each trained on 8 rows; every task is tested after every stage, so a unit is a cell of
  the performance matrix;
- runs: the pages of sweeps of 50 to 500 runs, made from the records in results/, as text and as HTML; a unit is a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import sapo
from sapo.core.types import Example, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.memory import peak_memory
from sapo.runs.config.loading import make_config

SIZES = {
    "rows": (10, 100, 1000, 10_000), "candidates": (2, 20, 200), "tasks": (2, 5, 10, 20, 50), "runs": (50, 150, 500),
}  # fmt: skip
WAYS = {
    "rows": ("all losses", "race"), "candidates": ("all losses", "race"), "tasks": ("run",), "runs": ("text", "HTML"),
}  # fmt: skip
RECORDS = Path(__file__).parents[1] / "results" / "policies.jsonl"
WORDS = ("a", "river", "stone", "carries", "light", "over", "old", "roads", "and", "quiet", "fields", "while", "birds")
LABELS = ("yes", "no")


def sentence(number: int, words: int) -> str:
    """Return a text that no other number has."""
    return f"{' '.join(random.Random(number).choices(WORDS, k=words))} {number}"


def task_of(rows: int, name: str = "growth") -> Task:
    """Return a task with so many training rows."""
    train = tuple(Example(sentence(n, 8), LABELS[n % 2]) for n in range(rows))
    return Task(name, "Does this text speak of water?", "", LABELS, "exact_match", train, (), ())


def texts_of(candidates: int) -> list[str]:
    """Return so many candidates besides the original."""
    return [f"Say yes or no: does the text speak of water? {sentence(n, 4)}" for n in range(candidates - 1)]


def losses(rows: int, candidates: int) -> dict[str, Callable[[], object]]:
    """Return the two ways to score so many candidates on so many rows."""
    model, tokenizer, task, texts = tiny_model(), tiny_tokenizer(), task_of(rows), texts_of(candidates)
    # Once, so that what is loaded at the first call is not counted.
    sapo.select(model, tokenizer, task_of(4), texts[:1])
    return {
        "all losses": lambda: sapo.score(model, tokenizer, task, [task.instruction, *texts]),
        "race": lambda: sapo.select(model, tokenizer, task, texts, examples=rows),
    }


def sequence(tasks: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Return a run of so many tasks."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for n in range(tasks):
        rows = [{"input": f"{sentence(i, 5)} in {n}", "answer": LABELS[i % 2]} for i in range(12)]
        (folder / f"t{n}.json").write_text(json.dumps(rows), encoding="utf-8")

    def run(count: int) -> object:
        names = [f"t{n}" for n in range(count)]
        own = {name: {"data": str(folder / f"{name}.json"), "instruction": f"Water in {name}?"} for name in names}
        return sapo.run(
            make_config(
                {
                    "model": {"base": str(folder / "model"), "device": "cpu"}, "sequence": names, "tasks": own,
                    "candidates": {"count": 2}, "selection": {"examples": 8, "cache": False},
                    "train": {"rows": 8, "epochs": 1, "batch_size": 8}, "run_dir": str(folder / f"run-{count}"),
                    "evaluate": {"rows": 2, "max_new_tokens": 2},
                }
            )
        )  # fmt: skip

    run(1)
    return {"run": lambda: run(tasks)}


def pages(runs: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the two pages of a sweep of so many runs: 10 methods, 5 policies, up to 10 seeds on one sequence."""
    from rich.console import Console

    from sapo.report.publish import print_report

    real = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    by_policy = {r["config"]["policy"]: r for r in real if r["sequence"] == real[0]["sequence"]}
    methods = ("seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single")
    folder = folder / "sweep"
    folder.mkdir()
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for seed, method, policy in list(product(range(10), methods, by_policy))[:runs]:
            found = moved(by_policy[policy], random.Random(f"{seed} {method} {policy}"))
            found |= {"method": method, "seed": seed, "name": f"{found['sequence']}/{method}-{policy}-s{seed}"}
            found["config"] = {**found["config"], "method": method, "policy": policy, "seed": seed}
            file.write(json.dumps(found) + "\n")

    def report(html: Path | None) -> None:
        print_report(Console(file=StringIO(), width=120), [folder], html)

    return {"text": lambda: report(None), "HTML": lambda: report(folder / "report.html")}


def moved(value: Any, rng: random.Random) -> Any:
    """Return a record with its figures a little elsewhere, those that are not whole numbers."""
    if isinstance(value, dict):
        return {key: inner if key == "config" else moved(inner, rng) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, rng) for inner in value]
    return value * rng.uniform(0.95, 1.05) if isinstance(value, float) else value


def point(kind: str, size: int, way: str) -> dict[str, float]:
    """Return CPU seconds and bytes of one way to do work of a size; the bytes are above those that it began with."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "rows":
            ways = losses(size, 4)
        elif kind == "candidates":
            ways = losses(50, size)
        else:
            ways = (sequence if kind == "tasks" else pages)(size, Path(folder))
        # Linux takes this as the word to forget the peak so far.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before, began = peak_memory() or 0, time.process_time()
        ways[way]()
        whole = peak_memory() or 0
        return {"seconds": time.process_time() - began, "bytes": whole - before, "whole": whole}


def units(kind: str, size: int) -> int:
    """Return how many units work of a size has."""
    return size * (size + 1) if kind == "tasks" else size


def main() -> None:
    """Print the table; ``--point`` is what processes of this one do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--most", type=int, default=10_000, help="leave out sizes above")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        kind, size, way = given.point
        print(json.dumps(point(kind, int(size), way)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print("| work | CPU seconds | ms a unit | peak above the start, MiB | whole, MiB |\n|---|---:|---:|---:|---:|")
    for kind in given.only:
        for way, size in product(WAYS[kind], [size for size in SIZES[kind] if size <= given.most]):
            command = [sys.executable, "-m", "benchmarks.growth", "--point", kind, str(size), way]
            said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(said.splitlines()[-1])
            each = 1000 * found["seconds"] / units(kind, size)
            print(
                f"| {size} {kind}, {way} | {found['seconds']:.2f} | {each:.2f} | {found['bytes'] / (1 << 20):.0f} | "
                f"{found['whole'] / (1 << 20):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
