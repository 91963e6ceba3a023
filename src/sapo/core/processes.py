"""Several processes on one job, as torchrun and accelerate start them; one process where nothing else is said.

Every process runs the same code. The first one reads what the user gave and writes the run directory; rows to
score and to answer are shared out; training is data parallel. A process that dies takes the job with it: the
launcher ends the others, and what was finished is in the run directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sapo.core.errors import ConfigError, SapoError, ToldError

T = TypeVar("T")

# The others wait while the first process gathers candidates, which may take a server hours. A process that
# dies is noticed at once whatever this is.
_PATIENCE = timedelta(hours=12)
_SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this job, seen from one of them.

    Attributes:
        count: how many there are.
    """

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and speaks."""
        return self.rank == 0

    def share(self, rows: Sequence[int]) -> list[int]:
        """Return this process's part of the rows; rows sorted by length make even parts."""
        return list(rows[self.rank :: self.count])

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank; all processes must ask."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def once(self, act: Callable[[], T]) -> T:
        """Return what ``act`` gives in the first process, in all of them.

        Raises:
            SapoError: as ``act`` did; ToldError in the other processes.
        """
        found: T = self.gather(self.together(lambda: act() if self.first else None))[0]  # type: ignore[assignment]
        return found

    def together(self, act: Callable[[], T]) -> T:
        """Return what ``act`` gives in this process, once it has succeeded in all of them.

        Raises:
            SapoError: in the first process, if ``act`` raised one anywhere; ToldError in the others.
        """
        if self.count == 1:
            return act()
        failure: SapoError | None = None
        result: Any = None
        try:
            result = act()
        except SapoError as error:
            failure = error
        failed = [(rank, found) for rank, found in enumerate(self.gather(failure)) if found is not None]
        if not failed:
            return result  # type: ignore[no-any-return]
        rank, reason = failed[0]
        if not self.first:
            raise ToldError(str(reason))
        raise reason if rank == 0 else type(reason)(f"process {rank}: {reason}")

    def device(self, wanted: str) -> str:
        """Return the device of this process, where "cuda" alone means one each."""
        return f"cuda:{os.environ['LOCAL_RANK']}" if self.count > 1 and wanted == "cuda" else wanted

    def telling(self, advance: Callable[[int], None], total: int) -> Callable[[int], None]:
        """Return what turns the progress of this process's share into that of the ``total``."""
        if self.count == 1:
            return advance
        return in_proportion(advance, total, len(self.share(range(total))))


def in_proportion(advance: Callable[[int], None], total: int, parts: int) -> Callable[[int], None]:
    """Return what turns the progress of ``parts`` rows into that of ``total`` rows, which others or duplicates are."""
    done = 0

    def tell(rows: int) -> None:
        nonlocal done
        before, done = done, done + rows
        advance(total * done // parts - total * before // parts)

    return tell


ALONE = Processes(rank=0, count=1)


def launched() -> Processes:
    """Return what the launcher says about this process, without contacting the others.

    Raises:
        ConfigError: if the launcher was asked to share out the model's weights.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        return ALONE
    sharded = [name for variable, name in _SHARDED.items() if os.environ.get(variable, "").lower() == "true"]
    if sharded:
        raise ConfigError(
            f"{sharded[0]} was asked for: allowed is plain data parallelism, every process with the whole model. "
            "Use torchrun, or an accelerate configuration without it."
        )
    return Processes(int(os.environ["RANK"]), count)


def join(device: str | None) -> Processes:
    """Return the processes of this job, connected.

    Args:
        device: "cpu" to use the CPU though there is an accelerator.
    """
    processes = launched()
    if processes.count > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    return processes


def joined() -> bool:
    """Whether this process is connected to others."""
    # Without torch loaded there is no connection, and loading it would take seconds.
    return "torch.distributed" in sys.modules and bool(sys.modules["torch.distributed"].is_initialized())


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process of this job has gone."""
    import torch.distributed as dist

    # gloo, which connects CPUs, has no exception of its own.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def leave() -> None:
    """Close the connection to the other processes, where there is one."""
    if joined():
        import torch.distributed as dist

        dist.destroy_process_group()
