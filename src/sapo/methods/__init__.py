"""How parameters are updated over a task sequence: one file a method, each a small diff against seq-lora."""

from __future__ import annotations

from collections.abc import Callable

from sapo.methods.assignment import Assignment, Objective, Order, Part
from sapo.methods.ewc import Ewc, EwcSettings
from sapo.methods.full import Full
from sapo.methods.inc_lora import IncLora
from sapo.methods.lwf import Lwf, LwfSettings
from sapo.methods.multitask import Multitask
from sapo.methods.o_lora import OLora, OLoraSettings
from sapo.methods.osf import Osf
from sapo.methods.replay import Replay, ReplaySettings
from sapo.methods.seq_lora import LoraSettings, SeqLora
from sapo.methods.single import Single

# By name, each with its own settings at their defaults.
METHODS: dict[str, Callable[[LoraSettings], SeqLora]] = {
    "seq-lora": SeqLora,
    "inc-lora": IncLora,
    "o-lora": OLora,
    "ewc": Ewc,
    "replay": Replay,
    "lwf": Lwf,
    "osf": Osf,
    "full": Full,
    "multitask": Multitask,
    "single": Single,
}

__all__ = [
    "METHODS",
    "Assignment",
    "Ewc",
    "EwcSettings",
    "Full",
    "IncLora",
    "LoraSettings",
    "Lwf",
    "LwfSettings",
    "Multitask",
    "OLora",
    "OLoraSettings",
    "Objective",
    "Order",
    "Osf",
    "Part",
    "Replay",
    "ReplaySettings",
    "SeqLora",
    "Single",
]
