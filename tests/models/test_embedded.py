"""The embedded model: a real instruct model."""

from typing import Any

import numpy as np
import pytest
import torch

from sapo.models.fit import MAX_LENGTH
from sapo.models.layout import user_turn
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.tasks.builtin import builtin_task

pytestmark = pytest.mark.embedded


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


def test_losses_equal_one_example_at_a_time_on_the_real_model() -> None:
    model, tokenizer = load_model("embedded", device="cpu", dtype="float32")
    task, scorer = builtin_task("date-format"), Scorer(model)
    rows = task.train[:2]
    losses = scorer(Renderer(tokenizer, MAX_LENGTH).encode(task.instruction, task.suffix, rows))
    assert scorer.route == "shared prefix"
    expected = [
        one_at_a_time(model, tokenizer, user_turn(task.instruction, row.input, task.suffix), row.answer) for row in rows
    ]
    np.testing.assert_allclose(losses.nll, [nll for nll, _ in expected], atol=1e-4)
    assert losses.tokens.tolist() == [tokens for _, tokens in expected]
