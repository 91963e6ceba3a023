"""Policies by hand: which instruction each one takes from losses that are known."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest

from sapo.core.types import Instruction, Losses
from sapo.selection.selection import CandidateLoss, Selection
from sapo.training.policies import BY_LOSS, MIXTURES, choose_instruction, leading
from sapo.training.settings import Policy


def instructions(count: int) -> tuple[Instruction, ...]:
    """The original, named "0", and its paraphrases "1", "2" ..."""
    return tuple(Instruction(str(i), "file" if i else "original") for i in range(count))


def selection(losses: Sequence[float], chosen: int = 0) -> Selection:
    """A selection of candidates "0", "1" ... with these losses per token."""
    return Selection(
        task="t", rule="lowest", sample="first", rows=(0,), chosen=chosen, tolerance=1e-5, rejected=(), seconds=1.0,
        tokens=1, route="plain",
        candidates=tuple(
            CandidateLoss(
                instruction,
                Losses(np.array([2 * loss]), np.array([2]), np.array([0])),
                float(loss), loss - losses[0], None, "chosen" if i == chosen else "scored",
            )
            for i, (instruction, loss) in enumerate(zip(instructions(len(losses)), losses, strict=True))
        ),
    )  # fmt: skip


def chosen_text(policy: Policy, losses: Sequence[float], chosen: int = 0) -> str:
    return choose_instruction(policy, instructions(len(losses)), selection(losses, chosen), 0, 1).text


def test_the_original_and_mixtures_take_the_first_candidate_however_bad_and_need_no_losses() -> None:
    for policy in ("original", *MIXTURES):
        assert chosen_text(policy, [9.0, 1.0, 2.0], chosen=1) == "0"
        assert choose_instruction(policy, instructions(3), None, 0, 1) == Instruction("0", "original")


@pytest.mark.parametrize("policy", ["sapo", "reselect"])
def test_sapo_takes_what_the_selections_rule_chose_and_not_the_lowest_itself(policy: Policy) -> None:
    assert [chosen_text(policy, [3.0, 1.0, 2.0], chosen=i) for i in (0, 1)] == ["0", "1"]


@pytest.mark.parametrize(
    ("losses", "highest", "median"),
    [
        ([5.0, 1.0, 3.0], "0", "2"),
        ([1.0, 2.0, 3.0, 4.0, 0.0], "3", "1"),
        # Of an even count, the lower of the two middle ones.
        ([4.0, 3.0, 2.0, 1.0], "0", "2"),
        ([2.0, 1.0], "0", "1"),
        ([10.0, 20.0, 40.0, 30.0, 60.0, 50.0], "4", "3"),
        # Equal losses keep their order.
        ([1.0, 1.0, 1.0], "2", "1"),
    ],
)
def test_controls_take_the_highest_and_the_middle_loss(losses: list[float], highest: str, median: str) -> None:
    assert (chosen_text("highest", losses), chosen_text("median", losses)) == (highest, median)


def test_random_reaches_every_paraphrase_never_the_original_and_depends_on_seed_and_place_alone() -> None:
    drawn = []
    for noise, losses in ((1, None), (2, selection([1.0] * 4))):
        np.random.seed(noise)
        drawn.append([choose_instruction("random", instructions(4), losses, seed, 1).text for seed in range(100)])
    assert drawn[0] == drawn[1] and set(drawn[0]) == {"1", "2", "3"}
    assert {choose_instruction("random", instructions(2), None, seed, 1).text for seed in range(20)} == {"1"}
    # Each task of a sequence has a draw of its own, under neighbouring seeds too.
    runs = {
        seed: [choose_instruction("random", instructions(21), None, seed, place).text for place in range(1, 4)]
        for seed in range(1, 7)
    }
    assert all(len(set(texts)) > 1 for texts in runs.values()) and len(set(map(tuple, runs.values()))) == 6


def test_policies_by_loss_need_a_selection_and_the_others_do_not() -> None:
    assert set(BY_LOSS) == {"sapo", "highest", "median", "reselect"}
    for policy in get_args(Policy):
        if policy in BY_LOSS:
            with pytest.raises(ValueError, match=f"policy {policy} needs a selection"):
                choose_instruction(policy, instructions(3), None, 0, 1)
        else:
            assert choose_instruction(policy, instructions(3), None, 0, 1) in instructions(3)


def test_leading_candidates_are_the_chosen_one_and_then_the_lowest_losses() -> None:
    found = selection([3.0, 1.0, 2.0, 0.5], chosen=2)
    assert [[i.text for i in leading(found, count)] for count in (1, 2, 4, 9)] == [
        ["2"], ["2", "3"], ["2", "3", "1", "0"], ["2", "3", "1", "0"],
    ]  # fmt: skip
