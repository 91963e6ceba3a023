"""Where trainings are made, for sweeps and studies alike: in this process, in others of this machine, on a Ray cluster.

A result comes back as soon as it is there, and records are written by the process that asked for it, never by workers.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sapo.core.errors import ConfigError, ProcessError, RecordError, SapoError, demand_extra, first_line
from sapo.core.progress import Reporter
from sapo.runs.config.schema import ResourcesConfig

T = TypeVar("T")
# Seconds within which a cluster must answer, those between two looks at jobs that workers make, and how often a job is
# begun again whose worker was killed.
_PATIENCE, _LOOK, _RETRIES = 20, 2, 3
_AGAIN = "Finished work is recorded; give the same command again to resume."


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Something to be made.

    Attributes:
        begin: returns the work when its turn has come, for it may depend on what other jobs gave. The work takes a
            reporter; workers need one that can be pickled.
        after: name of a job that must have ended before, where that is one of the others.
        far: returns how many trainings and tests of it are finished, or None before it begins. Workers say what
            they have to say at the end, so it looks at files.
    """

    name: str
    begin: Callable[[], Callable[[Reporter], T]]
    after: str = ""
    far: Callable[[], tuple[int, int] | None] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are made.

    Attributes:
        progress: is told how many jobs of workers have ended.
        submit: hands work to a worker; None where there is only this process, whose work speaks for itself.
        lost: what a future raises whose worker died too often; that ends its job alone.
    """

    progress: Reporter
    submit: Callable[..., Future[Any]] | None = None
    lost: tuple[type[Exception], ...] = ()

    def make(self, label: str, jobs: Sequence[Job[T]]) -> Iterator[tuple[Job[T], T | SapoError]]:
        """Yield each job with what it gave, or the error that ended it, as they end.

        ``label`` is that of all jobs together; they begin in the order given.
        """
        here = ((job, _tried(job.begin(), self.progress)) for job in jobs)
        for job, found in here if self.submit is None else self._by_workers(self.submit, label, jobs):
            if isinstance(found, SapoError):
                self.progress.note(f"FAILED {job.name}: {found}")
            yield job, found

    def _by_workers(
        self, submit: Callable[..., Future[Any]], label: str, jobs: Sequence[Job[T]]
    ) -> Iterator[tuple[Job[T], T | SapoError]]:
        waiting, ended, said = list(jobs), dict[str, str](), set[str]()
        far = dict[str, tuple[int, int]]()
        handed = dict[Future[tuple[T | SapoError, tuple[str, ...]]], Job[T]]()
        with self.progress.step(label, len(jobs), 0) as advance:
            while waiting or handed:
                unfinished = {job.name for job in (*waiting, *handed.values())}
                for job in [job for job in waiting if job.after not in unfinished]:
                    waiting.remove(job)
                    handed[submit(_in_worker, Path.cwd(), job.begin())] = job
                self._show(jobs, ended, far)
                done = wait(handed, _LOOK, FIRST_COMPLETED).done
                far |= {job.name: now for job in handed.values() if job.far is not None and (now := job.far())}
                for future in done:
                    job = handed.pop(future)
                    try:
                        found, notes = future.result()
                    except self.lost as error:
                        found = ProcessError(f"its worker died {1 + _RETRIES} times, at last: {first_line(error)}")
                        notes = ()
                    for note in notes:
                        if note not in said:
                            said.add(note)
                            self.progress.note(f"{job.name}: {note}")
                    ended[job.name] = "failed" if isinstance(found, SapoError) else "finished"
                    yield job, found
                    advance(1)
            self._show(jobs, ended, far)

    def _show(self, jobs: Sequence[Job[T]], ended: Mapping[str, str], far: Mapping[str, tuple[int, int]]) -> None:
        """Report how far all jobs are that can be looked at."""
        rows = [
            (job.name, ended.get(job.name) or ("at work" if job.name in far else "waiting"),
             *map(str, far.get(job.name, (0, 0))))
            for job in jobs if job.far is not None
        ]  # fmt: skip
        if rows:
            self.progress.board(("run", "state", "trainings", "tests"), rows)


def _tried(work: Callable[[Reporter], T], progress: Reporter) -> T | SapoError:
    try:
        return work(progress)
    except SapoError as error:
        # Its traceback would hold the model that failed while the next one is loaded.
        return type(error)(str(error))


class _Notes(Reporter):
    """Keeps what a worker has to say: what is not used, how races ended."""

    def __init__(self) -> None:
        self.said = dict[str, None]()

    def note(self, text: str) -> None:
        self.said[text] = None


def _in_worker(directory: Path, work: Callable[[Reporter], T]) -> tuple[T | SapoError, tuple[str, ...]]:
    """Return what the work gave, and what it said."""
    notes = _Notes()
    try:
        # Paths of a configuration are relative to where the command was started.
        os.chdir(directory)
    except OSError as error:
        return RecordError(
            f"a worker cannot enter {directory} ({error.strerror}): start the command in a directory that all share"
        ), ()
    return _tried(work, notes), tuple(notes.said)


# Opens a place whose jobs a reporter is told of.
Where = Callable[[Reporter], AbstractContextManager[Place]]


@contextmanager
def here(progress: Reporter) -> Iterator[Place]:
    """Open this process: one job after the other."""
    yield Place(progress)


@contextmanager
def in_processes(gpus: Sequence[str], progress: Reporter) -> Iterator[Place]:
    """Open a process of this machine for each of these values of CUDA_VISIBLE_DEVICES.

    Raises:
        ProcessError: if one of them dies.
    """
    # A forked process cannot use a GPU that its parent has looked at.
    context = multiprocessing.get_context("spawn")
    left = context.SimpleQueue()
    for gpu in gpus:
        left.put(gpu)
    pool = ProcessPoolExecutor(len(gpus), context, _take_gpu, (left,))
    try:
        yield Place(progress, pool.submit)
    except BrokenProcessPool as error:
        raise ProcessError(f"a worker process died, perhaps of too little memory. {_AGAIN}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _take_gpu(left: Any) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = left.get()


def visible_gpus(device: str | None) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES is for a process of each GPU; empty where the configuration names a device."""
    if device not in (None, "cuda") or not torch.cuda.is_available():
        return ()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(n) for n in range(torch.cuda.device_count())]
    return tuple(names[: torch.cuda.device_count()])


