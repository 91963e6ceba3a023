"""Settings: frozen, validated values that rooms take and that a configuration is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# What a value must be, by pydantic's name of the error.
KINDS: Mapping[str, str] = MappingProxyType({
    "tuple_type": "a list",
    "path_type": "a path",
    "string_type": "a text",
    "int_type": "a whole number",
    "dict_type": "a mapping",
})  # fmt: skip
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(text: str) -> str:
    """Return a path with the home directory in place of ~ and values in place of environment variables.

    Raises:
        ValueError: if a variable is not set, or a user is not known.
    """
    found = os.path.expandvars(text)
    if (unset := _VARIABLE.search(found)) is not None:
        raise ValueError(f"{text!r} names the environment variable {unset.group()}, which is not set")
    found = os.path.expanduser(found)
    if found.startswith("~"):
        raise ValueError(f"{text!r} names the home of a user that is not known here")
    return found


def _local(path: Path) -> Path:
    """Return the path expanded, if it is one that a disk can hold."""
    try:
        os.fsencode(path)
        return Path(expanded(str(path)))
    except (UnicodeError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is not a usable path: {error}") from error


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, [*value, *value.values()]))
    return any(map(_holds_nul, value)) if isinstance(value, (list, tuple)) else isinstance(value, str) and "\0" in value


def names(value: Any) -> Any:
    """Refuse what is neither a name nor a list of names, in one sentence instead of one per union branch."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError(f"{value!r} is neither the name of a sequence nor a list of task names")


Local = Annotated[Path, AfterValidator(_local)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Settings(BaseModel):
    """A mapping with known keys only, frozen: where a room takes settings, they are a part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse yes and no, which YAML reads as booleans and Python counts as 1 and 0."""
        switch = cls.model_fields[str(info.field_name)].annotation is bool
        if switch and not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        if isinstance(value, bool) and not switch:
            raise ValueError(f"{str(value).lower()} is not allowed here; docs/config.md says what is")
        if _holds_nul(value):
            raise ValueError("holds a NUL character")
        return value
