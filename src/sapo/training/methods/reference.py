"""What a sequence is compared with: all tasks at once, and each task alone."""

from __future__ import annotations

from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Order


class Multitask(SeqLora):
    """As many updates as the sequence would take, on the rows of all tasks mixed; only the final row is defined.

    What a sequence could reach if nothing had to be remembered.
    """

    name = "multitask"
    order: Order = "joint"


class Single(SeqLora):
    """One model for each task, from the start; only the diagonal of the performance matrix is defined.

    What a task reaches if nothing was learned before it.
    """

    name = "single"
    order: Order = "apart"
