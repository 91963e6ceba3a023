"""SAPO: State-Adaptive Prompt Optimization for fine-tuning.

    selection = sapo.select(model, tokenizer, task, candidates)   # which instruction fits the model's state
    results = sapo.run(config)                                    # a whole task sequence

Names are imported on first use, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapo.config import Config as Config
    from sapo.config import load_config as load_config
    from sapo.config import make_config as make_config
    from sapo.errors import SapoError as SapoError
    from sapo.integrations.sequence import Sequence as Sequence
    from sapo.model import embedded_model_dir as embedded_model_dir
    from sapo.model import load_model as load_model
    from sapo.results import Results as Results
    from sapo.selection import select as select
    from sapo.sequence import run as run
    from sapo.stage import apply as apply
    from sapo.tasks import hold_out as hold_out
    from sapo.tasks import load_sequence as load_sequence
    from sapo.tasks import load_task as load_task
    from sapo.types import Example as Example
    from sapo.types import Instruction as Instruction
    from sapo.types import Selection as Selection
    from sapo.types import Task as Task

__version__ = "0.1.0.dev0"

_HOMES = {
    "Config": "sapo.config",
    "Example": "sapo.types",
    "Instruction": "sapo.types",
    "Results": "sapo.results",
    "SapoError": "sapo.errors",
    "Selection": "sapo.types",
    "Sequence": "sapo.integrations.sequence",
    "Task": "sapo.types",
    "apply": "sapo.stage",
    "embedded_model_dir": "sapo.model",
    "hold_out": "sapo.tasks",
    "load_config": "sapo.config",
    "load_model": "sapo.model",
    "load_sequence": "sapo.tasks",
    "load_task": "sapo.tasks",
    "make_config": "sapo.config",
    "run": "sapo.sequence",
    "select": "sapo.selection",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sapo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
