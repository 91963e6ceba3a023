"""The keys of a configuration, their defaults and what they allow.

Defaults are the published settings (SAPO, arXiv 2606.01967) unless a comment says why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sapo.candidates.settings import CandidateSettings
from sapo.core.errors import nearest
from sapo.core.settings import Local, NotNegative, Positive, Seed, Settings, names
from sapo.core.types import Rule
from sapo.models.settings import ModelSettings
from sapo.runs.prompts import CROSSED, NONE, ORIGINAL, OWN, Prompt
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


def once(value: Any) -> Any:
    """Refuse a list that names something twice."""
    if twice := [item for n, item in enumerate(value or ()) if item in value[:n]]:
        raise ValueError(f"{twice[0]} is listed twice")
    return value


def _one_text(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _only_data(given: Any) -> Any:
    return {"data": given} if isinstance(given, str) else given


# The name of a sequence, or its tasks in order.
TaskNames = Annotated[str | tuple[str, ...], BeforeValidator(names)]
_Entry = TypeVar("_Entry")
# A list with at least one entry.
Some = Annotated[tuple[_Entry, ...], Field(min_length=1)]
# The user's own tasks by name; a text alone is where the rows are.
OwnTasks = dict[str, Annotated[DataSource, BeforeValidator(_only_data)]]


class DataConfig(Settings):
    """What is done about the rows: left out are those that are also tested, and those whose answer is too long."""

    drop_overlap: bool = False
    drop_long: bool = False


class HeldOut(Settings):
    """Test prompts that are paraphrases held out of the candidates: each task is tested with them at its last stage."""

    wordings: int = 4


def _prompt(given: Any) -> Any:
    if given == "wordings":
        return HeldOut()
    if isinstance(given, Mapping) and set(given) == {"wordings"}:
        number = given["wordings"]
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 100:
            raise ValueError(f"wordings: {number!r}: allowed is a number from 1 to 100, or wordings alone")
        return HeldOut(wordings=number)
    known = (OWN, ORIGINAL, NONE, "wordings")
    allowed = f"allowed: {', '.join(known)}, wordings: N, or the text of an instruction"
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{given!r} is not a test prompt; {allowed}")
    given = given.strip()
    # A single word that is nearly one of the names was hardly meant as an instruction.
    close = nearest(given, known)
    if given not in known and (given in (CROSSED, "selected", "both") or (close and len(given.split()) == 1)):
        raise ValueError(f"{given!r} is not a test prompt.{close} {allowed[0].upper()}{allowed[1:]}")
    return given


def _prompts(given: Any) -> Any:
    """Return test prompts, refused in one sentence instead of one per branch of the union."""
    found = tuple(map(_prompt, given if isinstance(given, (list, tuple)) else [given]))
    if not found or isinstance(found[0], HeldOut):
        raise ValueError(f"the first test prompt is that of the main matrix: give {OWN}, {ORIGINAL}, {NONE} or a text")
    once(["wordings" if isinstance(one, HeldOut) else one for one in found])
    return found


class EvaluateConfig(Settings):
    """How the performance matrix is measured; rows: null takes every test row.

    prompts: what tasks are tested with, that of the main matrix first; general: whether general ability is measured at
    every stage.
    """

    rows: Positive | None = None
    max_new_tokens: Positive = 128
    prompts: Annotated[tuple[Prompt | HeldOut, ...], BeforeValidator(_prompts)] = (OWN,)
    general: bool = False

    @property
    def texts(self) -> tuple[Prompt, ...]:
        """The test prompts that are one text for a task, that of the main matrix first."""
        return tuple(one for one in self.prompts if isinstance(one, str))

    @property
    def wordings(self) -> int:
        """Number of paraphrases that are held out of the candidates, for testing only."""
        return sum(one.wordings for one in self.prompts if isinstance(one, HeldOut))


Rate = Annotated[float, Field(gt=0, le=1)]


class WholeConfig(Settings):
    """Methods full and osf, which train the model's own weights: often at a lower rate than an adapter."""

    learning_rate: Rate | None = None


def _texts(given: Any) -> Any:
    """Refuse what is neither a text nor a mapping of tasks to texts, in one sentence too."""
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else list(given.values()) if isinstance(given, Mapping) else [None]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"{given!r} is neither a text nor a mapping of tasks to texts; for no instruction: policy pure"
        )
    return given


class SweepConfig(Settings):
    """Runs side by side: every combination of these; what is left out stays unchanged."""

    seed: Some[Seed] | None = None
    policy: Some[Policy] | None = None
    rule: Some[Rule] | None = None
    method: Some[MethodName] | None = None
    sequence: Some[TaskNames] | None = None

    _once = field_validator("*")(once)


class ResourcesConfig(Settings):
    """What one run takes of a Ray cluster; decides nothing, so it is no part of what is recorded.

    gpus: None is one where the cluster has any; a share lets several runs use one. memory: in GB.
    """

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: NotNegative | None = None
    memory: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResourcesConfig:
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus {self.gpus:g}: Ray gives shares of one GPU, or whole ones")
        return self


class Config(Settings):
    """One run: one sequence x method x policy x seed, in one run directory; or a sweep over several."""

    model: ModelSettings = ModelSettings()
    sequence: TaskNames
    watch: tuple[str, ...] = ()
    data_dir: Local | None = None
    tasks: OwnTasks = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    policy: Policy = "sapo"
    fixed: Annotated[str | dict[str, str] | None, BeforeValidator(_texts)] = None
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
        for key, listed in self.sweep or ():
            part, name = (self.selection, "selection.rule") if key == "rule" else (self, key)
            given, needed = getattr(part, key), key == "sequence"
            if listed and (given not in listed if needed else key in part.model_fields_set):
                do = "give one of its entries here" if needed else f"leave {name} out"
                raise ValueError(
                    f"{name} = {given!r} is not used: sweep.{key} lists what is run. Change that, and {do}"
                )
        every = self.train.checkpoint_every
        if self.guard is not None and every is not None and every % self.guard.every:
            raise ValueError(
                f"train.checkpoint_every {every} is not a multiple of guard.every {self.guard.every}: a checkpoint "
                "must be a state that the guard has looked at"
            )
        whole = {"full", "osf"} & set((self.sweep and self.sweep.method) or (self.method,))
        if whole and self.model.quantization:
            raise ValueError(
                f"model.quantization {self.model.quantization}: method {min(whole)} trains the model's own "
                "weights, and quantised weights have no gradient. Leave it out, or take methods that train an adapter, "
                "such as seq-lora"
            )
        asked = "fixed" in ((self.sweep and self.sweep.policy) or (self.policy,))
        if asked and self.fixed is None:
            raise ValueError(
                'policy fixed needs its text: give fixed: "an instruction", or fixed: {TASK: "an instruction"}'
            )
        if self.fixed is not None and not asked:
            raise ValueError(f"fixed = {self.fixed!r}: only policy fixed reads it. Set policy: fixed, or leave it out")
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
        if not self.evaluate.general:
            del data["evaluate"]["general"]
        if self.selection.rule != "trial":
            del data["selection"]["trial"]
        return data | {"candidates": self.candidates.plain(), "model": self.model.plain()}


# Parts that only the method or policy of their name reads.
_OWN = ("fixed", "paft", "reselect", "o_lora", "ewc", "replay", "lwf", "osf", "full")
