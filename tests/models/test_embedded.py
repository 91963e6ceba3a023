"""The embedded model: a real instruct model through the real path."""

from typing import Any

import numpy as np
import pytest
import torch

import sapo
from sapo.models.fingerprint import state_fingerprint
from sapo.models.layout import user_turn
from sapo.models.load import LoadedModel, load_model
from sapo.tasks.builtin import builtin_paraphrases, builtin_task

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model("embedded", device="cpu", dtype="float32")


def one_at_a_time(model: Any, tokenizer: Any, user: str, answer: str) -> tuple[float, int]:
    """NLL sum and supervised tokens of one example: whole logits, no cache, no batch, the template's own text."""
    messages = [{"role": "user", "content": user}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    ids = tokenizer(whole, return_tensors="pt").input_ids
    start = len(tokenizer(prompt).input_ids)
    with torch.no_grad():
        logs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    targets = ids[0, start:]
    return -float(logs[start - 1 : -1].gather(1, targets[:, None]).sum()), len(targets)


def test_losses_equal_one_example_at_a_time_on_the_real_model(embedded: LoadedModel) -> None:
    task = builtin_task("date-format")
    before = state_fingerprint(embedded.model)
    selection = sapo.select(
        embedded.model, embedded.tokenizer, task, builtin_paraphrases("date-format")[:1], examples=2, sample="first"
    )
    assert state_fingerprint(embedded.model) == before
    assert selection.route == "shared prefix"
    for candidate in selection.candidates:
        expected = [
            one_at_a_time(
                embedded.model,
                embedded.tokenizer,
                user_turn(candidate.instruction.text, task.train[i].input, task.suffix),
                task.train[i].answer,
            )
            for i in selection.rows
        ]
        np.testing.assert_allclose(candidate.losses.nll, [nll for nll, _ in expected], atol=1e-4)
        assert candidate.losses.tokens.tolist() == [tokens for _, tokens in expected]
        loss = sum(nll for nll, _ in expected) / sum(tokens for _, tokens in expected)
        assert candidate.losses.per_token == pytest.approx(loss, abs=1e-5)
