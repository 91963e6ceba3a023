"""What is compared: the settings of runs by unit (sequence x seed), and how each differs from its baseline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from sapo.core.errors import RecordError
from sapo.report.differences import Difference, Spread, direction, run_differences, spread, unit_difference
from sapo.report.numbers import count
from sapo.report.runs import Run, shared_prompts
from sapo.runs.metrics import METRICS
from sapo.runs.results import MEASURES, Prompt, RunResult
from sapo.training.settings import MethodName, Policy

Unit = tuple[str, int]
ROW_NOISE = (
    "95 % intervals come from resampling the test rows: they are the test-row noise of these trained models only. "
    "One seed: they say nothing of other seeds."
)
PAIRED_ROWS = (
    "Differences are paired: both runs are resampled on the same test rows. Their intervals are the test-row noise of "
    "these trained models only, and of few rows (below about 20 for a task) they come out too narrow. Each run is one "
    "seed: repeat the runs with several seeds before you call one setting better than another."
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared: its name, its method and policy, and its runs by unit; None where there is none."""

    name: str
    method: str
    policy: str
    runs: tuple[RunResult | None, ...]

    def points(self, of: Callable[[RunResult], float | None]) -> list[float | None]:
        """Return a value of every run."""
        return [None if run is None else of(run) for run in self.runs]

    def metric(self, measure: str, prompt: Prompt, name: str) -> Spread:
        """Return a metric: of one unit with its interval over test rows, of several with the one over units."""
        if len(self.runs) == 1 and self.runs[0] is not None:
            found = self.runs[0].estimate(measure, prompt, name)
            bounds = found["interval"]
            return Spread((found["value"],), found["value"], None if bounds is None else (bounds[0], bounds[1]))
        return spread(self.values(measure, prompt, name))

    def values(self, measure: str, prompt: Prompt, name: str) -> list[float | None]:
        """Return a metric of every run."""
        return self.points(lambda run: run.estimate(measure, prompt, name)["value"])


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
        differences: by name of the metric.
    """

    axis: str
    group: str
    base: str
    label: str
    measure: str
    prompt: Prompt
    differences: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Arranged:
    """Comparable runs.

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
    def results(self) -> list[RunResult]:
        """All results, by unit and setting."""
        return [run for unit in zip(*(s.runs for s in self.settings), strict=True) for run in unit if run is not None]

    @property
    def only_originals(self) -> bool:
        """Whether no run was trained with another instruction than the originals."""
        return all(result.only_originals for result in self.results)


