"""What is measured of a candidate: against plain passes over prompts spelled out by hand, and recorded parameters."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import snapshot
from assignments import (
    alike,
    answers_by_hand,
    assignment,
    dying_after,
    kl_by_hand,
    rows_of,
    shake,
    token_mean,
    tokens_of,
)

from sapo.core.types import Encoded, Example
from sapo.experiments.study.indicators import Travel, drift, gradient, indicators, norm
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, toy_task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.training.finetune import TrainingLog, finetune
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import copies
from sapo.training.settings import LoraSettings, Optimiser, TrainSettings
from sapo.training.trainer import Checkpoints, Extras

TASK = replace(toy_task(), instruction="Is it so?", suffix="Be brief.")
TEXT = "Say whether it is so."
# More than go through the model at once; lengths differ, answers come more than once.
ROWS = (
    Example("a", "yes"), Example("a much longer text " * 3, "no"), Example("one more", "well, yes and no, it depends"),
    Example("naïve 北京", "y"), Example("and then?", "no", history=(("Who?", "Me."), ("Why?", "Because."))),
    Example("b", "no"), Example("c" * 30, "yes"), Example("d", "maybe"), Example("", "no"),
)  # fmt: skip

# Its assistant turns end with nothing.
BARE_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# And how many tokens end the turn behind an answer.
TEMPLATES = {"chat": (CHAT_TEMPLATE, 2), "without end of turn": (BARE_TEMPLATE, 0), "no template": (None, 1)}

RATE = 0.05
# What plain gradient descent leaves out: a schedule, decay, clipping.
SGD = TrainSettings(
    epochs=3, learning_rate=RATE, batch_size=4, micro_batch_size=2, warmup=0.5, weight_decay=0.5, max_grad_norm=0.01
)
ADAMW = TrainSettings(epochs=3, learning_rate=1e-3, batch_size=4, micro_batch_size=2, warmup=0.0)
# 11 rows in updates of 4: three of them an epoch.
TRAINED = rows_of("one", 11)
UPDATES = 9


def adapted(*, dropout: float = 0.4) -> Any:
    """The tiny model, in training mode, with an adapter no number of which is 0, whose dropout would show."""
    learner = SeqLora(LoraSettings(r=3, alpha=5, dropout=dropout, target_modules=("q_proj", "v_proj")))
    model = learner.prepare(learner.start(tiny_model()), assignment([]))
    shake(model)
    return model.train()


def measured(model: Any, text: str = TEXT, rows: Sequence[Example] = ROWS, template: str = "chat") -> dict[str, Any]:
    renderer = Renderer(tiny_tokenizer(chat_template=TEMPLATES[template][0]), 512)
    return indicators(model, Scorer(model), renderer, TASK, text, rows)[0]


def encoded(rows: Sequence[Example] = ROWS, template: str = "chat") -> list[Encoded]:
    return Renderer(tiny_tokenizer(chat_template=TEMPLATES[template][0]), 512).encode(TEXT, TASK.suffix, rows)


def per_token(model: Any, rows: Sequence[Encoded]) -> float:
    with torch.no_grad():
        return float(token_mean(model, rows))


# Losses.


@pytest.mark.parametrize("template", TEMPLATES)
def test_losses_are_those_of_plain_passes(template: str) -> None:
    model, end = adapted(), TEMPLATES[template][1]
    found = measured(model, template=template)
    plain, whole = copy.deepcopy(model).eval(), encoded(template=template)
    assert found["pre_update"] == pytest.approx(per_token(plain, whole), rel=1e-5)
    answers = [replace(row, ids=row.ids[: len(row.ids) - end]) for row in whole]
    assert found["answer_only"] == pytest.approx(per_token(plain, answers), rel=1e-5)
    assert (found["answer_only"] == found["pre_update"]) == (end == 0)
    means = [per_token(plain, [row]) for row in whole]
    assert found["example_mean"] == pytest.approx(sum(means) / len(ROWS), rel=1e-5)
    assert abs(found["example_mean"] - found["pre_update"]) > 1e-3
    without = per_token(plain, encoded([Example("", row.answer) for row in ROWS], template))
    assert found["pmi"] == pytest.approx(found["pre_update"] - without, abs=1e-5)
    assert abs(found["pmi"]) > 1e-3


@pytest.mark.parametrize(
    ("text", "length", "distance"),
    [
        # One token a byte; letters that differ are replaced, and what is missing is put in.
        ("Is it so?", 9, 0.0),
        ("Is it so", 8, 1 / 9),
        ("Is it so??", 10, 1 / 10),
        ("is It so?", 9, 2 / 9),
        ("Is it só?", 10, 1 / 9),
        ("", 0, 1.0),
        ("北京", 6, 1.0),
    ],
)
def test_length_is_in_tokens_and_distance_a_share_of_the_longer_text(text: str, length: int, distance: float) -> None:
    found = measured(adapted(), text, ROWS[:2])
    assert found["length"] == length
    assert found["edit"] == pytest.approx(distance, abs=1e-12)


# The gradient.


def test_the_gradient_is_that_of_one_loss_over_all_rows_at_what_is_trained() -> None:
    model = adapted()
    plain = copy.deepcopy(model).eval()
    token_mean(plain, encoded()).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert alike(gradient(model, encoded()), expected)
    # Two layers, two modules, two factors.
    assert len(expected) == 2 * 2 * 2 and all(".lora_" in name for name in expected)
    size = sum(float(x.double().square().sum()) for x in expected.values()) ** 0.5
    assert measured(model)["gradient_norm"] == pytest.approx(size, rel=1e-5) and size > 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was(training: bool) -> None:
    model = adapted().train(training)
    # Modes that differ, as where a part is frozen; gradients that were there.
    model.get_decoder().layers[0].train(not training)
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    before = snapshot(model)
    with torch.no_grad():
        measured(model)
        drift(model, copies(model), encoded())
        assert snapshot(model) | {"gradient mode": True} == before
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)


def test_a_norm_counts_every_number_also_where_squares_leave_the_range_of_float32() -> None:
    assert norm({"a": torch.tensor([[3.0, -4.0]]), "b": torch.tensor(-12.0)}) == 13.0
    assert norm({"a": torch.tensor([3e30]), "b": torch.tensor([4e30])}) == pytest.approx(5e30, rel=1e-6)


# Path and displacement.


def position(model: Any) -> torch.Tensor:
    """All trainable numbers as one vector."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters() if p.requires_grad])


