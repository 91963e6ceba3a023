"""One validated, frozen configuration at the edge; rooms inside take flat parameters."""

from __future__ import annotations

from sapo.config.loading import load_config, load_study, make_config
from sapo.config.schema import Config, TaskConfig
from sapo.config.study import StudyConfig

__all__ = ["Config", "StudyConfig", "TaskConfig", "load_config", "load_study", "make_config"]
