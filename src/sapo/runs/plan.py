"""What a run will do and cost, known before its first step.

Costs are in forward tokens: tokens that pass once through the model. Training a token costs about three
(forward, and twice that backward). A batch of answers grows by a token of every row in each step until its last row
has ended, and a step reads all weights for few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt

from sapo.core.progress import Work
from sapo.core.types import Encoded, Instruction, Task
from sapo.models.ability import general_rows
from sapo.models.answers import batch_rows
from sapo.models.batches import common_prefix
from sapo.models.render import Renderer
from sapo.runs.prompts import ORIGINAL, OWN, Prompt
from sapo.selection.measuring import row_costs
from sapo.selection.race import FIRST
from sapo.selection.settings import SelectionSettings, TrialSettings
from sapo.training.schedule import Training
from sapo.training.settings import TrainSettings
from sapo.training.trial import TRAINED, extent

# A step of a batch of answers, next to one token for each row: measured for 1 to 16 rows on a CPU (LOG.md, 2026-11-29).
_STEP = 32
_SAMPLED = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """The work on every task of a run.

    Attributes:
        score: per task, at most; empty where the policy needs no losses.
        train: per task.
        evaluate: per task and watch task, for one test.
        tests: how often each task and watch task is evaluated, at most.
        trainings: by the stage that the training leads to.
        trials: of each task's leading candidates; empty where nothing is tried.
        tight: tasks whose races the budget ends after their first round.
    """

    score: Mapping[str, Work]
    train: Mapping[str, Work]
    evaluate: Mapping[str, Work]
    tests: Mapping[str, int]
    trainings: Mapping[int, Work]
    trials: Mapping[str, Work] = field(default_factory=dict)
    tight: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        """Cost of the whole run, in forward tokens."""
        once = [*self.score.values(), *self.trials.values(), *self.train.values()]
        return sum(w.cost for w in once) + sum(w.cost * self.tests[name] for name, w in self.evaluate.items())

    def notes(self, warmup: float) -> tuple[str, ...]:
        """Return what will not go well with these settings, one sentence each; ``warmup``: share of the updates."""
        tight = (
            f"{name}: selection.budget is spent with the first rows, and the choice will rest on these alone: raise "
            "it, or score fewer candidates, unless the training is meant to be this short"
            for name in self.tight
        )
        unlearned = (
            f"{name}: a single update, at which warm-up begins with learning rate 0: nothing would be learned. "
            "Set train.warmup to 0, or more epochs, or a smaller train.batch_size"
            # Of several tasks that are trained at once, one training makes all updates.
            for name, work in zip(self.train, self.trainings.values(), strict=False)
            if work.units == 1 and warmup > 0
        )
        return (*tight, *unlearned)


def make_plan(
    renderer: Renderer,
    tasks: Sequence[Task],
    watch: Sequence[Task],
    candidates: Mapping[str, Sequence[Instruction]],
    selection: SelectionSettings | None,
    train: TrainSettings,
    trainings: Sequence[Training],
    *,
    max_new_tokens: int,
    device: str,
    prompts: Sequence[Prompt] = (OWN,),
    wordings: int = 0,
    trial: TrialSettings | None = None,
) -> Plan:
    """Return the plan of a run whose tasks hold exactly the rows that it will use.

    ``candidates`` are by task, the original first; ``selection`` is None where the policy needs no losses;
    ``prompts`` are those that every stage is tested with, and ``wordings`` counts the held-out paraphrases that each
    task is tested with at the end; ``max_new_tokens`` limits the answers, and ``device`` is the kind of device that
    writes them; ``trial`` is None where nothing is tried.
    """
    score, once, tight = {}, {}, list[str]()
    for task in tasks:
        encoded = renderer.encode(task.instruction, task.suffix, task.train)
        tokens = sum(len(e.ids) for e in encoded) * train.epochs
        updates = ceil(train.epochs * ceil(len(task.train) / train.batch_size))
        once[task.name] = Work(updates, tokens, TRAINED * tokens)
        if selection is not None:
            rows = min(selection.examples, len(task.train))
            score[task.name] = whole = scoring(renderer, task, candidates[task.name], rows)
            if selection.races and selection.budget is not None:
                least = scoring(renderer, task, candidates[task.name], min(FIRST, rows))
                score[task.name] = _within(selection.budget * once[task.name].cost, least, whole)
                if score[task.name] == least != whole:
                    tight.append(task.name)
    evaluate = {task.name: _evaluation(renderer, task, max_new_tokens, device) for task in (*tasks, *watch)}
    # The second of these differs from the first only once the task has been trained on.
    both = {OWN, ORIGINAL} <= set(prompts)
    always = len(prompts) - both
    tests = {task.name: always * (1 + len(trainings)) for task in watch}
    for place, task in enumerate(tasks, start=1):
        tested = [training.stage for training in trainings if task in training.tested]
        twice = sum(stage >= place for stage in tested) if both else 0
        tests[task.name] = always * (1 + len(tested)) + twice + wordings
    by_stage = {}
    for training in trainings:
        parts = [once[task.name] for task in training.tasks]
        by_stage[training.stage] = Work(
            sum(w.units for w in parts), sum(w.tokens for w in parts), sum(w.cost for w in parts)
        )
    trials = {}
    if trial is not None:
        for training in trainings:
            earlier = () if training.apart or len(training.tasks) > 1 else tasks[: training.stage - 1]
            for task in training.tasks:
                count, others = len(candidates[task.name]), (*earlier, *watch)
                # Alone, the original is not tried.
                trials[task.name] = _trial(renderer, task, others, count, trial, train) if count > 1 else Work(0, 0, 0)
    return Plan(score, once, evaluate, tests, by_stage, trials, tuple(tight))


def _trial(
    renderer: Renderer, task: Task, others: Sequence[Task], candidates: int, settings: TrialSettings,
    train: TrainSettings,
) -> Work:  # fmt: skip
    """Return about what trying the leading candidates of a task costs, without other tasks with general text."""
    length, *lengths = (
        _mean_length(renderer.encode(one.instruction, one.suffix, one.train[:_SAMPLED])) for one in (task, *others)
    )
    rows = (min(settings.rows, len(task.train)), *(min(settings.rows, len(one.train)) for one in others))
    general = sum(len(e.ids) for e in general_rows(renderer, renderer.max_length)) if not others else 0
    read = sum(n * mean for n, mean in zip(rows, (length, *lengths), strict=True)) + general
    return extent(settings, train, len(task.train), length, candidates, read)[-1]


def epoch_cost(renderer: Renderer, task: Task) -> float:
    """Return about what training one epoch on all training rows costs, in forward tokens."""
    sample = renderer.encode(task.instruction, task.suffix, task.train[:_SAMPLED])
    return TRAINED * len(task.train) * _mean_length(sample)


def cost_of_examples(renderer: Renderer, task: Task, candidates: Sequence[Instruction]) -> tuple[str, ...]:
    """Return what demonstrations cost, one sentence without a full stop; nothing where there are none."""
    mean = {
        c.text: _mean_length(renderer.encode(c.text, task.suffix, task.train[:_SAMPLED]))
        for c in candidates
        if c.origin in ("original", "demonstrations")
    }
    if len(mean) < 2:
        return ()
    original, most = mean[task.instruction], max(mean.values())
    return (
        f"{task.name}: candidates of source demonstrations take up to {most:.0f} tokens a row, the original "
        f"{original:.0f}: in scoring, in training, and whenever the model is used with that instruction",
    )


def scoring(renderer: Renderer, task: Task, candidates: Sequence[Instruction], rows: int) -> Work:
    """Return the work of scoring all candidates on so many rows: what their rows share once, the rest for each row."""
    each, once = row_costs(renderer, task, candidates, task.train[:_SAMPLED])
    cost = once + rows * sum(each)
    return Work(rows * len(candidates), cost, cost)


def _within(most: float, least: Work, whole: Work) -> Work:
    """Return as much of the whole work as costs ``most``, and the least in any case."""
    if whole.cost <= max(most, least.cost):
        return whole
    cost = max(most, least.cost)
    share = (cost - least.cost) / (whole.cost - least.cost)
    return Work(least.units + int(share * (whole.units - least.units)), cost, cost)


def _evaluation(renderer: Renderer, task: Task, max_new_tokens: int, device: str) -> Work:
    """Return about what one test costs: every row is read twice, once for its answer and once for its loss.

    How long answers become is not known before: as long as the longest true one by a model that has learned the task,
    up to the limit by one that has not. The geometric mean stands for both.
    """
    sample = renderer.encode(task.instruction, task.suffix, task.test[:_SAMPLED])
    rows, mean, longest = len(task.test), _mean_length(sample), max(e.supervised for e in sample)
    reading = rows * (2 * mean - common_prefix(sample))
    steps = min(sqrt(longest * max_new_tokens), max_new_tokens)
    batches = ceil(rows / batch_rows(ceil(mean) + max_new_tokens, device))
    return Work(2 * rows, reading + rows * steps, reading + steps * (batches * _STEP + rows))


def _mean_length(encoded: Sequence[Encoded]) -> float:
    return sum(len(e.ids) for e in encoded) / len(encoded)
