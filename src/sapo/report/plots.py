"""Figures as SVG, by plain matplotlib: one file for light and dark pages, clear without colours."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from sapo.core.untrusted import one_line, plain
from sapo.experiments.study.resampling import Measured
from sapo.report.blocks import Plot
from sapo.report.numbers import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stands for the colour of the page's text, which is another one on a dark page.
_INK = "#010203"
# Seen on white and on black; lines differ in marker and dashes too.
_COLOURS = ("#0f8bd0", "#e0701f", "#18a07b", "#c65fa8", "#a98600", "#7f7f7f", "#8f6be0", "#c0504d")
_LOOKS = tuple(zip(_COLOURS, "os^DvPX*", ("-", "--", ":", "-.") * 2, strict=True))
# Characters of a name in a figure.
_NAME = 44
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Range:
    """A row of a figure: a number whose interval may have infinite ends, single values behind it, and a remark."""

    name: str
    found: Figure | Measured
    points: Values = ()
    note: str = ""


def curves(title: str, x: Sequence[str], x_title: str, y_title: str, lines: Mapping[str, Values]) -> Plot:
    """Return values over steps, a line for each name; None is a gap."""

    def draw(axes: Axes) -> None:
        for (name, values), (colour, marker, dashes) in zip(lines.items(), cycle(_LOOKS)):
            known = [math.nan if value is None else value for value in values]
            axes.plot(known, color=colour, marker=marker, linestyle=dashes, linewidth=2, label=_name(name))
        axes.set_xticks(range(len(x)), [_name(step) for step in x])
        _explain(axes, x_title, y_title)

    return Plot(title, draw)


def ranges(title: str, rows: Sequence[Range], x_title: str, reference: float | None = None, caption: str = "") -> Plot:
    """Return values with their intervals below each other; rings are the single values."""

    def draw(axes: Axes) -> None:
        seen = [v for r in rows for v in (r.found.value, *(r.found.interval or ()), *r.points) if v is not None]
        finite = [v for v in seen if math.isfinite(v)] or [0.0]
        edges = (min(finite), max(finite))
        for y, row in enumerate(rows):
            if row.found.interval is not None:
                # An end without a limit leaves the figure.
                low, high = (min(max(end, edges[0] - 1e6), edges[1] + 1e6) for end in row.found.interval)
                axes.plot([low, high], [y, y], color=_COLOURS[0], linewidth=3, solid_capstyle="butt")
            if row.found.value is not None:
                axes.plot(row.found.value, y, "o", color=_COLOURS[0], markersize=7)
            points = [point for point in row.points if point is not None]
            axes.plot(points, [y + 0.3] * len(points), "o", markerfacecolor="none", markeredgecolor=_INK, markersize=4)
        if reference is not None:
            axes.axvline(reference, color=_INK, linewidth=1, linestyle=":")
        names = [" · ".join(filter(None, (_name(row.name), _name(row.note)))) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        width = (edges[1] - edges[0]) or 1.0
        bounds = [*edges, *([] if reference is None else [reference])]
        axes.set_xlim(min(bounds) - 0.06 * width, max(bounds) + 0.06 * width)
        axes.set_xlabel(plain(x_title))

    return Plot(title, draw, caption, 0.9 + 0.34 * len(rows))


def scatter(
    title: str, points: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str, caption: str = ""
) -> Plot:
    """Return groups of points (x, y), the first of each group with a ring around it."""

    def draw(axes: Axes) -> None:
        for (name, group), (colour, marker, _) in zip(points.items(), cycle(_LOOKS)):
            axes.plot(*zip(*group, strict=True), color=colour, marker=marker, linestyle="", label=_name(name))
            axes.plot(*group[0], "o", markerfacecolor="none", markeredgecolor=_INK, markersize=12)
        _explain(axes, x_title, y_title)

    return Plot(title, draw, caption)


def _explain(axes: Axes, x_title: str, y_title: str) -> None:
    axes.set(xlabel=plain(x_title), ylabel=plain(y_title))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2, frameon=False, labelcolor=_INK)


def to_svg(plot: Plot, salt: str) -> str:
    """Return a figure as an SVG element, the same for the same arguments.

    Args:
        plot: what to draw.
        salt: what tells its inner names from those of other figures on its page.
    """
    import matplotlib.figure
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    ink = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), _INK)
    settings: Any = {
        **ink, "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.color": _INK,
    }  # fmt: skip
    out = io.StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Letters that matplotlib has no font for are drawn by the browser.
        warnings.simplefilter("ignore")
        figure = matplotlib.figure.Figure(figsize=(6.4, plot.height))
        FigureCanvasSVG(figure)
        plot.draw(figure.add_subplot())
        figure.savefig(
            out, format="svg", bbox_inches="tight", transparent=True, metadata=dict.fromkeys(("Date", "Creator"))
        )
    text = out.getvalue()
    svg = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :]).replace(_INK, "currentColor")
    label = one_line(plain(plot.title)).translate({ord(c): f"&#{ord(c)};" for c in "&<>\"'"})
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _name(text: str) -> str:
    return one_line(plain(text), _NAME)
