"""The committed texts and checks, written for this library so that no corpus holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from sapo.core.storage import fingerprint
from sapo.models.ability.rules import follows

# Most tokens of a reply: all that is asked for is short.
REPLY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Check:
    """A request whose fulfilment can be seen from the reply alone.

    Attributes:
        instruction: what is asked for.
        text: what it is asked about.
        suffix: the form that is asked for.
        rules: what the reply must look like, see `sapo.models.ability.rules`.
    """

    instruction: str
    text: str
    suffix: str
    rules: Mapping[str, Any]

    def passes(self, reply: str) -> bool:
        """Return whether a reply keeps all the rules."""
        return follows(reply, self.rules)


@cache
def texts() -> Mapping[str, str]:
    """Return the passages by their kind, of 40 to 140 words each."""
    return MappingProxyType(_load("texts"))


@cache
def checks() -> tuple[Check, ...]:
    """Return the checks, in the order of their replies."""
    return tuple(Check(**check) for check in _load("checks"))


def ability_units() -> int:
    """Return what `advance` will be told in total: one for each passage and one for each check."""
    return len(texts()) + len(checks())


def ability_fingerprint() -> str:
    """Return a hash of texts and checks: results under another one are not comparable."""
    return fingerprint([list(texts().items()), [asdict(check) for check in checks()], REPLY_TOKENS])


def _load(name: str) -> Any:
    return json.loads(files("sapo.models.ability").joinpath(f"{name}.json").read_text(encoding="utf-8"))
