"""Everything that can go wrong because of what the user gave us.

Every message names the thing, the value found and what is allowed, and says what to do next.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping

# Failures that are named.
_LISTED = 5


class SapoError(Exception):
    """Base of all: the command line prints it without a traceback and exits with 2."""


class ConfigError(SapoError):
    """An unknown key, an impossible value, or two settings that contradict each other."""


class DataError(SapoError):
    """A task, file, row or column that cannot be used."""


class CandidateError(SapoError):
    """Candidate instructions that cannot be used."""


class ModelError(SapoError):
    """A model, tokenizer or adapter that cannot be used."""


class RenderError(SapoError):
    """A prompt that cannot be rendered, or does not fit the model's context."""


class ScoreError(SapoError):
    """A pre-update loss that is not finite, or a row that does not fit the memory."""


class TrainError(SapoError):
    """Training that diverged, or cannot be done on this device."""


class SweepError(SapoError):
    """A sweep some of whose runs failed, or a study some of whose trainings did; the others were finished."""

    def __init__(self, failed: Mapping[str, str], count: int, what: str) -> None:
        (name, why), names = next(iter(failed.items())), list(failed)
        listed = ", ".join([*names[:_LISTED], *([f"{len(names) - _LISTED} more"] if len(names) > _LISTED else [])])
        others = "; the others are finished" if len(failed) < count else ""
        super().__init__(f"{len(failed)} of {count} {what} failed ({listed}){others}. {name}: {why}")


class ProcessError(SapoError):
    """Another process of the same job ended, so that this one cannot continue."""


class ToldError(SapoError):
    """What the first process of a job raised and tells, in the others."""


class RecordError(SapoError):
    """A run directory that cannot be written, read, or belongs to another run."""


def demand_extra(module: str, extra: str, what: str) -> None:
    """Refuse what needs a package of an extra that is not installed.

    Raises:
        ConfigError: naming the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{what} needs {module}, which is not installed: in a checkout of SAPO, pip install '.[{extra}]'"
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or ``""`` where none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def demand_number(name: str, value: object, least: int = 1) -> None:
    """Refuse an argument that is no whole number, or a smaller one than ``least``."""
    if not isinstance(value, int) or value < least:
        raise DataError(f"{name} = {value!r:.80}: allowed is a whole number, {least} or more")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    lines = str(error).strip().splitlines()
    if not lines or isinstance(error, (KeyError, TypeError, AttributeError)):
        # What these say is about the library's own code.
        return ": ".join([type(error).__name__, *lines[:1]])
    return lines[0]
