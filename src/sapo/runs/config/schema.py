"""The keys of a configuration, their defaults and what they allow.

Defaults are the published settings (SAPO, arXiv 2606.01967) unless a comment says why not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sapo.candidates.settings import CandidateSettings
from sapo.core.settings import Local, NotNegative, Positive, Seed, Settings, names
from sapo.core.types import Rule
from sapo.models.settings import ModelSettings
from sapo.selection.settings import SelectionSettings
from sapo.tasks.own import DataSource
from sapo.training.settings import (
    EwcSettings,
    GuardSettings,
    LoraSettings,
    LwfSettings,
    MethodName,
    OLoraSettings,
    PaftSettings,
    Policy,
    ReplaySettings,
    ReselectSettings,
    TrainSettings,
)

TestPrompt = Literal["selected", "original", "both"]


def _one_text(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _only_data(given: Any) -> Any:
    return {"data": given} if isinstance(given, str) else given


# The user's own tasks by name; a text alone is where the rows are.
OwnTasks = dict[str, Annotated[DataSource, BeforeValidator(_only_data)]]


class DataConfig(Settings):
    """What is done about the rows: left out are those that are also tested, and those whose answer is too long."""

    drop_overlap: bool = False
    drop_long: bool = False


class EvaluateConfig(Settings):
    """How the performance matrix is measured; rows: null takes every test row.

    wordings: paraphrases that are held out of the candidates, for testing only; general: whether general ability is
    measured at every stage.
    """

    rows: Positive | None = None
    max_new_tokens: Positive = 128
    test_prompt: TestPrompt = "selected"
    wordings: Annotated[int, Field(ge=0, le=100)] = 0
    general: bool = False


Rate = Annotated[float, Field(gt=0, le=1)]


class WholeConfig(Settings):
    """Methods full and osf, which train the model's own weights: often at a lower rate than an adapter."""

    learning_rate: Rate | None = None


class SweepConfig(Settings):
    """Runs side by side: every combination of these; what is left out stays unchanged."""

    seed: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    policy: Annotated[tuple[Policy, ...], Field(min_length=1)] | None = None
    rule: Annotated[tuple[Rule, ...], Field(min_length=1)] | None = None
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


class ResourcesConfig(Settings):
    """What one run takes of a Ray cluster; decides nothing, so it is no part of what is recorded.

    gpus: None is one where the cluster has any; a share lets several runs use one. memory: in GB.
    """

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: NotNegative | None = None
    memory: Annotated[float, Field(gt=0)] | None = None


class Config(Settings):
    """One run: one sequence x method x policy x seed, in one run directory; or a sweep over several."""

    model: ModelSettings = ModelSettings()
    sequence: Annotated[str | tuple[str, ...], BeforeValidator(names)]
    watch: tuple[str, ...] = ()
    data_dir: Local | None = None
    tasks: OwnTasks = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    policy: Policy = "sapo"
    method: MethodName = "seq-lora"
    paft: PaftSettings = PaftSettings()
    reselect: ReselectSettings = ReselectSettings()
    o_lora: OLoraSettings = OLoraSettings()
    ewc: EwcSettings = EwcSettings()
    replay: ReplaySettings = ReplaySettings()
    lwf: LwfSettings = LwfSettings()
    osf: WholeConfig = WholeConfig()
    full: WholeConfig = WholeConfig()
    guard: GuardSettings | None = None
    sweep: SweepConfig | None = None
    candidates: CandidateSettings = CandidateSettings()
    selection: SelectionSettings = SelectionSettings()
    train: TrainSettings = TrainSettings()
    lora: LoraSettings = LoraSettings()
    evaluate: EvaluateConfig = EvaluateConfig()
    # Published: 1536 tokens of prompt and 128 of answer.
    max_length: Positive = 1664
    seed: Seed = 42
    run_dir: Local
    keep: Literal["last", "all"] = "all"
    report_to: Annotated[tuple[str, ...], BeforeValidator(_one_text)] = ()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        every = self.train.checkpoint_every
        if self.guard is not None and every is not None and every % self.guard.every:
            raise ValueError(
                f"train.checkpoint_every {every} is not a multiple of guard.every {self.guard.every}: a checkpoint "
                "must be a state that the guard has looked at"
            )
        if self.evaluate.max_new_tokens >= self.max_length:
            raise ValueError(
                f"evaluate.max_new_tokens {self.evaluate.max_new_tokens} leaves no room in max_length {self.max_length}"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration of a run as YAML-ready values.

        What is switched off, and what belongs to other methods and policies, is left out: it decides nothing.
        """
        data = self.model_dump(mode="json", exclude={"resources"})
        used = (self.method.replace("-", "_"), self.policy)
        for key in (*_OWN, "guard", "sweep"):
            if key not in used and (key in _OWN or data[key] is None):
                del data[key]
        for key in ("wordings", "general"):
            if not data["evaluate"][key]:
                del data["evaluate"][key]
        if self.selection.rule != "trial":
            del data["selection"]["trial"]
        return data | {"candidates": self.candidates.plain(), "model": self.model.plain()}


# Parts that only the method or policy of their name reads.
_OWN = ("paft", "reselect", "o_lora", "ewc", "replay", "lwf", "osf", "full")
