"""Settings: frozen, validated values that rooms take and that a configuration is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sapo.core.errors import nearest

# What a value must be, by pydantic's name of the error.
_KINDS: Mapping[str, str] = MappingProxyType({
    "tuple_type": "a list",
    "path_type": "a path",
    "string_type": "a text",
    "int_type": "a whole number",
    "dict_type": "a mapping",
})  # fmt: skip
# Parts of a place that are pydantic's own: a mapping's key, and a branch of what may be a text or a list.
_BRANCHES = ("[key]", "str")
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


def explained(model: type[BaseModel], item: Any, name: str = "") -> str:
    """Return one line for one error of pydantic's: key, value and what is allowed; ``name`` is that of the whole."""
    location = item["loc"]
    key = (
        ".".join([*filter(None, [name]), *(str(part) for part in location if part not in _BRANCHES)]) or "configuration"
    )
    if item["type"] == "extra_forbidden":
        fields = _fields(model, location[:-1])
        return f"{key}: unknown key.{nearest(str(location[-1]), fields)} Allowed here: {', '.join(fields)}"
    if item["type"] == "missing":
        return f"{key}: missing"
    if item["type"] == "literal_error":
        allowed = [part.strip(" '") for part in item["ctx"]["expected"].replace(" or ", ", ").split(",")]
        # Another number is another setting: 3bit is no misspelling of 8bit.
        given = str(item["input"])
        near = [name for name in allowed if [*filter(str.isdigit, name)] == [*filter(str.isdigit, given)]]
        return f"{key} = {item['input']!r:.200}: allowed: {', '.join(allowed)}.{nearest(given, near)}"
    if item["type"].startswith("model_"):
        fields = _fields(model, location)
        return f"{key} = {item['input']!r:.200}: must be a mapping with some of these keys: {', '.join(fields)}"
    if item["type"] == "too_short":
        return f"{key} is an empty list: give at least one entry, or leave it out"
    if item["type"] in _KINDS:
        return f"{key} = {item['input']!r:.200}: must be {_KINDS[item['type']]}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key} = {item['input']!r:.200}: {message[0].lower()}{message[1:]}"


def _fields(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    parts = iter(location)
    for part in parts:
        inner = model.model_fields[str(part)].annotation
        if get_origin(inner) is dict and next(parts, None) is not None:
            # One level down: the user's name of the thing.
            inner = get_args(inner)[1]
        # A part that may be left out.
        inner = next((one for one in get_args(inner) if isinstance(one, type) and issubclass(one, BaseModel)), inner)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
