"""Where candidates come from. Light to import, for configurations."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sapo.core.settings import Local, Positive, Settings
from sapo.core.types import SourceName


class ServerSettings(Settings):
    """An OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and from nowhere else.

    Attributes:
        model: its name on that server.
        base_url: such as "http://localhost:8000/v1"; None is OPENAI_BASE_URL where that is set, else OpenAI's own.
        temperature: of sampling.
        timeout: seconds without a sign of life from the server.
        concurrency: requests at a time.
        max_requests: of a run, over all its tasks, attempts included that came to nothing.
        max_tokens: likewise, of prompts and replies together.
    """

    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern="^https?://")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0)] = 60.0
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    max_requests: Positive = 200
    max_tokens: Positive = 200_000


class LocalSettings(Settings):
    """A causal LM on this machine.

    Attributes:
        model: by default the one that is trained, without adapters.
        temperature: of sampling.
    """

    model: str | None = None
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0


class CandidateSettings(Settings):
    """Where paraphrases come from.

    Attributes:
        sources: in order of preference; None leaves it to `asked`.
        file: of the user's own candidates, for "file".
        check: whether that file's texts are checked; if not, they only have to be texts that differ.
        count: paraphrases wanted, the original not among them.
        longest: characters of a text of "demonstrations", at most.
        local: for "local".
        openai: for "openai" and the judge, which share its limits.
        judge: whether the server's model judges each text that passes the other checks.
    """

    sources: tuple[SourceName, ...] | None = None
    file: Local | None = None
    check: bool = True
    count: Positive = 20
    longest: Positive = 2000
    local: LocalSettings = LocalSettings()
    openai: ServerSettings | None = None
    judge: bool = False

    @property
    def asked(self) -> tuple[SourceName, ...]:
        """The sources in order: the file where there is one, else what needs neither network nor model."""
        return self.sources or (("file",) if self.file is not None else ("builtin", "rules"))

    def plain(self) -> dict[str, Any]:
        """Return the settings as YAML-ready values, without those that are switched off: they decide nothing."""
        off = {
            "judge": not self.judge, "check": self.check, "longest": "demonstrations" not in self.asked,
        }  # fmt: skip
        return self.model_dump(mode="json", exclude={name for name, is_off in off.items() if is_off})

    @model_validator(mode="after")
    def _complete(self) -> CandidateSettings:
        if self.sources == ():
            raise ValueError("sources is empty: name at least one, or leave it out")
        twice = [name for n, name in enumerate(self.asked) if name in self.asked[:n]]
        if twice:
            raise ValueError(f"sources names {twice[0]} twice")
        if ("file" in self.asked) != (self.file is not None):
            raise ValueError(
                "sources has file, but no file is given (candidates.file)"
                if self.file is None
                else f"file {self.file} is given, but sources ({', '.join(self.asked)}) lacks file"
            )
        if not self.check and self.file is None:
            raise ValueError("check is false, which is for the texts of a file, but no file is given (candidates.file)")
        if self.judge and self.openai is None:
            raise ValueError("judge is true, but no server's model is named (candidates.openai.model)")
        if self.judge and not {"rules", "local", "openai", *(["file"] if self.check else [])} & {*self.asked}:
            raise ValueError(f"judge is true, but texts of {', '.join(self.asked)} are not judged: leave it out")
        if ("openai" in self.asked or self.judge) != (self.openai is not None):
            raise ValueError(
                "sources has openai, but no server's model is named (candidates.openai.model)"
                if self.openai is None
                else f"openai is given, but sources ({', '.join(self.asked)}) lacks openai, and judge is false"
            )
        return self
