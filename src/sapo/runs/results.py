"""What a run found: one value, written as `results.json` and as a line of a sweep's `records.jsonl`.

Every cell is (stage, task, test prompt), see `sapo.runs.prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator
from typing_extensions import TypedDict

from sapo.core.errors import RecordError
from sapo.core.types import Floats, Instruction, Task
from sapo.models.answers import Evaluation
from sapo.models.text_metrics import TEXT_METRICS
from sapo.runs.figures import Grid
from sapo.runs.metrics import FIGURES, METRICS, metric_draws, percentile_interval, resample_matrices
from sapo.runs.prompts import CROSSED, ORIGINAL, OWN, Prompt
from sapo.selection.selection import Choice
from sapo.tasks.load import data_fingerprint
from sapo.training.guard import Alarm
from sapo.training.policies import LOWEST
from sapo.training.schedule import Order, Stage

NLL = "nll"
PRIMARY = "primary"
MEASURES = (PRIMARY, NLL)
DRAWS = 2000
_ALONE = "needs at least two tasks; the sequence has one"
FORMAT = 3
# (stage, task name, test prompt) -> evaluation
Cells = Mapping[tuple[int, str, Prompt], Evaluation]
# By stage and task: scores and weights of the test rows, see `per_row`; None where there was no test.
Table = Sequence[Sequence[tuple[Floats, Floats] | None]]


@dataclass(frozen=True, slots=True)
class Row:
    """A stage, tested: its row of the performance matrix, and what is measured besides.

    Attributes:
        cells: by task and test prompt; watch tasks too. Tasks in their last stage also have those with held-out
            paraphrases, by text, and with another run's instruction.
        ability: loss on general text in nats per token, where it is measured.
    """

    stage: Stage
    cells: Mapping[tuple[str, Prompt], Evaluation]
    ability: float | None = None
    seconds: float = 0.0


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
        seconds: wall time by kind of step.
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
    def data(self) -> dict[str, Any]:
        """What `results.json` holds."""
        return self.to_json()

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
        found = data.get("format", FORMAT) if isinstance(data, Mapping) else FORMAT
        if isinstance(found, int) and found > FORMAT:
            raise RecordError(f"it has format {found}, and this version of sapo reads {FORMAT}: use a newer one")
        if found not in (2, FORMAT):
            raise ValueError(f"it has format {found!r}: known are 2 and {FORMAT}")
        try:
            result = cls.model_validate(data if found == FORMAT else _from_format_2(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "result"
            raise ValueError(f"{where}: {first['msg']}") from error
        # Only in a loop of a user's own is a result looked at before all tasks are trained.
        if missing := [task for task in result.tasks if task not in result.instructions]:
            raise ValueError(f"task {missing[0]} lacks its instruction")
        return result


def _from_format_2(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result in the present format; format 2 called the test prompt own "selected"."""
    try:
        named = {key: _with_own(data[key]) for key in ("test_prompt", "matrices", "metrics_all", "watch")}
        evaluate = dict(data["config"].get("evaluate", {}))
        prompts = {"original": [ORIGINAL], "both": [OWN, ORIGINAL]}.get(evaluate.pop("test_prompt", ""), [OWN])
        wordings = evaluate.pop("wordings", 0)
        evaluate["prompts"] = [*prompts, *([{"wordings": wordings}] if wordings else [])]
        return {**data, **named, "config": {**data["config"], "evaluate": evaluate}}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _with_own(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_with_own(key): _with_own(one) for key, one in value.items()}
    return OWN if value == "selected" else value


def run_result(
    rows: Sequence[Row],
    tasks: Sequence[Task],
    watch: Sequence[Task],
    prompts: Sequence[Prompt],
    config: Mapping[str, Any],
    undefined: Mapping[str, str],
    held_out: Mapping[str, Sequence[Instruction]] = MappingProxyType({}),
) -> RunResult:
    """Return what the rows of a performance matrix say.

    Row 0 comes first in ``rows``, the test prompt of the main matrix in ``prompts``. Tasks hold the rows that were
    tested. ``undefined`` names metrics that lack their cells, with the reason; ``held_out`` are the paraphrases that
    each task was tested with at its last stage.
    """
    by_name = {task.name: task for task in tasks}
    choices = {choice.task.name: choice for row in rows for choice in row.stage.choices}
    cells = {(row.stage.number, *key): cell for row in rows for key, cell in row.cells.items()}
    # The last test of each task with each prompt.
    last = {key: cell for row in rows for key, cell in row.cells.items()}
    crossed = {name: cell for (name, prompt), cell in last.items() if prompt == CROSSED}
    wordings = {name: [one.text for one in found] for name, found in held_out.items()}
    worded = {
        name: [last[name, text] for text in texts]
        for name, texts in wordings.items()
        if texts and all((name, text) in last for text in texts)
    }
    used = {name: _used(choice, config["policy"]) for name, choice in choices.items()}
    metrics = {task.name: task.metric for task in (*tasks, *watch)}
    texts = {name: (one.original, one.text) for name, one in used.items()}
    grid = Grid([*by_name], [task.name for task in watch], prompts, texts, wordings)
    seconds = {
        "scoring": sum(c.selection.seconds for c in choices.values() if c.selection is not None),
        "training": sum(row.stage.seconds for row in rows),
        "evaluating": sum(row.seconds for row in rows),
    }

    def values(found: Mapping[str, Evaluation], measure: str) -> dict[str, float]:
        return {name: value(cell, measure, metrics[name]) for name, cell in found.items()}

    return RunResult(
        tasks=list(by_name),
        primary_metrics=metrics,
        test_prompt=prompts[0],
        **tabulate(cells, tasks, watch, prompts, config["seed"], undefined),
        instructions=used,
        figures={m: summarised(figures_of(cells, grid, metrics, m, config["seed"])) for m in MEASURES},
        test_data={task.name: data_fingerprint(task.test) for task in tasks},
        test_rows={task.name: len(task.test) for task in tasks},
        config=config,
        seconds={**seconds, "total": sum(seconds.values())},
        robustness={
            name: Wordings(
                texts=wordings[name], **{m: [value(cell, m, metrics[name]) for cell in found] for m in MEASURES}
            )
            for name, found in worded.items()
        }
        or None,
        crossed=Crossed(by="sapo", primary=values(crossed, PRIMARY), nll=values(crossed, NLL)) if crossed else None,
        ability=[Ability(stage=r.stage.number, loss=r.ability) for r in rows if r.ability is not None] or None,
        guard=[alarm for r in rows for alarm in r.stage.alarms] or None,
    )


def _used(trained: Choice, policy: str) -> Used:
    selection = trained.selection
    race, later = (None, False) if selection is None else (selection.race, selection.trial or trained.switches)
    return Used(
        text=trained.instruction.text,
        origin=trained.instruction.origin,
        original=trained.task.instruction,
        suffix=trained.task.suffix,
        losses=None if selection is None else {c.instruction.text: c.loss for c in selection.candidates},
        mixture=[paraphrase.text for paraphrase in trained.mixture] or None,
        switches=len(trained.switches) if policy == "reselect" else None,
        tolerance=None if race is None or race.end != "budget" or later else race.tolerance,
    )


def per_row(cell: Evaluation, measure: str, metric: str) -> tuple[Floats, Floats]:
    """Return scores and weights of the test rows, whose weighted mean is the cell's value; ``metric`` is the task's.

    A loss is the mean over tokens, so each row's NLL per token weighs as much as it has tokens.
    """
    if measure == NLL:
        return cell.losses.nll / cell.losses.tokens, cell.losses.tokens.astype(np.float64)
    scores = cell.scores[metric if measure == PRIMARY else measure]
    return scores, np.ones(len(scores))


def value(cell: Evaluation, measure: str, metric: str) -> float:
    """Return a cell's value: the mean over its test rows, of losses over its tokens."""
    scores, weights = per_row(cell, measure, metric)
    return float(np.average(scores, weights=weights))


def tabulate(
    cells: Cells,
    tasks: Sequence[Task],
    watch: Sequence[Task],
    prompts: Sequence[Prompt],
    seed: int,
    undefined: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return matrices, metrics with intervals, and watch rows, for every metric and test prompt.

    Intervals come from resampling test rows: they hold for these trained models and say nothing of other
    seeds. A cell that was not evaluated is None; ``undefined`` are the metrics that would need one, with the reason.
    """

    def table(columns: Sequence[Task], measure: str, prompt: Prompt) -> Table:
        found = [[(cells.get((stage, task.name, prompt)), task) for task in columns] for stage in range(len(tasks) + 1)]
        return [[None if cell is None else per_row(cell, measure, task.metric) for cell, task in row] for row in found]

    names = (PRIMARY, *TEXT_METRICS, NLL)
    tables = {name: {prompt: table(tasks, name, prompt) for prompt in prompts} for name in names}
    return {
        "matrices": {name: {prompt: _means(rows) for prompt, rows in of.items()} for name, of in tables.items()},
        "metrics_all": {
            name: {prompt: _metrics(rows, seed, undefined, higher_is_better=name != NLL) for prompt, rows in of.items()}
            for name, of in tables.items()
        },
        "watch": {
            task.name: {
                name: {prompt: [mean for (mean,) in _means(table([task], name, prompt))] for prompt in prompts}
                for name in names
            }
            for task in watch
        },
    }


def _means(rows: Table) -> list[list[float | None]]:
    return [[None if cell is None else float(np.average(cell[0], weights=cell[1])) for cell in row] for row in rows]


def fill(rows: Table) -> tuple[list[list[Floats]], list[list[Floats]]]:
    """Return scores and weights of all cells, those that were not evaluated as NaN: row 0 tells how many rows."""
    complete = [
        [cell or (np.full_like(zero[0], np.nan), zero[1]) for cell, zero in zip(row, rows[0], strict=True) if zero]
        for row in rows
    ]
    return [[scores for scores, _ in row] for row in complete], [[weights for _, weights in row] for row in complete]


def _metrics(rows: Table, seed: int, undefined: Mapping[str, str], *, higher_is_better: bool) -> dict[str, Estimate]:
    scores, weights = fill(rows)
    resampled = resample_matrices(scores, weights=weights, draws=DRAWS, seed=seed)
    found = metric_draws(resampled, higher_is_better=higher_is_better, undefined=undefined)
    return {
        metric.name: _estimate(found[metric.name])
        if metric.name in found
        else Estimate(value=None, interval=None, reason=undefined.get(metric.name, _ALONE))
        for metric in METRICS
    }


def _estimate(values: Floats) -> Estimate:
    """Return a value and its interval, from itself and its draws, shape [1 + draws]."""
    return Estimate(value=float(values[0]), interval=list(percentile_interval(values[1:])), reason=None)


def figures_of(
    cells: Cells, grid: Grid, metrics: Mapping[str, str], measure: str, seed: int
) -> dict[str, dict[str, Floats]]:
    """Return what `Grid.figures` finds in some cells, scored by each task's metric."""
    tested = {key: per_row(cell, measure, metrics[key[1]]) for key, cell in cells.items()}
    return grid.figures(tested, higher_is_better=measure != NLL, draws=DRAWS, seed=seed)


def summarised(draws: Mapping[str, Mapping[str, Floats]]) -> dict[str, ByTask]:
    """Return the figures that `figures_of` returned as values with intervals, by task and their mean."""
    lacking = {figure.name: Estimate(value=None, interval=None, reason=figure.lacking) for figure in FIGURES}
    return {
        name: ByTask(
            mean=_estimate(np.mean(list(of.values()), axis=0)) if of else lacking[name],
            tasks={task: _estimate(values) for task, values in of.items()},
        )
        for name, of in draws.items()
    }


def undefined(order: Order) -> Mapping[str, str]:
    """Return the metrics that lack their cells, by name, with the reason."""
    defined, reason = {
        "sequence": ({metric.name for metric in METRICS}, ""),
        "joint": ({"ap"}, "all tasks were trained at once: only the final row is defined"),
        "apart": ({"la"}, "each task was trained alone: only the diagonal is defined"),
    }[order]
    return {metric.name: reason for metric in METRICS if metric.name not in defined}
