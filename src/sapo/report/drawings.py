"""What a drawing shows: frozen values, without a word on how it is drawn.

A drawing belongs to a table that holds the same numbers. Every string is plain text from anywhere and never markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]
Tone = Literal["", "good", "bad", "dim"]


@dataclass(frozen=True, slots=True)
class Heat:
    """Values behind the cells of a table, to be coloured.

    Attributes:
        values: shape [rows][columns] of the table; None for a cell without colour.
        better: which values are good.
    """

    values: tuple[tuple[float | None, ...], ...]
    better: Direction


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    Attributes:
        name: in the legend.
        values: one for each x; None where there is none.
        marked: index of a value with a ring around it.
    """

    name: str
    values: tuple[float | None, ...]
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """Values over steps.

    Attributes:
        title: what is seen.
        x: name of each step, short.
        x_title: of the steps.
        y_title: with unit and direction.
        series: the lines.
        caption: a sentence on what is marked; may be empty.
    """

    title: str
    x: tuple[str, ...]
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """A value with its interval.

    Attributes:
        name: of the row.
        value: None where there is none.
        low: lower end; None without an interval, and so is the upper one.
        high: upper end, which may be infinite.
        points: single values behind it.
        note: said beside the name.
        tone: what the note says in colour; "dim" for a row that is out of the race.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Values with their intervals below each other.

    Attributes:
        title: what is seen.
        x_title: with unit and direction.
        rows: from the top.
        reference: value of a line through all rows; None without one.
        caption: a sentence on what is shown; may be empty.
    """

    title: str
    x_title: str
    rows: tuple[Range, ...]
    reference: float | None = 0.0
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A point, with a ring around it if it is marked."""

    x: float
    y: float
    group: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points in groups.

    Attributes:
        title: what is seen.
        x_title: with unit.
        y_title: with unit and direction.
        points: the points.
        caption: a sentence on what is marked; may be empty.
    """

    title: str
    x_title: str
    y_title: str
    points: tuple[Point, ...]
    caption: str = ""


Drawing = Lines | Intervals | Scatter
