"""From a matplotlib figure to SVG for a page: text stays text, and colours are the page's own, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells

from sapo.core.untrusted import plain
from sapo.report.tables import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins for the page's colours, which only its style sheet knows.
INK, MUTED, GRID, SURFACE, GOOD, BAD = (f"#a1000{n}" for n in range(1, 7))
SERIES = tuple(f"#a2000{n}" for n in range(1, 9))
_NAMES = ("ink", "muted", "grid", "surface", "good", "bad")
_VARIABLES = dict(zip((INK, MUTED, GRID, SURFACE, GOOD, BAD), _NAMES, strict=True))
_VARIABLES |= {colour: f"series-{n}" for n, colour in enumerate(SERIES, start=1)}
# One unit of a drawing is one pixel of a page on which it has its natural width.
_DPI = 72
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    # A "$" is a "$": texts come from anywhere.
    "text.parse_math": False,
    "text.usetex": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.unicode_minus": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_TAG = re.compile(r"<[^<>]*>")
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_ID = re.compile(r"<g id=\"[^\"]*\"")
_NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@contextmanager
def canvas(width: float, height: float, salt: str) -> Iterator[Figure]:
    """Give an empty figure of so many pixels, within settings that make its SVG the same every time.

    Args:
        width: in pixels.
        height: in pixels.
        salt: what tells its inner names from those of the page's other drawings.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": salt}), warnings.catch_warnings():
        # The font that measures texts lacks some letters; the page's fonts, which show them, need not.
        warnings.simplefilter("ignore", UserWarning)
        yield Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)


def to_svg(figure: Figure, title: str) -> str:
    """Return a figure as an element to stand in an HTML page; to be called within its `canvas`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=_NOTHING)
    drawn = file.getvalue()
    box = re.search(r'viewBox="([^"]*)"', drawn)
    assert box is not None
    body = drawn[drawn.index("</defs>") + len("</defs>") : drawn.rindex("</svg>")]
    name = escape(one_line(plain(title)))
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{name}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<title>{name}</title>{_TAG.sub(lambda tag: _in_page(tag[0]), body)}</svg>"
    )


@lru_cache(maxsize=10_000)
def width_of(text: str, size: float) -> float:
    """Return about how many pixels a line of text takes, rather more than less."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), False)
    # Letters that the measuring font lacks are as wide as a terminal's: an em for two columns.
    return max(float(width), 0.5 * size * cell_len(text))


def label(text: str, most: float, size: float) -> str:
    """Return a text from anywhere as one line of at most so many pixels, with "…" for its end if it is longer."""
    # No line of a drawing has room for more columns than these.
    line, *rest = chop_cells(one_line(plain(text)), 120) or [""]
    if not rest and width_of(line, size) <= most:
        return line
    kept = bisect_left(range(1, len(line) + 1), True, key=lambda n: width_of(f"{line[:n]}…", size) > most)
    return f"{line[:kept].rstrip()}…"


def _in_page(tag: str) -> str:
    """Return a tag with the page's font and colours; texts, which are no tags, are left as they are."""
    tag = _ID.sub("<g", _FAMILY.sub("", tag))
    for colour, name in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag
