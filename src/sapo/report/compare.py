"""What is compared: the settings of runs by unit (sequence x seed), and how each differs from its baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from sapo.core.errors import RecordError
from sapo.report.differences import TITLES, Difference, direction, pairable, run_differences, spread, unit_difference
from sapo.report.numbers import Figure, count
from sapo.report.remake import mixed
from sapo.report.runs import Run, shared_prompts
from sapo.runs.metrics import METRICS
from sapo.runs.prompts import ORIGINAL, Prompt
from sapo.runs.records import RECORDS
from sapo.runs.results import MEASURES, NLL, PRIMARY, RunResult
from sapo.training.settings import MethodName, Policy

Unit = tuple[str, int]
# Nats per token between two number formats, at most; another model is further away.
_SAME_START = 0.05
ROW_NOISE = "[..]: 95 % intervals over the test rows. They do not cover other seeds."
PAIRED_ROWS = (
    "Differences are paired: both runs are resampled on the same test rows. Their 95 % intervals cover these rows and "
    "trained models, not other seeds; with less than about 20 rows for a task they are too narrow. Each run is one "
    "seed: repeat with several before you call one setting better than another."
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared: its name, its method, its policy and rule, and its runs by unit; None for a missing run."""

    name: str
    method: str
    policy: str
    runs: tuple[Run | None, ...]

    def by_unit(self, measure: str, prompt: Prompt, name: str) -> Figure:
        """Return a metric or figure of every run, and the mean."""
        return spread([None if run is None else run.metric(measure, prompt, name).value for run in self.runs])

    def metric(self, measure: str, prompt: Prompt, name: str) -> Figure:
        """Return the same: of one unit with its interval over test rows, of several with the one over units."""
        if len(self.runs) == 1 and self.runs[0] is not None:
            return self.runs[0].metric(measure, prompt, name)
        return self.by_unit(measure, prompt, name)


@dataclass(frozen=True, slots=True)
class Compared:
    """One setting minus its baseline.

    Attributes:
        axis: what differs: "policy", "method" or "run".
        group: what both have in common; empty where there is one group.
        base: name of the baseline.
        label: of what is compared with it.
        measure: a measure of the results.
        prompt: how tasks were tested.
        differences: by name of the metric; with the main test prompt of the figures of trained tasks too.
    """

    axis: str
    group: str
    base: str
    label: str
    measure: str
    prompt: Prompt
    differences: Mapping[str, Difference]

    @property
    def name(self) -> str:
        """What to call it among all groups."""
        return ", ".join(filter(None, (self.group, self.label)))


@dataclass(frozen=True, slots=True)
class Arranged:
    """Comparable runs; a single one is a setting of one unit.

    Attributes:
        settings: the baseline first.
        units: sequence and seed of each run of a setting; one for runs of directories.
        prompts: test prompts that all have results for, the main one first.
        compared: all differences.
        scope: what their intervals stand for.
        sweep: whether they are the runs of sweeps.
        names: of settings that are letters in tables, for sentences.
    """

    settings: tuple[Setting, ...]
    units: tuple[Unit, ...]
    prompts: tuple[Prompt, ...]
    compared: tuple[Compared, ...]
    scope: str
    sweep: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        """All runs, by unit and setting."""
        return _by_unit(self.settings)

    @property
    def only(self) -> Run | None:
        """The run, where there is a single one."""
        return self.runs[0] if len(self.runs) == 1 else None

    @property
    def only_originals(self) -> bool:
        """Whether no run was trained or tested with another instruction than the originals."""
        return self.prompts == (ORIGINAL,) and all(run.result.only_originals for run in self.runs)

    def defines(self, name: str) -> bool:
        """Whether any run has a value of a metric or figure."""
        return any(r.metric(PRIMARY, prompt, name).value is not None for r in self.runs for prompt in self.prompts)


def _by_unit(settings: Sequence[Setting]) -> list[Run]:
    return [run for unit in zip(*(s.runs for s in settings), strict=True) for run in unit if run is not None]


def arrange(runs: Sequence[Run]) -> Arranged:
    """Return runs of directories, or those of sweeps, arranged; the order of the latter does not matter.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    if not runs or runs[0].directory is None:
        return _sweep(runs)
    tasks = list(runs[0].result.tasks)
    for run in runs:
        if list(run.result.tasks) != tasks:
            raise RecordError(
                f"{runs[0].name} has the tasks {', '.join(tasks)}, but {run.name} has "
                f"{', '.join(run.result.tasks)}: only runs of the same tasks in the same order can be compared"
            )
    prompts = shared_prompts(runs)
    settings = tuple(Setting(letter(n), r.result.method, r.result.way, (r,)) for n, r in enumerate(runs))
    compared = tuple(
        Compared(
            "run", "", "A", letter(n), measure, prompt,
            run_differences(runs[0], run, measure, prompt, _names(prompt, prompts)),
        )
        for n, run in enumerate(runs)
        if n
        for prompt in prompts
        for measure in MEASURES
    )  # fmt: skip
    paired = any(d.interval is not None for one in compared for d in one.differences.values())
    scope = PAIRED_ROWS if paired else ROW_NOISE
    names = {letter(n): f"{letter(n)} ({run.name})" for n, run in enumerate(runs)}
    return Arranged(settings, (("", runs[0].result.seed),), prompts, compared, scope, names=names)


def _names(prompt: Prompt, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Return what is compared with a test prompt: figures of trained tasks rest on all of them."""
    return tuple(TITLES) if prompt == prompts[0] else tuple(metric.name for metric in METRICS)


def letter(n: int) -> str:
    """Return what to call a run of several."""
    return chr(ord("A") + n) if n < 26 else f"R{n + 1}"


