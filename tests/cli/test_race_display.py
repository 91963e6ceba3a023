"""A race as the user sees it: a live table above the bar, or lines where there is no terminal."""

from __future__ import annotations

import io
import math
import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from sapo.cli.progress.board import Board
from sapo.cli.progress.intervals import Scale, scale_of
from sapo.cli.progress.racing import Follower, Runner
from sapo.cli.progress.terminal import Stopped, Terminal
from sapo.core.progress import Silent
from sapo.core.types import Standing
from sapo.selection.race import RaceSettings, race, round_sizes

INF = math.inf


def standing(number: int, counts: Sequence[int], gap: Sequence[float], racing: Sequence[int], **more: Any) -> Standing:
    gaps = np.array(gap)
    error = np.where(gaps == 0, 0.0, more.get("error", 0.1))
    return Standing(
        round=number,
        counts=np.array(counts),
        loss=1 + gaps,
        gap=gaps,
        low=np.array(more.get("low", gaps - error)),
        high=np.array(more.get("high", gaps + error)),
        leader=more.get("leader", racing[0] if racing else int(gaps.argmin())),
        racing=tuple(racing),
        tolerance=more.get("tolerance", 0.12),
    )


def console_of(width: int, height: int, *, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    environment = {"TERM": "xterm"} if terminal else {"TERM": "dumb"}
    options: dict[str, Any] = {"color_system": None, "_environ": environment}
    return Console(file=file, width=width, height=height, force_terminal=terminal, **options), file


def frame(texts: Sequence[str], standings: Sequence[Standing], width: int = 100, height: int = 40) -> list[str]:
    """The lines of the table after the last standing, of 250 rows."""
    follower = Follower(texts, 250)
    for each in standings:
        follower.follow(each)
    console, file = console_of(width, height, terminal=True)
    console.print(Board(follower.picture))
    return file.getvalue().splitlines()


def field(count: int) -> tuple[list[str], Standing]:
    """Many candidates after round 1: candidate 1 leads, every third one races on."""
    gap = [0.05 * i for i in range(count)]
    gap[0], gap[1] = gap[1], 0.0
    texts = [f"Say whether the review, which is number {i}, is a good one." for i in range(count)]
    return texts, standing(1, [8] * count, gap, [1, *range(3, count, 3)])


def lines(texts: Sequence[str], standings: Sequence[Standing], rows: int = 250) -> list[str]:
    console, file = console_of(80, 24, terminal=False)
    with Terminal(console) as progress, progress.race(texts, rows) as watch:
        for each in standings:
            watch(each)
    return file.getvalue().splitlines()


# The table.


def test_the_table_tells_rank_rows_gap_interval_and_what_became_of_each_candidate() -> None:
    texts = ["Classify it.", "Is it good or bad?", "Judge the review.", "Rate it."]
    shown = frame(
        texts,
        [
            standing(1, [8, 8, 8, 8], [0.2, 0.0, 0.3, 0.5], [1, 0, 2]),
            standing(2, [11, 11, 11, 8], [0.15, 0.0, 0.3, 0.5], [1, 0]),
        ],
        width=90,
    )
    assert [line.rstrip() for line in shown] == [
        "round 2: 2 of 4 candidates still racing, up to 11 of 250 rows",
        "behind: nats per token; the choice could be off by 0.1200",
        "rank  rows  behind  0                 0.6  status            candidate",
        "   1    11          ●                      leads             1: Is it good or bad?",
        "   2    11  0.1500  │ ───●───              racing            original: Classify it.",
        "   3    11  0.3000  │      ───●───         dropped, round 2  2: Judge the review.",
        "   4     8  0.5000  │            ────●───  dropped, round 1  3: Rate it.",
        "",
    ]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_the_width(width: int) -> None:
    texts, first = field(12)
    shown = frame(texts, [first], width)
    assert max(map(cell_len, shown)) <= width
    assert shown[2].split() == ["rank", "rows", "behind", "0", "0.8", "status", "candidate"]
    assert len(shown) == 3 + 12 + 1
    assert all("●" in line and "…" not in line.split("Say")[0] for line in shown[3:-1])
    assert shown[3].split()[:5] == ["1", "8", "●", "leads", "1:"]


@pytest.mark.parametrize(("width", "heads"), [(66, 5), (44, 4), (20, 4)])
def test_in_a_narrow_terminal_columns_give_way(width: int, heads: int) -> None:
    texts, first = field(12)
    shown = frame(texts, [first], width)
    assert max(map(cell_len, shown)) <= width
    assert len(shown) == 3 + 12 + 1
    assert len(shown[2].split()) == heads if width > 20 else "rank" in shown[2]
    assert not any("●" in line for line in shown)


@pytest.mark.parametrize("height", [6, 9, 12, 16, 24, 33])
def test_the_table_leaves_room_for_the_bar_and_shows_those_who_race_first(height: int) -> None:
    texts, first = field(30)
    shown = frame(texts, [first], height=height)
    room = max(height - 8, 1)
    candidates = shown[3 : 3 + min(room, 30)]
    assert len(shown) == 3 + len(candidates) + 1 + 1 <= max(height - 2, 6)
    ranks = [int(line.split()[0]) for line in candidates]
    assert ranks == sorted(ranks) and ranks[0] == 1
    racing = sum(" racing " in line for line in candidates)
    assert racing == min(room - 1, 9)
    hidden = [(9 - racing, "racing"), (20 - (len(candidates) - 1 - racing), "dropped")]
    assert shown[-2].rstrip() == "... and " + ", ".join(f"{n} more {what}" for n, what in hidden if n)


def test_a_candidate_that_comes_back_is_racing_and_its_next_end_counts() -> None:
    texts = ["a", "b", "c"]
    rounds = [
        standing(1, [8, 8, 8], [0.0, 0.1, 0.2], [0, 1]),
        standing(2, [11, 11, 8], [0.1, 0.2, 0.0], [2, 0, 1]),
        standing(3, [15, 15, 15], [0.1, 0.2, 0.0], [2, 0]),
        standing(4, [20, 15, 20], [0.0, 0.2, 0.1], [0, 2]),
    ]

    def status(upto: int, text: str) -> str:
        (row,) = (line for line in frame(texts, rounds[:upto])[3:6] if line.rstrip().endswith(f": {text}"))
        return row[46:62].strip()

    assert [status(n, "c") for n in (1, 2, 3, 4)] == ["dropped, round 1", "leads", "leads", "racing"]
    assert [status(n, "b") for n in (1, 2, 3, 4)] == ["racing", "racing", "dropped, round 3", "dropped, round 3"]


def test_a_decided_race_names_its_winner() -> None:
    shown = frame(["a", "b"], [standing(1, [8, 8], [0.4, 0.0], [], tolerance=0.0)])
    assert shown[0].rstrip() == "decided after 1 round, 8 of 250 rows"
    assert shown[1].rstrip() == "behind: nats per token; the choice could be off by less than 0.0001"
    assert " wins " in shown[3] and "1: b" in shown[3]
    assert "dropped, round 1" in shown[4] and "original: a" in shown[4]


def test_two_candidates_on_one_row() -> None:
    shown = frame(["a", "b"], [standing(1, [1, 1], [0.0, 0.3], [], error=0.0)])
    assert "●" in shown[3] and shown[4].split()[:5] == ["2", "1", "0.3000", "│", "●"]


@pytest.mark.parametrize("width", [80, 140])
def test_texts_are_shown_as_they_are_and_never_obeyed(width: int) -> None:
    texts = [
        "[bold]loud[/bold] [/nonsense] [link=https://example.org]x[/link]",
        "two\nlines\tand\r\nmore",
        "\x1b[2J\x1b[31mred\u202ekcab\x07",
        "判断评论的情感" * 40,
        "word " * 10_000,
    ]
    shown = frame(texts, [standing(1, [8] * 5, [0.0, 0.1, 0.2, 0.3, 0.4], [0, 1])], width)
    assert len(shown) == 3 + 5 + 1
    assert max(map(cell_len, shown)) <= width
    joined = "\n".join(shown)
    assert "original: [bold]lou" in joined and "1: two lines" in joined and r"2: \x1b[2J" in joined
    assert "3: 判断" in joined
    assert not set(joined) & {"\x1b", "\x07", "\u202e", "\t", "\r"}


def test_infinite_bounds_run_off_the_scale() -> None:
    low, high = [0.0, -INF, -0.1], [0.0, INF, 0.3]
    shown = frame(["a", "b", "c"], [standing(1, [2, 2, 2], [0.0, 0.1, 0.1], [0, 1, 2], low=low, high=high)])
    endless = shown[4][20:44]
    assert endless.strip().startswith("<") and endless.strip().endswith(">") and "●" in endless
    assert "<" not in shown[5] and ">" not in shown[5]


def test_a_race_of_which_nothing_is_known_is_shown_all_the_same() -> None:
    bounds: dict[str, Any] = {"low": [0.0, -INF], "high": [0.0, INF], "tolerance": INF}
    first = standing(1, [1, 1], [0.0, INF], [0, 1], **bounds)
    shown = frame(["a", "b"], [first])
    assert shown[1].rstrip().endswith("could be off by any amount")
    assert shown[4].split()[2] == "?" and "<" in shown[4] and ">" in shown[4]
    assert "behind the leader (the original): ?;" in lines(["a", "b"], [first])[0]


# Intervals.


def runner(gap: float, error: float, *, racing: bool = True, rank: int = 2) -> Runner:
    return Runner(rank, "x", 8, gap, gap - error, gap + error, racing, "")


LEADER = runner(0.0, 0.0, rank=1)


def test_an_interval_is_drawn_to_scale() -> None:
    scale = Scale(-0.1, 0.3, 9)
    assert scale.heading == "  0   0.3"
    assert scale.draw(LEADER) == "  ●      "
    assert scale.draw(runner(0.1, 0.1)) == "  ┼─●──  "
    assert scale.draw(runner(0.2, 0.05)) == "  │  ─●─ "
    assert scale.draw(runner(0.0, 0.5)) == "<─●─────>"
    assert scale.draw(runner(0.9, 0.1)) == "  │     >"


@pytest.mark.parametrize("error", [1e-4, 1e-3, 0.02, 0.7, 30.0])
def test_the_scale_holds_all_ends_without_much_empty_room(error: float) -> None:
    runners = [LEADER, runner(error, error / 2), runner(error, 2 * error)]
    scale = scale_of(runners, 30)
    assert 1 <= scale.low / -error <= 1.3 + 1e-9 and 3 - 1e-9 <= scale.high / error <= 4


def test_one_huge_interval_does_not_squash_the_others() -> None:
    usual = [runner(0.1, 0.05) for _ in range(6)]
    assert scale_of([LEADER, *usual, runner(40.0, 90.0)], 30).high <= 0.5
    assert scale_of([LEADER, *usual, runner(40.0, 90.0, racing=False)], 30).high <= 0.5


def test_those_still_racing_have_a_good_part_of_the_scale() -> None:
    dropped = [runner(0.9, 0.2, racing=False) for _ in range(12)]
    assert scale_of([LEADER, runner(0.01, 0.01), *dropped], 30).high == 0.05


@pytest.mark.parametrize(
    "runners", [[LEADER], [LEADER, runner(0.0, 0.0)], [LEADER, runner(1e-17, 2e-17)], [LEADER, runner(0.0, INF)]]
)
def test_there_is_a_scale_where_nothing_can_be_told(runners: list[Runner]) -> None:
    scale = scale_of(runners, 20)
    assert (scale.low, scale.high) == (0.0, 0.0001)
    assert [scale.draw(each)[0] for each in runners[:1]] == ["●"]


def test_all_may_be_ahead_of_a_leader_that_wins_by_the_tolerance() -> None:
    scale = scale_of([LEADER, runner(-0.005, 0.002)], 20)
    assert scale.low < 0 == scale.high
    assert scale.draw(LEADER).endswith("●")


# Lines, where there is no terminal.


def test_a_round_is_one_line_where_there_is_no_terminal() -> None:
    texts = ["a", "b", "c", "d"]
    said = lines(
        texts,
        [
            standing(1, [8, 8, 8, 8], [0.31, 0.1, 0.02, 0.0], [3, 0, 2]),
            standing(2, [11, 8, 11, 11], [0.0, 0.1, 0.02, 0.3], [0, 2], tolerance=0.03),
            standing(3, [15, 8, 15, 11], [0.0, 0.1, 0.02, 0.3], [], tolerance=0.009),
        ],
    )
    assert said == [
        "round 1: 3 of 4 candidates race on, up to 8 of 250 rows each; behind the leader (candidate 3): 0.0200 to "
        "0.3100; the choice could be off by 0.1200 nats per token",
        "round 2: 2 of 4 candidates race on, up to 11 of 250 rows each; behind the leader (the original): 0.0200; "
        "the choice could be off by 0.0300 nats per token",
        "decided after 3 rounds, 15 of 250 rows: the original wins; the choice could be off by 0.0090 nats per token",
    ]


def test_a_race_that_ends_undecided_says_so() -> None:
    said = lines(["a", "b"], [standing(1, [8, 8], [0.1, 0.0], [1, 0], tolerance=0.2)])
    assert said[1:] == [
        "ended undecided after 1 round, 8 of 250 rows: candidate 1 leads; "
        "the choice could be off by 0.2000 nats per token"
    ]


def test_a_race_that_never_began_says_nothing() -> None:
    assert lines(["a", "b"], []) == []


def test_a_race_that_fails_claims_no_end() -> None:
    console, file = console_of(80, 24, terminal=False)

    def fail() -> None:
        with Terminal(console) as progress, progress.race(["a", "b"], 250) as watch:
            watch(standing(1, [8, 8], [0.1, 0.0], [1, 0]))
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert [line.split(":")[0] for line in file.getvalue().splitlines()] == ["round 1"]


# In the terminal.


@pytest.mark.parametrize("failure", [None, ValueError("broken")], ids=["finished", "failed"])
def test_the_table_is_gone_after_the_race(failure: ValueError | None) -> None:
    console, file = console_of(100, 30, terminal=True)

    def compete(progress: Terminal) -> None:
        with progress.race(["first text", "second text"], 250) as watch:
            watch(standing(1, [8, 8], [0.0, 0.1], [0, 1]))
            if failure:
                raise failure

    with Terminal(console) as progress, progress.step("racing", 2, 2.0):
        with pytest.raises(ValueError, match="broken") if failure else nullcontext():
            compete(progress)
        during = file.getvalue()
        console.print("a later line")
    later = file.getvalue()[len(during) :]
    assert "2 of 2 candidates still racing" in during and "second text" in during
    # The table above the bar, then the bar without it, and at last neither.
    assert during.index("rank") < during.rindex("elapsed,")
    assert "a later line" in later and "elapsed," in later and "rank" not in later
    assert "rank" not in during[during.rindex("second text") :]


def test_a_signal_stops_a_race_at_its_next_standing() -> None:
    before = signal.getsignal(signal.SIGINT)

    def compete() -> None:
        progress = Terminal(console_of(100, 30, terminal=False)[0])
        with progress, progress.race(["a", "b"], 250) as watch:
            os.kill(os.getpid(), signal.SIGINT)
            watch(standing(1, [8, 8], [0.0, 0.1], [0, 1]))
            pytest.fail("the race went on")

    with pytest.raises(Stopped):
        compete()
    assert signal.getsignal(signal.SIGINT) == before


class Bar(Terminal):
    """Shows the bar's inside to tests."""

    def share(self) -> tuple[float, float | None]:
        task = self._bar.tasks[0]
        return task.completed, task.total


@pytest.mark.parametrize("interactive", [True, False])
def test_a_step_that_needed_less_than_announced_shortens_the_bar(interactive: bool) -> None:
    with Bar(console_of(100, 30, terminal=interactive)[0]) as progress:
        progress.plan(100.0)
        with progress.step("racing", 20, 60.0) as advance:
            advance(3)
            advance(2)
            assert progress.share() == (15.0, 100.0)
        assert progress.share() == (15.0, 55.0)
        with progress.step("training", 4, 40.0) as advance:
            advance(4)
        assert progress.share() == (55.0, 55.0)


def test_a_step_that_failed_or_has_no_plan_leaves_the_bar_as_it_is() -> None:
    with Bar(console_of(100, 30, terminal=True)[0]) as progress:
        with progress.step("racing", 20, 60.0) as advance:
            advance(5)
        assert progress.share() == (15.0, None)
        progress.plan(100.0)
        with pytest.raises(ValueError, match="broken"), progress.step("racing", 20, 60.0):
            raise ValueError("broken")
        assert progress.share() == (15.0, 100.0)


def test_whoever_is_silent_follows_a_race_too(capfd: pytest.CaptureFixture[str]) -> None:
    followed = []
    with Silent().race(["a", "b"], 250) as watch:
        for n in (1, 2):
            watch(standing(n, [8, 8], [0.0, 0.1], [0, 1]))
            followed.append(n)
    assert followed == [1, 2] and capfd.readouterr() == ("", "")


# A real race.


@pytest.mark.parametrize(("count", "rows", "budget"), [(12, 200, None), (2, 1, None), (1, 30, None), (5, 80, 70.0)])
def test_a_real_race_from_the_first_round_to_the_last(count: int, rows: int, budget: float | None) -> None:
    rng = np.random.default_rng(3)
    tokens, groups = rng.integers(2, 9, rows), rng.integers(0, 2, rows)
    nll = tokens * (rng.gamma(2, 0.5, rows) + rng.normal(0.1, 0.15, (count, 1)) + rng.normal(0, 0.2, (count, rows)))
    console, file = console_of(100, 30, terminal=False)
    with Bar(console) as progress:
        progress.plan(count * rows)
        with (
            progress.step("racing", count * rows, count * rows) as advance,
            progress.race([f"text {i}" for i in range(count)], rows) as watch,
        ):

            def measure(i: int, places: range) -> Any:
                advance(len(places))
                return nll[i][places.start : places.stop]

            settings = RaceSettings(delta=0.05, epsilon=0.01, budget=budget)
            finish = race(measure, round_sizes(rows), [1.0] * count, tokens, groups, settings, watch)
        scored = sum(map(len, finish.nll))
        assert progress.share() == (scored, scored)
    said = file.getvalue().splitlines()[1:]
    assert len(said) == len(finish.standings) + (finish.end == "budget")
    assert all(line.startswith(f"round {n}: ") for n, line in enumerate(said[:-1][: len(finish.standings) - 1], 1))
    winner = f"candidate {finish.last.leader}" if finish.last.leader else "the original"
    ends = f"{winner} leads;" if finish.end == "budget" else f"{winner} wins;"
    assert ends in said[-1]
    assert said[-1].startswith("ended undecided" if finish.end == "budget" else "decided after")
