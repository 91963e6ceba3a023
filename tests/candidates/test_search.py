"""Rounds of candidates, with a made-up loss in place of a model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from sapo.candidates.gather import Gathered
from sapo.candidates.search import SearchSettings, search
from sapo.candidates.source import Ranking
from sapo.core.types import CandidateLoss, Instruction, Losses, Selection

ORIGINAL = Instruction("0", "original")
# What a row of a candidate costs in the fake.
TOKENS = 100


def made(text: str) -> Instruction:
    return Instruction(text, "rules")


def selected(candidates: Sequence[Instruction]) -> Selection:
    """A selection in which a candidate's loss is ten minus the number that its text is."""
    losses = [10.0 - float(c.text) for c in candidates]
    chosen = int(np.argmin(losses))
    rows = tuple(
        CandidateLoss(
            c, Losses(np.array([loss]), np.array([1]), np.array([0])), loss, loss - losses[0], None,
            "chosen" if i == chosen else "scored", None, (loss - min(losses), loss - min(losses)),
        )
        for i, (c, loss) in enumerate(zip(candidates, losses, strict=True))
    )  # fmt: skip
    return Selection(
        "toy", "lowest", "first", (0,), rows, chosen, 0.01, (), 1.0, TOKENS * len(candidates), "plain"
    )  # fmt: skip


Proposer = Callable[[Ranking, Sequence[Instruction]], Gathered]


class Proposals:
    """Gives rounds of new candidates, and remembers what it was told."""

    def __init__(self, *rounds: Sequence[str]) -> None:
        self._rounds = list(rounds)
        self.rankings: list[Ranking] = []
        self.known: list[list[str]] = []

    def __call__(self, ranking: Ranking, known: Sequence[Instruction]) -> Gathered:
        self.rankings.append(ranking)
        self.known.append([c.text for c in known])
        return Gathered((ORIGINAL, *map(made, self._rounds.pop(0) if self._rounds else ())), ())


def searching(
    propose: Proposer, first: Sequence[str] = ("1", "2"), rounds: int = 5, budget: float | None = None
) -> tuple[Selection, list[list[str]], list[float | None]]:
    measured: list[list[str]] = []
    budgets: list[float | None] = []

    def measure(candidates: Sequence[Instruction], budget: float | None) -> Selection:
        measured.append([c.text for c in candidates])
        budgets.append(budget)
        return selected(candidates)

    def unseen(candidates: Sequence[Instruction]) -> Selection:
        return replace(selected(candidates), rows=tuple(range(7)))

    start = selected([ORIGINAL, *map(made, first)])
    return search(start, SearchSettings(rounds, 2, budget), propose, measure, unseen), measured, budgets


def test_rounds_go_on_while_each_brings_a_better_candidate() -> None:
    propose = Proposals(["3", "1.5"], ["4", "2.5"], ["0.5", "3.5"], ["9", "8"])
    found, measured, _ = searching(propose)
    # Each race is of the original, the leader so far and the new ones; the third round brings nothing, and ends it.
    assert measured == [["0", "2", "3", "1.5"], ["0", "3", "4", "2.5"], ["0", "4", "0.5", "3.5"]]
    assert found.instruction.text == "4" and found.search is not None
    assert [(r.tried, r.text, r.loss) for r in found.search.rounds] == [(2, "3", 7.0), (2, "4", 6.0), (2, "4", 6.0)]
    assert found.search.before == 8.0


def test_every_candidate_is_in_the_end_once_with_its_loss_beside_the_original() -> None:
    found, _, _ = searching(Proposals(["3", "1.5"], ["2.5"]))
    texts = [c.instruction.text for c in found.candidates]
    assert texts[0] == "0" and sorted(texts) == ["0", "1", "1.5", "2", "2.5", "3"]
    assert all(c.loss == 10 - float(c.instruction.text) and c.delta == c.loss - 10 for c in found.candidates)
    assert [c.instruction.text for c in found.candidates if c.status == "chosen"] == ["3"]
    # Bounds to a leader of an earlier race say nothing of this one.
    assert all(c.gap is None for c in found.candidates if c.instruction.text in ("1", "1.5"))


def test_costs_add_up() -> None:
    found, _, _ = searching(Proposals(["3"], ["2.5"]))
    # Judging the result takes three candidates once more.
    assert found.tokens == TOKENS * (3 + 3 + 3 + 3) and found.seconds == 4.0
    assert found.search is not None and [r.tokens for r in found.search.rounds] == [300, 300]


def test_parents_are_told_best_first_and_warnings_worst_first() -> None:
    propose = Proposals(["3"])
    searching(propose, first=("5", "1", "4", "2", "6"))
    assert propose.rankings[0] == Ranking(("6", "5", "4", "2"), ("0", "1"), 1)
    assert propose.known[0] == ["0", "5", "1", "4", "2", "6"]


@pytest.mark.parametrize(("budget", "rounds"), [(None, 3), (10_000.0, 3), (601.0, 2), (301.0, 1), (300.0, 0), (1.0, 0)])
def test_a_search_ends_with_its_budget(budget: float | None, rounds: int) -> None:
    found, measured, budgets = searching(Proposals(["3"], ["4"], ["5"]), rounds=3, budget=budget)
    assert found.search is not None and len(measured) == len(found.search.rounds) == rounds
    # What is left is told to every race.
    assert budgets == [None if budget is None else budget - 300 * (n + 1) for n in range(rounds)]


def test_without_new_candidates_the_selection_stays() -> None:
    found, measured, _ = searching(Proposals())
    assert measured == [] and found.instruction.text == "2"
    assert found.search is not None and found.search.rounds == ()


def test_an_original_that_leads_races_once() -> None:
    _, measured, _ = searching(Proposals(["-1"]), first=("-2",))
    assert measured == [["0", "-1"]]


def test_the_result_is_judged_on_unseen_rows() -> None:
    found, _, _ = searching(Proposals(["3"]))
    assert found.search is not None and found.search.unseen is not None
    unseen = found.search.unseen
    assert (unseen.rows, unseen.original, unseen.before, unseen.after) == (7, 10.0, 8.0, 7.0)
