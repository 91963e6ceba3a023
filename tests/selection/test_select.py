"""`sapo.select` on a tiny model: the losses it rests on, what it refuses, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exact_losses import by_hand
from transformers import GPT2Config, GPT2LMHeadModel

from sapo.core.errors import SapoError, ScoreError
from sapo.core.types import Example, Instruction, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fingerprint import state_fingerprint
from sapo.models.render import Renderer
from sapo.selection.rows import context_length
from sapo.selection.selection import Selection
from sapo.tasks.sampling import selection_rows
from sapo.training.select import select

PARAPHRASES = (
    "Reply yes when there are many words and no when there are few.",
    "Are there many words? If so yes, if not no.",
    "yes for a long text, no for a short one.",
)


def uneven(rows: int = 12) -> Task:
    """Free answers from two to forty characters."""
    train = tuple(Example(f"row {i}", "so " * (1 + 13 * (i % 2)) + str(i)) for i in range(rows))
    return replace(toy_task(), labels=(), train=train)


def pooled(model: Any, task: Task, instruction: str, rows: tuple[int, ...]) -> tuple[float, float]:
    """(sum over sum, mean of per-example means) from one full pass an example."""
    encoded = Renderer(tiny_tokenizer(), 512).encode(instruction, task.suffix, [task.train[i] for i in rows])
    nll, tokens = by_hand(model, encoded), np.array([row.supervised for row in encoded])
    return float(nll.sum() / tokens.sum()), float((nll / tokens).mean())


def test_the_lowest_pooled_loss_is_chosen_and_reported() -> None:
    model, task = tiny_model(), uneven()
    before = state_fingerprint(model), torch.get_rng_state().tolist(), repr(np.random.get_state())
    selection = select(model, tiny_tokenizer(), task, PARAPHRASES, 8)
    assert before == (state_fingerprint(model), torch.get_rng_state().tolist(), repr(np.random.get_state()))
    texts = [task.instruction, *PARAPHRASES]
    expected, means = zip(*(pooled(model, task, text, selection.rows) for text in texts), strict=True)
    assert [c.instruction.text for c in selection.candidates] == texts
    assert [c.losses.per_token for c in selection.candidates] == pytest.approx(expected, rel=1e-6)
    assert [c.delta for c in selection.candidates] == pytest.approx([x - expected[0] for x in expected], abs=1e-5)
    assert selection.chosen == int(np.argmin(expected))
    assert selection.instruction.text == texts[selection.chosen]
    assert list(selection.ranked) == np.argsort(expected).tolist()
    assert (selection.task, selection.rule, selection.sample) == ("toy", "lowest", "stratified")
    assert selection.route == "shared prefix" and 0 < selection.seconds < 60
    # The premise: with these answers the two definitions are far apart.
    assert min(abs(a - b) for a, b in zip(expected, means, strict=True)) > 1e-3


def test_texts_that_are_no_candidates_are_rejected_with_reasons() -> None:
    task = toy_task()
    given = ("", PARAPHRASES[0], "Say something.", PARAPHRASES[0], f" {task.instruction.upper()}")
    selection = select(tiny_model(), tiny_tokenizer(), task, given, 4)
    assert [c.instruction for c in selection.candidates] == [
        Instruction(task.instruction, "original"),
        Instruction(PARAPHRASES[0], "given"),
    ]
    found = [(r.text, r.reason) for r in selection.rejected]
    for (text, reason), expected, words in zip(
        found, (given[0], *given[2:]), ("empty", "'yes', 'no'", "candidate 2", "original"), strict=True
    ):
        assert text == expected and words in reason


def test_an_unusual_text_of_the_users_own_is_scored_and_noted() -> None:
    task, noted = toy_task(), f"Sure! {PARAPHRASES[0]}"
    selection = select(tiny_model(), tiny_tokenizer(), task, [noted], 4)
    assert [c.instruction.text for c in selection.candidates] == [task.instruction, noted]
    assert f"{noted[:60]!r}: holds an assistant's preamble" in selection.notes[0]
    assert Selection.from_json(selection.to_json()).notes == selection.notes


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (PARAPHRASES, {"examples": 0}, "examples = 0: Input should be greater than 0"),
        (PARAPHRASES, {"examples": "many"}, "examples = 'many': .* integer"),
        (PARAPHRASES, {"delta": 0.5}, r"delta = 0\.5: Input should be less than 0\.5"),
        (PARAPHRASES, {"epsilon": math.inf}, "epsilon = inf: Input should be a finite number"),
        (PARAPHRASES, {"rule": "best"}, "rule = 'best': Input should be 'lowest', 'confident' or 'trial'"),
        (("Say something.", " "), {}, r"'toy'.*'Say something\.'.*lacks the label 'yes', 'no'.*empty"),
        ((), {}, "none were given"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(
    given: tuple[str, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SapoError, match=message):
        select(tiny_model(), tiny_tokenizer(), toy_task(), given, **settings)


# Id of "~" in the tiny tokenizer: code point 126 minus 33.
TILDE = 93


def test_a_loss_that_is_not_a_number_names_the_candidate_and_the_training_row() -> None:
    model, task = tiny_model(), toy_task()
    with torch.no_grad():
        model.get_input_embeddings().weight[TILDE] = math.nan
    rows = selection_rows(task, 5, "stratified", 42)
    given = (PARAPHRASES[0], f"{PARAPHRASES[1][:-1]} ~.", PARAPHRASES[2])
    with pytest.raises(
        ScoreError, match=rf"'toy': candidate 2 \('Are there many.*nan on training row {rows[0]} \(5 such rows\)"
    ):
        select(model, tiny_tokenizer(), task, given, 5, strategy="exhaustive")
    bad = rows[3]
    train = tuple(Example("~", e.answer) if i == bad else e for i, e in enumerate(task.train))
    assert bad != 3
    with pytest.raises(ScoreError, match=rf"candidate 0 .*on training row {bad} \(1 such rows\)"):
        select(model, tiny_tokenizer(), replace(task, train=train), PARAPHRASES, 5)


def gpt2(context: int) -> Any:
    with torch.random.fork_rng():
        return GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=context)).eval()


@pytest.mark.parametrize("make", [lambda: tiny_model(context=192), lambda: gpt2(192)], ids=["llama", "gpt2"])
def test_inputs_are_cut_to_what_the_model_was_made_for(make: Any) -> None:
    long = tuple(Example("many words " * 40, "yes") for _ in range(3))
    model = make()
    assert context_length(model) == 192
    selection = select(model, tiny_tokenizer(), replace(toy_task(), train=long), PARAPHRASES)
    assert all(c.losses.cut.min() > 0 for c in selection.candidates)
