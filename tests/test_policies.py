"""Policies by hand: which instruction each one takes from losses that are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sapo.policies import BY_LOSS, Policy, choose_instruction
from sapo.types import CandidateLoss, Instruction, Losses, Selection


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


def chosen_text(policy: Policy, losses: Sequence[float], **changes: Any) -> str:
    return choose_instruction(policy, instructions(len(losses)), selection(losses, **changes), 0).text


def test_original_takes_the_first_candidate_however_bad_and_needs_no_losses() -> None:
    assert chosen_text("original", [9.0, 1.0, 2.0], chosen=1) == "0"
    assert choose_instruction("original", instructions(1), None, 0) == Instruction("0", "original")


def test_sapo_takes_what_the_selections_rule_chose_and_not_the_lowest_itself() -> None:
    assert chosen_text("sapo", [3.0, 1.0, 2.0], chosen=1) == "1"
    assert chosen_text("sapo", [3.0, 1.0, 2.0], chosen=0) == "0"


@pytest.mark.parametrize(
    ("losses", "expected"), [([3.0, 1.0, 2.0], "0"), ([1.0, 2.0, 7.0, 4.0], "2"), ([1.0, 2.0], "1")]
)
def test_highest_takes_the_highest_loss(losses: list[float], expected: str) -> None:
    assert chosen_text("highest", losses) == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.0, 1.0, 3.0], "2"),
        ([1.0, 2.0, 3.0, 4.0, 0.0], "1"),
        # Of an even count, the lower of the two middle ones.
        ([4.0, 3.0, 2.0, 1.0], "2"),
        ([2.0, 1.0], "1"),
        ([10.0, 20.0, 40.0, 30.0, 60.0, 50.0], "3"),
    ],
)
def test_median_takes_the_middle_loss_the_lower_one_of_two(losses: list[float], expected: str) -> None:
    assert chosen_text("median", losses) == expected


def test_equal_losses_keep_their_order_in_the_controls() -> None:
    assert chosen_text("highest", [1.0, 1.0, 1.0]) == "2"
    assert chosen_text("median", [1.0, 1.0, 1.0]) == "1"


def test_random_is_never_the_original_and_reaches_every_paraphrase() -> None:
    drawn = {choose_instruction("random", instructions(4), None, seed).text for seed in range(100)}
    assert drawn == {"1", "2", "3"}


def test_random_is_the_same_for_a_seed_whatever_the_losses_and_the_global_random_state() -> None:
    np.random.seed(1)
    first = [choose_instruction("random", instructions(20), None, seed) for seed in range(10)]
    np.random.seed(2)
    second = [choose_instruction("random", instructions(20), selection([1.0] * 20), seed) for seed in range(10)]
    assert first == second
    assert len(set(first)) > 1


def test_one_paraphrase_is_always_drawn() -> None:
    assert {choose_instruction("random", instructions(2), None, seed).text for seed in range(20)} == {"1"}


def test_policies_by_loss_need_a_selection_and_the_others_do_not() -> None:
    assert set(BY_LOSS) == {"sapo", "highest", "median"}
    for policy in BY_LOSS:
        with pytest.raises(ValueError, match=f"policy {policy} needs a selection"):
            choose_instruction(policy, instructions(3), None, 0)
