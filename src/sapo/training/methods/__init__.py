"""How parameters are updated over a task sequence: one file a method, each a small diff against seq-lora."""

from __future__ import annotations

from collections.abc import Callable

from sapo.training.methods.assignment import Assignment, Objective, Order, Part
from sapo.training.methods.ewc import Ewc, EwcSettings
from sapo.training.methods.full import Full
from sapo.training.methods.inc_lora import IncLora
from sapo.training.methods.lwf import Lwf, LwfSettings
from sapo.training.methods.multitask import Multitask
from sapo.training.methods.o_lora import OLora, OLoraSettings
from sapo.training.methods.osf import Osf
from sapo.training.methods.replay import Replay, ReplaySettings
from sapo.training.methods.seq_lora import LoraSettings, SeqLora
from sapo.training.methods.single import Single

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
