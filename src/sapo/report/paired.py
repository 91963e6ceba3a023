"""Policies and methods of a sweep against their baselines, paired by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from sapo.report.drawings import Intervals, Range, Tone
from sapo.report.matrices import MEASURES, SHORT, decimals, direction
from sapo.report.numbers import interval, number
from sapo.report.tables import NOTHING, Block, Cell, Column, Figure, Note, Section, Style, Table, cells
from sapo.report.units import Grid, Spread, UnitDifference, UnitVerdict, spread, unit_difference
from sapo.runs.metrics import METRICS
from sapo.runs.results import NLL, Prompt

Setting = tuple[str, str]
_STYLES: Mapping[UnitVerdict, Style] = {"better": "good", "worse": "bad"}
_TONES: Mapping[UnitVerdict, Tone] = {"better": "good", "worse": "bad"}
# Titles of the metrics that are drawn and spoken of first: how good the end is, and what was forgotten.
HEADLINE = ("AP", "BWT (final)")
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
class Paired:
    """One setting minus the baseline of its group.

    Attributes:
        group: what both have in common: their method, or their policy.
        base: name of the baseline.
        label: of what is compared with it.
        measure: a metric of results.json.
        prompt: how tasks were tested.
        differences: by title of the metric; the baseline's values are subtracted.
    """

    group: str
    base: str
    label: str
    measure: str
    prompt: Prompt
    differences: Mapping[str, UnitDifference]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A section of differences.

    Attributes:
        section: of the page.
        intervals: how many of the differences have one.
        found: the differences, in the order of the section.
    """

    section: Section
    intervals: int
    found: tuple[Paired, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """A baseline and what is compared with it, by name."""

    name: str
    base: Setting
    base_name: str
    others: Sequence[tuple[str, Setting]]


def policies_compared(grid: Grid, prompts: Sequence[Prompt]) -> Comparison | None:
    """Return every policy minus the baseline policy, within each method; None of one policy alone."""
    base, *others = grid.policies
    groups = [
        _Group(method, (method, base), base, [(p, (method, p)) for p in others if (method, p) in grid.settings])
        for method in grid.methods
    ]
    about = f"Every policy minus policy {base}, of the same method, sequence and seed."
    return _compared(COMPARED[0], about, ("method", "policy"), grid, groups, prompts)


def methods_compared(grid: Grid, prompts: Sequence[Prompt]) -> Comparison | None:
    """Return every method minus the baseline method, within each policy; None of one method alone."""
    base, *others = grid.methods
    groups = [
        _Group(policy, (base, policy), base, [(m, (m, policy)) for m in others if (m, policy) in grid.settings])
        for policy in grid.policies
    ]
    about = f"Every method minus method {base}, of the same policy, sequence and seed."
    return _compared(COMPARED[1], about, ("policy", "method"), grid, groups, prompts)


def metric_points(grid: Grid, setting: Setting, measure: str, prompt: Prompt, metric: str) -> list[float | None]:
    """Return a metric of one setting by unit; None where the run is missing or does not define it."""
    runs = grid.of(*setting)
    return [None if run is None else run.estimate(measure, prompt, metric)["value"] for run in runs]


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
    found: list[Paired] = []
    for group, prompt, measure in product(groups, prompts, MEASURES):
        rows: list[tuple[Cell, ...]] = []
        for label, setting in group.others:
            differences = _differences(grid, group.base, setting, measure, prompt)
            found.append(Paired(group.name, group.base_name, label, measure, prompt, differences))
            rows += _rows(label, differences, measure)
            short.append(cells(group.name, label, SHORT[measure], prompt, *_summary(differences)))
        if rows:
            better = "lower" if measure == NLL else "higher"
            heading = f"{words[0].capitalize()} {group.name}: differences in {SHORT[measure]} ({better} is better)"
            heading = f"{heading}, test prompt: {prompt}"
            tables.append(Table(heading, _columns(words[1]), tuple(rows), folded=True))
    if not tables:
        return None
    columns = (*words, "measure", "test prompt", "better", "worse", "undecided")
    summary = Table(SUMMARY, tuple(Column(column, numeric=False) for column in columns), tuple(short))
    spreads = [difference.spread for one in found for difference in one.differences.values()]
    intervals = [found.interval for found in spreads if found.interval is not None]
    notes = (PAIRED, *([EQUAL] if any(low == high for low, high in intervals) else []))
    figures = overview(words, found, prompts[0])
    blocks = (Note(about), summary, *figures, *tables, *(Note(text, "dim") for text in notes))
    return Comparison(Section(title, blocks), len(intervals), tuple(found))


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
        rows.append((Cell("" if n else label), Cell(title), *_figures(difference, decimals(measure))))
    return rows


def _figures(difference: UnitDifference, digits: int) -> tuple[Cell, ...]:
    found = difference.spread
    return (
        Cell(f"{found.count} of {difference.either}"),
        Cell(number(found.mean, digits, sign=True)),
        Cell(interval(found.interval, digits, sign=True)),
        Cell(difference.verdict, _STYLES.get(difference.verdict, "")),
        Cell(points(found, digits, sign=True)),
    )


def overview(words: tuple[str, str], found: Sequence[Paired], prompt: Prompt) -> tuple[Figure, ...]:
    """Return the headline metrics of all groups side by side, a figure for each measure.

    Args:
        words: what the groups are, and what is compared within them.
        found: all differences.
        prompt: the test prompt whose differences are drawn.
    """
    figures = []
    for measure in MEASURES:
        ours = [one for one in found if (one.measure, one.prompt) == (measure, prompt)]
        rows: list[tuple[Cell, ...]] = []
        drawings = []
        for title in HEADLINE:
            known = [(one, one.differences[title]) for one in ours if title in one.differences]
            rows += [
                (*cells(title, one.group, one.label), *_figures(difference, decimals(measure)))
                for one, difference in known
            ]
            if known:
                drawings.append(_drawn(title, measure, known))
        columns = (Column("metric", numeric=False), Column(words[0], numeric=False), *_columns(words[1]))
        table = Table(f"{SHORT[measure]}, test prompt: {prompt}", columns[:3] + columns[4:], tuple(rows))
        if drawings:
            figures.append(Figure(replace(table, drawings=tuple(drawings))))
    return tuple(figures)


def _drawn(title: str, measure: str, known: Sequence[tuple[Paired, UnitDifference]]) -> Intervals:
    several = len({one.group for one, _ in known}) > 1
    rows = []
    for one, difference in known:
        low, high = difference.spread.interval or (None, None)
        values = tuple(point for point in difference.spread.points if point is not None)
        rows.append(
            Range(
                f"{one.group}: {one.label}" if several else one.label,
                difference.spread.mean, low, high, values if len(values) > 1 else (),
                difference.verdict if difference.verdict in _TONES else "undecided", _TONES.get(difference.verdict, ""),
            )
        )  # fmt: skip
    unit, better = ("nats per token", "below") if measure == NLL else ("points", "above")
    base = known[0][0].base
    return Intervals(
        f"{title}, {SHORT[measure]}: difference to {base}", f"{unit} ({better} 0: better than {base})", tuple(rows),
        caption="" if all(len(row.points) < 2 for row in rows) else "Rings below a line: the single units.",
    )  # fmt: skip
