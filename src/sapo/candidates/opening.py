"""From the names of sources to the sources, and the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sapo.candidates.builtin import Builtin
from sapo.candidates.files import FromFile
from sapo.candidates.kept import replies_directory
from sapo.candidates.local import Local, LocalSettings
from sapo.candidates.rules.source import Rules
from sapo.candidates.source import Source
from sapo.core.errors import CandidateError
from sapo.core.types import SourceName

if TYPE_CHECKING:
    from sapo.candidates.client import ServerSettings
    from sapo.candidates.server import ServerJudge


def open_sources(
    names: Sequence[SourceName],
    *,
    file: Path | None,
    local: LocalSettings,
    server: ServerSettings | None,
    judge: bool = False,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[tuple[Source, ...], ServerJudge | None]:
    """Return sources in the order of their names, and the judge; nothing is read, loaded or asked yet.

    Args:
        names: in order of preference.
        file: for "file".
        local: for "local".
        server: for "openai" and the judge, which share its limits.
        judge: whether a model on that server judges what passes all other checks.
        seed: of what language models reply.
        tell: hears what the user should know while a server is asked.

    Raises:
        CandidateError: if what a source needs is missing.
    """
    if ("openai" in names or judge) and server is None:
        raise CandidateError("source openai and the judge need a model (candidates.openai.model)")
    if "file" in names and file is None:
        raise CandidateError("source file needs the path of a file (candidates.file)")
    opened: dict[str, Source] = {
        "builtin": Builtin(), "rules": Rules(), "local": Local(local, seed, replies_directory()),
    }  # fmt: skip
    if file is not None:
        opened["file"] = FromFile(file)
    judging = None
    if server is not None:
        from sapo.candidates.client import Client
        from sapo.candidates.server import Server, ServerJudge

        client = Client(server, replies_directory(), tell)
        opened["openai"] = Server(client, seed)
        judging = ServerJudge(client) if judge else None
    return tuple(opened[name] for name in names), judging
