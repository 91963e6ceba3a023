"""Make a sweep and a study on a Ray cluster of two nodes, take workers and a node away, and compare the records.

    pip install '.[ray]' && python -m benchmarks.cluster [--only sweep study]

Two `ray start` on this machine, each with one CPU, a session and a working directory of its own; the
tiny model. Equal means: every number of every record but wall times, and nothing computed before a kill is computed
again. One method of the sweep diverges: a run that fails with its own error must not end the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.interruptions import timeless
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.tasks.builtin import builtin_paraphrases

# What a command ends with: one method of the sweep diverges.
KINDS = {"sweep": 2, "study": 0}
TASKS = ("odd-one-out", "date-format")
# Seconds that a command may take.
PATIENCE = 1800
COMMON: dict[str, Any] = {
    "model": {"base": "model", "device": "cpu"},
    "candidates": {"file": "candidates.json", "count": 5},
    "train": {"rows": 60, "epochs": 2, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.01},
    # A share of a GPU that each node says to have: what a configuration asks for is what a task takes.
    "resources": {"cpus": 1, "gpus": 0.5, "memory": 0.5},
}
SWEEP = COMMON | {
    "sequence": list(TASKS),
    "selection": {"examples": 40, "cache": False},
    "evaluate": {"rows": 12, "max_new_tokens": 8, "prompts": ["own", "original"]},
    # On the second task its objective is not finite.
    "o_lora": {"weight": 1e38},
    "sweep": {"method": ["seq-lora", "o-lora", "inc-lora"], "policy": ["original", "sapo"]},
}
STUDY = COMMON | {"transitions": [list(TASKS)], "seeds": [1, 2], "examples": 20, "rows": 12}


class Cluster:
    """Two nodes in sessions of their own; the second one, which may be taken away, joins the first."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._nodes = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._start("first", "--head", "--port", self.address.partition(":")[2], "--include-dashboard", "false")
        self.join()

    def join(self) -> None:
        """Start the second node, and wait until the cluster has two."""
        self._start("second", "--address", self.address)
        code = f"import ray; ray.init('{self.address}', log_to_driver=False); print(ray.cluster_resources()['CPU'])"
        for _ in range(30):
            found = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
            if found.stdout.strip() == "2.0":
                return
            time.sleep(1)
        sys.exit(f"the cluster did not come up: {found.stderr[-2000:]}")

    def _start(self, name: str, *arguments: str) -> None:
        directory = self._folder / f"node-{name}"
        directory.mkdir(exist_ok=True)
        number = len(self._nodes)
        own = ("--num-cpus", "1", "--num-gpus", "1", "--memory", str(10**9), "--object-store-memory", str(10**8))
        # Two nodes of one machine must not share its ports.
        ports = ("--min-worker-port", str(21000 + 1000 * number), "--max-worker-port", str(21999 + 1000 * number))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        with (directory / "log").open("ab") as log:
            self._nodes.append(
                subprocess.Popen(
                    [*command, *own, *ports, *arguments],
                    cwd=directory, env=environment(), stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def workers(self, directory: Path) -> list[psutil.Process]:
        """Return the workers that hold the lock of a run directory."""
        return [p for node in self._nodes for p in below(node.pid) if holds(p, directory / ".lock")]

    def on_second(self, process: psutil.Process) -> bool:
        """Whether a worker is one of the second node."""
        return any(p.pid == process.pid for p in below(self._nodes[-1].pid))

    def take_away(self, node: int = -1) -> None:
        """End all processes of a node at once, as a machine does that loses its power."""
        gone = below(self._nodes[node].pid)
        for process in gone:
            process.suspend()
        for process in gone:
            process.kill()
        self._nodes.pop(node).wait()

    def end(self) -> None:
        """End what is left."""
        while self._nodes:
            self.take_away()


def environment() -> dict[str, str]:
    """Return the environment of all commands: one thread, or sums are in another order; the head asks for a token."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}


def below(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started, directly or not."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def holds(process: psutil.Process, file: Path) -> bool:
    """Whether a process has a file open."""
    try:
        return any(os.readlink(entry) == str(file) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False


def prepare(folder: Path) -> None:
    """Write the tiny model, candidates and both configurations, with paths that only the driver's directory has."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    candidates = {name: builtin_paraphrases(name)[:5] for name in TASKS}
    (folder / "candidates.json").write_text(json.dumps(candidates), encoding="utf-8")
    for name, config in {"sweep": SWEEP, "study": STUDY}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def start(folder: Path, kind: str, run: str, *options: str) -> subprocess.Popen[bytes]:
    """Begin a sweep or a study in a directory of its own."""
    command = [sys.executable, "-m", "sapo.cli", {"sweep": "run"}.get(kind, kind), f"{kind}.yaml", f"run_dir={run}"]
    with (folder / f"{run}.log").open("ab") as log:
        return subprocess.Popen([*command, *options], cwd=folder, env=environment(), stdout=log, stderr=log)


def ended(process: subprocess.Popen[bytes], folder: Path, run: str, expected: int) -> None:
    """Wait for a command, and stop where it ends otherwise than it should."""
    if process.wait(PATIENCE) != expected:
        log = (folder / f"{run}.log").read_text(errors="replace")
        sys.exit(f"{run} ended with {process.returncode}, not {expected}:\n{log[-3000:]}")


def records(folder: Path, run: str) -> dict[str, Any]:
    """Return what must be equal, by name of the run or training."""
    (path,) = (folder / run).glob("*.jsonl")
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [r.get("name") or f"{r['arm']}-c{r['candidate']}-s{r['seed']}" for r in found]
    return {name: timeless(record) for name, record in zip(names, found, strict=True)}


def half_way(folder: Path, run: str, process: subprocess.Popen[bytes], wanted: Callable[[Path], bool]) -> Path:
    """Wait for a run that has trained its first task and not its last one, and return its directory."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for first in (folder / run).rglob("training/1-*.json"):
            directory = first.parents[1]
            if not list(directory.glob("training/2-*.json")) and wanted(directory):
                return directory
        time.sleep(0.01)
    sys.exit(f"{run}: no run was seen half-way")


def steps(directory: Path) -> dict[str, int]:
    """Return when each finished step of a run was written, in nanoseconds."""
    found = [
        *directory.glob("training/*.json"),
        *directory.glob("cells/*/*.json"),
        *directory.glob("selections/*.json"),
    ]
    return {path.relative_to(directory).as_posix(): path.stat().st_mtime_ns for path in found}


def kept(directory: Path, before: dict[str, int]) -> str:
    """Return how many steps there were before a kill; stop where one of them was computed again."""
    after = steps(directory)
    if again := [name for name, when in before.items() if after[name] != when]:
        sys.exit(f"{directory.name}: computed again: {again}")
    return f"{directory.name} kept {len(before)} of {len(after)} steps"


def undisturbed(folder: Path, run: str, process: subprocess.Popen[bytes], cluster: Cluster) -> str:
    """Let a sweep end; one of its methods fails."""
    ended(process, folder, run, 2)
    return "all at once"


def worker_killed(folder: Path, run: str, process: subprocess.Popen[bytes], cluster: Cluster) -> str:
    """Kill the worker of a run that is half-way."""
    directory = half_way(folder, run, process, lambda found: bool(cluster.workers(found)))
    (worker,) = cluster.workers(directory)
    os.kill(worker.pid, signal.SIGKILL)
    before = steps(directory)
    ended(process, folder, run, 2)
    return kept(directory, before)


def node_taken(folder: Path, run: str, process: subprocess.Popen[bytes], cluster: Cluster) -> str:
    """Take the node away on which a run is half-way."""
    directory = half_way(folder, run, process, lambda found: any(map(cluster.on_second, cluster.workers(found))))
    cluster.take_away()
    before = steps(directory)
    ended(process, folder, run, 2)
    return kept(directory, before)


def training_killed(folder: Path, run: str, process: subprocess.Popen[bytes], cluster: Cluster) -> str:
    """Kill a worker of a study once the first training is recorded."""
    while process.poll() is None and not (folder / run / "study.jsonl").exists():
        time.sleep(0.01)
    workers = [p for node in cluster._nodes for p in below(node.pid) if "_in_worker" in " ".join(p.cmdline())]
    os.kill(workers[0].pid, signal.SIGKILL)
    ended(process, folder, run, 0)
    return f"1 of {len(workers)} workers at work"


@contextmanager
def timed(what: str) -> Iterator[list[str]]:
    """Print a row of the table."""
    began, said = time.monotonic(), list[str]()
    yield said
    print(f"| {what} | {time.monotonic() - began:.0f} | {'; '.join(said)} |", flush=True)


def main() -> None:
    """Print a table, a row for each way to make the same records; stop at the first that are not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    only = parser.parse_args().only
    # Nodes are not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "driver"
        folder.mkdir()
        prepare(folder)
        print("| way | seconds | found |\n|---|---:|---|")
        reference = dict[str, dict[str, Any]]()
        for kind in only:
            with timed(f"{kind} without Ray") as said:
                ended(start(folder, kind, kind), folder, kind, KINDS[kind])
                reference[kind] = records(folder, kind)
                said.append(f"{len(reference[kind])} records")
        cluster = Cluster(folder.parent)
        ways: list[tuple[str, str, str, Callable[..., str]]] = [
            ("sweep", "two nodes", "plain", undisturbed),
            ("sweep", "a worker SIGKILLed", "killed", worker_killed),
            ("sweep", "a node taken away", "taken", node_taken),
            ("study", "a worker SIGKILLed", "trained", training_killed),
        ]
        try:
            for kind, what, run, act in [way for way in ways if way[0] in only]:
                with timed(f"{kind} on Ray, {what}") as said:
                    said.append(act(folder, run, start(folder, kind, run, "--ray", cluster.address), cluster))
                    found = records(folder, run)
                    differs = [n for n in reference[kind] | found if reference[kind].get(n) != found.get(n)]
                    said.append(f"{len(found)} records, different: {differs or 'none'}")
                if differs:
                    sys.exit(1)
                if act is node_taken:
                    cluster.join()
        finally:
            cluster.end()


if __name__ == "__main__":
    main()
