"""Joint training on all tasks at once: what a sequence could reach if nothing had to be remembered."""

from __future__ import annotations

from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Order


class Multitask(SeqLora):
    """As many updates as the sequence would take, on the rows of all tasks mixed; only the final row is defined."""

    name = "multitask"
    order: Order = "joint"