class Positions(Travel):
    """Remembers where the parameters were."""

    def begin(self, model: Any) -> None:
        self.seen = [position(model)]

    def after(self, model: Any, step: int, last: bool) -> bool:
        self.seen.append(position(model))
        return False


def length(vector: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def travelled(settings: TrainSettings, optimiser: Optimiser = "sgd") -> tuple[Travel, list[torch.Tensor], TrainingLog]:
    """A training from the same start, and the positions of all its parameters, the start included."""
    model, travel, positions = adapted(dropout=0.0), Travel(), Positions()
    watched = Extras(watchers=(travel, positions))
    training = finetune(model, TRAINED, settings, seed=0, extras=watched, optimiser=optimiser)
    return travel, positions.seen, training


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_path_is_the_sum_of_all_steps_and_the_displacement_its_chord(optimiser: Optimiser) -> None:
    travel, seen, _ = travelled(SGD if optimiser == "sgd" else ADAMW, optimiser)
    steps = [length(after - before) for before, after in pairwise(seen)]
    assert len(steps) == UPDATES and min(steps) > 0
    assert travel.path == pytest.approx(sum(steps), rel=1e-6)
    assert travel.displacement == pytest.approx(length(seen[-1] - seen[0]), rel=1e-6)
    # The premise: the way is not straight, or one could stand for the other.
    assert travel.displacement < 0.98 * travel.path


def test_plain_gradient_descent_travels_the_sum_of_rates_times_gradients() -> None:
    travel, _, training = travelled(SGD)
    by_gradients = sum(r * g for r, g in zip(training.rates, training.gradient_norms, strict=True))
    assert training.rates == (RATE,) * UPDATES
    assert travel.path == pytest.approx(by_gradients, rel=1e-4)
    first = gradient(adapted(dropout=0.0), TRAINED)
    one, _, training = travelled(SGD.model_copy(update={"epochs": 1, "batch_size": len(TRAINED)}))
    assert training.steps == 1 and one.path == one.displacement == pytest.approx(RATE * norm(first), rel=1e-4)


def test_a_training_that_is_resumed_travels_as_far_as_one_without_interruption(tmp_path: Path) -> None:
    whole, seen, _ = travelled(SGD)
    told, model, again = list[int](), adapted(dropout=0.0), Travel()

    def train(model: Any, advance: Callable[[int], None], travel: Travel) -> None:
        watched, kept = Extras(watchers=(travel,)), Checkpoints(tmp_path, every=3)
        finetune(model, TRAINED, SGD, 0, advance, checkpoints=kept, extras=watched, optimiser="sgd")

    with pytest.raises(KeyboardInterrupt):
        train(adapted(dropout=0.0), dying_after(5), Travel())
    train(model, told.append, again)
    # Three updates were read back at once, the others made: steps that it does not walk again must count.
    assert told == [3] + [1] * (UPDATES - 3)
    assert torch.equal(position(model), seen[-1])
    assert again.path == pytest.approx(whole.path, rel=1e-9)
    assert again.displacement == pytest.approx(whole.displacement, rel=1e-9)


# Drift.


def divergence_by_hand(before: Any, now: Any, rows: Sequence[Encoded]) -> float:
    """KL(before || now) of two models, in nats per supervised token."""
    said = [answers_by_hand(copy.deepcopy(model).eval(), rows) for model in (before, now)]
    return sum(kl_by_hand(p, q) for p, q in zip(*said, strict=True)) / tokens_of(rows)


def moved() -> tuple[Any, Any]:
    """A model in training mode, where dropout would show, and the same one after a change of what is trained."""
    before = adapted()
    now = copy.deepcopy(before)
    shake(now, seed=1)
    return before, now


def test_drift_is_the_divergence_of_full_predictions_from_those_before_per_token() -> None:
    before, now = moved()
    expected = divergence_by_hand(before, now, TRAINED)
    found = drift(now, copies(before), TRAINED)
    assert found == pytest.approx(expected, rel=1e-4) and expected > 0.01
    back = drift(before, copies(now), TRAINED)
    assert back == pytest.approx(divergence_by_hand(now, before, TRAINED), rel=1e-4)
    assert abs(found - back) > 0.01 * found