def arrange(runs: Sequence[Run]) -> Arranged:
    """Return runs of directories, or those of sweeps, arranged; the order of the latter does not matter.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    results = [run.result for run in runs]
    if not runs or runs[0].directory is None:
        return _sweep(results)
    for run in runs[1:]:
        if list(run.result.tasks) != list(results[0].tasks):
            raise RecordError(
                f"{runs[0].name} has the tasks {', '.join(results[0].tasks)}, but {run.name} has "
                f"{', '.join(run.result.tasks)}: only runs of the same tasks in the same order can be compared"
            )
    prompts = shared_prompts(results, [run.name for run in runs])
    names = {letter(n): run for n, run in enumerate(runs)}
    compared = (
        Compared("run", "", "A", name, measure, prompt, run_differences(runs[0], run, measure, prompt))
        for name, run in list(names.items())[1:]
        for prompt in prompts
        for measure in MEASURES
    )
    settings = (Setting(n, run.result.method, run.result.policy, (run.result,)) for n, run in names.items())
    return Arranged(
        tuple(settings), (("", results[0].seed),), prompts, tuple(compared),
        PAIRED_ROWS if len(runs) > 1 else ROW_NOISE, names={n: f"{n} ({run.name})" for n, run in names.items()},
    )  # fmt: skip


def letter(n: int) -> str:
    """Return what to call a run of several."""
    return chr(ord("A") + n) if n < 26 else f"R{n + 1}"


def _sweep(results: Sequence[RunResult]) -> Arranged:
    runs = _comparable(results)
    methods = _ordered({method for method, _, _ in runs}, get_args(MethodName), "seq-lora")
    policies = _ordered({policy for _, policy, _ in runs}, get_args(Policy), "original")
    units = tuple(sorted({unit for _, _, unit in runs}))

    def setting(method: str, policy: str) -> Setting:
        parts = ([method] if len(methods) > 1 else []) + ([policy] if len(policies) > 1 else [])
        found = tuple(runs.get((method, policy, unit)) for unit in units)
        return Setting(", ".join(parts) or policy, method, policy, found)

    every = {(m, p): setting(m, p) for m in methods for p in policies}
    settings = tuple(one for one in every.values() if any(one.runs))
    ordered = [run for unit in zip(*(s.runs for s in settings), strict=True) for run in unit if run is not None]
    prompts = shared_prompts(ordered, [run.name for run in ordered])
    # What a method does is seen with one test prompt; what a choice does, only with both.
    pairs = [
        ("policy", m if len(methods) > 1 else "", (policies[0], every[m, policies[0]]), p, every[m, p], prompts)
        for m in methods
        for p in policies[1:]
    ] + [
        ("method", p if len(policies) > 1 else "", (methods[0], every[methods[0], p]), m, every[m, p], prompts[:1])
        for p in policies
        for m in methods[1:]
    ]
    compared = tuple(
        Compared(axis, group, base_label, label, measure, prompt, _differences(base, other, measure, prompt))
        for axis, group, (base_label, base), label, other, seen in pairs
        if any(other.runs)
        for prompt in seen
        for measure in MEASURES
    )
    return Arranged(settings, units, prompts, compared, _scope(units), sweep=True)


def _differences(base: Setting, other: Setting, measure: str, prompt: Prompt) -> dict[str, Difference]:
    """Return the differences by name of the metric; of metrics that no pair defines, none."""
    found = {}
    for name in (metric.name for metric in METRICS):
        ours, theirs = (s.values(measure, prompt, name) for s in (other, base))
        difference = unit_difference(ours, theirs, direction(measure, name))
        if difference.count:
            found[name] = difference
    return found


def _comparable(results: Sequence[RunResult]) -> dict[tuple[str, str, Unit], RunResult]:
    """Return the runs of sweeps by method, policy and unit.

    Raises:
        RecordError: if two of them cannot be compared, naming both.
    """
    runs: dict[tuple[str, str, Unit], RunResult] = {}
    for result in results:
        known = runs.setdefault((result.method, result.policy, (result.sequence, result.seed)), result)
        if known != result:
            raise RecordError(
                f"two different runs, {known.name} and {result.name}, have the same sequence, method, policy and seed: "
                "report the sweeps one by one"
            )
    if not runs:
        raise RecordError("there is no finished run yet: start the sweep, or wait for its first run to end")
    ordered = [runs[key] for key in sorted(runs)]
    first = {result.sequence: result for result in reversed(ordered)}
    for result in ordered:
        for other, why in (
            (ordered[0], "" if result.model == ordered[0].model else "have different models"),
            (first[result.sequence], _obstacle(first[result.sequence], result)),
        ):
            if why:
                raise RecordError(f"{other.name} and {result.name} {why}: they cannot be compared on one page")
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
    return ""


def _ordered(found: Collection[str], known: Sequence[str], baseline: str) -> tuple[str, ...]:
    places = {name: place for place, name in enumerate(known)}
    return tuple(sorted(found, key=lambda name: (name != baseline, places.get(name, len(places)), name)))


def _scope(units: Sequence[Unit]) -> str:
    """Return what the units are a sample of."""
    sequences, seeds = (len(set(part)) for part in zip(*units, strict=True))
    if len(units) == 1:
        return (
            "One unit: intervals are the test-row noise of these trained models, and say nothing of other seeds or "
            "sequences. Repeat the sweep with several before you call one setting better than another."
        )
    if sequences == 1:
        return f"{count(seeds, 'seed')} of one sequence: intervals hold for other seeds of it, not for other sequences."
    if seeds == 1:
        return (
            f"{sequences} sequences with one seed each: intervals hold for other sequences only as far as these are a "
            "sample of them."
        )
    return (
        f"{len(units)} units, {sequences} sequences with {seeds} seeds: intervals hold for others only as far as these "
        "are a sample of them. Units of one sequence are more alike than others, so for other sequences the intervals "
        "are too narrow."
    )
