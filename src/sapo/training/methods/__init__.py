"""How parameters are updated over a task sequence: one file a method, each a small diff against seq-lora."""

from __future__ import annotations

from sapo.training.methods.ewc import Ewc
from sapo.training.methods.full import Full
from sapo.training.methods.inc_lora import IncLora
from sapo.training.methods.lwf import Lwf
from sapo.training.methods.o_lora import OLora
from sapo.training.methods.osf import Osf
from sapo.training.methods.reference import Multitask, Single
from sapo.training.methods.replay import Replay
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.settings import EwcSettings, LoraSettings, LwfSettings, MethodName, OLoraSettings, ReplaySettings


def make_method(
    name: MethodName,
    lora: LoraSettings,
    *,
    o_lora: OLoraSettings | None = None,
    ewc: EwcSettings | None = None,
    replay: ReplaySettings | None = None,
    lwf: LwfSettings | None = None,
) -> SeqLora:
    """Return a method by name; settings of its own that are left out are at their defaults."""
    methods = (
        SeqLora(lora), IncLora(lora), OLora(lora, o_lora or OLoraSettings()), Ewc(lora, ewc or EwcSettings()),
        Replay(lora, replay or ReplaySettings()), Lwf(lora, lwf or LwfSettings()),
        Osf(lora), Full(lora), Multitask(lora), Single(lora),
    )  # fmt: skip
    return next(method for method in methods if method.name == name)
