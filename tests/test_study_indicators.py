"""What is known of a candidate before a training, against plain forward passes over prompts spelled out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from assignments import assignment, shake

from sapo.finetune import TrainSettings, finetune
from sapo.methods import LoraSettings, SeqLora
from sapo.render import Renderer
from sapo.score import Scorer
from sapo.study.indicators import Indicators, gradient, indicators, norm
from sapo.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, toy_task
from sapo.types import Encoded, Example

TASK = replace(toy_task(), instruction="Is it so?", suffix="Be brief.")
TEXT = "Say whether it is so."
# More than go through the model at once; lengths differ, answers come more than once.
ROWS = (
    Example("a", "yes"),
    Example("a much longer text " * 3, "no"),
    Example("one more", "well, yes and no, it depends"),
    Example("naïve 北京", "y"),
    Example("and then?", "no", history=(("Who?", "Me."), ("Why?", "Because."))),
    Example("b", "no"),
    Example("c" * 30, "yes"),
    Example("d", "maybe"),
    Example("", "no"),
)
CANDIDATES = (TEXT, "", " ", "\n", "北京 — ist es so? 🙂", "{input} <|im_end|> {{ messages }}", "ISS IT SO?!")

# Its assistant turns end with nothing.
BARE_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEMPLATES = {"chat": CHAT_TEMPLATE, "without end of turn": BARE_TEMPLATE, "no template": None}


def adapted(*, dropout: float = 0.4) -> Any:
    """The tiny model, in training mode, with an adapter far from its start, whose dropout would show."""
    learner = SeqLora(LoraSettings(3, 5, dropout, ("q_proj", "v_proj")))
    model = learner.prepare(learner.start(tiny_model()), assignment([]))
    shake(model)
    return model.train()


def ids_of(text: str) -> list[int]:
    """Tokens of a text in which no special token is spelled out as content."""
    return list(tiny_tokenizer()(text, add_special_tokens=False).input_ids)


def user(text: str, row: Example, suffix: str) -> list[str]:
    """User and assistant turns in alternation, before the answer."""
    if row.history:
        (first, *_), *_ = row.history
        given = [turn for exchange in row.history for turn in exchange][1:]
        return [f"{text}\n\nText:\n{first}", *given, f"{row.input}\n\n{suffix}"]
    return [f"{text}\n\nText:\n{row.input}\n\n{suffix}"]


def by_hand(text: str, row: Example, template: str = "chat") -> tuple[str, str, str]:
    """(prompt, answer, what ends the turn), as text."""
    turns = user(text, row, TASK.suffix)
    if template == "chat":
        names = ("user", "assistant")
        prompt = "".join(f"<|im_start|>{names[n % 2]}\n{turn}<|im_end|>\n" for n, turn in enumerate(turns))
        return f"{prompt}<|im_start|>assistant\n", row.answer, "<|im_end|>\n"
    if template == "without end of turn":
        prompt = "".join(f"user: {turn}\n" if n % 2 == 0 else f"assistant: {turn}" for n, turn in enumerate(turns))
        return f"{prompt}assistant: ", row.answer, ""
    prompt = "".join(f"{turn}\n\nAnswer:" if n % 2 == 0 else f" {turn}\n\n" for n, turn in enumerate(turns))
    return prompt, f" {row.answer}", "<|im_end|>"


def nll(model: Any, prompt: str, answer: str) -> tuple[float, int]:
    """(NLL in nats, tokens) of an answer by transformers' own loss, which is a mean over the labels."""
    asked, wanted = ids_of(prompt), ids_of(answer)
    ids = torch.tensor([asked + wanted])
    labels = torch.tensor([[-100] * len(asked) + wanted])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels, use_cache=False).loss) * len(wanted), len(wanted)


def per_token(found: Sequence[tuple[float, int]]) -> float:
    return sum(loss for loss, _ in found) / sum(tokens for _, tokens in found)


def measured(model: Any, text: str = TEXT, rows: Sequence[Example] = ROWS, template: str = "chat") -> Indicators:
    renderer = Renderer(tiny_tokenizer(chat_template=TEMPLATES[template]), 512)
    return indicators(model, Scorer(model), renderer, TASK, text, rows)[0]


def encoded(count: int = len(ROWS)) -> list[Encoded]:
    return Renderer(tiny_tokenizer(), 512).encode(TEXT, TASK.suffix, ROWS[:count])


# Losses.


@pytest.mark.parametrize("template", TEMPLATES)
def test_losses_are_those_of_plain_passes_over_prompts_spelled_out(template: str) -> None:
    model = adapted()
    found = measured(model, template=template)
    plain = copy.deepcopy(model).eval()
    parts = [by_hand(TEXT, row, template) for row in ROWS]
    whole = [nll(plain, prompt, answer + end) for prompt, answer, end in parts]
    assert found.pre_update == pytest.approx(per_token(whole), rel=1e-5)
    answers = [nll(plain, prompt, answer) for prompt, answer, _ in parts]
    assert found.answer_only == pytest.approx(per_token(answers), rel=1e-5)
    assert (found.answer_only == found.pre_update) == (template == "without end of turn")
    means = [loss / tokens for loss, tokens in whole]
    assert found.example_mean == pytest.approx(sum(means) / len(ROWS), rel=1e-5)
    assert abs(found.example_mean - found.pre_update) > 1e-3
    blank = [by_hand(TEXT, Example("", row.answer), template) for row in ROWS]
    without = per_token([nll(plain, prompt, answer + end) for prompt, answer, end in blank])
    assert found.pmi == pytest.approx(found.pre_update - without, abs=1e-5)
    assert abs(found.pmi) > 1e-3


