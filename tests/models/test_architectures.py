"""Losses against one-example full-logits passes, on several architectures, with and without adapters."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from adapted import both_adapted
from exact_losses import VOCABULARY, Watch, by_hand, close, examples
from transformers.utils import logging

from sapo.integrations.testing import tiny_model
from sapo.models.losses import Scorer

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 257, "pad_token_id": None,
}  # fmt: skip
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8}

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny_model,
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2)
    ),
    "gpt-neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_SHAPE)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_GROUPED, head_dim=8)),
    "granite": lambda: tf.GraniteForCausalLM(
        tf.GraniteConfig(
            **_GROUPED, logits_scaling=2.0, embedding_multiplier=2.0, residual_multiplier=0.7, attention_multiplier=0.3
        )
    ),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**_SHAPE)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_GROUPED, sliding_window=None)),
    "mistral, short window": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_GROUPED, sliding_window=16)),
    "gemma2, short window": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**_GEMMA, sliding_window=16)),
    "gemma3, short window": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_GEMMA, sliding_window=16)),
    "gemma3, long window": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_GEMMA, sliding_window=1024)),
}
SHARING = ("llama", "gpt2", "gpt-neox", "qwen3", "granite", "phi", "mistral")
ADAPTED = " with two active adapters"
_TARGETS = {"gpt2": ["c_attn"], "gpt-neox": ["query_key_value"]}
# One that shares its beginning, one of another layout, one that cannot share, one with adapters.
SOME = ("llama", "gpt2", "gemma2, short window", "llama" + ADAPTED)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """transformers prints a generation config for some of the models."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@cache
def model_of(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bare = name.removesuffix(ADAPTED)
        return _two_adapters(bare) if name != bare else MODELS[name]().eval()


def _two_adapters(name: str) -> Any:
    return both_adapted(MODELS[name](), targets=_TARGETS.get(name, ("q_proj", "v_proj")), fan_in_fan_out=name == "gpt2")


def shares(name: str) -> bool:
    return name.removesuffix(ADAPTED) in SHARING


@pytest.mark.parametrize("name", [*MODELS, *(name + ADAPTED for name in (*_TARGETS, "llama", "gemma2, short window"))])
def test_losses_equal_a_full_pass_over_each_example_alone(name: str) -> None:
    model, expected = model_of(name), by_hand(model_of(name), examples())
    scorer = Scorer(model, 150)
    assert scorer.route == "undecided"
    told: list[int] = []
    losses = scorer(examples(), told.append)
    assert sum(told) == len(examples()) and len(told) > 1
    assert close(losses.nll, expected) and close(Scorer(model).plain(examples()).nll, expected)
    assert losses.tokens.tolist() == [e.supervised for e in examples()]
    assert math.isclose(losses.per_token, expected.sum() / sum(e.supervised for e in examples()), rel_tol=1e-6)
    # The beginning is shared where the cache allows it, and only there.
    assert scorer.route == ("shared prefix" if shares(name) else "plain")
    rounds = ([3, 0], [6], [5, 1, 2, 4])
    scoring = scorer.open(examples())
    nll = np.concatenate([scoring.nll(rows) for rows in rounds])
    order = [row for rows in rounds for row in rows]
    assert (np.abs(nll - losses.nll[order]) / losses.tokens[order]).max() < 1e-6


@pytest.mark.parametrize("name", SOME)
def test_a_long_answer_is_scored_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 3
    monkeypatch.setattr("sapo.models.runner.LOGITS", most * VOCABULARY)
    assert max(e.supervised for e in examples()) > 4 * most
    model = model_of(name)
    with Watch(model) as watch:
        losses = Scorer(model)(examples())
        plain = Scorer(model).plain(examples())
    assert max(watch.logits) <= most * VOCABULARY
    assert close(losses.nll, by_hand(model, examples())) and close(plain.nll, by_hand(model, examples()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, short window"])
@pytest.mark.parametrize("batch_tokens", [1, 70, 1 << 20])
def test_batch_size_does_not_change_a_loss(name: str, batch_tokens: int) -> None:
    expected = by_hand(model_of(name), examples())
    assert close(Scorer(model_of(name), batch_tokens)(examples()).nll, expected)
    assert close(Scorer(model_of(name), batch_tokens).plain(examples()).nll, expected)


@pytest.mark.parametrize("name", SOME)
def test_vocabulary_logits_exist_at_supervised_positions_only(name: str) -> None:
    model = model_of(name)
    supervised = sum(e.supervised for e in examples())
    with Watch(model) as watch:
        Scorer(model).plain(examples())
    assert sum(watch.logits) == supervised * VOCABULARY
    scorer = Scorer(model)
    scorer(examples())
    with Watch(model) as watch:
        scorer(examples())
    # The shared beginning is one more position, whose logits nobody needs.
    assert sum(watch.logits) == (supervised + shares(name)) * VOCABULARY
