"""From the names of sources to the sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sapo.candidates.builtin import Builtin
from sapo.candidates.files import FromFile
from sapo.candidates.kept import replies_directory
from sapo.candidates.local import Local, LocalSettings
from sapo.candidates.rules.source import Rules
from sapo.candidates.source import Source
from sapo.core.errors import CandidateError
from sapo.core.types import SourceName

if TYPE_CHECKING:
    from sapo.candidates.server import ServerSettings

T = TypeVar("T")


def open_sources(
    names: Sequence[SourceName],
    *,
    file: Path | None,
    local: LocalSettings,
    server: ServerSettings | None,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[Source, ...]:
    """Return sources in the order of their names; nothing is read, loaded or asked yet.

    Args:
        names: in order of preference.
        file: for "file".
        local: for "local".
        server: for "openai".
        seed: of what language models reply.
        tell: hears what the user should know while a server is asked.

    Raises:
        CandidateError: if what a source needs is missing.
    """
    replies = replies_directory()
    opened: list[Source] = []
    for name in names:
        if name == "file":
            opened.append(FromFile(_given(file, "source file", "the path of a file (candidates.file)")))
        elif name == "builtin":
            opened.append(Builtin())
        elif name == "rules":
            opened.append(Rules())
        elif name == "local":
            opened.append(Local(local, seed, replies))
        else:
            from sapo.candidates.server import Server

            opened.append(
                Server(_given(server, "source openai", "a model (candidates.openai.model)"), seed, replies, tell)
            )
    return tuple(opened)


def _given(value: T | None, what: str, needs: str) -> T:
    if value is None:
        raise CandidateError(f"{what} needs {needs}")
    return value
