"""Drawings as SVG: narrow, so that their texts can be read on a telephone, and clear without their colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sapo.report.drawings import Drawing, Intervals, Lines, Range, Scatter
from sapo.report.svg import BAD, GOOD, INK, MUTED, SERIES, SURFACE, canvas, label, to_svg, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour, marker and dashes.
_Look = tuple[str, str, Any]
# Pixels.
_WIDTH = 360
_TOP, _BOTTOM, _RIGHT = 26, 46, 12
_TICKS = 42
_PLOT = 190
_LEGEND = 20
# Rows of intervals: with their names before them, or above them.
_BESIDE, _ABOVE = 24, 40
# Widths of a name that stands before its row, and of a note.
_NAME, _NOTE = 140, 150
_TEXT, _SMALL = 12, 11
_MARGIN = 4
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_TONES = {"": SERIES[0], "good": GOOD, "bad": BAD, "dim": MUTED}


def draw(drawing: Drawing, salt: str) -> str:
    """Return a drawing as an SVG element, the same for the same arguments.

    Args:
        drawing: what to draw.
        salt: what tells its inner names from those of other drawings on its page.
    """
    if isinstance(drawing, Lines):
        return _lines(drawing, salt)
    return _intervals(drawing, salt) if isinstance(drawing, Intervals) else _scatter(drawing, salt)


def _lines(drawing: Lines, salt: str) -> str:
    names = [series.name for series in drawing.series]
    legend = _legend_height(names)
    with canvas(_WIDTH, _TOP + _PLOT + _BOTTOM + legend, salt) as figure:
        axes = _axes(figure, _TICKS, _BOTTOM + legend, _WIDTH - _TICKS - _RIGHT, _PLOT)
        looks = _looks(len(names), lines=True)
        for series, (colour, marker, dashes) in zip(drawing.series, looks, strict=True):
            values = [math.nan if value is None else value for value in series.values]
            axes.plot(
                range(len(values)), values, color=colour, marker=marker, linestyle=dashes, linewidth=2, markersize=6,
                markeredgecolor=SURFACE, markeredgewidth=1, clip_on=False,
            )  # fmt: skip
            if series.marked is not None:
                axes.plot([series.marked], [values[series.marked]], "o", markersize=12, color="none", clip_on=False,
                          markeredgecolor=colour, markeredgewidth=1.5)  # fmt: skip
        axes.set_xlim(-0.2, len(drawing.x) - 0.8)
        axes.set_ylim(*_limits(v for series in drawing.series for v in series.values))
        axes.set_xticks(range(len(drawing.x)), [label(x, 40, _SMALL) for x in drawing.x], parse_math=False)
        axes.grid(axis="y", linewidth=1)
        _titles(axes, drawing.x_title, drawing.y_title)
        _legend(figure, names, looks, legend)
        return to_svg(figure, drawing.title)


def _scatter(drawing: Scatter, salt: str) -> str:
    groups = list(dict.fromkeys(point.group for point in drawing.points))
    legend = _legend_height(groups)
    with canvas(_WIDTH, _TOP + _PLOT * 1.3 + _BOTTOM + legend, salt) as figure:
        axes = _axes(figure, _TICKS + 8, _BOTTOM + legend, _WIDTH - _TICKS - 8 - _RIGHT, _PLOT * 1.3)
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        looks = _looks(len(groups), lines=False)
        for group, (colour, marker, _) in zip(groups, looks, strict=True):
            points = [point for point in drawing.points if point.group == group]
            look: dict[str, Any] = {"color": colour, "linestyle": "none", "clip_on": False}
            axes.plot([p.x for p in points], [p.y for p in points], marker=marker, markersize=8,
                      markeredgecolor=SURFACE, markeredgewidth=1, **look)  # fmt: skip
            ringed = [point for point in points if point.marked]
            axes.plot([p.x for p in ringed], [p.y for p in ringed], marker="o", markersize=13, markerfacecolor="none",
                      markeredgecolor=INK, markeredgewidth=1.5, **look)  # fmt: skip
        axes.set_xlim(*_limits(point.x for point in drawing.points))
        axes.set_ylim(*_limits((0.0, *(point.y for point in drawing.points))))
        axes.grid(linewidth=1)
        _titles(axes, drawing.x_title, drawing.y_title)
        _legend(figure, groups, looks, legend)
        return to_svg(figure, drawing.title)


def _intervals(drawing: Intervals, salt: str) -> str:
    names = [label(row.name, _WIDTH, _TEXT) for row in drawing.rows]
    notes = [label(row.note, _NOTE, _SMALL) for row in drawing.rows]
    widest = max((width_of(name, _TEXT) for name in names), default=0)
    noted = max((width_of(note, _SMALL) for note in notes), default=0)
    beside = widest <= _NAME
    pitch = _BESIDE if beside else _ABOVE
    # Half a tick's label may stand out at either end.
    left, right = (18 + widest, 18 + noted) if beside else (18, 18)
    height = pitch * len(drawing.rows) + 4
    with canvas(_WIDTH, height + _BOTTOM + _MARGIN, salt) as figure:
        axes = _axes(figure, left, _BOTTOM, _WIDTH - left - right, height)
        axes.set_ylim(height, 0)
        axes.set_xlim(*_limits((drawing.reference, *(v for row in drawing.rows for v in _numbers(row)))))
        axes.set_yticks([])
        axes.grid(axis="x", linewidth=1)
        if drawing.reference is not None:
            axes.axvline(drawing.reference, color=MUTED, linewidth=1.25, linestyle=(0, (4, 3)))
        for n, (row, name, note) in enumerate(zip(drawing.rows, names, notes, strict=True)):
            y = n * pitch + (pitch / 2 + 2 if beside else 29)
            _range(axes, row, y)
            # In pixels from the edges, so that names stand below each other whatever the values are.
            where = _MARGIN + (y if beside else y - 17)
            dim = row.tone == "dim"
            _say(figure, 6, where, name, _WIDTH - 24 - width_of(note, _SMALL), MUTED if dim else INK, "left")
            says = _TONES[row.tone] if row.tone and not dim else MUTED
            _say(figure, _WIDTH - 6, where, note, _NOTE, says, "right", size=_SMALL)
        _titles(axes, drawing.x_title, "")
        return to_svg(figure, drawing.title)


def _range(axes: Axes, row: Range, y: float) -> None:
    colour = _TONES[row.tone]
    # Single values lie below the line, which they would hide.
    axes.plot(row.points, [y + 7] * len(row.points), "o", markersize=4, color="none", markeredgecolor=colour,
              markeredgewidth=1.1)  # fmt: skip
    if row.low is not None and row.high is not None:
        edge = axes.get_xlim()[1]
        axes.plot([row.low, min(row.high, edge)], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
        if math.isinf(row.high):
            axes.plot([edge], [y], marker=">", markersize=7, color=colour, clip_on=False)
    if row.value is not None:
        axes.plot([row.value], [y], marker="o", markersize=8, color=colour, markeredgecolor=SURFACE, markeredgewidth=1)


def _numbers(row: Range) -> Iterator[float]:
    return (v for v in (row.value, row.low, row.high, *row.points) if v is not None and math.isfinite(v))


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a place in pixels, with a line below only."""
    wide, high = figure.bbox.width, figure.bbox.height
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=_SMALL)
    axes.locator_params(axis="y", nbins=5)
    # As many numbers as stand clear of each other.
    axes.locator_params(axis="x", nbins=max(2, min(5, int(width // 42))))
    return axes


def _titles(axes: Axes, x: str, y: str) -> None:
    """Put the title of x below, that of y above the axes: turned by a right angle it could hardly be read."""
    figure = axes.figure
    bottom = axes.get_position().y0 * figure.bbox.height
    _say(figure, _WIDTH - _RIGHT, figure.bbox.height - bottom + 33, x, _WIDTH - 18, MUTED, "right", size=_SMALL)
    if y:
        _say(figure, 6, 10, y, _WIDTH - 12, MUTED, "left", size=_SMALL)


def _say(figure: Any, x: float, y: float, text: str, most: float, colour: str, side: str, size: float = _TEXT) -> None:
    """Put a text at pixels from the top left corner; nothing in it is mathematics."""
    figure.text(
        x / figure.bbox.width, 1 - y / figure.bbox.height, label(text, most, size), color=colour, ha=side, va="center",
        fontsize=size, parse_math=False,
    )  # fmt: skip


def _legend_height(names: Sequence[str]) -> int:
    return _LEGEND * math.ceil(len(names) / _columns(names)) + 6 if names else 0


def _columns(names: Sequence[str]) -> int:
    longest = max((width_of(label(name, _WIDTH, _SMALL), _SMALL) for name in names), default=0)
    return next((columns for columns in (3, 2) if longest <= (_WIDTH - 12) / columns - 40), 1)


def _legend(figure: Figure, names: Sequence[str], looks: Sequence[_Look], height: int) -> None:
    """Put a sample of every look with its name below everything else."""
    from matplotlib.lines import Line2D

    columns = _columns(names)
    wide, high = figure.bbox.width, figure.bbox.height
    for n, (name, (colour, marker, dashes)) in enumerate(zip(names, looks, strict=True)):
        x, y = 6 + (n % columns) * (wide - 12) / columns, high - height + _LEGEND * (n // columns + 0.5)
        sample = Line2D(
            [(x + step) / wide for step in (0, 12, 24)], [1 - y / high] * 3, color=colour, marker=marker, markersize=6,
            linestyle=dashes, linewidth=2, markevery=[1], markeredgecolor=SURFACE, transform=figure.transFigure,
        )  # fmt: skip
        figure.add_artist(sample)
        _say(figure, x + 32, y, name, (wide - 12) / columns - 36, INK, "left", size=_SMALL)


def _looks(count: int, *, lines: bool) -> list[_Look]:
    """Return so many looks; neither colours nor markers alone tell them apart where there are more than eight."""
    found = (
        (colour, _MARKERS[(n + turn) % len(_MARKERS)], _DASHES[n % len(_DASHES)] if lines else "none")
        for turn in itertools.count()
        for n, colour in enumerate(SERIES)
    )
    return list(islice(found, count))


def _limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Return the ends of an axis, with a little room on both sides."""
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    room = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room
