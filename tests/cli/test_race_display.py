"""A race as the user sees it: next to the bar, or lines where there is no terminal."""

import io
import math
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sapo.cli.progress import Stopped, Terminal
from sapo.core.types import Standing

INF = math.inf
DOUBT = "the choice could be off by {} nats per token"


def standing(number: int, gap: Sequence[float], racing: Sequence[int], tolerance: float = 0.12) -> Standing:
    """After a round of 4 new rows for those that race; the leader comes first."""
    gaps, leader = np.array(gap), racing[0] if racing else int(np.argmin(gap))
    counts = np.full(len(gap), 4 * number)
    return Standing(number, counts, 1 + gaps, gaps, gaps - 0.1, gaps + 0.1, leader, tuple(racing), tolerance)


def console_of(width: int, height: int, *, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    options: dict[str, Any] = {"color_system": None, "_environ": {"TERM": "xterm" if terminal else "dumb"}}
    return Console(file=file, width=width, height=height, force_terminal=terminal, **options), file


def lines(texts: Sequence[str], standings: Sequence[Standing]) -> list[str]:
    """What is printed where there is no terminal."""
    console, file = console_of(80, 24, terminal=False)
    with Terminal(console) as progress, progress.race(texts, 250) as watch:
        for each in standings:
            watch(each)
    return file.getvalue().splitlines()


def test_the_bar_tells_how_a_race_stands_and_a_line_how_it_ended() -> None:
    console, file = console_of(160, 24, terminal=True)
    with Bar(console) as progress, progress.race(["[a]", "b", "c"], 250) as watch:
        watch(standing(1, [0.2, 0.0, 0.3], [1, 0]))
        assert progress.description() == "round 1: 2 of 3 candidates, candidate 1 leads"
        watch(standing(2, [0.0, 0.1, 0.3], []))
    assert "decided after 2 rounds, 8 of 250 rows: the original wins the race" in file.getvalue()


def test_a_round_is_one_line_where_there_is_no_terminal() -> None:
    rounds = [
        standing(1, [0.31, 0.1, 0.02, 0.0], [3, 0, 2]),
        standing(2, [0.0, 0.1, 0.02, 0.3], [0, 2], INF),
        standing(3, [0.0, 0.1, 0.02, 0.3], [], 0.00001),
    ]
    assert lines(list("abcd"), rounds) == [
        f"round 1: 3 of 4 candidates still racing, up to 4 of 250 rows; {DOUBT.format('0.1200')}; candidate 3 leads",
        "round 2: 2 of 4 candidates still racing, up to 8 of 250 rows; the choice could be off by any amount; the "
        "original leads",
        "decided after 3 rounds, 12 of 250 rows: the original wins the race; " + DOUBT.format("less than 0.0001"),
    ]
    undecided = lines(["a", "b"], [standing(2, [0.1, 0.0], [1, 0], 0.2)])[1]
    assert undecided == f"ended undecided after 2 rounds, 8 of 250 rows: candidate 1 leads; {DOUBT.format('0.2000')}"


RUNS = [("a", "finished", "3", "9"), ("b", "waiting", "0", "0"), ("[c]", "at work", "1", "4")]


def test_runs_made_elsewhere_are_one_table_those_at_work_first_or_lines_where_there_is_no_terminal() -> None:
    columns = ("run", "state", "trainings", "tests")
    console, file = console_of(60, 30, terminal=True)
    with Terminal(console) as progress:
        progress.board(columns, RUNS)
        drawn = file.getvalue()
    rows = [line.split() for line in drawn[drawn.rindex("run ") :].splitlines()]
    assert [row[0] for row in rows[1:4]] == ["[c]", "a", "b"] and rows[1][1:] == ["at", "work", "1", "4"]
    console, file = console_of(60, 10, terminal=True)
    with Terminal(console) as progress:
        progress.board(columns, RUNS)
        assert "... and 1 more" in file.getvalue()
    console, file = console_of(60, 30, terminal=False)
    with Terminal(console) as progress:
        for tests in ("4", "5"):
            progress.board(columns, [*RUNS[:2], (*RUNS[2][:3], tests)])
    assert file.getvalue().splitlines() == ["a: finished, trainings 3, tests 9", "[c]: at work, trainings 1, tests 4"]


def test_a_signal_stops_a_race_at_its_next_standing_and_not_where_it_is_over() -> None:
    reached = []

    def compete(number: int) -> None:
        progress = Terminal(console_of(100, 30, terminal=False)[0])
        with progress, progress.race(["a", "b"], 250) as watch:
            watch(standing(1, [0.0, 0.1], [0, 1]))
            os.kill(os.getpid(), signal.SIGINT)
            if number == 2:
                watch(standing(2, [0.0, 0.1], []))
            reached.append(number)

    compete(1)
    with pytest.raises(Stopped):
        compete(2)
    assert reached == [1]


class Bar(Terminal):
    """Shows the bar's inside to tests."""

    def share(self) -> tuple[float, float | None]:
        return self._bar.tasks[0].completed, self._bar.tasks[0].total

    def description(self) -> str:
        return self._bar.tasks[0].description


def test_a_step_that_needed_less_than_announced_shortens_the_bar() -> None:
    with Bar(console_of(100, 30, terminal=True)[0]) as progress:
        with progress.step("racing", 20, 60.0) as advance:
            advance(5)
        assert progress.share() == (15.0, None)
        progress.plan(100.0)
        with pytest.raises(ValueError, match="broken"), progress.step("racing", 20, 60.0):
            raise ValueError("broken")
        assert progress.share() == (15.0, 100.0)
        with progress.step("racing [/]", 20, 60.0) as advance:
            advance(5)
        assert progress.share() == (30.0, 55.0)
