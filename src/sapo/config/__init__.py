"""One validated, frozen configuration at the edge; rooms inside take flat parameters."""

from __future__ import annotations

from sapo.config.loading import load_config, make_config
from sapo.config.schema import Config, TaskConfig

__all__ = ["Config", "TaskConfig", "load_config", "make_config"]
