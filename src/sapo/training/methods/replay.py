"""Experience replay: some rows of earlier tasks are trained on again, worded as they were then.

Rolnick et al. 2019, arXiv 1811.11682; the buffer is filled by reservoir sampling (Vitter 1985, algorithm R), so
that every row seen so far is in it with the same probability.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from sapo.core.types import Encoded
from sapo.models.batches import pad, supervised_positions
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import Objective, Part
from sapo.training.schedule import Training
from sapo.training.settings import ReplaySettings

_BUFFER = "replay.json"


class Replay(SeqLora):
    """Minimises (1 - share) * NLL of the new rows + share * NLL of old ones, both per supervised token."""

    name = "replay"
    remembers = True
    _own: ReplaySettings = ReplaySettings()

    def objective(self, model: Any, training: Training) -> Objective | None:
        """Return the mixture; where nothing was learned before, there is nothing to replay."""
        buffer = [] if training.before is None else _read(training.before / _BUFFER)[1]
        if not buffer:
            return None
        share = self._own.share
        # At least one, so that a share of 0 is a mixture like any other.
        count = min(len(buffer), max(1, round(share * training.batch_size)))

        def mixed(loss: torch.Tensor, part: Part) -> torch.Tensor:
            random = np.random.default_rng([training.seed, training.stage, part.step])
            drawn = [buffer[i] for i in random.permutation(len(buffer))[:count]]
            mine, seed = drawn[part.number :: part.parts], int(random.integers(2**31)) + part.number
            old = _nll(part.model, mine, seed) if mine else torch.zeros_like(loss)
            mixture: torch.Tensor = (1 - share) * loss + share * old / sum(row.supervised for row in drawn)
            return mixture

        return mixed

    def finish(self, model: Any, training: Training, directory: Path) -> Any:
        """As for seq-lora, with the buffer, which has now seen this task's rows."""
        model = super().finish(model, training, directory)
        seen, buffer = (0, []) if training.before is None else _read(training.before / _BUFFER)
        random = np.random.default_rng([training.seed, training.stage])
        order = [training.rows[i] for i in random.permutation(len(training.rows))]
        kept = reservoir(buffer, seen, order, self._own.buffer, random)
        rows = [{"ids": list(row.ids), "prompt_length": row.prompt_length} for row in kept]
        stored = json.dumps({"seen": seen + len(order), "rows": rows})
        (directory / _BUFFER).write_text(f"{stored}\n", encoding="utf-8")
        return model


def reservoir(
    buffer: Sequence[Encoded], seen: int, rows: Sequence[Encoded], size: int, random: np.random.Generator
) -> list[Encoded]:
    """Return the buffer after ``rows`` came by, of which, and of the ``seen`` before them, each stays alike likely."""
    kept = list(buffer)
    for number, row in enumerate(rows, start=seen):
        if len(kept) < size:
            kept.append(row)
        elif (place := int(random.integers(number + 1))) < size:
            kept[place] = row
    return kept


def _nll(model: Any, rows: Sequence[Encoded], seed: int) -> torch.Tensor:
    """Return the summed NLL of rows; dropout draws from a state of its own, which the new rows' does not notice."""
    ids, labels = (x.to(model.device) for x in pad([r.ids for r in rows], [r.prompt_length for r in rows]))
    keep, targets = supervised_positions(labels)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    return cross_entropy(logits.float(), targets, reduction="sum")


def _read(path: Path) -> tuple[int, list[Encoded]]:
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["seen"], [Encoded(tuple(row["ids"]), row["prompt_length"]) for row in stored["rows"]]
