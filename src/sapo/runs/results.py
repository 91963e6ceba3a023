"""What a run found: one value, written as `results.json` and as a line of a sweep's `records.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator
from typing_extensions import TypedDict

from sapo.core.storage import parsed
from sapo.runs.prompts import ORIGINAL, OWN, Prompt
from sapo.training.guard import Alarm
from sapo.training.policies import LOWEST

NLL = "nll"
PRIMARY = "primary"
MEASURES = (PRIMARY, NLL)
FORMAT = 3
Number = Annotated[float, Field(allow_inf_nan=False)]
Matrix = Sequence[Sequence[Number | None]]


class Estimate(TypedDict):
    """A metric of one run in the units of its matrix, or None with the reason why it is undefined.

    The interval is the 95 % interval over test rows, conditional on the trained models.
    """

    value: Number | None
    interval: Sequence[Number] | None
    reason: str | None


class ByTask(TypedDict):
    """A figure of each trained task that has one, and their mean."""

    mean: Estimate
    tasks: Mapping[str, Estimate]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Used(_Value):
    """The instruction that a task was trained with.

    Attributes:
        text: the instruction; the last one where it was chosen again during the training.
        original: the task's own instruction.
        suffix: the task's sentence about the answer's format.
        losses: of every candidate by text, in nats per token; None where the policy needs none.
        mixture: the paraphrases that were trained with in turn, where the policy is a mixture.
        switches: number of changes during the training, where the policy chooses again.
        tolerance: where the budget ended the race that chose, how far below this one's loss the lowest may lie.
    """

    text: str
    origin: str
    original: str
    suffix: str
    losses: Mapping[str, Number] | None
    mixture: Sequence[str] | None = None
    switches: int | None = None
    tolerance: Number | None = None


class Wordings(_Value):
    """The last stage of one task, tested with held-out paraphrases: one score and one NLL for each text."""

    texts: Sequence[str]
    primary: Sequence[Number]
    nll: Sequence[Number]

    @model_validator(mode="after")
    def _fit(self) -> Wordings:
        if not self.texts or not len(self.texts) == len(self.primary) == len(self.nll):
            raise ValueError(f"{len(self.texts)} texts have {len(self.primary)} scores and {len(self.nll)} losses")
        return self

    def of(self, measure: str) -> Sequence[float]:
        """Return the values of a measure, one for each text."""
        return self.nll if measure == NLL else self.primary


class Crossed(_Value):
    """The last stage of each task, tested with the instruction that another policy trained it with.

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


class Ability(_Value):
    """General ability at a stage: loss on general text in nats per token."""

    stage: int
    loss: Number


