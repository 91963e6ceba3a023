"""Replies kept on disk: what was paid for once is not asked for again.

One file a request. Its name is the hash of everything the reply depends on, the number of the request among it,
so twenty equal requests stay twenty. A key is never part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sapo.core.errors import RecordError
from sapo.core.storage import fingerprint, read_json, write_json

_FORMAT = 1


class Kept:
    """Texts by the request that brought them; threads may share it. A directory that cannot be used keeps nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, request: Mapping[str, Any]) -> str | None:
        """Return the text that this request brought, or None where it is not known or its file is damaged."""
        with suppress(RecordError, KeyError, TypeError):
            text = read_json(self._path(request))["text"]
            return text if isinstance(text, str) else None
        return None

    def keep(self, request: Mapping[str, Any], text: str) -> None:
        """Keep a text; where that is not possible, nothing is lost but the chance to have it for nothing later."""
        with suppress(RecordError):
            write_json(self._path(request), {"text": text})

    def _path(self, request: Mapping[str, Any]) -> Path:
        return self._directory / f"{fingerprint([_FORMAT, dict(request)])}.json"
