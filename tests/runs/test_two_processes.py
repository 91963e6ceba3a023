"""Two real processes on one job against one process, and against themselves after a kill."""

import csv
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forked
import pytest
import torch.distributed.run
from parts import gemma
from safetensors.torch import load_file
from small_runs import Told, read, save, write

import sapo
from sapo.core.processes import leave
from sapo.integrations.testing import tiny_tokenizer

TOLERANCE = 1e-5
PATIENCE = 120
ANSWERS = ("good", "bad", "fair enough")
# Nothing divides by two or by the micro-batch: 21 = 8 + 8 + 5 rows, 9 selection rows, 5 test rows; and one of each.
ROWS, SELECTION, TESTED = 21, 9, 5
MINE = {
    "data": "train.csv", "test": "test.csv", "instruction": "Say good, bad or fair enough.",
    "columns": {"input": "review", "answer": "stars"},
}  # fmt: skip
CONFIG: Mapping[str, Any] = {
    "model": {"base": "model", "device": "cpu"}, "sequence": ["mine", "single"], "data_dir": "bench",
    "tasks": {"mine": MINE}, "candidates": {"file": "candidates.json"},
    "selection": {"examples": SELECTION, "strategy": "exhaustive"},
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"]},
    "train": {"rows": None, "epochs": 6, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.03},
    "evaluate": {"max_new_tokens": 4, "prompts": ["own", "original"]},
}  # fmt: skip
PARAPHRASES = ["Is it good, bad or fair enough?", "good, bad, fair enough?"]


