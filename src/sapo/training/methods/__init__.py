"""How parameters are updated over a task sequence: one file a method, each a small diff against seq-lora."""

from __future__ import annotations

from sapo.core.settings import Settings
from sapo.training.methods.ewc import Ewc
from sapo.training.methods.full import Full
from sapo.training.methods.inc_lora import IncLora
from sapo.training.methods.lwf import Lwf
from sapo.training.methods.o_lora import OLora
from sapo.training.methods.osf import Osf
from sapo.training.methods.replay import Replay
from sapo.training.methods.seq_lora import Multitask, SeqLora, Single
from sapo.training.settings import LoraSettings, MethodName

_METHODS = {method.name: method for method in (SeqLora, IncLora, OLora, Ewc, Replay, Lwf, Osf, Full, Multitask, Single)}


def make_method(name: MethodName, lora: LoraSettings, own: Settings | None = None) -> SeqLora:
    """Return a method by name; settings of its own that are left out are at their defaults."""
    return _METHODS[name](lora, own)
