"""A race as its standings tell it: who leads, who was dropped when, in words and in order of rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sapo.core.untrusted import plain

if TYPE_CHECKING:
    from sapo.core.types import Standing

# As losses are shown in reports.
DECIMALS = 4
_UNIT = "nats per token"
# More than any terminal shows of a candidate.
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Runner:
    """A candidate after a round.

    Attributes:
        rank: from 1; the leader, then by gap.
        name: "original", or its place in the list of candidates; then its text, on one line, safe to show.
        rows: rows it was scored on.
        gap: estimate of its loss minus the leader's, in nats per token; ``low`` and ``high`` are its bounds.
        racing: it leads or is scored further.
        status: the same in words, with the round in which it was dropped.
    """

    rank: int
    name: str
    rows: int
    gap: float
    low: float
    high: float
    racing: bool
    status: str

    @property
    def leads(self) -> bool:
        """Whether it would win now."""
        return self.rank == 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A race after a round.

    Attributes:
        round: number of rounds so far.
        rows: rows that whoever came furthest was scored on; of ``all_rows``.
        runners: all candidates, by rank.
        leader: "the original" or "candidate N".
        decided: nobody is scored further.
        tolerance: how much worse than the best the leader may be, in nats per token.
    """

    round: int
    rows: int
    all_rows: int
    runners: tuple[Runner, ...]
    leader: str
    decided: bool
    tolerance: float

    @property
    def rivals(self) -> list[Runner]:
        """Who is scored further besides the leader, by rank."""
        return [runner for runner in self.runners[1:] if runner.racing]

    @property
    def title(self) -> str:
        """The round in a few words."""
        if self.decided:
            return f"decided after {self._effort}"
        racing = len(self.rivals) + 1
        return f"round {self.round}: {racing} of {len(self.runners)} candidates still racing, up to {self._rows}"

    @property
    def doubt(self) -> str:
        """How sure the choice of the leader is."""
        return f"the choice could be off by {amount(self.tolerance)}"

    @property
    def line(self) -> str:
        """All in one line, where no table can be shown."""
        if self.decided:
            return f"{self.title}: {self.leader} wins; {self.doubt} {_UNIT}"
        gaps = [runner.gap for runner in self.rivals]
        behind = " to ".join(dict.fromkeys(map(difference, (min(gaps), max(gaps)))))
        return (
            f"round {self.round}: {len(gaps) + 1} of {len(self.runners)} candidates race on, up to {self._rows} each; "
            f"behind the leader ({self.leader}): {behind}; {self.doubt} {_UNIT}"
        )

    @property
    def last_line(self) -> str:
        """What is said where a race ends though candidates might have raced on."""
        return f"ended undecided after {self._effort}: {self.leader} leads; {self.doubt} {_UNIT}"

    @property
    def _rows(self) -> str:
        return f"{self.rows} of {self.all_rows} rows"

    @property
    def _effort(self) -> str:
        return f"{self.round} round{'s' * (self.round > 1)}, {self._rows}"


class Follower:
    """Follows a race: remembers the round in which each candidate was dropped.

    Attributes:
        picture: the race after the last standing.
    """

    picture: Picture

    def __init__(self, texts: Sequence[str], rows: int) -> None:
        self._texts = [plain(" ".join(text[: 4 * _SHOWN].split())[:_SHOWN]) for text in texts]
        self._rows = rows
        self._dropped: dict[int, int] = {}
        self.undecided = False

    def follow(self, standing: Standing) -> None:
        """Take in the next standing."""
        racing = {standing.leader, *standing.racing}
        # Who comes back was not dropped for good; its next round out counts.
        self._dropped = {i: self._dropped.get(i, standing.round) for i in range(len(self._texts)) if i not in racing}
        self.undecided = bool(standing.racing)
        order = sorted(range(len(self._texts)), key=lambda i: (i != standing.leader, standing.gap[i], i))
        self.picture = Picture(
            round=standing.round,
            rows=int(standing.counts.max()),
            all_rows=self._rows,
            runners=tuple(self._runner(i, rank, standing) for rank, i in enumerate(order, start=1)),
            leader=f"candidate {standing.leader}" if standing.leader else "the original",
            decided=not self.undecided,
            tolerance=standing.tolerance,
        )

    def _runner(self, i: int, rank: int, standing: Standing) -> Runner:
        if i == standing.leader:
            status = "leads" if standing.racing else "wins"
        else:
            status = f"dropped, round {self._dropped[i]}" if i in self._dropped else "racing"
        return Runner(
            rank=rank,
            name=f"{i or 'original'}: {self._texts[i]}",
            rows=int(standing.counts[i]),
            gap=float(standing.gap[i]),
            low=float(standing.low[i]),
            high=float(standing.high[i]),
            racing=i not in self._dropped,
            status=status,
        )


def difference(value: float) -> str:
    """Return a difference of losses as it is shown; "?" where it is not known."""
    # Adding 0.0 turns a negative zero into 0.
    return f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}" if math.isfinite(value) else "?"


def amount(value: float) -> str:
    """Return the size of an uncertainty as it is shown."""
    if not math.isfinite(value):
        return "any amount"
    least = 10.0**-DECIMALS
    return difference(value) if value >= least else f"less than {least:.{DECIMALS}f}"
