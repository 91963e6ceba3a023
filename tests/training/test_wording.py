"""How rows are worded: what a model is really trained on, update by update, while batches are made ahead of time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from assignments import whole_rows
from scipy.stats import binomtest, chisquare
from small_runs import SUFFIX, Seen, Told, watch_training

from sapo.core.types import Encoded, Instruction, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.selection.selection import Choice
from sapo.training.finetune import finetune
from sapo.training.policies import MIXTURES
from sapo.training.settings import Policy, TrainSettings
from sapo.training.trainer import Extras
from sapo.training.wording import Leaders, Mixture, Reselecting, Rewording, Worded

TEXTS = ("One, is it?", "Two: say it.", "Three! Do tell.", "Four, please.")
PARAPHRASES = tuple(Instruction(text, "file") for text in TEXTS)
# 3 updates an epoch, the last one smaller, each but that one in two passes.
ROWS, EPOCHS, UPDATES = 20, 4, 3
SETTINGS = TrainSettings(epochs=EPOCHS, learning_rate=1e-3, batch_size=8, micro_batch_size=4, warmup=0.0)


def task_of(rows: int = ROWS) -> Task:
    return replace(toy_task(rows=rows), suffix=SUFFIX)


def renderer() -> Renderer:
    return Renderer(tiny_tokenizer(), 256)


def chosen(task: Task) -> Choice:
    return Choice(task, Instruction(task.instruction, "original"))


def train(
    task: Task, words: Worded | None, settings: TrainSettings = SETTINGS, told: Told | None = None, model: Any = None
) -> Any:
    """Train the tiny model itself on a task; return (model, training)."""
    model = model or tiny_model()
    extras = Extras() if words is None else Extras(reword=Rewording(renderer(), [chosen(task)], [words]))
    encoded = renderer().encode(task.instruction, task.suffix, task.train)
    with (told or Told()).step("training", 0, 0) as advance:
        return model, finetune(model, encoded, settings, 0, advance, extras=extras)


def mixed(policy: Policy, seed: int = 0, period: int = 2) -> Mixture:
    return Mixture(policy, PARAPHRASES, period, seed)


def seen_in(policy: Policy, seed: int = 0) -> list[Seen]:
    """What went through the model, with nothing computed in advance for a whole batch."""
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        seen = watch_training(patch, told)
        train(task_of(), mixed(policy, seed), told=told, model=whole_rows(tiny_model()))
    return seen


def table(seen: Sequence[Seen]) -> Any:
    """Number of the text of each row [rows] in each epoch [epochs]."""
    place = {row.input: i for i, row in enumerate(task_of().train)}
    found = np.full((EPOCHS, ROWS), -1)
    for update, text, shown, answer in seen:
        assert answer == task_of().train[place[shown]].answer
        assert found[update // UPDATES, place[shown]] == -1, "each row once an epoch"
        found[update // UPDATES, place[shown]] = TEXTS.index(text)
    assert (found >= 0).all()
    return found


def test_per_example_trains_on_what_is_drawn_for_that_row_in_that_epoch() -> None:
    found = table(seen_in("per-example"))
    expected = [
        [int(np.random.default_rng([0, epoch, row]).integers(4)) for row in range(ROWS)] for epoch in range(EPOCHS)
    ]
    assert found.tolist() == expected


def test_paft_keeps_one_text_for_exactly_so_many_updates_across_the_ends_of_epochs() -> None:
    by_period = seen_in("paft")
    # Updates 2 and 3 are the last of one epoch and the first of the next.
    texts = [TEXTS[int(np.random.default_rng([0, update // 2]).integers(4))] for update in range(EPOCHS * UPDATES)]
    assert {(update, text) for update, text, _, _ in by_period} == set(enumerate(texts))
    # Texts do change, so that a longer period would not pass for this one.
    assert sum(a != b for a, b in pairwise(texts[::2])) >= 3
    # The texts depend on a seed of their own, the order of rows on another.
    np.random.seed(5)
    torch.manual_seed(5)
    other = seen_in("paft", seed=1)
    assert other != by_period
    assert [(update, shown) for update, _, shown, _ in other] == [(update, shown) for update, _, shown, _ in by_period]


@pytest.mark.parametrize("policy", MIXTURES)
def test_a_draw_is_uniform_and_depends_on_its_arguments_and_on_nothing_else(policy: Policy) -> None:
    # Each draw is one of its own: by row and epoch, or by update with a period of 1.
    when = [(row, epoch, 40 * epoch + row) for epoch in range(50) for row in range(40)]
    np.random.seed(1)
    first = [mixed(policy, period=1).text(*w) for w in when]
    np.random.seed(2)
    again = mixed(policy, period=1)
    assert [again.text(*w) for w in reversed(when)] == first[::-1]
    other = [mixed(policy, seed=1, period=1).text(*w) for w in when]
    counts = [[drawn.count(text) for text in TEXTS] for drawn in (first, other)]
    assert all(chisquare(found).pvalue > 0.01 for found in counts)
    # Another seed, and what was drawn just before, say nothing about a draw: of four texts, one in four is the same.
    for pairs in (zip(first, other, strict=True), pairwise(first)):
        same = [one == two for one, two in pairs]
        assert binomtest(sum(same), len(same), 1 / len(TEXTS)).pvalue > 0.01


def fixed(text: str) -> Mixture:
    return Mixture("paft", [Instruction(text, "file")], 1, 0)


def test_wording_rows_as_they_are_is_training_on_them_to_the_bit() -> None:
    task = task_of(13)
    settings = SETTINGS.model_copy(update={"epochs": 1})
    plain, before = train(task, None, settings)
    worded, after = train(task, fixed(task.instruction), settings)
    other, elsewhere = train(task, fixed("Something else."), settings)
    assert before == after != elsewhere
    assert all(torch.equal(p, worded.state_dict()[name]) for name, p in plain.state_dict().items())
    assert any(not torch.equal(p, other.state_dict()[name]) for name, p in plain.state_dict().items())
    unchanged, drawn = (Rewording(renderer(), [chosen(task)], [w]) for w in (None, mixed("paft")))
    assert (unchanged.changes, drawn.changes, drawn.decides) == (False, True, [list(TEXTS)])


# Choosing again while training goes on.


class KnownLosses:
    """Stands for a scorer: candidates have the losses that it is told, by their first row's tokens."""

    def __init__(self, known: Mapping[tuple[int, ...], str]) -> None:
        self._known, self.losses = known, dict[str, float]()

    def on(self, model: object) -> KnownLosses:
        return self

    def __call__(self, encoded: Sequence[Encoded]) -> SimpleNamespace:
        return SimpleNamespace(per_token=self.losses[self._known[encoded[0].ids]])


