"""What is kept between passes, within a bound, and what was used at most."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size

from sapo.models.passes import Prefix

T = TypeVar("T")

# Most bytes of keys and values kept between calls. One candidate takes 45 KiB per prefix token with 135M
# parameters in float32, 128 KiB with 8B in bfloat16: so some twenty candidates of 500 tokens.
KEPT_BYTES = {"cpu": 512 << 20}
KEPT_BYTES_ACCELERATOR = 2 << 30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; only CUDA's allocator has an exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


def unless_out_of_memory(act: Callable[[], T]) -> T | None:
    """Return what ``act`` gives, or None where memory ran out; what it held is free again by then."""
    try:
        return act()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


class Kept:
    """Prefixes by their owner, the least recently used dropped when they exceed the bound.

    An owner that is gone takes its prefix along.

    ``limit`` is in bytes; a prefix that is larger alone is not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._prefixes: WeakKeyDictionary[object, Prefix] = WeakKeyDictionary()

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return sum(prefix.bytes for prefix in self._prefixes.values())

    def find(self, owner: object) -> Prefix | None:
        """Return the owner's prefix, now the most recently used, or None."""
        prefix = self._prefixes.pop(owner, None)
        if prefix is not None:
            self._prefixes[owner] = prefix
        return prefix

    def keep(self, owner: object, prefix: Prefix) -> None:
        """Keep a prefix for its owner, as far as the bound allows."""
        self._prefixes[owner] = prefix
        while self.bytes > self.limit:
            self.drop(next(iter(self._prefixes.keys())))

    def drop(self, owner: object) -> None:
        """Forget the owner's prefix, if there is one."""
        self._prefixes.pop(owner, None)

    def only(self, used: Prefix | None) -> bool:
        """Forget all prefixes but the one in use, and return whether there were others."""
        others = [owner for owner, prefix in self._prefixes.items() if prefix is not used]
        for owner in others:
            self.drop(owner)
        return bool(others)


def peak_memory() -> int | None:
    """Return the most bytes in use at one time, or None where the system does not tell.

    On CUDA, bytes allocated on this process's devices since `reset_peak_memory`; elsewhere the largest resident
    memory of this process since it began, everything included.
    """
    if torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    if sys.platform == "linux":
        # What getrusage tells there is also that of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
    if sys.platform == "win32":
        return None
    import resource

    # macOS counts bytes, others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Start counting anew where that is possible."""
    if torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
