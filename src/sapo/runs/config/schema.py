"""The keys of a configuration, their defaults and what they allow.

Defaults are the published settings (SAPO, arXiv 2606.01967) unless a comment says why not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sapo.core.types import SourceName
from sapo.runs.config.grid import (
    EwcConfig,
    GuardConfig,
    LwfConfig,
    MethodName,
    OLoraConfig,
    PaftConfig,
    Policy,
    ReplayConfig,
    ReselectConfig,
    SweepConfig,
    WholeConfig,
)
from sapo.runs.config.part import Local, Part, Positive, Seed, names

TestPrompt = Literal["selected", "original", "both"]
Metric = Literal["exact_match", "rouge_l", "list_f1"]
Column = Literal["input", "answer", "instruction", "messages"]


class ModelConfig(Part):
    """Which model to start from."""

    base: str = "embedded"
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None


class TaskConfig(Part):
    """Where the rows of a task of the user's own come from; what is left out is recognised."""

    data: Annotated[str, Field(min_length=1)]
    test: str | None = None
    subset: str | None = None
    instruction: str | None = None
    suffix: str = ""
    columns: dict[Column, str] = Field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    metric: Metric | None = None


class DataConfig(Part):
    """What is done about the rows."""

    drop_overlap: bool = False


class ServerConfig(Part):
    """An OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and from nowhere else."""

    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern="^https?://")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0)] = 60.0
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    max_requests: Positive = 200
    max_tokens: Positive = 200_000


class LocalConfig(Part):
    """A causal LM on this machine; by default the model that is trained, without adapters."""

    model: str | None = None
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0


class CandidatesConfig(Part):
    """Where paraphrases come from; count excludes the original.

    judge: whether the server's model judges each text that passes the other checks.
    """

    sources: tuple[SourceName, ...] | None = None
    file: Local | None = None
    count: Positive = 20
    local: LocalConfig = LocalConfig()
    openai: ServerConfig | None = None
    judge: bool = False

    @property
    def asked(self) -> tuple[SourceName, ...]:
        """The sources in order: the file where there is one, else what needs neither network nor model."""
        return self.sources or (("file",) if self.file is not None else ("builtin", "rules"))

    @model_validator(mode="after")
    def _complete(self) -> CandidatesConfig:
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
        if self.judge and self.openai is None:
            raise ValueError("judge is true, but no server's model is named (candidates.openai.model)")
        if ("openai" in self.asked or self.judge) != (self.openai is not None):
            raise ValueError(
                "sources has openai, but no server's model is named (candidates.openai.model)"
                if self.openai is None
                else f"openai is given, but sources ({', '.join(self.asked)}) lacks openai, and judge is false"
            )
        return self


class SelectionConfig(Part):
    """How the training instruction is chosen."""

    examples: Positive = 250
    rule: Literal["lowest", "confident"] = "lowest"
    # Published: first. The first rows of several tasks hold one label far more often than the rest do.
    sample: Literal["stratified", "first"] = "stratified"
    # Published: exhaustive. Policies that need every loss, and the rule confident, are exhaustive in any case.
    strategy: Literal["racing", "exhaustive"] = "racing"
    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    epsilon: Annotated[float, Field(ge=0)] = 0.01
    budget: Annotated[float, Field(gt=0)] | None = 0.25
    batch_tokens: Positive | None = None
    cache: bool = True


class TrainConfig(Part):
    """How each task is trained."""

    rows: Positive | None = 1000
    epochs: Annotated[float, Field(gt=0, le=1000)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    batch_size: Positive = 64
    micro_batch_size: Positive = 8
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_every: Positive | None = None

    @model_validator(mode="after")
    def _whole_updates(self) -> TrainConfig:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class LoraConfig(Part):
    """The adapter."""

    r: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")


class EvaluateConfig(Part):
    """How the performance matrix is measured; rows: null takes every test row.

    wordings: paraphrases that are held out of the candidates, for testing only; general: whether general ability is
    measured at every stage.
    """

    rows: Positive | None = None
    max_new_tokens: Positive = 128
    test_prompt: TestPrompt = "selected"
    wordings: Annotated[int, Field(ge=0, le=100)] = 0
    general: bool = False


class Config(Part):
    """One run: one sequence x method x policy x seed, in one run directory; or a sweep over several."""

    model: ModelConfig = ModelConfig()
    sequence: Annotated[str | tuple[str, ...], BeforeValidator(names)]
    watch: tuple[str, ...] = ()
    data_dir: Local | None = None
    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    policy: Policy = "sapo"
    method: MethodName = "seq-lora"
    paft: PaftConfig = PaftConfig()
    reselect: ReselectConfig = ReselectConfig()
    o_lora: OLoraConfig = OLoraConfig()
    ewc: EwcConfig = EwcConfig()
    replay: ReplayConfig = ReplayConfig()
    lwf: LwfConfig = LwfConfig()
    osf: WholeConfig = WholeConfig()
    full: WholeConfig = WholeConfig()
    guard: GuardConfig | None = None
    sweep: SweepConfig | None = None
    candidates: CandidatesConfig = CandidatesConfig()
    selection: SelectionConfig = SelectionConfig()
    train: TrainConfig = TrainConfig()
    lora: LoraConfig = LoraConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    # Published: 1536 tokens of prompt and 128 of answer.
    max_length: Positive = 1664
    seed: Seed = 42
    run_dir: Local
    keep: Literal["last", "all"] = "all"
    report_to: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("model"), str):
            data["model"] = {"base": data["model"]}
        if isinstance(data.get("report_to"), str):
            data["report_to"] = [data["report_to"]]
        if isinstance(data.get("tasks"), dict):
            data["tasks"] = {k: {"data": v} if isinstance(v, str) else v for k, v in data["tasks"].items()}
        return data

    @model_validator(mode="after")
    def _checkpoints_are_checked(self) -> Config:
        every = self.train.checkpoint_every
        if self.guard is not None and every is not None and every % self.guard.every:
            raise ValueError(
                f"train.checkpoint_every {every} is not a multiple of guard.every {self.guard.every}: a checkpoint "
                "must be a state that the guard has looked at"
            )
        return self

    @model_validator(mode="after")
    def _room_for_answers(self) -> Config:
        if self.evaluate.max_new_tokens >= self.max_length:
            raise ValueError(
                f"evaluate.max_new_tokens {self.evaluate.max_new_tokens} leaves no room in max_length {self.max_length}"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration of a run as YAML-ready values.

        What is switched off, and what belongs to other methods and policies, is left out: it decides nothing.
        """
        data = self.model_dump(mode="json")
        used = (self.method.replace("-", "_"), self.policy)
        for key in (*_OWN, "guard", "sweep"):
            if key not in used and (key in _OWN or data[key] is None):
                del data[key]
        for key in ("wordings", "general"):
            if not data["evaluate"][key]:
                del data["evaluate"][key]
        if not self.candidates.judge:
            del data["candidates"]["judge"]
        return data


# Parts that only the method or policy of their name reads.
_OWN = ("paft", "reselect", "o_lora", "ewc", "replay", "lwf", "osf", "full")