def reselecting() -> tuple[Reselecting, KnownLosses]:
    task, texts = toy_task(), ("A", "B", "C")
    scorer = KnownLosses({renderer().encode(t, task.suffix, task.dev)[0].ids: t for t in texts})
    candidates = [Instruction(t, "file") for t in texts]
    leaders = Leaders(renderer(), task.suffix, candidates, task.dev, candidates[0])
    return Reselecting(cast(Any, scorer), leaders, 2, [*texts]), scorer


def test_training_continues_with_the_lowest_of_the_leading_candidates() -> None:
    chooser, scorer = reselecting()
    leaders = chooser.leaders
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 2.0}
    assert not chooser.after(None, 1, False) and chooser.text(0, 0, 1) == "A"
    assert not chooser.after(None, 2, False) and chooser.text(5, 0, 2) == "B"
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 0.99995}
    chooser.after(None, 4, False)
    assert leaders.chosen.text == "B", "rounding changes nothing"
    scorer.losses = {"A": 0.5, "B": 1.0, "C": 2.0}
    chooser.after(None, 5, False)
    chooser.after(None, 6, True)
    assert list(leaders.switches) == [(2, "B")], "nor does what is seen between two choices, or after the last update"
    chooser.after(None, 8, False)
    assert leaders.chosen.text == "A" and list(leaders.switches) == [(2, "B"), (8, "A")]
    leaders.back(8)
    assert leaders.chosen.text == "B" and list(leaders.switches) == [(2, "B")]


def test_choosing_again_resumes_with_what_a_checkpoint_holds() -> None:
    chooser, scorer = reselecting()
    scorer.losses = {"A": 3.0, "B": 1.0, "C": 2.0}
    fresh = json.dumps(chooser.state())
    chooser.after(None, 2, False)
    for state, expected in ((json.dumps(chooser.state()), ("B", ((2, "B"),))), (fresh, ("A", ()))):
        again, _ = reselecting()
        again.restore(None, json.loads(state))
        assert (again.leaders.chosen.text, again.leaders.switches) == expected


class Spelled:
    """Words a row by its number, epoch and step."""

    def __init__(self, begins: str) -> None:
        self.begins, self.decides = begins, list[Any](["everything"])

    def text(self, row: int, epoch: int, step: int) -> str:
        return f"{self.begins}{row}-{epoch}-{step}"


def test_rows_are_worded_task_by_task_with_their_own_suffix_and_answer() -> None:
    tokenizer = tiny_tokenizer()
    one, two = toy_task("one", rows=2), replace(toy_task("two", rows=3), suffix="Another suffix.")
    words = Rewording(renderer(), [chosen(one), chosen(two)], [Spelled("a"), Spelled("b")])
    for row, task, own, text in ((1, one, 1, "a1-4-7"), (2, two, 0, "b0-4-7"), (4, two, 2, "b2-4-7")):
        found, example = words(row, 4, 7), task.train[own]
        prompt, answer = tokenizer.decode(found.ids[: found.prompt_length]), found.ids[found.prompt_length :]
        assert f"user\n{text}\n\nText:\n{example.input}\n\n{task.suffix}<|im_end|>" in prompt
        assert tokenizer.decode(answer) == f"{example.answer}<|im_end|>\n"
    # Behind the last row lies what fills an update up: nothing of it is supervised.
    assert words(5, 4, 7).supervised == 0
