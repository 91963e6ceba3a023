"""Keys of methods and policies, each under its own name, and of sweeps over them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from sapo.runs.config.part import NotNegative, Part, Positive, Seed, names

Policy = Literal["original", "sapo", "random", "highest", "median", "per-example", "paft", "reselect"]
MethodName = Literal[
    "seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single"
]  # fmt: skip
Rate = Annotated[float, Field(gt=0, le=1)]


class OLoraConfig(Part):
    """Method o-lora. Published for SAPO: weight 0.5, not normalised."""

    weight: NotNegative = 0.5
    normalise: bool = False


class EwcConfig(Part):
    """Method ewc."""

    weight: NotNegative = 1000.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.9
    examples: Positive = 200
    labels: Literal["gold", "sampled"] = "gold"


class ReplayConfig(Part):
    """Method replay."""

    buffer: Positive = 200
    share: Annotated[float, Field(ge=0, lt=1)] = 0.2


class LwfConfig(Part):
    """Method lwf."""

    weight: NotNegative = 1.0
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 2.0


class WholeConfig(Part):
    """Methods full and osf, which train the model's own weights: often at a lower rate than an adapter."""

    learning_rate: Rate | None = None


class PaftConfig(Part):
    """Policy paft: updates between two draws."""

    steps: Positive = 4


class ReselectConfig(Part):
    """Policy reselect: updates between two choices (an epoch where left out), among how many, on how many rows."""

    every: Positive | None = None
    k: Positive = 3
    rows: Annotated[int, Field(ge=2)] = 50


class GuardConfig(Part):
    """The forgetting guard: what is watched how often, and what a loss may rise by, in nats per token."""

    every: Positive = 20
    rows: Annotated[int, Field(ge=2)] = 32
    limit: NotNegative = 0.1
    action: Literal["warn", "stop"] = "warn"


class SweepConfig(Part):
    """Runs side by side: every combination of these; what is left out stays as it is."""

    seed: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    policy: Annotated[tuple[Policy, ...], Field(min_length=1)] | None = None
    method: Annotated[tuple[MethodName, ...], Field(min_length=1)] | None = None
    sequence: (
        Annotated[
            tuple[Annotated[str | tuple[str, ...], BeforeValidator(names)], ...],
            Field(min_length=1),
        ]
        | None
    ) = None

    @field_validator("*")
    @classmethod
    def _once(cls, value: Any) -> Any:
        twice = [item for n, item in enumerate(value or ()) if item in value[:n]]
        if twice:
            raise ValueError(f"{twice[0]} is listed twice")
        return value