@contextmanager
def on_ray(address: str, wanted: ResourcesConfig, progress: Reporter) -> Iterator[Place]:
    """Open a Ray cluster: every job is a task that takes the ``wanted`` resources of one node.

    ``address`` is what ``ray.init`` takes; "auto" is the cluster of this machine.

    Raises:
        ConfigError: if Ray is not installed, or there is no cluster.
        ProcessError: if the cluster itself is lost.
    """
    demand_extra("ray", "ray", "--ray")
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    try:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        if port.isdigit():
            # Fails at once where nobody listens; Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process with its stack, and no word of what is saved.
            signal.signal(signal.SIGTERM, handler)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ConfigError(
            f"--ray {address}: no Ray cluster there ({first_line(error)}). Start one (ray start --head), or give its "
            "address; where it asks for a token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = float(any(node.get("GPU", 0) for node in nodes)) if wanted.gpus is None else wanted.gpus
        taken = {"CPU": wanted.cpus, "GPU": gpus, "memory": (wanted.memory or 0) * 1e9}
        if not any(all(node.get(kind, 0) >= amount for kind, amount in taken.items()) for node in nodes):
            progress.note(f"--ray {address}: no node has {_listed(taken)}; tasks wait until one joins that has")
        options = {"num_cpus": wanted.cpus, "num_gpus": gpus, "memory": int(taken["memory"]) or None}
        remote = ray.remote(max_retries=_RETRIES, **options)(_in_worker)
        lost = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
        yield Place(progress, lambda _, *arguments: remote.remote(*arguments).future(), lost)
    except RayTaskError:
        # A mistake of the program, with where it was made.
        raise
    except RayError as error:
        raise ProcessError(f"Ray: {first_line(error)}. {_AGAIN}") from error
    finally:
        ray.shutdown()


def _listed(resources: Mapping[str, float]) -> str:
    units = {"CPU": ("CPUs", 1), "GPU": ("GPUs", 1), "memory": ("GB of memory", 1e9)}
    return ", ".join(f"{amount / units[kind][1]:g} {units[kind][0]}" for kind, amount in resources.items() if amount)
