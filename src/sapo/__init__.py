"""SAPO: State-Adaptive Prompt Optimization for fine-tuning.

    selection = sapo.select(model, tokenizer, data, instruction="...")   # which instruction fits the model's state
    dataset = selection.apply(dataset)                                   # train with it
    result = sapo.run(config)                                            # a whole task sequence

Names are imported on first use, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapo.core.errors import SapoError as SapoError
    from sapo.core.types import Example as Example
    from sapo.core.types import Instruction as Instruction
    from sapo.core.types import Task as Task
    from sapo.integrations.check import check as check
    from sapo.integrations.loop import TaskSequence as TaskSequence
    from sapo.models.load import embedded_model_dir as embedded_model_dir
    from sapo.models.load import load_model as load_model
    from sapo.runs.config.loading import load_config as load_config
    from sapo.runs.config.loading import make_config as make_config
    from sapo.runs.config.schema import Config as Config
    from sapo.runs.results import RunResult as RunResult
    from sapo.runs.stage import Stage as Stage
    from sapo.runs.stage import apply as apply
    from sapo.runs.stage import load_stage as load_stage
    from sapo.selection.selection import Selection as Selection
    from sapo.sequence import run as run
    from sapo.tasks.holdout import hold_out as hold_out
    from sapo.tasks.load import load_sequence as load_sequence
    from sapo.tasks.load import load_task as load_task
    from sapo.training.select import score as score
    from sapo.training.select import select as select

__version__ = "0.1.0"

_HOMES = {
    "Config": "sapo.runs.config.schema",
    "Example": "sapo.core.types",
    "Instruction": "sapo.core.types",
    "RunResult": "sapo.runs.results",
    "SapoError": "sapo.core.errors",
    "Selection": "sapo.selection.selection",
    "Stage": "sapo.runs.stage",
    "TaskSequence": "sapo.integrations.loop",
    "Task": "sapo.core.types",
    "apply": "sapo.runs.stage",
    "check": "sapo.integrations.check",
    "embedded_model_dir": "sapo.models.load",
    "hold_out": "sapo.tasks.holdout",
    "load_config": "sapo.runs.config.loading",
    "load_model": "sapo.models.load",
    "load_stage": "sapo.runs.stage",
    "load_sequence": "sapo.tasks.load",
    "load_task": "sapo.tasks.load",
    "make_config": "sapo.runs.config.loading",
    "run": "sapo.sequence",
    "score": "sapo.training.select",
    "select": "sapo.training.select",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sapo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)
