"""The run directory: every finished step is a file, written whole or not at all.

    config.yaml           the resolved configuration, and the format of all this; others are refused
    environment.json      library versions and machine, of the last start
    data.json             what the data holds
    candidates/K-TASK.json   candidates and rejected texts with reasons
    selections/K-TASK.json   per-example losses, intervals, the choice
    stages/K-TASK/        the adapter, its model card and lineage (sapo.json)
    training/K-TASK.json  training losses
    cells/K/TASK.PROMPT.json   predictions and per-row scores of one cell of the matrix
    ability/K.json        general ability at stage K, where it was asked for
    unfinished/K-TASK/    checkpoints of a training
    results.json          matrices and metrics
    report.md             the same for people
    tracked.json          trackers that were given the finished run

A step's file holds what it was computed from (`inputs`, hashes by name) with what came out (`value`). A
step is reused only if every input is the same; otherwise the error says which one differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from sapo.core.errors import RecordError
from sapo.core.processes import ALONE, Processes
from sapo.core.storage import SCRATCH, fingerprint, read_json, undamaged, unwritable, write_json, write_text

# What a step is computed from.
Hashes = Mapping[str, str]

# Of what is written here; config.yaml tells it.
FORMAT = 3
# What tells what a directory holds.
_KINDS: Mapping[str, str] = MappingProxyType({
    "config.yaml": "a single run", "shared": "a sweep", "records.jsonl": "a sweep", "study.jsonl": "a study",
})  # fmt: skip
# Settings that no result depends on.
_MAY_CHANGE = ("keep", "selection.batch_tokens", "selection.cache", "train.checkpoint_every", "report_to")


class RunDirectory:
    """An open run directory; one job at a time, of whose processes the first one reads and writes.

    It is made if it does not exist. ``shared`` is where the runs of a sweep leave steps for each other. All processes
    of the job must make the same calls.

    Raises:
        RecordError: if the directory cannot be written, is in use, holds something else, or was made with
            another configuration.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], processes: Processes = ALONE, shared: Path | None = None
    ) -> None:
        self.path = directory
        self.processes = processes
        self._shared = shared
        self._config = {key: value for key, value in config.items() if key != "run_dir"}
        self._held = ExitStack()

    def check(self) -> None:
        """Refuse a directory that this run cannot use; writes nothing, so that a mistake leaves nothing behind."""
        self.processes.once(self._check)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RecordError(f"run_dir {self.path} is a file: choose a directory")
        try:
            there = self.path.is_dir() and any(
                p.name != ".lock" and not p.name.startswith(SCRATCH) for p in self.path.iterdir()
            )
        except OSError as error:
            raise RecordError(f"run_dir {self.path} cannot be used: {error.strerror or error}") from error
        path = self.path / "config.yaml"
        demand_own(self.path, "a single run")
        if there and not path.exists():
            raise RecordError(f"run_dir {self.path} is not empty and not a run directory: choose another one")
        if path.exists():
            self._compare(_read_yaml(path))

    def __enter__(self) -> RunDirectory:
        self.processes.once(self._open)
        return self

    def _open(self) -> None:
        self._check()
        with ExitStack() as held:
            held.enter_context(locked(self.path))
            # Once more: another process may have begun between the first look and the lock.
            self._check()
            self._sweep()
            if not (self.path / "config.yaml").exists():
                write_text(self.path / "config.yaml", _to_yaml({"format": FORMAT, **self._config}))
            self._held = held.pop_all()

    def __exit__(self, *failure: object) -> None:
        self._held.close()

    def reuse(
        self, name: str, inputs: Hashes, parse: Callable[[Any], Any] = lambda value: value, *, shared: bool = False
    ) -> Any | None:
        """Return the value of a finished step, as ``parse`` reads it, or None if it is not finished.

        With ``shared``, one that another run of the sweep finished for the same inputs is as good.

        Raises:
            RecordError: if it is damaged, or was computed from something else, naming what differs.
        """

        def find() -> Any | None:
            if shared and self._shared is not None and not (self.path / name).is_file():
                taken = self._shared_path(name, inputs)
                if taken.is_file():
                    write_json(self.path / name, read_json(taken))
            return self.find(name, inputs, parse)

        return self.processes.once(find)

    def _shared_path(self, name: str, inputs: Hashes) -> Path:
        kind = name.partition("/")[0]
        return (self._shared or self.path) / f"{kind}-{fingerprint(dict(inputs))}.json"

    def find(self, name: str, inputs: Hashes, parse: Callable[[Any], Any] = lambda value: value) -> Any | None:
        """Return the same in the calling process alone, where ``shared`` steps are not looked for."""
        path = self.path / name
        if not path.is_file():
            return None
        stored = read_json(path)
        if not isinstance(stored, dict) or not isinstance(stored.get("inputs"), dict) or "value" not in stored:
            raise RecordError(f"{path} is damaged. Delete it to compute this step again.")
        differs = [key for key in inputs if stored["inputs"].get(key) != inputs[key]]
        if differs:
            raise RecordError(
                f"{path} was computed from different inputs (changed: {', '.join(differs)}). "
                f"Undo that change to resume; to start afresh use another run_dir, or delete {self.path}."
            )
        with undamaged(path, "Delete it to compute this step again."):
            return parse(stored["value"])

    def save(self, name: str, inputs: Hashes, value: Any, *, shared: bool = False) -> None:
        """Write a finished step; with ``shared``, for the other runs of a sweep too."""
        step = {"inputs": dict(inputs), "value": value}
        if shared and self._shared is not None:
            path = self._shared_path(name, inputs)
            self.processes.once(lambda: write_json(path, step))
        self.write(name, step)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON value that is not a step."""
        self.processes.once(lambda: write_json(self.path / name, value))

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON object that is not a step; empty where there is none."""
        path = self.path / name
        found = self.processes.once(lambda: read_json(path, "Delete it.") if path.is_file() else {})
        return dict(found) if isinstance(found, dict) else {}

    def write_first(self, name: str, value: Any) -> None:
        """Write a JSON value that describes what the steps are computed from, unless some are finished already.

        Should it differ by now, the steps refuse to be reused, and what was written must stay true of them.
        """
        begun = [self.path / kind for kind in ("selections", "training", "cells")]

        def put() -> None:
            if not (self.path / name).exists() or not any(map(Path.exists, begun)):
                write_json(self.path / name, value)

        self.processes.once(put)

    def stage_directory(self, name: str) -> Path:
        """Return where a stage's adapter lies; it may not exist yet."""
        return self.path / "stages" / name

    def stage_files(self, name: str) -> dict[str, str]:
        """Return a hash of every file that a stage's state and lineage are read from, by name; {} without a stage."""
        directory = self.stage_directory(name)
        found = [p for p in directory.rglob("*") if p.suffix in (".json", ".safetensors") and p.is_file()]
        try:
            return {p.relative_to(directory).as_posix(): _digest(p) for p in sorted(found)}
        except OSError as error:
            raise RecordError(f"{directory} cannot be read: {error.strerror or error}") from error

    def demand_stage(self, name: str, step: str, files: Mapping[str, str], *, dropped: bool) -> None:
        """Refuse a stage directory that is not as it was written; ``dropped``: it may be gone.

        Raises:
            RecordError: naming the file.
        """
        directory = self.stage_directory(name)
        if dropped and not directory.exists():
            return
        found = self.stage_files(name)
        for file, digest in files.items():
            if found.get(file) != digest:
                what = directory / file if directory.is_dir() else directory
                why = "was changed since" if file in found else "is missing"
                raise RecordError(
                    f"{what} {why}. Put it back unchanged, or delete {self.path / step}, and what was computed "
                    "from it (cells, selections and training of this stage and later ones), to train that task again."
                )

    def save_stage(self, name: str, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a scratch directory, then put it in place in one move.

        Every process calls it, since writing a stage may change the model; what the others write is dropped.
        """
        self.processes.together(lambda: self._put_stage(self.stage_directory(name), write))

    def _put_stage(self, target: Path, write: Callable[[Path], None]) -> None:
        first = self.processes.first
        try:
            if first:
                target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent if first else None, prefix=SCRATCH) as scratch:
                built = Path(scratch) / "stage"
                built.mkdir()
                write(built)
                if first:
                    for path in filter(Path.is_file, built.rglob("*")):
                        # safetensors writes for the owner alone.
                        path.chmod(0o644)
                        with path.open("rb") as file:
                            os.fsync(file.fileno())
                    shutil.rmtree(target, ignore_errors=True)
                    os.rename(built, target)
        except OSError as error:
            raise RecordError(unwritable(target, error.strerror or str(error))) from error
        except SafetensorError as error:
            raise RecordError(unwritable(target, str(error))) from error

    def unfinished(self, name: str, inputs: Hashes) -> Path:
        """Return a directory for the unfinished state of a step; another one's is dropped.

        What is there was left by an earlier start with the same inputs.
        """
        directory = self.path / "unfinished" / name

        def prepare() -> None:
            stored = directory / "inputs.json"
            if not stored.is_file() or read_json(stored) != dict(inputs):
                shutil.rmtree(directory, ignore_errors=True)
                write_json(stored, dict(inputs))

        self.processes.once(prepare)
        return directory

    def finish(self, name: str) -> None:
        """Delete the unfinished state of a step that is finished."""
        self.processes.once(lambda: shutil.rmtree(self.path / "unfinished" / name, ignore_errors=True))

    def drop_others(self, folder: str, inputs: Hashes) -> None:
        """Delete the steps in a folder that were computed from something else, where that will not come again."""

        def drop() -> None:
            for path in (self.path / folder).glob("*.json"):
                stored = read_json(path)
                found = stored.get("inputs") if isinstance(stored, dict) else None
                if not isinstance(found, dict) or any(found.get(key) != value for key, value in inputs.items()):
                    path.unlink()

        self.processes.once(drop)

    def drop_stage(self, name: str) -> None:
        """Delete a stage's adapter."""

        def drop() -> None:
            target = self.stage_directory(name)
            if target.exists():
                # Under another name at once: half a stage would count as damaged.
                gone = Path(tempfile.mkdtemp(dir=target.parent, prefix=SCRATCH))
                os.rename(target, gone / "stage")
                shutil.rmtree(gone, ignore_errors=True)

        self.processes.once(drop)

    def _sweep(self) -> None:
        """Remove the scratch files of a process that was killed; nobody else writes here under the lock."""
        for scratch in [path for below in ("", "*/", "cells/*/") for path in self.path.glob(f"{below}{SCRATCH}*")]:
            if scratch.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)
            else:
                scratch.unlink(missing_ok=True)

    def _compare(self, stored: Any) -> None:
        if not isinstance(stored, dict):
            raise RecordError(f"{self.path / 'config.yaml'} is damaged: choose another run_dir")
        found = stored.pop("format", "not named")
        if found != FORMAT:
            raise RecordError(
                f"run_dir {self.path} was not written by this version of sapo (format {found}, not {FORMAT}) and "
                "cannot be resumed: use another run_dir"
            )
        differs = differences(stored, self._config)
        if differs:
            raise RecordError(
                f"run_dir {self.path} was made with another configuration:\n"
                + "\n".join(differs)
                + f"\nUse another run_dir, or delete {self.path} to start afresh."
            )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Let one process at a time write in a directory, which is made if it does not exist.

    Raises:
        RecordError: if another process does, or the directory cannot be used.
    """
    lock = FileLock(run_dir / ".lock")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RecordError(f"run_dir {run_dir} is in use by another process: wait for it to end") from error
    except OSError as error:
        raise RecordError(f"run_dir {run_dir} cannot be used: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def demand_own(run_dir: Path, kind: str) -> None:
    """Refuse a directory that holds something else than ``kind``: what is there could no longer be reported.

    Raises:
        RecordError: naming what it holds.
    """
    for file, what in _KINDS.items():
        if what != kind and (run_dir / file).exists():
            raise RecordError(f"run_dir {run_dir} holds {what}: choose another one for {kind}")


def demand_free(run_dir: Path) -> None:
    """Refuse a directory in which another process works.

    Raises:
        RecordError: if one does.
    """
    if (run_dir / "config.yaml").exists():
        with locked(run_dir):
            pass


def differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that decides something and differs between a stored configuration and this."""
    # As it would come back from a file: YAML does not keep every character.
    before, now = decisive(stored), decisive(yaml.safe_load(_to_yaml(config)))
    return [
        f"  {key}: {repr(before[key]) if key in before else 'not set'} then, "
        f"{repr(now[key]) if key in now else 'not set'} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration that decide what comes out, by dotted key."""
    return {key: value for key, value in flat(dict(config)).items() if key not in (*_MAY_CHANGE, "run_dir")}


def first_value(directory: Path, key: str, value: Any) -> Any:
    """Return what a setting, by dotted key, was when a run directory was made; ``value`` where it is not made yet.

    Raises:
        RecordError: if its configuration cannot be read.
    """
    path = directory / "config.yaml"
    return flat(_read_yaml(path)).get(key, value) if path.is_file() else value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _to_yaml(config: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordError(f"{path} cannot be read ({error}): choose another run_dir") from error


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a configuration by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}".strip(".")).items()}
