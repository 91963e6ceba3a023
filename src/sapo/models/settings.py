"""Which model. Light to import, for configurations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from sapo.core.settings import Settings


class ModelSettings(Settings):
    """Which model, see `sapo.models.load.load_model`.

    Attributes:
        base: "embedded", a directory or a hub id.
        adapter: a LoRA adapter that is merged into it first.
        dtype: of the weights; None is the one they are stored in.
        device: None is the best there is.
    """

    base: str = "embedded"
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"base": given} if isinstance(given, str) else given
