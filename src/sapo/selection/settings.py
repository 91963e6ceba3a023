"""How an instruction is chosen. Light to import, for configurations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sapo.core.settings import NotNegative, Positive, Settings
from sapo.core.types import Rule, Sample, Strategy


class TrialSettings(Settings):
    """How the leading candidates are tried, for rule "trial"; see `sapo.training.trial`.

    Attributes:
        updates: that each is trained for.
        leading: candidates that are tried: the original, and those with the lowest losses.
        rows: that are measured of each task, at most.
        budget: most that a trial may cost, as a share of the cost of training; None for no limit.
    """

    updates: Positive = 8
    leading: Annotated[int, Field(ge=2)] = 4
    rows: Annotated[int, Field(ge=2)] = 64
    budget: Annotated[float, Field(gt=0)] | None = None


class SelectionSettings(Settings):
    """How the training instruction is chosen.

    Attributes:
        examples: selection rows, at most.
        rule: see `sapo.select`; "confident" needs every loss, so it is never raced for.
        trial: what rule "trial" does.
        sample: how the rows are drawn. Published: first. The first rows of several tasks hold one label far more often
            than the rest do.
        strategy: "racing", or "exhaustive": every candidate on every row. Published: exhaustive.
        delta: see `sapo.selection.race`.
        epsilon: see `sapo.selection.race`, in nats per token.
        budget: most that a race may cost, as a share of the cost of training; None for no limit.
        batch_tokens: tokens of a forward pass; None leaves it to the scorer.
        cache: whether losses are kept across runs.
    """

    examples: Positive = 250
    rule: Rule = "lowest"
    trial: TrialSettings = TrialSettings()
    sample: Sample = "stratified"
    strategy: Strategy = "racing"
    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    epsilon: NotNegative = 0.01
    budget: Annotated[float, Field(gt=0)] | None = 0.1
    batch_tokens: Positive | None = None
    cache: bool = True

    @property
    def races(self) -> bool:
        """Whether candidates race."""
        return self.strategy == "racing" and self.rule != "confident"