class RunResult(_Value):
    """What a finished run found.

    Attributes:
        primary_metrics: metric by task, of watch tasks too.
        test_prompt: the test prompt of `matrix` and `metrics`.
        matrices: measure ("primary", a text metric, "nll") -> test prompt -> R; row 0 is zero-shot, rows are stages,
            columns tasks; None: not defined.
        metrics_all: measure -> test prompt -> name -> estimate.
        watch: task -> measure -> test prompt -> one value for each stage.
        test_data: fingerprint of the test rows by task.
        test_rows: their number by task.
        seconds: wall time by kind of step; of a training that was resumed from a checkpoint, since then.
        figures: measure -> name -> what the trainings did beyond their own prompts.
        robustness: by task, where paraphrases were held out for testing.
        crossed: where another policy's instructions were given for testing.
        ability: by stage, where it was measured.
        guard: rises that the forgetting guard saw, in order.
        name: of the run in its sweep, SEQUENCE/METHOD-POLICY-sSEED; empty outside.
        sequence: name of its sequence there.
        versions: of the libraries that it ran with, as a sweep records them.
        task_data: fingerprint of each task as it was given, before rows were drawn.
    """

    tasks: Sequence[str]
    primary_metrics: Mapping[str, str]
    test_prompt: Prompt
    matrices: Mapping[str, Mapping[Prompt, Matrix]]
    metrics_all: Mapping[str, Mapping[Prompt, Mapping[str, Estimate]]]
    watch: Mapping[str, Mapping[str, Mapping[Prompt, Sequence[Number | None]]]]
    instructions: Mapping[str, Used]
    test_data: Mapping[str, str]
    test_rows: Mapping[str, int]
    config: Mapping[str, Any]
    seconds: Mapping[str, Number]
    figures: Mapping[str, Mapping[str, ByTask]] = {}
    robustness: Mapping[str, Wordings] | None = None
    crossed: Crossed | None = None
    ability: Sequence[Ability] | None = None
    guard: Sequence[Alarm] | None = None
    name: str = ""
    sequence: str = ""
    versions: Mapping[str, str] = {}
    task_data: Mapping[str, str] = {}

    def __repr__(self) -> str:
        how = f"{self.method}, {self.policy}, seed {self.seed}"
        found = {name: self.estimate(name, self.test_prompt, "ap")["value"] for name in MEASURES}
        names = {PRIMARY: self.primary_metric, NLL: "NLL"}
        ends = [f"{names[measure]} {value:.3f}" for measure, value in found.items() if value is not None]
        return f"RunResult({', '.join(self.tasks)}; {how}; AP: {', '.join(ends) or 'not defined'})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _fit(self) -> RunResult:
        """Refuse parts that do not fit together."""
        for values in (self.primary_metrics, self.test_data, self.test_rows):
            if missing := [task for task in self.tasks if task not in values]:
                raise ValueError(f"task {missing[0]} lacks its metric or test rows")
        for measure in MEASURES:
            prompts = set(self.matrices.get(measure, ()))
            if self.test_prompt not in prompts or prompts != set(self.metrics_all.get(measure, ())):
                raise ValueError(f"{measure} needs a matrix and metrics for test prompt {self.test_prompt}")
            for rows in self.matrices[measure].values():
                if not rows or {len(row) for row in rows} != {len(self.tasks)}:
                    raise ValueError(f"a {measure} matrix needs {len(self.tasks)} columns")
        if missing := [key for key in ("model", "method", "policy", "seed") if key not in self.config]:
            raise ValueError(f"config lacks {missing[0]}")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def format(self) -> int:
        """The version of the layout."""
        return FORMAT

    @computed_field  # type: ignore[prop-decorator]
    @property
    def primary_metric(self) -> str:
        """The primary metric of all tasks, or "mixed"."""
        kinds = {self.primary_metrics[task] for task in self.tasks}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def matrix(self) -> Matrix:
        """The primary performance matrix: row 0 is zero-shot, rows are stages, columns tasks; None: not defined."""
        return self.matrices[PRIMARY][self.test_prompt]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """The continual-learning metrics of `matrix`, each with value, interval and reason."""
        return self.metrics_all[PRIMARY][self.test_prompt]

    @property
    def model(self) -> str:
        """The base model as the configuration names it, and how it is quantised, which makes it another model."""
        model = self.config["model"]
        return f"{model['base']} ({model['quantization']})" if model.get("quantization") else str(model["base"])

    @property
    def method(self) -> str:
        """How parameters were updated."""
        return str(self.config["method"])

    @property
    def policy(self) -> str:
        """Which instruction tasks were trained with."""
        return str(self.config["policy"])

    @property
    def way(self) -> str:
        """The policy, and its rule in brackets where that is not the lowest loss."""
        rule = self.config.get("selection", {}).get("rule", "lowest")
        return f"{self.policy} ({rule})" if self.policy in LOWEST and rule != "lowest" else self.policy

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def only_originals(self) -> bool:
        """Whether every task was trained with its original instruction, so that both test prompts are the same."""
        return all(used.text == used.original for used in self.instructions.values())

    def key(self, prompt: Prompt) -> Prompt | None:
        """Return the test prompt under which results for this one are stored, None if there are none."""
        same = {OWN: ORIGINAL, ORIGINAL: OWN} if self.only_originals else {}
        return next((one for one in (prompt, same.get(prompt)) if one in self.matrices[PRIMARY]), None)

    def estimate(self, measure: str, prompt: Prompt, name: str) -> Estimate:
        """Return a metric, or the mean over tasks of one of `FIGURES`, which rest on all test prompts.

        It is undefined where the run has none of that name, or not for that test prompt.
        """
        if of_tasks := self.figures.get(measure, {}).get(name):
            return of_tasks["mean"]
        found = self.metrics_all[measure].get(self.key(prompt) or prompt, {}).get(name)
        return found or Estimate(value=None, interval=None, reason="not recorded")

    def final(self, measure: str, prompt: Prompt) -> tuple[float | None, ...]:
        """Return for each task the value at the last stage that tested it; None where none after zero-shot did."""
        rows = self.matrices[measure].get(self.key(prompt) or prompt, ())
        tested = ([row[j] for row in rows[1:] if row[j] is not None] for j in range(len(self.tasks)))
        return tuple(values[-1] if values else None for values in tested)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; what was not measured is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_json(cls, data: Any) -> RunResult:
        """Return the result that `to_json` wrote; unknown keys are ignored.

        Raises:
            RecordError: if a newer version wrote it.
            ValueError: if it is something else, and what is wrong.
        """
        result = parsed(data, FORMAT, cls.model_validate, "result")
        # Only in a loop of a user's own is a result looked at before all tasks are trained.
        if missing := [task for task in result.tasks if task not in result.instructions]:
            raise ValueError(f"task {missing[0]} lacks its instruction")
        return result