def _sweep(given: Sequence[Run]) -> Arranged:
    runs = _comparable(given)
    methods = _ordered({method for method, _, _ in runs}, get_args(MethodName), "seq-lora")
    policies = _ordered({policy for _, policy, _ in runs}, get_args(Policy), "original")
    units = tuple(sorted({unit for _, _, unit in runs}))

    def setting(method: str, policy: str) -> Setting:
        parts = ([method] if len(methods) > 1 else []) + ([policy] if len(policies) > 1 else [])
        found = tuple(runs.get((method, policy, unit)) for unit in units)
        return Setting(", ".join(parts) or policy, method, policy, found)

    settings = tuple(one for m in methods for p in policies if any((one := setting(m, p)).runs))
    prompts = shared_prompts(_by_unit(settings))
    compared = []
    # What a method does is seen with one test prompt; what a choice does, only with both.
    for axis, labels, groups, seen in (
        ("policy", policies, methods, prompts),
        ("method", methods, policies, prompts[:1]),
    ):
        for group in groups:
            base, *others = (setting(group, one) if axis == "policy" else setting(one, group) for one in labels)
            compared += [
                Compared(axis, group if len(groups) > 1 else "", labels[0], label, measure, prompt,
                         _differences(base, other, measure, prompt, _names(prompt, prompts)))
                for label, other in zip(labels[1:], others, strict=True)
                if any(other.runs)
                for prompt in seen
                for measure in MEASURES
            ]  # fmt: skip
    return Arranged(settings, units, prompts, tuple(compared), _scope(units), sweep=True)


def _differences(
    base: Setting, other: Setting, measure: str, prompt: Prompt, names: Sequence[str]
) -> dict[str, Difference]:
    """Return the differences by name; those that no pair of units defines are left out."""
    found = {}
    for pair in zip(base.runs, other.runs, strict=True):
        names = pairable([run for run in pair if run is not None], names)
    for name in names:
        ours, theirs = (setting.by_unit(measure, prompt, name).points for setting in (other, base))
        if (difference := unit_difference(ours, theirs, direction(measure, name))).count:
            found[name] = difference
    return found


def _comparable(given: Sequence[Run]) -> dict[tuple[str, str, Unit], Run]:
    """Return the runs of sweeps by method, policy and unit.

    Raises:
        RecordError: if two of them cannot be compared, naming both.
    """
    runs: dict[tuple[str, str, Unit], Run] = {}
    for run in given:
        result = run.result
        known = runs.setdefault((result.method, result.way, (result.sequence, result.seed)), run)
        if known.result != result:
            differ = ", ".join(mixed([known.result.config, result.config])) or "figures or times"
            raise RecordError(
                f"two different runs, {known.name} and {run.name}, have the same sequence, method, policy and seed, "
                f"but not the same {differ}: report the sweeps one by one"
            )
    if not runs:
        raise RecordError("there is no finished run yet: start the sweep, or wait for its first run to end")
    ordered = [runs[key].result for key in sorted(runs)]
    first = {result.sequence: result for result in reversed(ordered)}
    for result in ordered:
        if result.model != ordered[0].model:
            other, why = ordered[0], "have different models"
        else:
            other, why = first[result.sequence], _obstacle(first[result.sequence], result)
        if why:
            raise RecordError(
                f"{other.name} and {result.name} {why}: they cannot be compared on one page. Leave one of them out; of "
                f"a sweep, delete its directory and its line in {RECORDS}"
            )
    return runs


def _obstacle(first: RunResult, other: RunResult) -> str:
    """Return why two runs of the same sequence cannot be compared, or nothing."""
    if first.tasks != other.tasks:
        return f"have different tasks ({', '.join(first.tasks)}; {', '.join(other.tasks)})"
    for task in first.tasks:
        metrics = (first.primary_metrics[task], other.primary_metrics[task])
        if metrics[0] != metrics[1]:
            return f"score task {task} with different metrics ({metrics[0]}; {metrics[1]})"
        if first.test_data[task] != other.test_data[task]:
            return f"were tested on different rows of task {task}"
        mine, other_data = first.task_data.get(task), other.task_data.get(task)
        if mine and other_data and mine != other_data:
            return f"were made with different data of task {task}"
        starts = [
            {p: rows[0][first.tasks.index(task)] for p, rows in run.matrices[NLL].items()} for run in (first, other)
        ]
        for prompt, loss in starts[0].items():
            then = starts[1].get(prompt)
            if loss is not None and then is not None and abs(loss - then) > _SAME_START:
                return f"differ before any training (zero-shot loss on task {task}: {loss:.3f}; {then:.3f})"
    return ""


def _ordered(found: Collection[str], known: Sequence[str], baseline: str) -> tuple[str, ...]:
    places = {name: place for place, name in enumerate(known)}
    return tuple(sorted(found, key=lambda name: (name != baseline, places.get(name, len(places)), name)))


def _scope(units: Sequence[Unit]) -> str:
    """Return what the units are a sample of."""
    sequences, seeds = (len(set(part)) for part in zip(*units, strict=True))
    if len(units) == 1:
        return f"One unit. {ROW_NOISE} Repeat the sweep with several before you call one setting better than another."
    if sequences == 1:
        return f"{count(seeds, 'seed')} of one sequence: intervals cover other seeds of it, not other sequences."
    sample = "intervals cover other sequences only as far as these are a sample of them."
    if seeds == 1:
        return f"{sequences} sequences with one seed each: {sample}"
    return (
        f"{len(units)} units, {sequences} sequences with {seeds} seeds: {sample} Units of one sequence are alike, so "
        "for other sequences the intervals are too narrow."
    )
