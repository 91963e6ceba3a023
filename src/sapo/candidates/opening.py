"""From the names of sources to the sources, and the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sapo.candidates.builtin import Builtin
from sapo.candidates.demonstrations import Demonstrations
from sapo.candidates.files import FromFile
from sapo.candidates.kept import replies_directory
from sapo.candidates.local import Local
from sapo.candidates.rules.source import Rules
from sapo.candidates.settings import CandidateSettings
from sapo.candidates.source import Source
from sapo.core.errors import demand_extra
from sapo.models.settings import ModelSettings

if TYPE_CHECKING:
    from sapo.candidates.server import ServerJudge


def open_sources(
    settings: CandidateSettings, model: ModelSettings, seed: int, tell: Callable[[str], None]
) -> tuple[tuple[Source, ...], ServerJudge | None]:
    """Return sources in the order of their names, and the judge if asked for; nothing is read, loaded or asked yet.

    Args:
        settings: which sources, and where they are.
        model: writes for "local" where the settings name no other.
        seed: of what language models reply.
        tell: hears what the user should know while a server is asked.

    Raises:
        CandidateError: if the server's URL is not one, or its key is missing.
    """
    local, replies = settings.local, replies_directory()
    writer = model.model_copy(update={"base": local.model or model.base, "adapter": None})
    opened: dict[str, Source] = {
        "builtin": Builtin(), "rules": Rules(), "demonstrations": Demonstrations(settings.longest),
        "local": Local(writer, local.temperature, seed, replies),
    }  # fmt: skip
    if settings.file is not None:
        opened["file"] = FromFile(settings.file, "file" if settings.check else "unchecked")
    judge = None
    if settings.openai is not None:
        demand_extra("openai", "server", "a server that writes candidates")
        from sapo.candidates.client import Client
        from sapo.candidates.server import Server, ServerJudge

        client = Client(settings.openai, replies, tell)
        opened["openai"] = Server(client, seed)
        judge = ServerJudge(client) if settings.judge else None
    return tuple(opened[name] for name in settings.asked), judge
