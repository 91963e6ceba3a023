"""General ability: the loss on raw texts against a plain forward pass of each alone."""

from typing import Any

import numpy as np
import pytest
from exact_losses import by_hand
from tokenizers.processors import TemplateProcessing

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.ability import general_rows, general_texts
from sapo.models.losses import Scorer
from sapo.models.render import Renderer

CONTEXT = 640


def measured(model: Any, max_length: int = CONTEXT, scorer: Scorer | None = None, **options: Any) -> float:
    # A limit that no text would fit: it must not matter.
    rows = general_rows(Renderer(tiny_tokenizer(), 32), max_length)
    return (scorer or Scorer(model)).on(model)(rows, **options).per_token


def model_for_all() -> Any:
    return tiny_model(context=1024)


@pytest.mark.parametrize("most", [CONTEXT, 100], ids=["whole", "cut"])
def test_the_loss_is_the_sum_over_all_tokens_and_not_a_mean_of_means(most: int) -> None:
    model, tokenizer = model_for_all(), tiny_tokenizer()
    # The first token is context, and no special token is added.
    texts = [Encoded(tuple(tokenizer(text).input_ids[:most]), 1) for text in general_texts().values()]
    nll, tokens = by_hand(model, texts), np.array([text.supervised for text in texts])
    assert measured(model, most) == pytest.approx(nll.sum() / tokens.sum(), rel=1e-6)
    if most == CONTEXT:
        assert nll.sum() / tokens.sum() != pytest.approx((nll / tokens).mean(), rel=1e-6)


def test_the_first_token_is_the_one_that_a_tokenizer_puts_in_front_of_a_text() -> None:
    tokenizer = tiny_tokenizer()
    plain = general_rows(Renderer(tokenizer, 32), CONTEXT)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    start = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = start
    rows = general_rows(Renderer(tokenizer, 32), CONTEXT)
    assert [row.ids for row in rows] == [(tokenizer.bos_token_id, *row.ids)[:CONTEXT] for row in plain]
    assert {row.prompt_length for row in rows} == {1}


def test_neither_the_scorers_model_nor_its_decision_about_routes_matters() -> None:
    model, told = model_for_all(), list[int]()
    expected = pytest.approx(measured(model, 100), rel=1e-6)
    other, decided = Scorer(tiny_model(seed=1, context=1024)), Scorer(model)
    assert measured(model, 100, other, advance=told.append) == expected and other.route == "undecided"
    assert sum(told) == len(general_texts()) and len(told) > 1
    decided(Renderer(tiny_tokenizer(), 512).encode("Do it.", "", toy_task().train[:4]))
    assert measured(model, 100, decided) == expected and decided.route == "shared prefix"


# The texts.


def test_texts_are_many_different_and_of_even_length() -> None:
    texts = list(general_texts().values())
    assert len(texts) >= 24
    assert all(40 <= len(text.split()) <= 140 for text in texts)
    sentences = [s.strip() for t in texts for s in t.replace("\n", ". ").split(". ") if len(s.split()) > 4]
    assert len(set(sentences)) == len(sentences), "no sentence stands in two texts"
