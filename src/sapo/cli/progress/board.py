"""The live table of a race, above the bar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sapo.cli.progress.intervals import Scale, scale_of
from sapo.cli.progress.racing import Picture, Runner, difference

# Lines of the terminal that candidates do not get: around the table, the bar, and what was printed before.
_OTHER_LINES = 8
_GAP = 2
# Characters: of an interval, and the least that is worth showing of it and of a candidate's text.
_INTERVAL_SHARE = 0.24
_INTERVAL, _TEXT = 14, 16


@dataclass(frozen=True, slots=True)
class _Widths:
    """Characters for each column; 0 for one that has no room."""

    rank: int
    rows: int
    gap: int
    interval: int
    status: int
    name: int


class Board:
    """A race after a round, drawn for the size of the terminal at hand."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._drawn: tuple[object, list[Segment]] = (None, [])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A live display is drawn many times a second and must not take the processor from the model.
        size = (options.max_width, options.size.height)
        if self._drawn[0] != size:
            self._drawn = (size, list(console.render(Group(*self._parts(*size)), options)))
        yield from self._drawn[1]

    def _parts(self, width: int, height: int) -> Iterator[RenderableType]:
        picture = self._picture
        shown = _shown(picture, max(height - _OTHER_LINES, 1))
        yield _line(picture.title, "bold")
        yield _line(f"behind: nats per token; {picture.doubt}", "dim")
        yield _table(shown, picture, _widths(picture, width))
        hidden = [runner for runner in picture.runners if runner not in shown]
        if hidden:
            racing = sum(runner.racing for runner in hidden)
            counts = ((racing, "racing"), (len(hidden) - racing, "dropped"))
            yield _line("... and " + ", ".join(f"{n} more {what}" for n, what in counts if n), "dim")
        yield _line("", "")


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _shown(picture: Picture, room: int) -> list[Runner]:
    """Return who has room, by rank: the leader and those racing before those dropped."""
    if len(picture.runners) <= room:
        return list(picture.runners)
    return sorted(sorted(picture.runners, key=lambda r: (not r.racing, r.rank))[:room], key=lambda r: r.rank)


def _widths(picture: Picture, width: int) -> _Widths:
    """Share out the width: where it is too small, the interval gives way first, then the status."""
    rank, rows, gap = len("rank"), max(len("rows"), len(str(picture.all_rows))), len("behind")
    gap = max(gap, *(len(difference(runner.gap)) for runner in picture.runners))
    # As wide as it will be, so that columns stay where they are.
    status = max(len("dropped, round 1"), *(len(runner.status) for runner in picture.runners))
    interval = max(_INTERVAL, int(width * _INTERVAL_SHARE))
    left = width - rank - rows - gap - 3 * _GAP
    if left < interval + status + _TEXT + 2 * _GAP:
        interval = 0
    if left < status + _TEXT + _GAP:
        status = 0
    name = left - sum(column + _GAP for column in (interval, status) if column)
    return _Widths(rank, rows, gap, interval, status, max(name, 1))


def _table(shown: list[Runner], picture: Picture, widths: _Widths) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="")
    scale = scale_of(picture.runners, widths.interval)
    for head, width, right in (
        ("rank", widths.rank, True),
        ("rows", widths.rows, True),
        ("behind", widths.gap, True),
        (scale.heading if widths.interval else "", widths.interval, False),
        ("status", widths.status, False),
        ("candidate", widths.name, False),
    ):
        if width:
            table.add_column(
                _line(head, "bold"),
                width=width,
                justify="right" if right else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
    for runner in shown:
        table.add_row(*_cells(runner, scale, widths), style=_style(runner))
    return table


def _cells(runner: Runner, scale: Scale, widths: _Widths) -> Iterator[Text]:
    yield Text(str(runner.rank))
    yield Text(str(runner.rows))
    yield Text("" if runner.leads else difference(runner.gap))
    if widths.interval:
        yield Text(scale.draw(runner), style="cyan" if runner.racing else "")
    if widths.status:
        yield Text(runner.status)
    yield Text(runner.name)


def _style(runner: Runner) -> str:
    if runner.leads:
        return "bold"
    return "" if runner.racing else "dim"
