"""Everything that can go wrong because of what the user gave us.

Every message names the thing, the value found and what is allowed, and says what to do next.

    SapoError               base of all; the command line prints it without a traceback and exits with 2
    ├── ConfigError         an unknown key, an impossible value, two settings that contradict each other
    ├── DataError           a task, file, row or column that cannot be used
    ├── CandidateError      candidate instructions that cannot be used
    ├── ModelError          a model, tokenizer or adapter that cannot be loaded or used
    ├── RenderError         a prompt that cannot be rendered, or does not fit the model's context
    ├── ScoreError          a loss that is not a finite number
    ├── TrainError          training that diverged
    ├── MetricError         a metric asked of a matrix that lacks the cells for it
    ├── SweepError          a sweep some of whose runs failed
    ├── ProcessError        another process of the same job that ended
    └── RecordError         a run directory that cannot be written, read, or belongs to another run
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class SapoError(Exception):
    """Base class of the errors that a user can act on."""


class ConfigError(SapoError):
    """A configuration that cannot be run."""


class DataError(SapoError):
    """Task data that cannot be used."""


class CandidateError(SapoError):
    """Candidate instructions that cannot be used."""


class ModelError(SapoError):
    """A model, tokenizer or adapter that cannot be used."""


class RenderError(SapoError):
    """A prompt that cannot be rendered for this model."""


class ScoreError(SapoError):
    """A pre-update loss that is not finite, or a row that does not fit the memory."""


class TrainError(SapoError):
    """Training that diverged."""


class MetricError(SapoError):
    """A metric asked of a matrix that does not define it."""


class SweepError(SapoError):
    """A sweep some of whose runs failed; the others were finished."""


class ProcessError(SapoError):
    """Another process of the same job ended, so that this one cannot continue."""


class RecordError(SapoError):
    """A run directory that cannot be used."""


def demand_extra(module: str, extra: str, what: str) -> None:
    """Refuse what needs a package of an extra that is not installed.

    Raises:
        ConfigError: naming the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}, which is not installed: pip install 'sapo-llm[{extra}]'")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or ``""`` where none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
