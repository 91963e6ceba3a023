"""Policies by hand: which instruction each one takes from losses that are known, and which texts it trains with."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from scipy.stats import chisquare

from sapo.core.types import CandidateLoss, Encoded, Instruction, Losses, Selection
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.training.policies import BY_LOSS, MIXTURES, choose_instruction, leading, mixture
from sapo.training.settings import Policy
from sapo.training.wording import Mixture, Reselecting, Rewording


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
    assert set(BY_LOSS) == {"sapo", "highest", "median", "reselect"}
    for policy in get_args(Policy):
        if policy in BY_LOSS:
            with pytest.raises(ValueError, match=f"policy {policy} needs a selection"):
                choose_instruction(policy, instructions(3), None, 0)
        else:
            assert choose_instruction(policy, instructions(3), None, 0) in instructions(3)


def test_reselect_begins_as_sapo() -> None:
    assert chosen_text("reselect", [3.0, 1.0, 2.0], chosen=1) == "1"
    assert chosen_text("reselect", [3.0, 1.0, 2.0], chosen=0) == "0"


def test_mixtures_are_tested_with_the_original() -> None:
    for policy in MIXTURES:
        assert chosen_text(policy, [9.0, 1.0, 2.0], chosen=1) == "0"


def test_leading_candidates_are_the_chosen_one_and_then_the_lowest_losses() -> None:
    found = selection([3.0, 1.0, 2.0, 0.5], chosen=2)
    assert [[i.text for i in leading(found, count)] for count in (1, 2, 4, 9)] == [
        ["2"], ["2", "3"], ["2", "3", "1", "0"], ["2", "3", "1", "0"],
    ]  # fmt: skip


# Mixtures: what is drawn when.


def draws(policy: Policy, paraphrases: int = 4, period: int = 3, seed: int = 0) -> Callable[[int, int, int], int]:
    draw = mixture(policy, paraphrases, period, seed)
    assert draw is not None
    return draw


def test_only_mixtures_draw_and_only_where_there_is_something_to_draw() -> None:
    assert {policy for policy in get_args(Policy) if mixture(policy, 4, 3, 0)} == set(MIXTURES)
    assert not any(mixture(policy, 0, 3, 0) for policy in MIXTURES)


@pytest.mark.parametrize("policy", MIXTURES)
def test_a_draw_depends_on_its_arguments_and_on_nothing_else(policy: Policy) -> None:
    when = [(row, epoch, step) for row in range(5) for epoch in range(3) for step in range(12)]
    np.random.seed(1)
    first = [draws(policy)(*w) for w in when]
    np.random.seed(2)
    draw = draws(policy)
    assert [draw(*w) for w in reversed(when)] == first[::-1]
    assert [draws(policy, seed=1)(*w) for w in when] != first


def test_per_example_draws_for_each_row_in_each_epoch_whatever_the_step() -> None:
    draw = draws("per-example")
    assert all(draw(7, 2, step) == draw(7, 2, 0) for step in range(50))
    found = np.array([[draw(row, epoch, 0) for row in range(500)] for epoch in range(4)])
    # Independent draws of four agree in a quarter of all cases; the bounds are five standard errors wide.
    for one, other in combinations(found, 2):
        assert abs((one == other).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 500)
    assert chisquare(np.bincount(found.ravel(), minlength=4)).pvalue > 1e-4


def test_paft_draws_once_for_all_rows_of_so_many_updates() -> None:
    draw = draws("paft", period=3)
    by_step = [draw(0, 0, step) for step in range(3000)]
    assert all(draw(row, epoch, 10) == by_step[10] for row in range(20) for epoch in range(5))
    periods = [by_step[n : n + 3] for n in range(0, 3000, 3)]
    assert all(len(set(period)) == 1 for period in periods)
    assert chisquare(np.bincount([period[0] for period in periods], minlength=4)).pvalue > 1e-4


# How rows are worded while training goes on.


class KnownLosses:
    """Stands for a scorer: candidates have the losses that it is told, by their first row's tokens."""

    def __init__(self, known: Mapping[tuple[int, ...], str]) -> None:
        self._known, self.losses = known, dict[str, float]()

    def on(self, model: object) -> "KnownLosses":
        return self

    def __call__(self, encoded: Sequence[Encoded]) -> SimpleNamespace:
        return SimpleNamespace(per_token=self.losses[self._known[encoded[0].ids]])


def reselecting(every: int = 2) -> tuple[Reselecting, KnownLosses]:
    task, renderer = toy_task(), Renderer(tiny_tokenizer(), 256)
    texts = ("A", "B", "C")
    scorer = KnownLosses({renderer.encode(t, task.suffix, task.dev)[0].ids: t for t in texts})
    candidates = [Instruction(t, "file") for t in texts]
    return Reselecting(cast(Any, scorer), renderer, task, candidates, task.dev, every), scorer


def test_the_lowest_of_the_leading_candidates_is_gone_on_with() -> None:
    chooser, scorer = reselecting()
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 2.0}
    assert not chooser.after(None, 1, False) and chooser.text(0, 0, 1) == "A"
    assert not chooser.after(None, 2, False) and chooser.text(5, 0, 2) == "B"
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 0.99995}
    chooser.after(None, 4, False)
    assert chooser.chosen.text == "B", "rounding changes nothing"
    scorer.losses = {"A": 0.5, "B": 1.0, "C": 2.0}
    chooser.after(None, 5, False)
    chooser.after(None, 6, True)
    assert chooser.switches == [(2, "B")], "nor does what is seen between two choices, or after the last update"
    chooser.after(None, 8, False)
    assert (chooser.chosen.text, chooser.switches) == ("A", [(2, "B"), (8, "A")])


def test_choosing_again_goes_on_from_what_a_checkpoint_holds() -> None:
    chooser, scorer = reselecting()
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 2.0}
    chooser.after(None, 2, False)
    again, _ = reselecting()
    again.restore(None, json.loads(json.dumps(chooser.state())))
    assert (again.chosen.text, again.switches) == ("B", [(2, "B")])
    fresh, _ = reselecting()
    fresh.restore(None, [])
    assert (fresh.chosen.text, fresh.switches) == ("A", [])


class Spelled:
    """Words a row by its number, epoch and step."""

    def text(self, row: int, epoch: int, step: int) -> str:
        return f"{row}-{epoch}-{step}"


def test_rows_are_worded_task_by_task_with_their_own_suffix_and_answer() -> None:
    tokenizer = tiny_tokenizer()
    one, two = toy_task("one", rows=2), replace(toy_task("two", rows=3), suffix="Another suffix.")
    mixed = Mixture(instructions(3), lambda row, epoch, step: (row + epoch + step) % 3)
    words = Rewording(Renderer(tokenizer, 256), [one, two], [Spelled(), mixed])
    for row, task, own, text in ((1, one, 1, "1-4-7"), (2, two, 0, "2"), (4, two, 2, "1")):
        found, example = words(row, 4, 7), task.train[own]
        prompt, answer = tokenizer.decode(found.ids[: found.prompt_length]), found.ids[found.prompt_length :]
        assert f"user\n{text}\n\nText:\n{example.input}\n\n{task.suffix}<|im_end|>" in prompt
        assert tokenizer.decode(answer) == f"{example.answer}<|im_end|>\n"
    # Behind the last row lies what fills an update up: nothing of it is supervised.
    assert words(5, 4, 7).supervised == 0
