"""Single cases worked out by hand; scoring leaves no trace in model or process, and adapters count as they are."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adapted import adapted, both_adapted, snapshot
from exact_losses import VOCABULARY, by_hand, close, examples, window_model
from transformers import LlamaForCausalLM

from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model
from sapo.models.batches import pad, supervised_positions
from sapo.models.losses import Scorer
from sapo.models.passes import untouched


def test_a_model_that_computes_something_else_from_a_cache_gets_the_plain_route() -> None:
    class Forgetful(LlamaForCausalLM):
        """Ignores what is in the cache, as a model with its own idea of a cache might."""

        def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, past_key_values=None, **kwargs)

    model = Forgetful(tiny_model().config).eval()
    model.load_state_dict(tiny_model().state_dict())
    scorer = Scorer(model)
    assert close(scorer(examples()).nll, by_hand(tiny_model(), examples()))
    assert scorer.route == "plain"


def test_one_example_and_examples_without_a_common_beginning_are_scored_too() -> None:
    model = tiny_model()
    single, scorer = examples()[:1], Scorer(model)
    assert close(scorer(single).nll, by_hand(model, single))
    assert scorer.route == "shared prefix"
    unlike = (Encoded((5, 6, 7, 8), 2), Encoded((9, 6, 7), 1), Encoded((1, 2), 1))
    assert close(Scorer(model)(unlike).nll, by_hand(model, unlike))
    # A prompt that is the beginning of another one: the shared part ends before its last token.
    nested = (Encoded((5, 6, 7, 8), 3), Encoded((5, 6, 7, 9, 1, 2), 5))
    assert close(Scorer(model)(nested).nll, by_hand(model, nested))


def test_the_loss_of_a_uniform_model_is_the_log_of_the_vocabulary() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    losses = Scorer(model)(examples())
    assert np.allclose(losses.nll, losses.tokens * math.log(VOCABULARY), rtol=1e-6)


def test_half_precision_reports_how_far_the_batch_layout_alone_moves_a_loss() -> None:
    def noise(model: Any) -> float:
        scorer = Scorer(model)
        return scorer.layout_noise(scorer.open(examples()), range(len(examples())))

    exact, model = Scorer(tiny_model()), tiny_model().to(torch.bfloat16)
    assert noise(tiny_model()) == 0
    losses = Scorer(model)(examples())
    alone = [float(Scorer(model).plain([e]).nll[0]) for e in examples()]
    squares = sum((x - y) ** 2 for x, y in zip(losses.nll, alone, strict=True))
    assert noise(model) == pytest.approx(2 * math.sqrt(squares) / losses.tokens.sum()) and squares > 0
    # It is of the size of the error, which float32 shows.
    error = abs(losses.per_token - exact(examples()).per_token)
    assert error < 0.1 and noise(model) < 0.1


def test_two_candidates_side_by_side_have_their_losses_each_in_batches_of_both() -> None:
    model, seen = tiny_model(), list[torch.Size]()
    model.get_input_embeddings().register_forward_hook(lambda m, given, out: seen.append(given[0].shape))
    pair = examples()[:3], examples()[3:6]
    for found, rows in zip(Scorer(model).side_by_side(pair), pair, strict=True):
        assert close(found, by_hand(tiny_model(), rows))
    assert [shape[0] for shape in seen] == [6]


def test_padding_and_supervised_positions_are_those_worked_out_by_hand() -> None:
    ids, labels = pad([(5, 6, 7, 8), (9, 4)], [2, 1])
    assert ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, 4, -100, -100]]
    keep, targets = supervised_positions(labels)
    assert keep.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert targets.tolist() == [7, 8, 4]


# No trace.


def two_adapters() -> Any:
    """An older adapter, frozen and active, and a trainable one on top."""
    model = both_adapted(tiny_model())
    model.set_requires_grad("new", True)
    return model


TRACELESS: dict[str, tuple[Callable[[], Any], str]] = {
    "base": (tiny_model, "eval"),
    "lora": (lambda: adapted(tiny_model()), "train"),
    "two adapters": (two_adapters, "mixed"),
    "window": (window_model, "mixed"),
}


@pytest.mark.parametrize(("make", "mode"), TRACELESS.values(), ids=TRACELESS)
def test_scoring_leaves_no_trace(make: Callable[[], Any], mode: str) -> None:
    model = make()
    model.train(mode != "eval")
    if mode == "mixed":
        for module in list(model.modules())[::3]:
            module.training = False
    # A frozen base weight beside trainable ones, so that both values must be kept.
    model.get_input_embeddings().weight.requires_grad_(False)
    before = snapshot(model)
    scorer = Scorer(model, 150)
    scorer(examples())
    scorer.plain(examples())
    scoring = scorer.open(examples())
    scoring.nll([0, 2])
    scoring.nll([1])
    scoring.release()
    assert snapshot(model) == before


def test_modes_are_restored_when_scoring_fails() -> None:
    model = tiny_model().train()
    list(model.modules())[5].training = False
    before = snapshot(model)
    with untouched(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
    assert snapshot(model) == before
    with pytest.raises(IndexError):
        Scorer(model)([Encoded((1, VOCABULARY + 7, 3), 2)])
    assert snapshot(model) == before


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = two_adapters().train()
    losses = Scorer(model)(examples())
    assert close(losses.nll, by_hand(model.eval(), examples()))
