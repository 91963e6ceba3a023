"""The keys of a study: transitions, candidates, seeds and arms, and how each training is done and measured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sapo.candidates.settings import CandidateSettings, LocalSettings
from sapo.core.settings import Local, Positive, Seed, Settings
from sapo.models.settings import ModelSettings
from sapo.runs.config.schema import DataConfig, OwnTasks, ResourcesConfig, Some, once
from sapo.training.settings import LoraSettings, Optimiser, TrainSettings


class SgdConfig(Settings):
    """The arm sgd: plain gradient descent, neither warm-up nor decay nor clipping, for which the bound is stated."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1


class StudyConfig(Settings):
    """A study: from the state after each transition's earlier tasks, its last task is trained with every candidate."""

    model: ModelSettings = ModelSettings()
    # Each a list of at least two tasks; the last one is trained with every candidate.
    transitions: Some[tuple[str, ...]]
    unseen: tuple[str, ...] = ()
    data_dir: Local | None = None
    tasks: OwnTasks = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    candidates: CandidateSettings = CandidateSettings(count=8)
    seeds: Some[Seed] = (1, 2, 3)
    arms: Some[Optimiser] = ("adamw",)
    sgd: SgdConfig = SgdConfig()
    # Selection rows that indicators are measured on, and test rows of each task whose losses are the outcomes.
    examples: Positive = 100
    rows: Positive = 100
    # Leave out what costs as much as a small training: gradient norms and training losses; drift on a few rows only.
    lean: bool = False
    scores: bool = False
    max_new_tokens: Positive = 16
    train: TrainSettings = TrainSettings()
    lora: LoraSettings = LoraSettings()
    max_length: Positive = 1664
    run_dir: Local
    resources: ResourcesConfig = ResourcesConfig()

    @field_validator("transitions")
    @classmethod
    def _long_enough(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for transition in value:
            if len(transition) < 2 or len(set(transition)) < len(transition):
                raise ValueError(
                    f"{list(transition)} is not a transition: give two or more different tasks, the studied one last"
                )
        return value

    _once = field_validator("transitions", "seeds", "arms")(once)

    @model_validator(mode="after")
    def _can_be_made(self) -> StudyConfig:
        if self.max_new_tokens >= self.max_length:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} leaves no room in max_length {self.max_length}")
        return self

    @property
    def unread(self) -> tuple[str, ...]:
        """What is set and read by no training, one sentence each without a full stop."""
        unused = sorted({*self.tasks} - {*self.unseen}.union(*self.transitions))
        found = [f"not used: tasks.{name} is in no transition and not in unseen" for name in unused]
        if self.sgd != SgdConfig() and "sgd" not in self.arms:
            found.append("not used: sgd is for arm sgd")
        if self.candidates.local != LocalSettings() and "local" not in self.candidates.asked:
            found.append("not used: candidates.local is for source local")
        return tuple(found)

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration as YAML-ready values; what is switched off is left out."""
        parts = {"candidates": self.candidates.plain(), "model": self.model.plain()}
        left_out = {"resources"} if self.lean else {"resources", "lean"}
        return self.model_dump(mode="json", exclude=left_out) | parts