def test_the_mean_of_rows_as_long_as_each_other_is_the_mean_of_their_tokens() -> None:
    rows = [replace(row, answer=answer) for row, answer in zip(ROWS, ("yes", "no.", "hm?", "abc"), strict=False)]
    found = measured(adapted(), rows=rows)
    assert found.example_mean == pytest.approx(found.pre_update, rel=1e-9)


def test_an_input_that_is_empty_anyway_says_nothing_about_the_answer() -> None:
    rows = [Example("", answer) for answer in ("yes", "no", "no", "well, perhaps")]
    assert measured(adapted(), rows=rows).pmi == pytest.approx(0, abs=1e-6)
    # An earlier exchange is input too.
    told = [replace(row, history=(("What is it?", "Guess."),)) for row in rows]
    assert abs(measured(adapted(), rows=told).pmi) > 1e-3


def test_no_end_of_turn_is_left_of_answers_that_are_empty() -> None:
    model = adapted()
    rows = [Example("a", ""), Example("b", "yes")]
    plain = copy.deepcopy(model).eval()
    assert measured(model, rows=rows).answer_only == pytest.approx(
        per_token([nll(plain, *by_hand(TEXT, rows[1])[:2])]), rel=1e-5
    )


# Length and edit distance.


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
    assert found.length == length
    assert found.edit == pytest.approx(distance, abs=1e-12)


@pytest.mark.parametrize("text", CANDIDATES)
def test_odd_texts_are_measured_like_others(text: str) -> None:
    model = adapted()
    found = measured(model, text)
    plain = copy.deepcopy(model).eval()
    rendered = Renderer(tiny_tokenizer(), 512).encode(text, TASK.suffix, ROWS)
    total = 0.0
    for row in rendered:
        ids = torch.tensor([row.ids])
        labels = ids.clone()
        labels[:, : row.prompt_length] = -100
        with torch.no_grad():
            total += float(plain(input_ids=ids, labels=labels).loss) * (len(row.ids) - row.prompt_length)
    assert found.pre_update == pytest.approx(
        total / sum(len(row.ids) - row.prompt_length for row in rendered), rel=1e-5
    )
    assert found.gradient_norm is not None and found.gradient_norm > 0 and 0 <= found.edit <= 1


# The gradient.


def one_pass(model: Any, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Gradients of transformers' own loss over all rows in one right-padded batch with an attention mask."""
    model = copy.deepcopy(model).eval()
    model.zero_grad()
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), 7)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        labels[n, row.prompt_length : len(row.ids)] = torch.tensor(row.ids[row.prompt_length :])
        mask[n, : len(row.ids)] = 1
    model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    size = max(float(x.abs().max()) for x in expected.values())
    return found.keys() == expected.keys() and all(
        float((found[name] - expected[name]).abs().max()) < 1e-5 * size for name in expected
    )


def test_the_gradient_is_that_of_one_loss_over_all_rows_at_what_is_trained() -> None:
    model = adapted()
    expected = one_pass(model, encoded())
    found = gradient(model, encoded())
    assert close(found, expected)
    # Two layers, two modules, two factors.
    assert len(found) == 2 * 2 * 2 and all(".lora_" in name for name in found)
    size = sum(float(x.double().square().sum()) for x in expected.values()) ** 0.5
    assert measured(model).gradient_norm == pytest.approx(size, rel=1e-5) and size > 1e-2


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_the_gradient_does_not_depend_on_how_rows_go_through_the_model(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted()
    found = gradient(model, encoded())
    monkeypatch.setattr("sapo.study.indicators._BATCH", batch)
    assert close(gradient(model, encoded()[::-1]), found)
    # The premise: rows do not all have the same gradient.
    assert not close(gradient(model, encoded(5)), found)


def test_its_norm_is_that_of_the_first_update_of_a_training_on_all_rows() -> None:
    model = adapted(dropout=0.0)
    expected = measured(model).gradient_norm
    settings = TrainSettings(1, 1e-3, len(ROWS), 2, 0.0, 0.0, 0.0, "sgd")
    assert finetune(model, encoded(), settings, seed=0).gradient_norms == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was(training: bool) -> None:
    model = adapted().train(training)
    # Modes that differ, as where a part is frozen.
    model.get_decoder().layers[0].train(not training)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    measured(model)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags and any(flags) and not all(flags)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gradient_is_computed_also_where_gradients_are_switched_off() -> None:
    model = adapted()
    with torch.no_grad():
        found = gradient(model, encoded(2))
    assert close(found, gradient(model, encoded(2)))


def test_gradients_that_were_there_are_neither_used_nor_changed() -> None:
    model = adapted()
    expected = gradient(model, encoded(2))
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    assert close(gradient(model, encoded(2)), expected)
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)


def test_a_norm_counts_every_number_of_every_tensor() -> None:
    assert norm({"a": torch.tensor([[3.0, -4.0]]), "b": torch.tensor(-12.0)}) == 13.0
    assert norm({}) == 0.0


def test_a_norm_is_right_where_squares_leave_the_range_of_float32() -> None:
    assert norm({"a": torch.tensor([3e30]), "b": torch.tensor([4e30])}) == pytest.approx(5e30, rel=1e-6)
    assert norm({"a": torch.tensor([3e-30]), "b": torch.tensor([4e-30])}) == pytest.approx(5e-30, rel=1e-6)
