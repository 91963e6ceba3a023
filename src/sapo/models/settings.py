"""Which model. Light to import, for configurations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from sapo.core.settings import Settings

EMBEDDED = "embedded"
Quantization = Literal["4bit", "8bit"]
DeviceMap = Literal["auto"]


class ModelSettings(Settings):
    """Which model: what `sapo.models.load.load_model` takes, with ``base`` as its name."""

    base: str = EMBEDDED
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    quantization: Quantization | None = None
    device_map: DeviceMap | None = None
    attention: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"base": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_place(self) -> ModelSettings:
        if self.device is not None and self.device_map is not None:
            raise ValueError(f"device {self.device} and device_map {self.device_map}: give only one of them")
        return self

    def plain(self) -> dict[str, Any]:
        """Return it as YAML-ready values; how a large model is held is left out where it is held as usual."""
        data = self.model_dump(mode="json")
        large = ("quantization", "device_map", "attention")
        return {key: value for key, value in data.items() if value is not None or key not in large}
