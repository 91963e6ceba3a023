"""How parameters are updated over a task sequence: one file a method, each a small diff against seq-lora."""

from __future__ import annotations

from sapo.methods.inc_lora import IncLora
from sapo.methods.seq_lora import LoraSettings, SeqLora

METHODS: dict[str, type[SeqLora]] = {"seq-lora": SeqLora, "inc-lora": IncLora}

__all__ = ["METHODS", "IncLora", "LoraSettings", "SeqLora"]
