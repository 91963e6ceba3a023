"""Workers to hand trainings to: a process for each GPU of this machine, or a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from sapo.core.errors import ConfigError, ProcessError
from sapo.experiments.study.crew import Submit

# Seconds within which a cluster must answer.
_PATIENCE = 20
_AGAIN = "What was finished is recorded; start the same command again to go on."


def visible_gpus(device: str | None) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES is for a process of each GPU; none where the configuration names a device."""
    if device not in (None, "cuda") or not torch.cuda.is_available():
        return ()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(n) for n in range(torch.cuda.device_count())]
    return tuple(names[: torch.cuda.device_count()])


@contextmanager
def in_processes(visible: tuple[str, ...]) -> Iterator[Submit]:
    """Yield what hands calls to a process for each of these values of CUDA_VISIBLE_DEVICES.

    Raises:
        ProcessError: if one of them dies.
    """
    # A forked process cannot use a GPU that its parent has looked at.
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()
    for device in visible:
        devices.put(device)
    pool = ProcessPoolExecutor(len(visible), context, _take_device, (devices,))
    try:
        yield pool.submit
    except BrokenProcessPool as error:
        raise ProcessError(f"a process of this study died, for want of memory perhaps. {_AGAIN}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _take_device(devices: Any) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()


@contextmanager
def on_ray(address: str) -> Iterator[Submit]:
    """Yield what hands calls to a Ray cluster, each as a task with one GPU, or with one CPU where it has no GPUs.

    Args:
        address: as ``ray.init`` takes it; "auto" is the cluster of this machine.

    Raises:
        ConfigError: if Ray is not installed, or there is no cluster.
        ProcessError: if a worker dies again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray: pip install 'sapo-llm[ray]'") from error
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).split("\n")[0]
        raise ConfigError(
            f"--ray {address}: no Ray cluster there ({first}). Start one (ray start --head), or give its address"
        ) from error
    try:
        resources = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) else {"num_cpus": 1}

        def submit(work: Any, *arguments: Any) -> Any:
            # A function that a worker fails in raises what it raised there; one whose worker dies is tried again.
            return ray.remote(**resources)(work).remote(*arguments).future()

        yield submit
    except ray.exceptions.RayError as error:
        raise ProcessError(f"Ray: {str(error).strip().splitlines()[0]}. {_AGAIN}") from error
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Fail at once where nobody listens at ``host:port``; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
