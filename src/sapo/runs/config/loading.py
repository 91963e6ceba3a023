"""From a YAML file and overrides to a configuration; all that is wrong with it in one message."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sapo.core.errors import ConfigError
from sapo.core.settings import explained
from sapo.runs.config.schema import Config
from sapo.runs.config.study import StudyConfig

_Model = TypeVar("_Model", bound=BaseModel)
# PyYAML's own constructors fail on broken values of explicit types, such as `!!int` alone, in their own ways.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, IndexError, KeyError, AttributeError)


class _Strict(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would keep the last one, and the first would vanish."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = self.construct_object(key, deep=True), key.start_mark.line + 1
            if isinstance(name, Hashable) and key.tag != "tag:yaml.org,2002:merge":
                if name in seen:
                    raise ConfigError(f"the key {name!r} is given twice, in lines {seen[name]} and {line}: keep one")
                seen[name] = line
        return super().construct_mapping(node, deep)


def load_config(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a YAML file with ``key=value`` overrides, dots for nesting.

    Raises:
        ConfigError: naming every unknown key and impossible value in one message.
    """
    return make_config(_read(Path(path), overrides))


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Return the configuration of a study, likewise."""
    return _validated(StudyConfig, _read(path, overrides))


def _read(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8-sig"), _Strict)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from error
    except _NOT_YAML as error:
        raise ConfigError(f"config {path} is not YAML: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"config {path} holds a {type(data).__name__}: allowed is a mapping of keys to values")
    # A run directory's config.yaml also says how the rest of it is written.
    data.pop("format", None)
    data.setdefault("run_dir", str(Path("runs") / path.stem))
    for override in overrides:
        _apply(data, override)
    return data


def make_config(data: dict[str, Any]) -> Config:
    """Return the configuration of plain values.

    Raises:
        ConfigError: as in `load_config`.
    """
    return _validated(Config, data)


def _validated(model: type[_Model], data: dict[str, Any]) -> _Model:
    for key, kind, command in (("transitions", Config, "study"), ("sequence", StudyConfig, "run")):
        if model is kind and isinstance(data, dict) and key in data:
            raise ConfigError(f"the configuration has the key {key}: it is one for `sapo {command}`")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A list that only what is wrong with its entries makes too short is not.
        items = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        lines = dict.fromkeys(explained(model, item) for item in items)
        raise ConfigError("the configuration cannot be run:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} must have the form key=value, such as train.epochs=1")
    *parents, last = key.split(".")
    if parents[:1] == ["model"] and isinstance(data.get("model"), str):
        data["model"] = {"base": data["model"]}
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a single value and has no keys")
    if " #" in value and not value.lstrip().startswith(("'", '"')):
        raise ConfigError(
            f"override {override!r}: YAML takes what follows ' #' for a comment. Put the value in quotes of its own: "
            f"{key}='\"...\"'"
        )
    try:
        data[last] = yaml.load(value, _Strict)  # noqa: S506 - a SafeLoader
    except _NOT_YAML as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from error
