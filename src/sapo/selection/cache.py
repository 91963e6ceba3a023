"""Losses of candidates that were computed before, in this run or in another one.

A candidate's losses depend on the model's state and on the token ids alone, which hold data, template,
instruction, suffix and length limit. So these are the key, and nothing that is found under it can be stale.
What could move the last digits (device, library versions, number of processes) is in the key too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

from sapo.core.errors import RecordError
from sapo.core.processes import ALONE, Processes
from sapo.core.storage import Stored, read_json, write_json
from sapo.core.types import Encoded, Floats

# Of a few kilobytes each. The oldest half goes when there are more.
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Found(Stored):
    """One candidate's losses by example, in nats, what they had cost, and by which route of `sapo.models.losses`."""

    nll: Floats
    seconds: float
    route: str


class LossCache:
    """Losses under one state of one model.

    ``directory`` is made when something is kept; one that cannot be used keeps nothing. ``state`` is the fingerprint of
    the model's state, ``device`` what losses are computed on.
    """

    def __init__(self, directory: Path, state: str, device: str, processes: Processes = ALONE) -> None:
        self._directory = directory
        versions = f"{torch.__version__} {transformers.__version__} {peft.__version__}"
        self._state = f"2 {state} {device} {versions} {processes.count}"
        self._processes = processes

    def find(self, encoded: Sequence[Encoded]) -> Found | None:
        """Return the losses of these examples, or None if they are not known."""
        return self._processes.once(lambda: self._read(self._path(encoded), len(encoded)))

    def keep(self, encoded: Sequence[Encoded], found: Found) -> None:
        """Keep the losses of these examples; where that is not possible, nothing is lost but time."""
        self._processes.once(lambda: self._write(self._path(encoded), found))

    def _path(self, encoded: Sequence[Encoded]) -> Path:
        digest = hashlib.sha256(self._state.encode())
        for example in encoded:
            digest.update(np.array([example.prompt_length, len(example.ids), *example.ids], dtype=np.int64).tobytes())
        return self._directory / f"{digest.hexdigest()[:40]}.json"

    def _read(self, path: Path, examples: int) -> Found | None:
        try:
            found = Found.from_json(read_json(path))
        except (RecordError, ValueError):
            return None
        sound = found.nll.shape == (examples,) and np.isfinite([*found.nll, found.seconds]).all()
        return found if sound else None

    def _write(self, path: Path, found: Found) -> None:
        with suppress(RecordError, OSError):
            files = list(self._directory.glob("*"))
            if len(files) > _MOST:
                files.sort(key=lambda file: file.stat().st_mtime)
                for old in files[: len(files) // 2]:
                    old.unlink(missing_ok=True)
            write_json(path, found.to_json())
