"""Policies and methods of a sweep against their baselines, paired by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from sapo.metrics import METRICS
from sapo.report.matrices import MEASURES, SHORT, decimals, direction
from sapo.report.numbers import interval, number
from sapo.report.tables import NOTHING, Block, Cell, Column, Note, Section, Style, Table, cells
from sapo.report.units import Grid, Spread, UnitDifference, UnitVerdict, spread, unit_difference
from sapo.results import NLL, Prompt

Setting = tuple[str, str]
_STYLES: Mapping[UnitVerdict, Style] = {"better": "good", "worse": "bad"}
PAIRED = (
    "mean: of the differences by unit, over the units in which both have a value, with its 95 % Student t interval. "
    "pairs: how many these are, of the units in which at least one of the two has one. each unit: the differences "
    "themselves, in the order of the units named above (–: no pair). too small to decide: the interval contains 0, or "
    "only touches it."
)
# Titles of the sections, and of the table that each begins with.
COMPARED = ("Policies compared", "Methods compared")
SUMMARY = "In short"
EQUAL = (
    "An interval of no width means that all units differ by exactly the same amount. Coarse scores of few test rows "
    "often do: it is no sign of certainty."
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A section of differences, and how many of them have an interval."""

    section: Section
    intervals: int


@dataclass(frozen=True, slots=True)
class _Group:
    """A baseline and what is compared with it, by name."""

    name: str
    base: Setting
    others: Sequence[tuple[str, Setting]]


def policies_compared(grid: Grid, prompts: Sequence[Prompt]) -> Comparison | None:
    """Return every policy minus the baseline policy, within each method; None of one policy alone."""
    base, *others = grid.policies
    groups = [
        _Group(method, (method, base), [(p, (method, p)) for p in others if (method, p) in grid.settings])
        for method in grid.methods
    ]
    about = f"Every policy minus policy {base}, of the same method, sequence and seed."
    return _compared(COMPARED[0], about, ("method", "policy"), grid, groups, prompts)


def methods_compared(grid: Grid, prompts: Sequence[Prompt]) -> Comparison | None:
    """Return every method minus the baseline method, within each policy; None of one method alone."""
    base, *others = grid.methods
    groups = [
        _Group(policy, (base, policy), [(m, (m, policy)) for m in others if (m, policy) in grid.settings])
        for policy in grid.policies
    ]
    about = f"Every method minus method {base}, of the same policy, sequence and seed."
    return _compared(COMPARED[1], about, ("policy", "method"), grid, groups, prompts)


def metric_points(grid: Grid, setting: Setting, measure: str, prompt: Prompt, metric: str) -> list[float | None]:
    """Return a metric of one setting by unit; None where the run is missing or does not define it."""
    runs = grid.of(*setting)
    return [None if run is None else run.estimate(measure, prompt, metric).value for run in runs]


def measure_title(measure: str) -> str:
    """Return the name of a measure with its unit and direction."""
    return "NLL (nats per token, lower is better)" if measure == NLL else "Score (0 to 100, higher is better)"


def points(found: Spread, digits: int, *, sign: bool) -> str:
    """Return the values of all units as one text, in the order of the units."""
    return ", ".join(number(value, digits, sign=sign) for value in found.points)


def _compared(
    title: str, about: str, words: tuple[str, str], grid: Grid, groups: Sequence[_Group], prompts: Sequence[Prompt]
) -> Comparison | None:
    """Return a section: in short, then a table for each test prompt, group and measure.

    Args:
        title: of the section.
        about: its first sentence.
        words: what the groups are, and what is compared within them.
        grid: all runs.
        groups: what is compared.
        prompts: test prompts.
    """
    tables: list[Block] = []
    short: list[tuple[Cell, ...]] = []
    found: list[UnitDifference] = []
    for group, prompt, measure in product(groups, prompts, MEASURES):
        rows: list[tuple[Cell, ...]] = []
        for label, setting in group.others:
            differences = _differences(grid, group.base, setting, measure, prompt)
            found += differences.values()
            rows += _rows(label, differences, measure)
            short.append(cells(group.name, label, SHORT[measure], prompt, *_summary(differences)))
        if rows:
            better = "lower" if measure == NLL else "higher"
            heading = f"{words[0].capitalize()} {group.name}: differences in {SHORT[measure]} ({better} is better)"
            tables.append(Table(f"{heading}, test prompt: {prompt}", _columns(words[1]), tuple(rows)))
    if not tables:
        return None
    columns = (*words, "measure", "test prompt", "better", "worse", "undecided")
    summary = Table(SUMMARY, tuple(Column(column, numeric=False) for column in columns), tuple(short))
    intervals = [difference.spread.interval for difference in found if difference.spread.interval is not None]
    notes = (PAIRED, *([EQUAL] if any(low == high for low, high in intervals) else []))
    blocks = (Note(about), summary, *tables, *(Note(text, "dim") for text in notes))
    return Comparison(Section(title, blocks), len(intervals))


def _summary(differences: Mapping[str, UnitDifference]) -> Sequence[str]:
    """Return which metrics are better and which worse, and how many are neither."""
    kinds = [[title for title, d in differences.items() if d.verdict == verdict] for verdict in _STYLES]
    undecided = len(differences) - sum(map(len, kinds))
    return [*(", ".join(titles) or NOTHING for titles in kinds), f"{undecided} of {len(differences)}"]


def _columns(first: str) -> tuple[Column, ...]:
    return (
        Column(first, numeric=False),
        Column("metric", numeric=False),
        Column("pairs"),
        Column("mean"),
        Column("95 % interval"),
        Column("verdict", numeric=False),
        Column("each unit", numeric=False),
    )


def _differences(
    grid: Grid, base: Setting, setting: Setting, measure: str, prompt: Prompt
) -> dict[str, UnitDifference]:
    """Return the differences by title of the metric; of metrics that no pair defines, none."""
    found = {}
    for metric in METRICS:
        ours, theirs = (metric_points(grid, s, measure, prompt, metric.name) for s in (setting, base))
        difference = unit_difference(ours, theirs, direction(measure, metric.name))
        if difference.spread.count:
            found[metric.title] = difference
    if not found:
        pairs = zip(grid.of(*setting), grid.of(*base), strict=True)
        either = sum(run is not None or other is not None for run, other in pairs)
        found[NOTHING] = UnitDifference(spread([None] * len(grid.units)), either, "no pair")
    return found


def _rows(label: str, differences: Mapping[str, UnitDifference], measure: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for n, (title, difference) in enumerate(differences.items()):
        found, digits = difference.spread, decimals(measure)
        rows.append(
            (
                Cell("" if n else label),
                Cell(title),
                Cell(f"{found.count} of {difference.either}"),
                Cell(number(found.mean, digits, sign=True)),
                Cell(interval(found.interval, digits, sign=True)),
                Cell(difference.verdict, _STYLES.get(difference.verdict, "")),
                Cell(points(found, digits, sign=True)),
            )
        )
    return rows
