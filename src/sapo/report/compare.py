"""Runs arranged by what is compared: two directories on the same test rows, or the settings of a sweep by unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sapo.core.errors import RecordError
from sapo.report.blocks import NOTHING, Block, Note, Plot, Section, Table
from sapo.report.differences import Difference, direction, run_differences
from sapo.report.numbers import count, decimals, estimate, interval, listed, number
from sapo.report.plots import Range, height, ranges
from sapo.report.runs import Run, shared_prompts
from sapo.report.units import Grid, Spread, grid_of, quantile, spread, unit_difference
from sapo.runs.metrics import METRICS
from sapo.runs.results import MEASURES, NLL, PRIMARY, Prompt, RunResult

SHORT = {PRIMARY: "score", NLL: "NLL"}
UNITS = {PRIMARY: "points", NLL: "nats per token"}
TITLES = {PRIMARY: "Score (0 to 100, higher is better)", NLL: "NLL (nats per token, lower is better)"}
# Metrics that are drawn and spoken of first: how good the end is, and what was forgotten.
HEADLINE = {"ap": "AP", "bwt_final": "BWT (final)"}
# Settings up to which each is spoken of although nothing is decided.
_FEW = 3
# Settings from which a screen shows one metric.
_MANY = 12
ROW_NOISE = (
    "95 % intervals come from resampling the test rows: they are the test-row noise of these trained models only. "
    "One seed: they say nothing of other seeds."
)
PAIRED_ROWS = (
    "Differences are paired: both runs are resampled on the same test rows. Their intervals are the test-row noise of "
    "these trained models only, and of few rows (below about 20 for a task) they come out too narrow. Each run is one "
    "seed: repeat the runs with several seeds before you call one setting better than another."
)
PAIRED_UNITS = (
    "difference: mean over the units in which both have a value, with its 95 % Student t interval. pairs: how many "
    "these are, of the units in which at least one of the two has one. each unit: the differences themselves, in the "
    "order of the units (–: no pair)."
)
EQUAL = (
    "An interval of no width means that all units differ by exactly the same amount. Coarse scores of few test rows "
    "often do: it is no sign of certainty."
)
_OBSTACLES = {
    "too small to decide": "too small to decide: the interval contains 0, or only touches it.",
    "not paired": "not paired: the runs were tested on different rows, so the difference has no interval.",
    "not comparable": "not comparable: the runs use different metrics, or their models split the answers into "
    "different tokens, so the numbers have different units.",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared: its name, and its runs by unit; None where there is none."""

    name: str
    runs: tuple[RunResult | None, ...]

    def points(self, of: Callable[[RunResult], float | None]) -> list[float | None]:
        """Return a value of every run."""
        return [None if run is None else of(run) for run in self.runs]


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
        differences: by title of the metric.
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
        units: names of the units; one for runs of directories.
        prompts: test prompts that all have results for, the main one first.
        compared: all differences.
        scope: what their intervals stand for.
        grid: of a sweep.
        names: of settings that are letters in tables, for sentences.
    """

    settings: tuple[Setting, ...]
    units: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    compared: tuple[Compared, ...]
    scope: str
    grid: Grid | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> list[RunResult]:
        """All results, by unit and setting."""
        return [run for unit in zip(*(s.runs for s in self.settings), strict=True) for run in unit if run is not None]

    def metric(self, setting: Setting, measure: str, prompt: Prompt, name: str) -> Spread:
        """Return a metric of a setting: of one unit with its interval over test rows, of several over units."""
        if len(self.units) == 1 and setting.runs[0] is not None:
            found = setting.runs[0].estimate(measure, prompt, name)
            bounds = found["interval"]
            return Spread((found["value"],), found["value"], None if bounds is None else (bounds[0], bounds[1]))
        return spread(setting.points(partial(_value, measure=measure, prompt=prompt, metric=name)))


def arrange(runs: Sequence[Run]) -> Arranged:
    """Return runs of directories, or those of a sweep, arranged.

    Raises:
        RecordError: if they cannot be compared, naming what differs.
    """
    results = [run.result for run in runs]
    if not runs or runs[0].directory is None:
        grid = grid_of(results)
        prompts = shared_prompts(grid.records, [record.name for record in grid.records])
        return _of_grid(grid, prompts)
    for run in runs[1:]:
        if list(run.result.tasks) != list(results[0].tasks):
            raise RecordError(
                f"{runs[0].name} has the tasks {', '.join(results[0].tasks)}, but {run.name} has "
                f"{', '.join(run.result.tasks)}: only runs of the same tasks in the same order can be compared"
            )
    prompts = shared_prompts(results, [run.name for run in runs])
    names = [letter(n) for n in range(len(runs))]
    compared = (
        Compared("run", "", names[0], name, measure, prompt, _titled(run_differences(runs[0], run, measure, prompt)))
        for name, run in zip(names[1:], runs[1:], strict=True)
        for prompt in prompts
        for measure in MEASURES
    )
    settings = tuple(Setting(name, (result,)) for name, result in zip(names, results, strict=True))
    scope = PAIRED_ROWS if len(runs) > 1 else ROW_NOISE
    spoken = {name: f"{name} ({run.name})" for name, run in zip(names, runs, strict=True)}
    return Arranged(settings, ("",), prompts, tuple(compared), scope, names=spoken)


def letter(n: int) -> str:
    """Return what to call a run of several."""
    return chr(ord("A") + n) if n < 26 else f"R{n + 1}"


def _of_grid(grid: Grid, prompts: tuple[Prompt, ...]) -> Arranged:
    alone = (len(grid.methods) == 1, len(grid.policies) == 1)
    settings = {
        (m, p): Setting(", ".join(name for name, only in zip((m, p), alone, strict=True) if not only) or p,
                        grid.of(m, p))
        for m, p in grid.settings
    }  # fmt: skip
    compared: list[Compared] = []
    # What a method does is seen with one test prompt; what a choice does, only with both.
    for axis, groups, names, seen in (
        ("policy", grid.methods, grid.policies, prompts),
        ("method", grid.policies, grid.methods, prompts[:1]),
    ):
        for group in groups:
            keys = {name: (group, name) if axis == "policy" else (name, group) for name in names}
            base = settings.get(keys[names[0]], Setting(names[0], (None,) * len(grid.units)))
            compared += [
                Compared(
                    axis, group if len(groups) > 1 else "", names[0], name, measure, prompt,
                    _unit_differences(base, settings[keys[name]], measure, prompt),
                )
                for name in names[1:]
                if keys[name] in settings
                for prompt in seen
                for measure in MEASURES
            ]  # fmt: skip
    units = tuple(f"{sequence} s{seed}" for sequence, seed in grid.units)
    return Arranged(tuple(settings.values()), units, prompts, tuple(compared), _scope(grid), grid)


def _titled(found: Mapping[str, Difference]) -> dict[str, Difference]:
    return {metric.title: found[metric.name] for metric in METRICS if metric.name in found}


def _unit_differences(base: Setting, other: Setting, measure: str, prompt: Prompt) -> dict[str, Difference]:
    """Return the differences by title of the metric; of metrics that no pair defines, none."""
    found = {}
    for metric in METRICS:
        of = partial(_value, measure=measure, prompt=prompt, metric=metric.name)
        difference = unit_difference(other.points(of), base.points(of), direction(measure, metric.name))
        if difference.count:
            found[metric.title] = difference
    return found


def _value(run: RunResult, measure: str, prompt: Prompt, metric: str) -> float | None:
    return run.estimate(measure, prompt, metric)["value"]


def signed(metric: str) -> bool:
    """Whether a metric is a difference of cells."""
    return metric not in ("ap", "la")


def said(arranged: Arranged) -> Iterator[str]:
    """Yield what can be said of each thing that is compared with its baseline, over all groups."""
    ours = [one for one in arranged.compared if one.prompt == arranged.prompts[0]]
    # Verdicts may differ with the other one, which the tables show.
    where = f" (test prompt {arranged.prompts[0]})" if len(arranged.prompts) > 1 else ""
    undecided: dict[str, list[str]] = {}
    pairs = dict.fromkeys((one.axis, one.base, one.label) for one in ours)
    for axis, base, label in pairs:
        parts, decided = [], False
        subject = f"{arranged.names.get(label, label)} against {arranged.names.get(base, base)}{where}"
        for measure in MEASURES:
            known = [o for o in ours if (o.axis, o.base, o.label, o.measure) == (axis, base, label, measure)]
            for title in HEADLINE.values():
                if found := [one.differences[title] for one in known if title in one.differences]:
                    decided |= any(one.verdict in ("better", "worse") for one in found)
                    parts.append(_over_groups(title, measure, found))
        if parts and (decided or len(pairs) <= _FEW):
            yield f"{subject}: {'; '.join(parts)}."
        elif parts:
            undecided.setdefault(base, []).append(label)
        else:
            yield f"{subject}: not both define {' or '.join(HEADLINE.values())}."
    for base, labels in undecided.items():
        metrics = " or ".join(HEADLINE.values())
        yield f"Against {base}{where}, nothing is decided in {metrics}, in score or NLL: {', '.join(labels)}."


def _over_groups(title: str, measure: str, found: Sequence[Difference]) -> str:
    """Return what one metric says: its figures in one group, how many groups say what in several."""
    name = f"{title} in {SHORT[measure]}"
    if len(found) == 1:
        figures = estimate(found[0].value, found[0].interval, decimals(measure), sign=True)
        return f"{name} {figures} {UNITS[measure]}, {found[0].verdict}"
    verdicts = [one.verdict for one in found]
    counts = {kind: verdicts.count(kind) for kind in ("better", "worse")}
    counts["undecided"] = len(verdicts) - sum(counts.values())
    if counts["undecided"] == len(verdicts):
        return f"{name} undecided in all {len(verdicts)} groups"
    parts = ", ".join(f"{kind} in {n}" for kind, n in counts.items() if n)
    return f"{name} {parts} of {len(verdicts)} groups"


def headline(arranged: Arranged) -> Table:
    """Return how good the end is and what was forgotten, a row for each setting."""
    prompt = arranged.prompts[0]
    names = [
        name
        for name in ("ap", "la", "bwt_final")
        if (name != "la" or not _defines(arranged, PRIMARY, "ap")) and _defines(arranged, PRIMARY, name)
    ]
    titles = {metric.name: metric.title for metric in METRICS}
    if len(arranged.settings) > _MANY:
        names = names[:1]
    columns = [f"{SHORT[measure]} {titles[name]}" for name in names for measure in MEASURES]
    rows = tuple(
        (s.name, *(_mean(arranged, s, measure, prompt, name) for name in names for measure in MEASURES))
        for s in arranged.settings
    )
    how = "" if all(one.only_originals for one in arranged.results) else f" Test prompt: {prompt}."
    over = f"over the {len(arranged.units)} units" if len(arranged.units) > 1 else "over test rows"
    legend = (
        f"AP: mean over tasks at the end; BWT (final): what later training did to earlier tasks. Score: 0 to 100, "
        f"higher is better; NLL: nats per token, lower is better. [..]: 95 % interval {over}.{how}",
    )
    return Table(("setting", *columns), rows, legend=legend)


def _defines(arranged: Arranged, measure: str, name: str) -> bool:
    found = (run.estimate(measure, prompt, name) for run in arranged.results for prompt in arranged.prompts)
    return any(one["value"] is not None for one in found)


def _mean(arranged: Arranged, setting: Setting, measure: str, prompt: Prompt, name: str) -> str:
    found = arranged.metric(setting, measure, prompt, name)
    runs = sum(run is not None for run in setting.runs)
    few = f" ({found.count})" if 0 < found.count < runs else ""
    return estimate(found.mean, found.interval, decimals(measure), sign=signed(name)) + few


def all_metrics(arranged: Arranged) -> Iterator[Block]:
    """Yield every metric, a table for each test prompt and measure; and the mean at the end as a figure."""
    for prompt in arranged.prompts:
        for measure in MEASURES:
            names = [m for m in METRICS if _defines(arranged, measure, m.name)]
            rows = tuple(
                (s.name, str(sum(run is not None for run in s.runs)),
                 *(_mean(arranged, s, measure, prompt, m.name) for m in names))
                for s in arranged.settings
            )  # fmt: skip
            title = f"{TITLES[measure]}, test prompt: {prompt}"
            yield Table(("setting", "runs", *(m.title for m in names)), rows, title)
    for measure in MEASURES:
        name = "ap" if _defines(arranged, measure, "ap") else "la"
        found = [(s.name, arranged.metric(s, measure, arranged.prompts[0], name)) for s in arranged.settings]
        rings = [Range(n, f.mean, f.interval, f.points if len(arranged.units) > 1 else ()) for n, f in found]
        caption = "Rings: the single units." if len(arranged.units) > 1 else ""
        yield Plot(f"{name.upper()}: {TITLES[measure]}", ranges(rings, TITLES[measure]), caption, height(len(rings)))
    yield Note(f"{NOTHING}: not defined for the method. (n): defined for n of the runs only.", "dim")


def comparisons(arranged: Arranged) -> Iterator[Section]:
    """Yield a section for each thing that varies: in short, then every difference."""
    for axis in dict.fromkeys(one.axis for one in arranged.compared):
        ours = [one for one in arranged.compared if one.axis == axis]
        summary = tuple(
            (one.group, one.label, SHORT[one.measure], one.prompt, *_summary(one.differences)) for one in ours
        )
        columns = (axis, "measure", "test prompt", "better", "worse", "undecided")
        grouped = any(one.group for one in ours)
        blocks: list[Block] = [
            Note(f"Each {axis} minus {ours[0].base}{', within each group' if grouped else ''}."),
            Table((*(["group"] if grouped else []), *columns), tuple(row[not grouped :] for row in summary),
                  "In short", text=tuple(range(7))),
        ]  # fmt: skip
        for measure in MEASURES:
            drawn = [one for one in ours if (one.measure, one.prompt) == (measure, arranged.prompts[0])]
            blocks += _drawn(drawn, measure)
        tables = dict.fromkeys((one.group, one.prompt, one.measure) for one in ours)
        for group, prompt, measure in tables:
            known = [one for one in ours if (one.group, one.prompt, one.measure) == (group, prompt, measure)]
            blocks.append(_table(axis, group, prompt, measure, known, len(arranged.units) > 1))
        found = [d for one in ours for d in one.differences.values()]
        notes = [PAIRED_UNITS if len(arranged.units) > 1 else PAIRED_ROWS]
        notes += [_OBSTACLES[v] for v in _OBSTACLES if any(d.verdict == v for d in found)]
        if any(d.interval is not None and d.interval[0] == d.interval[1] for d in found):
            notes.append(EQUAL)
        plural = {"policy": "Policies", "method": "Methods", "run": "Runs"}[axis]
        yield Section(f"{plural} compared", (*blocks, *(Note(text, "dim") for text in notes)))


def _summary(differences: Mapping[str, Difference]) -> tuple[str, str, str]:
    """Return which metrics are better and which worse, and how many are neither."""
    kinds = [[t for t, d in differences.items() if d.verdict == kind] for kind in ("better", "worse")]
    better, worse = (", ".join(titles) or NOTHING for titles in kinds)
    return better, worse, f"{len(differences) - sum(map(len, kinds))} of {len(differences)}"


def _drawn(known: Sequence[Compared], measure: str) -> Iterator[Plot]:
    for title in HEADLINE.values():
        rows = [
            Range(", ".join(filter(None, (one.group, one.label))), d.value, d.interval, d.points, d.verdict)
            for one in known
            if (d := one.differences.get(title)) is not None
        ]
        if rows:
            name = f"{title} in {SHORT[measure]}: difference to {known[0].base}"
            sense = "below 0 is better" if measure == NLL else "above 0 is better"
            caption = "Rings: the single units." if any(len(row.points) > 1 for row in rows) else ""
            yield Plot(name, ranges(rows, f"{UNITS[measure]} ({sense})", 0.0), caption, height(len(rows)))


def _table(axis: str, group: str, prompt: Prompt, measure: str, known: Sequence[Compared], units: bool) -> Table:
    digits = decimals(measure)
    rows = []
    for one in known:
        for title, d in (one.differences or {NOTHING: Difference(None, None, "no pair")}).items():
            row = (one.label, title, number(d.value, digits, sign=True), interval(d.interval, digits, sign=True))
            more = (d.verdict, f"{d.count} of {d.either}", listed(d.points, digits)) if units else (d.verdict,)
            rows.append((*row, *more))
    columns = (axis, "metric", "difference", "95 % interval", "verdict", *(("pairs", "each unit") if units else ()))
    title = f"{TITLES[measure]}, test prompt: {prompt}" + (f", {group}" if group else "")
    return Table(columns, tuple(rows), title, text=(0, 1, 4, 6) if units else (0, 1, 4))


def reading(arranged: Arranged) -> Iterator[Note]:
    """Yield what the intervals of a sweep mean."""
    units = len(arranged.units)
    yield Note(arranged.scope, "strong")
    if units > 1:
        yield Note(
            f"Intervals over units are Student t intervals: mean ± {quantile(units):.2f} standard errors with {units} "
            "units, 1.96 with very many. Few units make wide intervals: too small to decide does not mean that there "
            "is no difference."
        )
    total = sum(d.interval is not None for one in arranged.compared for d in one.differences.values())
    if total:
        yield Note(
            f"This page holds {total} intervals of differences. If nothing differed at all, about 5 % of them, "
            f"{total * 0.05:.1f} here, would still exclude 0 by chance. Decide which comparison counts before you "
            "look, and take the others as hints."
        )


def _scope(grid: Grid) -> str:
    """Return what the units are a sample of."""
    sequences, seeds = len(grid.sequences), len(grid.seeds)
    if len(grid.units) == 1:
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
        f"{len(grid.units)} units, {sequences} sequences with {seeds} seeds: intervals hold for others only as far as "
        "these are a sample of them. Units of one sequence are more alike than others; the intervals treat all as "
        "independent, and are too narrow for other sequences."
    )
