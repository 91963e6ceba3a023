"""From the names of sources to the sources, and the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sapo.candidates.demonstrations import demonstrations
from sapo.candidates.files import candidates_file
from sapo.candidates.local import Local
from sapo.candidates.rules.rewrite import rewrites
from sapo.candidates.settings import CandidateSettings
from sapo.candidates.source import Ready, Source
from sapo.core.errors import demand_extra
from sapo.core.storage import cache_directory, fingerprint
from sapo.core.types import Origin, Task
from sapo.core.untrusted import folded
from sapo.models.settings import ModelSettings
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases

if TYPE_CHECKING:
    from sapo.candidates.server import ServerJudge


def _hand_written(task: Task) -> tuple[str, ...]:
    # By what they rewrite, whatever the task is called: under its name may stand another instruction.
    name = _read("hand_written").get(fingerprint(folded(task.instruction)), "")
    return builtin_paraphrases(name) if name in BUILTIN else tuple(_read("published").get(name, ()))


@cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("sapo.candidates").joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return content


# 20 texts for the instruction of each built-in task and of each in the published sequences.
HAND_WRITTEN: Source = Ready("builtin", _hand_written)
# Rewrites of the instruction, most varied first: nothing is loaded, asked for or paid for.
RULES: Source = Ready("rules", lambda task: rewrites(task.instruction, task.labels), parted=True)


def open_sources(
    settings: CandidateSettings, model: ModelSettings, seed: int, tell: Callable[[str], None]
) -> tuple[tuple[Source, ...], ServerJudge | None]:
    """Return sources in the order of their names, and the judge if asked for; nothing is read, loaded or asked yet.

    Args:
        settings: which sources, and where they are.
        model: writes for "local" where the settings name no other.
        seed: of what language models reply.
        tell: is told what the user should know while a server is asked.

    Raises:
        CandidateError: if the server's URL is not one, or its key is missing.
    """
    local, replies = settings.local, cache_directory("replies")
    writer = model.model_copy(update={"base": local.model or model.base, "adapter": None})
    opened: dict[str, Source] = {
        "builtin": HAND_WRITTEN, "rules": RULES, "demonstrations": demonstrations(settings.longest),
        "local": Local(writer, local.temperature, seed, replies),
    }  # fmt: skip
    if (path := settings.file) is not None:
        origin: Origin = "file" if settings.check else "unchecked"
        opened["file"] = Ready(origin, lambda task: candidates_file(path, task.name))
    judge = None
    if settings.openai is not None:
        demand_extra("openai", "server", "a server that writes candidates")
        from sapo.candidates.client import Client
        from sapo.candidates.server import Server, ServerJudge

        client = Client(settings.openai, replies, tell)
        opened["openai"] = Server(client, seed)
        judge = ServerJudge(client) if settings.judge else None
    return tuple(opened[name] for name in settings.asked), judge
