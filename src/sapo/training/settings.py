"""What decides a training: frozen settings, each a part of the configuration. Light to import, for configurations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sapo.core.settings import NotNegative, Positive, Settings

Optimiser = Literal["adamw", "sgd"]
Policy = Literal[
    "original", "sapo", "random", "highest", "median", "per-example", "paft", "reselect", "pure", "fixed"
]  # fmt: skip
MethodName = Literal[
    "seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single"
]  # fmt: skip


class TrainSettings(Settings):
    """How one task is trained; optimiser (AdamW) and schedule start afresh with every task.

    Attributes:
        rows: training rows that are used; None for all.
        epochs: passes over the training rows; may be a fraction.
        learning_rate: peak; linear warm-up over ``warmup`` of the steps, linear decay to 0.
        batch_size: examples per update.
        micro_batch_size: examples per forward pass; changes memory and speed, not the update.
        warmup: share of the steps.
        weight_decay: of AdamW.
        max_grad_norm: gradient clipping.
        checkpoint_every: updates between two checkpoints of an unfinished training; None for none.
    """

    rows: Positive | None = 1000
    epochs: Annotated[float, Field(gt=0, le=1000)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    batch_size: Positive = 64
    micro_batch_size: Positive = 8
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NotNegative = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_every: Positive | None = None

    @model_validator(mode="after")
    def _whole_updates(self) -> TrainSettings:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


def _layers(value: Any) -> Any:
    if value and isinstance(value, (str, list, tuple)) and all(name and isinstance(name, str) for name in value):
        return value if isinstance(value, str) else tuple(value)
    raise ValueError(f"{value!r} is neither a list of names of layers nor a pattern of their paths nor all-linear")


class LoraSettings(Settings):
    """Hu et al. 2021, arXiv 2106.09685; defaults as published for SAPO."""

    r: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    # Names of layers; or, as for peft, a pattern of their paths, or "all-linear".
    target_modules: Annotated[tuple[str, ...] | str, BeforeValidator(_layers)] = ("q_proj", "v_proj")


class OLoraSettings(Settings):
    """How strongly overlap is punished.

    Attributes:
        weight: lambda, as in SAPO's published settings.
        normalise: take the mean over the entries of all products instead of their sum, so that the same weight
            means the same for any rank, number of tasks and number of modules.
    """

    weight: NotNegative = 0.5
    normalise: bool = False


class EwcSettings(Settings):
    """How weights are held.

    Attributes:
        weight: lambda.
        gamma: how much of the earlier Fisher matrix is kept when a task is added.
        examples: rows that the Fisher matrix of a task is estimated from, at most.
        labels: "gold" takes the rows' own answers (the empirical Fisher); "sampled" takes, at every supervised
            position, a token drawn from the model's own prediction after the row's own tokens.
    """

    weight: NotNegative = 1000.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.9
    examples: Positive = 200
    labels: Literal["gold", "sampled"] = "gold"


class ReplaySettings(Settings):
    """How much is kept and how much it counts.

    Attributes:
        buffer: rows kept.
        share: of the old rows in the loss; also their number, as a share of an update's new rows.
    """

    buffer: Positive = 200
    share: Annotated[float, Field(ge=0, lt=1)] = 0.2


class LwfSettings(Settings):
    """How strongly the teacher counts.

    Attributes:
        weight: lambda.
        temperature: T, by which both models' logits are divided.
    """

    weight: NotNegative = 1.0
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 2.0


class PaftSettings(Settings):
    """Policy paft: updates between two draws."""

    steps: Positive = 4


class ReselectSettings(Settings):
    """Policy reselect: updates between two choices (an epoch where left out), among how many, on how many rows."""

    every: Positive | None = None
    k: Positive = 3
    rows: Annotated[int, Field(ge=2)] = 50


class GuardSettings(Settings):
    """The forgetting guard.

    Attributes:
        every: updates between two looks.
        rows: stored training rows of each task that is watched.
        limit: what a loss may rise by, in nats per token.
        action: "stop" ends the training with the last weights that were within the limit.
    """

    every: Positive = 20
    rows: Annotated[int, Field(ge=2)] = 32
    limit: NotNegative = 0.1
    action: Literal["warn", "stop"] = "warn"
