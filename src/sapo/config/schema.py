"""The keys of a configuration, their defaults and what they allow.

Defaults are the published settings (SAPO, arXiv 2606.01967) unless a comment says why not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


def _local(path: Path) -> Path:
    """Return the path with the home directory in place of ~, if it is one that a disk can hold."""
    try:
        os.fsencode(path)
        return path.expanduser()
    except (UnicodeError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is no usable path: {error}") from error


Local = Annotated[Path, AfterValidator(_local)]
Positive = Annotated[int, Field(gt=0)]
Policy = Literal["original", "sapo", "random", "highest", "median"]
MethodName = Literal["seq-lora", "inc-lora"]
TestPrompt = Literal["selected", "original", "both"]
SourceName = Literal["file", "builtin", "rules", "local", "openai"]
Metric = Literal["exact_match", "rouge_l", "list_f1"]
Column = Literal["input", "answer", "instruction", "messages"]


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, [*value, *value.values()]))
    return any(map(_holds_nul, value)) if isinstance(value, (list, tuple)) else isinstance(value, str) and "\0" in value


def _names(value: Any) -> Any:
    """Refuse what is neither a name nor a list of names, in one sentence instead of one per union branch."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError(f"{value!r} is neither the name of a sequence nor a list of task names")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse yes and no, which YAML reads as booleans and Python counts as 1 and 0."""
        switch = cls.model_fields[str(info.field_name)].annotation is bool
        if switch and not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        if isinstance(value, bool) and not switch:
            raise ValueError(f"{str(value).lower()} is neither a number nor a text")
        if _holds_nul(value):
            raise ValueError("holds a NUL character")
        return value


class ModelConfig(_Part):
    """Which model to start from."""

    base: str = "embedded"
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None


class TaskConfig(_Part):
    """Where the rows of a task of the user's own come from; what is left out is recognised."""

    data: Annotated[str, Field(min_length=1)]
    test: str | None = None
    subset: str | None = None
    instruction: str | None = None
    suffix: str = ""
    columns: dict[Column, str] = {}
    labels: tuple[str, ...] | None = None
    metric: Metric | None = None


class DataConfig(_Part):
    """What is done about the rows."""

    drop_overlap: bool = False


class ServerConfig(_Part):
    """An OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and from nowhere else."""

    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern="^https?://")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0)] = 60.0
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    max_requests: Positive = 200
    max_tokens: Positive = 200_000


class LocalConfig(_Part):
    """A causal LM on this machine; by default the model that is trained, without adapters."""

    model: str | None = None
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0


class SearchConfig(_Part):
    """Rounds of new candidates after the first selection, each with so many."""

    rounds: Positive = 3
    count: Positive = 8


class CandidatesConfig(_Part):
    """Where paraphrases come from; count excludes the original."""

    sources: tuple[SourceName, ...] | None = None
    file: Local | None = None
    count: Positive = 20
    local: LocalConfig = LocalConfig()
    openai: ServerConfig | None = None
    search: SearchConfig | None = None

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
        if ("openai" in self.asked) != (self.openai is not None):
            raise ValueError(
                "sources has openai, but no server's model is named (candidates.openai.model)"
                if self.openai is None
                else f"openai is given, but sources ({', '.join(self.asked)}) lacks openai"
            )
        if self.search is not None and set(self.asked) <= {"file", "builtin"}:
            raise ValueError(
                f"search needs a source of new candidates (rules, local or openai); sources: {', '.join(self.asked)}"
            )
        return self


class SelectionConfig(_Part):
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


class TrainConfig(_Part):
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


class LoraConfig(_Part):
    """The adapter."""

    r: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")


class EvaluateConfig(_Part):
    """How the performance matrix is measured; rows: null takes every test row."""

    rows: Positive | None = None
    max_new_tokens: Positive = 128
    test_prompt: TestPrompt = "selected"


class Config(_Part):
    """One run: one sequence x method x policy x seed, in one run directory."""

    model: ModelConfig = ModelConfig()
    sequence: Annotated[str | tuple[str, ...], BeforeValidator(_names)]
    watch: tuple[str, ...] = ()
    data_dir: Local | None = None
    tasks: dict[str, TaskConfig] = {}
    data: DataConfig = DataConfig()
    policy: Policy = "sapo"
    method: MethodName = "seq-lora"
    candidates: CandidatesConfig = CandidatesConfig()
    selection: SelectionConfig = SelectionConfig()
    train: TrainConfig = TrainConfig()
    lora: LoraConfig = LoraConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    # Published: 1536 tokens of prompt and 128 of answer.
    max_length: Positive = 1664
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    run_dir: Local
    keep: Literal["last", "all"] = "all"

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("model"), str):
            data["model"] = {"base": data["model"]}
        if isinstance(data.get("tasks"), dict):
            data["tasks"] = {k: {"data": v} if isinstance(v, str) else v for k, v in data["tasks"].items()}
        return data

    @model_validator(mode="after")
    def _search_races(self) -> Config:
        chosen = self.selection
        if self.candidates.search is not None and not (
            self.policy == "sapo" and chosen.rule == "lowest" and chosen.strategy == "racing"
        ):
            raise ValueError(
                "candidates.search needs policy sapo, selection.rule lowest and selection.strategy racing, not "
                f"{self.policy}, {chosen.rule} and {chosen.strategy}"
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
        """Return the resolved configuration as YAML-ready values."""
        return self.model_dump(mode="json")
