"""What is kept of a finished run: what it found and what it was tested on, in the units of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sapo.core.errors import RecordError
from sapo.runs.results import NLL, PRIMARY, Prompt

FORMAT: Literal[1] = 1
MEASURES = (PRIMARY, NLL)

Number = Annotated[float, Field(allow_inf_nan=False)]
Matrix = tuple[tuple[Number | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of one run in the units of its matrix, or None with the reason why it is undefined.

    Attributes:
        value: the metric.
        interval: 95 % interval over test rows, conditional on the trained models.
        reason: why there is no value.
    """

    value: Number | None
    interval: tuple[Number, Number] | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Used:
    """The instruction that a task was trained with; ``switches`` counts the changes of text within its training."""

    text: str
    origin: str
    original: str
    switches: int | None = None


@dataclass(frozen=True, slots=True)
class Crossed:
    """The final stage of this run, tested with the instructions that another policy trained with.

    Attributes:
        by: that policy; its run has this run's sequence, method and seed.
        primary: score by task.
        nll: nats per token by task.
    """

    by: str
    primary: Mapping[str, Number]
    nll: Mapping[str, Number]

    def of(self, measure: str) -> Mapping[str, float]:
        """Return the values of a measure by task."""
        return self.nll if measure == NLL else self.primary


@dataclass(frozen=True, slots=True)
class Wordings:
    """The final stage on one task, tested with held-out paraphrases: one score and one NLL for each text."""

    texts: tuple[str, ...]
    primary: tuple[Number, ...]
    nll: tuple[Number, ...]

    def __post_init__(self) -> None:
        if not self.texts or not len(self.texts) == len(self.primary) == len(self.nll):
            raise ValueError(f"{len(self.texts)} texts have {len(self.primary)} scores and {len(self.nll)} losses")

    def of(self, measure: str) -> tuple[float, ...]:
        """Return the values of a measure, one for each text."""
        return self.nll if measure == NLL else self.primary


@dataclass(frozen=True, slots=True)
class Ability:
    """General ability at a stage: loss in nats per token on general text."""

    stage: int
    loss: Number


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rise of a watched loss that the forgetting guard saw.

    Attributes:
        task: the task that was trained.
        step: updates made when it was seen.
        back_to: updates after which the weights are those that were kept; None where training went on.
        watched: the task whose loss rose.
        increase: by how much, nats per token; None where it was not a finite number any more.
        low: lower end of the 95 % interval of the increase.
        updates: that the training was to have.
    """

    task: str
    step: int
    back_to: int | None
    watched: str
    increase: Number | None
    low: Number | None
    updates: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What one finished run found; the attributes are the keys of its line.

    Attributes:
        name: of the run in its sweep, SEQUENCE/METHOD-POLICY-sSEED.
        model: the base model as the configuration names it.
        primary_metrics: metric by task, of watch tasks too.
        test_prompt: the test prompt of the main tables.
        test_data: fingerprint of the test rows by task.
        test_rows: their number by task.
        matrices: measure ("primary", "nll") -> test prompt -> R, rows = stages, columns = tasks.
        metrics: measure -> test prompt -> metric name -> estimate.
        watch: task -> measure -> test prompt -> one value for each stage.
        config: the resolved configuration, without its run_dir.
        seconds: wall time by kind of step.
    """

    name: str
    sequence: str
    tasks: tuple[str, ...]
    model: str
    method: str
    policy: str
    seed: int
    primary_metrics: Mapping[str, str]
    test_prompt: Prompt
    test_data: Mapping[str, str]
    test_rows: Mapping[str, int]
    matrices: Mapping[str, Mapping[Prompt, Matrix]]
    metrics: Mapping[str, Mapping[Prompt, Mapping[str, Estimate]]]
    watch: Mapping[str, Mapping[str, Mapping[Prompt, tuple[Number | None, ...]]]]
    instructions: Mapping[str, Used]
    config: Mapping[str, Any]
    seconds: Mapping[str, Number]
    versions: Mapping[str, str]
    crossed: Crossed | None = None
    robustness: Mapping[str, Wordings] | None = None
    ability: tuple[Ability, ...] | None = None
    guard: tuple[Alarm, ...] | None = None
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        """Refuse a record whose parts do not fit together."""
        for values in (self.primary_metrics, self.test_data, self.test_rows, self.instructions):
            if missing := [task for task in self.tasks if task not in values]:
                raise ValueError(f"task {missing[0]} lacks its metric, test rows or instruction")
        for measure in MEASURES:
            prompts = set(self.matrices[measure])
            if self.test_prompt not in prompts or prompts != set(self.metrics[measure]):
                raise ValueError(f"{measure} needs a matrix and metrics for test prompt {self.test_prompt}")
            for rows in self.matrices[measure].values():
                if not rows or {len(row) for row in rows} != {len(self.tasks)}:
                    raise ValueError(f"a {measure} matrix has not {len(self.tasks)} columns")

    @property
    def only_originals(self) -> bool:
        """Whether every task was trained with its original instruction, so that both test prompts are the same."""
        return all(used.text == used.original for used in self.instructions.values())

    def key(self, prompt: Prompt) -> Prompt | None:
        """Return the test prompt under which results for this one are stored, None if there are none."""
        if prompt in self.matrices[PRIMARY]:
            return prompt
        return self.test_prompt if self.only_originals else None

    def estimate(self, measure: str, prompt: Prompt, metric: str) -> Estimate:
        """Return a metric; undefined where the run has none of that name or for that test prompt."""
        found = self.metrics[measure].get(self.key(prompt) or prompt, {}).get(metric)
        return found or Estimate(None, None, "not recorded")

    def final(self, measure: str, prompt: Prompt) -> tuple[float | None, ...]:
        """Return for each task the value at the last stage that tested it; None where none after zero-shot did."""
        rows = self.matrices[measure].get(self.key(prompt) or prompt, ())
        tested = ([row[j] for row in rows[1:] if row[j] is not None] for j in range(len(self.tasks)))
        return tuple(values[-1] if values else None for values in tested)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, data: Any) -> RunRecord:
        """Return the record that `to_json` wrote; unknown keys are ignored.

        Raises:
            RecordError: if a newer version wrote it.
            ValueError: if it is none, and what is wrong.
        """
        found = data.get("format") if isinstance(data, Mapping) else FORMAT
        if isinstance(found, int) and found > FORMAT:
            raise RecordError(f"it has format {found}, and this version of sapo reads {FORMAT}: use a newer one")
        if found != FORMAT:
            raise ValueError(f"it has format {found!r}, and there is none but {FORMAT}")
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "record"
            raise ValueError(f"{where}: {first['msg']}") from error


_ADAPTER = TypeAdapter(RunRecord)
