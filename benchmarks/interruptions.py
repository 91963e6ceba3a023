"""Kill a run at random moments, start it again each time, and compare what comes out with an uninterrupted run.

    python benchmarks/interruptions.py --kills 20
    python benchmarks/interruptions.py --kills 5 --processes 2

A tiny random model and two small tasks, since only the mechanism matters. The whole process group gets SIGKILL.
A run is killed and started again until it finishes; then another one begins, until there were enough kills.
Equal means: every adapter file byte by byte, and every recorded number but wall times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.tasks.builtin import builtin_paraphrases

_OWN = ("seconds", "cached", "run_dir", "peak_memory")


def prepare(folder: Path) -> None:
    """Write the tiny model, candidates and a configuration with dropout, so that random states matter."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    names = ("odd-one-out", "date-format")
    candidates = {name: builtin_paraphrases(name)[:6] for name in names}
    (folder / "candidates.json").write_text(json.dumps(candidates), encoding="utf-8")
    config = {
        "model": {"base": "model", "device": "cpu"},
        "sequence": list(names),
        "watch": ["count-letter"],
        "method": "inc-lora",
        "candidates": {"file": "candidates.json"},
        "selection": {"examples": 60},
        "train": {"rows": 60, "epochs": 2, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.01},
        "evaluate": {"rows": 12, "max_new_tokens": 8, "prompts": ["own", "original"]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def command(run: str, processes: int) -> list[str]:
    """Return the command of one run."""
    sapo = [sys.executable, "-m", "sapo.cli", "run", "config.yaml", f"run_dir={run}"]
    if processes == 1:
        return sapo
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), *sapo[1:]]


def start(folder: Path, run: str, processes: int) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own, with a cache of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / f"cache-{run}")}
    with (folder / f"{run}.log").open("ab") as log:
        return subprocess.Popen(
            command(run, processes), cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def files_of(directory: Path) -> int:
    """Return how many files a run has written so far."""
    return sum(1 for path in directory.rglob("*") if path.is_file())


def killed(folder: Path, run: str, processes: int, wait: float) -> bool:
    """Start or resume a run and kill it ``wait`` seconds after it has written something; False if it finished."""
    before = files_of(folder / run)
    process = start(folder, run, processes)
    while process.poll() is None and files_of(folder / run) <= before:
        time.sleep(0.01)
    deadline = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.poll() is not None:
        if process.returncode != 0:
            sys.exit(f"the run failed by itself:\n{(folder / f'{run}.log').read_text(errors='replace')[-3000:]}")
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    return True


def content(directory: Path) -> dict[str, Any]:
    """Return everything that must be equal, by file."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.suffix == ".json" and name != "environment.json":
            found[name] = timeless(json.loads(path.read_text(encoding="utf-8")))
    return found


def timeless(value: Any) -> Any:
    """Return a JSON value without its wall times and its own name."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in _OWN}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def main() -> None:
    """Print one line per run, and where the kills struck."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        began = time.monotonic()
        if start(folder, "reference", given.processes).wait() != 0:
            sys.exit((folder / "reference.log").read_text(errors="replace")[-3000:])
        print(f"uninterrupted: {time.monotonic() - began:.1f} s", flush=True)
        reference = content(folder / "reference")
        kills, runs, where = 0, 0, Counter[str]()
        while kills < given.kills:
            run = f"run{runs}"
            runs, before = runs + 1, kills
            while killed(folder, run, given.processes, rng.uniform(0, 1.5) if kills < given.kills else 1e9):
                kills += 1
                lines = (folder / f"{run}.log").read_text(errors="replace").splitlines()
                steps = [line for line in lines if line.startswith(("task ", "stage "))]
                where[" ".join(steps[-1].split()[2:4]) if steps else "before the first step"] += 1
            found = content(folder / run)
            differs = [name for name in reference | found if reference.get(name) != found.get(name)]
            print(f"{run}: {kills - before} kills, {len(found)} files, different: {differs or 'none'}", flush=True)
            if differs:
                sys.exit(1)
        print(f"{kills} kills in {runs} runs, {given.processes} process(es), all equal. Struck during: {dict(where)}")


if __name__ == "__main__":
    main()