@dataclass(frozen=True)
class Job:
    """A job of two processes that has ended."""

    directory: Path
    codes: tuple[int | None, ...]
    out: str
    err: str

    def step(self, name: str) -> Any:
        return read(self.directory / name)["value"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, own CSV, a benchmark whose one task has a single row, candidates, and a configuration."""
    root = tmp_path_factory.mktemp("two")
    save(root / "model", seed=2)
    for name, rows in (("train", ROWS), ("test", TESTED)):
        with (root / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "stars"])
            writer.writerows([f"{name} {i} " + "word " * (i % 5), ANSWERS[i % 3]] for i in range(rows))
    for split, count in (("train", 7), ("test", 2)):
        other = [{"input": f"{split} {i}" + " word" * (i % 4), "output": "xyz"[: 1 + i % 3]} for i in range(count)]
        write(root / "bench" / "other" / f"{split}.json", other)
        write(root / "bench" / "single" / f"{split}.json", [{"input": split, "output": "y"}])
    index = {
        "single": {"instruction": "Say y.", "suffix": "One letter."},
        "other": {"instruction": "Say x, y and z.", "suffix": "Letters."},
    }
    write(root / "bench" / "instructions.json", index)
    write(root / "candidates.json", {"mine": PARAPHRASES, "single": ["The word to say is y.", "It is y!"]})
    write(root / "config.yaml", CONFIG)
    return root


def spied(run: str, work: Callable[..., object], *arguments: Any) -> None:
    """Work in a process that notes what it opens for writing, moves or makes in the directory of a run."""
    kept, rank = os.path.abspath(run) + "/", os.environ["RANK"]

    def note(event: str, found: tuple[Any, ...]) -> None:
        path = {"open": 0, "os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0}.get(event)
        if path is None or (event == "open" and not (found[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        name = os.fspath(found[path]) if isinstance(found[path], (str, os.PathLike)) else ""
        if os.path.abspath(name).startswith(kept):
            line = os.open(f"{run}.spy", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(line, f"{rank} {event}\n".encode())
            os.close(line)

    sys.addaudithook(note)
    work(*arguments)


def start(folder: Path, run: str, work: Callable[..., object], *arguments: Any) -> tuple[BaseProcess, BaseProcess]:
    """Start a job that keeps its cache, its output and what the spies saw by the name ``run``."""
    return forked.pair(spied, run, work, *arguments, directory=folder, name=run)


def ended(folder: Path, run: str, processes: Sequence[BaseProcess]) -> Job:
    codes = forked.ended(processes)
    return Job(folder / run, codes, (folder / f"{run}.out").read_text(), (folder / f"{run}.err").read_text())


def launch(folder: Path, run: str, work: Callable[..., object], *arguments: Any) -> Job:
    return ended(folder, run, start(folder, run, work, *arguments))


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run directory of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sapo.run(sapo.load_config(folder / "config.yaml", ["run_dir=alone"]))
    return folder / "alone"


@pytest.fixture(scope="module")
def both(folder: Path) -> Job:
    """The same run by two processes."""
    job = launch(folder, "both", forked.command, "run", "config.yaml", "run_dir=both")
    assert job.codes == (0, 0), job.err
    return job


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, numbers by more than the tolerance; wall times, cache hits and names do not count."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in ("seconds", "cached", "run_dir", "peak_memory"):
                yield from differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for n, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}/{n}")
    elif isinstance(one, float) and isinstance(other, float):
        if abs(one - other) > TOLERANCE:
            yield path, one, other
    elif one != other:
        yield path, one, other


def test_losses_of_every_candidate_and_example_are_those_of_one_process(alone: Path, both: Job) -> None:
    for name, rows in (("1-mine", SELECTION), ("2-single", 1)):
        expected, found = read(alone / "selections" / f"{name}.json")["value"], both.step(f"selections/{name}.json")
        # Each process that has a row reads what all rows begin with.
        assert expected.pop("forward_tokens") <= found.pop("forward_tokens")
        assert list(differences(expected, found)) == []
        assert [len(c["losses"]["nll"]) for c in found["candidates"]] == [rows] * 3
        assert (found["cached"], len({c["loss"] for c in found["candidates"]})) == (0, 3)


def test_training_losses_are_those_of_one_process(alone: Path, both: Job) -> None:
    for name, updates in (("1-mine", 3), ("2-single", 1)):
        expected, found = read(alone / "training" / f"{name}.json")["value"], both.step(f"training/{name}.json")
        assert found["losses"] == pytest.approx(expected["losses"], abs=TOLERANCE)
        assert found["steps"] == len(found["losses"]) == 6 * updates
        # The premise: something was learned on the way.
        assert found["losses"][-1] < found["losses"][0] / 2


def test_answers_matrices_and_all_metrics_are_those_of_one_process(alone: Path, both: Job) -> None:
    cells = sorted(path.relative_to(alone).as_posix() for path in alone.glob("cells/*/*.json"))
    assert cells == sorted(path.relative_to(both.directory).as_posix() for path in both.directory.glob("cells/*/*"))
    for cell in cells:
        assert list(differences(read(alone / cell)["value"], both.step(cell))) == []
    expected, found = read(alone / "results.json"), read(both.directory / "results.json")
    assert list(differences(expected, found)) == []
    # The premise: scores that are not all zero, and all metrics.
    assert sum(map(sum, found["matrix"])) > 0 and len(found["metrics_all"]) == 5


def test_only_the_first_process_speaks_and_writes(folder: Path, both: Job) -> None:
    assert both.err.count("2 processes share rows and batches") == 1
    assert both.err.count("task 1 mine: training") == 1
    assert both.out.count("Run both\n") == 1
    seen = (folder / "both.spy").read_text().splitlines()
    assert {line.split()[0] for line in seen} == {"0"}
    assert {"0 open", "0 os.rename", "0 os.mkdir"} <= set(seen)
    assert read(both.directory / "environment.json")["processes"] == 2


def test_a_mistake_is_printed_once_and_ends_the_job(folder: Path) -> None:
    job = launch(
        folder, "wrong", forked.command, "run", "config.yaml", "run_dir=wrong", "tasks.mine.columns.answer=star"
    )
    assert job.codes == (2, 2)
    assert job.err.count("train.csv has no column 'star' for answer. Did you mean 'stars'?") == 1
    assert job.out == "" and "sapo/cli" not in job.err
    assert not job.directory.exists()


JOIN = """
import os
from sapo.core.processes import join, launched, leave
processes = join("cpu")
assert processes == launched()
# Both write to one file: a line in one piece.
os.write(1, f"{processes.gather(processes.rank)}\\n".encode())
leave()
"""


def torchrun(*arguments: str) -> None:
    sys.argv = ["torchrun", "--standalone", "--nproc_per_node", "2", *arguments]
    torch.distributed.run.main()


def test_torchrun_starts_processes_that_find_each_other(folder: Path) -> None:
    (folder / "join.py").write_text(JOIN)
    path = os.pathsep.join(filter(None, sys.path))
    job = forked.start(torchrun, "join.py", directory=folder, name="joined", PYTHONPATH=path)
    assert forked.ended([job]) == (0,), (folder / "joined.err").read_text()
    assert (folder / "joined.out").read_text().splitlines() == ["[0, 1]"] * 2


# Methods that add something to the loss, and those that train other weights than an adapter's. 21 rows, then 7.
METHODS: Mapping[str, Sequence[str]] = {
    "o-lora": [], "ewc": ["ewc.weight=100"], "replay": ["replay.buffer=5", "replay.share=0.5"], "lwf": [], "osf": [],
    "full": [],
}  # fmt: skip
PLAIN = (
    "policy=original", "train.epochs=2", "train.warmup=0", "train.learning_rate=0.005", "evaluate.rows=2",
    "evaluate.max_new_tokens=1", "evaluate.prompts=original",
)  # fmt: skip
CASES: Mapping[str, Sequence[str]] = {
    **{method: ["sequence=[mine,other]", f"method={method}", *own] for method, own in METHODS.items()},
    # A model with parts that no text reaches.
    "gemma": ["sequence=[mine]", "model.base=gemma"],
}
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "fisher.safetensors")


def several(run: str) -> None:
    """Train in each way, in a directory of its own."""
    for name, settings in CASES.items():
        sapo.run(sapo.load_config(Path("config.yaml"), [f"run_dir={run}/{name}", *PLAIN, *settings]))
    leave()


def test_every_method_and_model_has_the_weights_of_one_process(folder: Path) -> None:
    gemma().save_pretrained(folder / "gemma")
    tiny_tokenizer().save_pretrained(folder / "gemma")
    job = launch(folder, "several", several, "several")
    assert job.codes == (0, 0), job.err
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        several("one")
    last = {}
    for name in CASES:
        runs = (folder / "one" / name, job.directory / name)
        found = [{p.relative_to(run): p for p in run.rglob("*") if p.name in WEIGHTS} for run in runs]
        assert found[0].keys() == found[1].keys() and found[0]
        for file, path in found[0].items():
            one, other = load_file(path), load_file(found[1][file])
            assert one.keys() == other.keys()
            assert max(float((one[key] - other[key]).abs().max()) for key in one) < TOLERANCE, f"{name}: {file}"
            # The premise of the model.
            assert any("vision_tower" in key for key in one) == (name == "gemma")
        for step in sorted((runs[0] / "training").iterdir()):
            values = [read(run / "training" / step.name)["value"] for run in runs]
            for kind in ("losses", "objectives"):
                assert values[1][kind] == pytest.approx(values[0][kind], abs=TOLERANCE), f"{name}: {kind}"
        # The premise of the methods: what one adds to the loss takes part.
        assert (values[0]["losses"] != values[0]["objectives"]) == (name in ("o-lora", "ewc", "replay", "lwf"))
        last[name] = tuple(values[0]["losses"])
    assert len({last[name] for name in METHODS}) == len(METHODS)
    buffers = [read(folder / d / "replay" / "stages" / "2-other" / "replay.json") for d in ("one", "several")]
    assert buffers[0] == buffers[1] and len(buffers[0]["rows"]) == 5


def interrupted() -> None:
    """Train once without a stop, and once with one after five updates, in each process."""
    # Epochs of three updates; the fifth is the second of the second one, and its checkpoint is not written any more.
    settings = [
        *PLAIN, "sequence=[mine]", "train.epochs=3", "train.checkpoint_every=1", "lora.dropout=0.1",
    ]  # fmt: skip
    whole, parts = (sapo.load_config(Path("config.yaml"), [*settings, f"run_dir={run}"]) for run in ("whole", "parts"))
    sapo.run(whole)
    with suppress(KeyboardInterrupt):
        sapo.run(parts, Told("training", 5))
    assert (parts.run_dir / "unfinished" / "1-mine" / "checkpoint-4").is_dir()
    sapo.run(parts)
    leave()


def test_a_training_that_is_resumed_in_an_epoch_takes_the_rows_that_it_lacks(folder: Path) -> None:
    job = launch(folder, "interrupted", interrupted)
    assert job.codes == (0, 0), job.err
    found, expected = (read(folder / run / "training" / "1-mine.json")["value"] for run in ("parts", "whole"))
    assert found["losses"] == expected["losses"] and len(found["losses"]) == 9
    assert found["state"] == expected["state"]


def test_a_killed_process_ends_the_job_and_the_same_command_resumes_it(folder: Path, both: Job) -> None:
    command = (forked.command, "run", "config.yaml", "run_dir=killed")
    job = start(folder, "killed", *command)
    deadline = time.monotonic() + PATIENCE
    while "task 1 mine: training" not in (folder / "killed.err").read_text():
        assert job[0].is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    job[1].kill()
    # The other process finds out by itself.
    stopped = ended(folder, "killed", job)
    assert stopped.codes[0] not in (0, -signal.SIGKILL)
    message = "error: another process of this job has ended, see its message. Saved in killed: 1 selections, 0 trained"
    assert message in stopped.err
    assert not (stopped.directory / "results.json").exists() and "sapo/cli" not in stopped.err
    again = launch(folder, "killed", *command)
    assert again.codes == (0, 0), again.err
    for name in ("results.json", "training/1-mine.json", "selections/2-single.json", "cells/2/mine.own.json"):
        one, other = read(both.directory / name), read(again.directory / name)
        assert list(differences(one, other)) == []
    weights = "stages/2-single/adapter_model.safetensors"
    assert (again.directory / weights).read_bytes() == (both.directory / weights).read_bytes()
    shutil.rmtree(again.directory)
