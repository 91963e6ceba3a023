"""Each task alone, from the start: what a task reaches if nothing was learned before it."""

from __future__ import annotations

from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Order


class Single(SeqLora):
    """One model for each task; only the diagonal of the performance matrix is defined."""

    name = "single"
    order: Order = "apart"
