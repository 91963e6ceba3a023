"""A race as the user sees it: a live table above the bar, or lines where there is no terminal."""

from __future__ import annotations

import io
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from sapo.cli.progress import Stopped, Terminal
from sapo.core.types import Standing

INF = math.inf
DOUBT = "the choice could be off by {} nats per token"
FIELD = [f"Say whether the review, which is number {i}, is a good one." for i in range(30)]


def standing(number: int, gap: Sequence[float], racing: Sequence[int], tolerance: float = 0.12) -> Standing:
    """After a round of 4 new rows for those that race; the leader comes first."""
    gaps, leader = np.array(gap), racing[0] if racing else int(np.argmin(gap))
    counts = np.full(len(gap), 4 * number)
    return Standing(number, counts, 1 + gaps, gaps, gaps - 0.1, gaps + 0.1, leader, tuple(racing), tolerance)


def console_of(width: int, height: int, *, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    options: dict[str, Any] = {"color_system": None, "_environ": {"TERM": "xterm" if terminal else "dumb"}}
    return Console(file=file, width=width, height=height, force_terminal=terminal, **options), file


def shown(texts: Sequence[str], standings: Sequence[Standing], width: int = 100, height: int = 40) -> list[str]:
    """The lines above the bar after the last standing, of 250 rows."""
    console, file = console_of(width, height, terminal=True)
    with Terminal(console) as progress, progress.race(texts, 250) as watch:
        for each in standings:
            watch(each)
        drawn = file.getvalue()
    lines = drawn[drawn.rindex(f"round {standings[-1].round}: ") :].split("\n")
    return [line.rstrip() for line in lines if "elapsed," not in line]


def lines(texts: Sequence[str], standings: Sequence[Standing]) -> list[str]:
    """What is printed where there is no terminal."""
    console, file = console_of(80, 24, terminal=False)
    with Terminal(console) as progress, progress.race(texts, 250) as watch:
        for each in standings:
            watch(each)
    return file.getvalue().splitlines()


def test_the_table_tells_rank_loss_rows_and_what_became_of_each_candidate() -> None:
    texts = ["Classify it.", "Is it good or bad?", "Judge the review.", "Rate it."]
    rounds = [standing(1, [0.2, 0.0, 0.3, 0.5], [1, 0, 2]), standing(2, [0.15, 0.0, 0.3, 0.5], [1, 0])]
    assert shown(texts, rounds, width=120)[:6] == [
        "round 2: 2 of 4 candidates still racing, up to 8 of 250 rows; " + DOUBT.format("0.1200"),
        "rank  loss ± to leader  rows  status              candidate",
        "   1            1.0000     8  leads               1: Is it good or bad?",
        "   2   1.1500 ± 0.1000     8  racing              original: Classify it.",
        "   3   1.3000 ± 0.1000     8  dropped in round 2  2: Judge the review.",
        "   4   1.5000 ± 0.1000     8  dropped in round 1  3: Rate it.",
    ]


@pytest.mark.parametrize(("width", "height"), [(20, 6), (80, 12), (80, 50), (140, 24)])
def test_the_table_fits_the_terminal_and_shows_those_that_race_first(width: int, height: int) -> None:
    gap = [0.05 * i for i in range(30)]
    drawn = shown(FIELD, [standing(1, gap, [0, *range(3, 30, 3)])], width, height)
    assert max(map(cell_len, drawn)) <= width
    room = min(max(height - 8, 1), 30)
    assert any(line.startswith(f"... and {30 - room} more") for line in drawn) == (room < 30)
    if width >= 80:
        assert [int(line.split()[0]) for line in drawn[2 : 2 + room]] == [*range(1, 31, 3), *(
            i for i in range(1, 31) if i % 3 != 1)][:room]  # fmt: skip


def test_a_candidate_that_comes_back_is_racing_and_its_next_end_counts() -> None:
    rounds = [standing(1, [0.0, 0.1, 0.2], [0, 1]), standing(2, [0.1, 0.2, 0.0], [2, 0, 1]),
              standing(3, [0.1, 0.2, 0.0], [2, 0]), standing(4, [0.0, 0.2, 0.1], [0, 2])]  # fmt: skip

    def status(upto: int, text: str) -> str:
        (row,) = (line for line in shown(["a", "b", "c"], rounds[:upto]) if line.endswith(f": {text}"))
        return row[30:50].split("  ")[0]

    assert [status(n, "c") for n in (1, 2, 3, 4)] == ["dropped in round 1", "leads", "leads", "racing"]
    assert [status(n, "b") for n in (1, 2, 3, 4)] == ["racing", "racing", *["dropped in round 3"] * 2]


def test_texts_are_shown_as_they_are_and_never_obeyed() -> None:
    texts = [
        "[bold]loud[/bold] [/nonsense]", "two\nlines\tand\r\nmore", "\x1b[2J\x1b[31mred\u202ekcab\x07", "判断" * 99,
    ]  # fmt: skip
    ends = np.array([0.0, 0.2, 0.3, INF])
    first = replace(standing(1, [0.0, 0.1, 0.2, 0.3], [0, 1, 3]), loss=1 + ends, high=ends, low=-ends)
    drawn = shown(texts, [first])
    joined = "\n".join(drawn)
    assert max(map(cell_len, drawn)) <= 100
    assert "original: [bold]loud[/bold] [/nonsense]" in joined and "1: two lines and more" in joined
    assert r"2: \x1b[2J\x1b[31mred\u202ekcab\x07" in joined and "? ± ?" in joined and "3: 判断" in joined
    assert not set("".join(drawn[1:6])) & {"\x1b", "\x07", "\u202e", "\t", "\r"}


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
        "decided after 3 rounds, 12 of 250 rows: the original wins; " + DOUBT.format("less than 0.0001"),
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
